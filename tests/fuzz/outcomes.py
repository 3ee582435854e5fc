"""What came of reading a damaged file: the same events, an error in one line, or other events."""

import dataclasses
import sys
import warnings
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fm4npp.convert import convert
from fm4npp.data import Accounting, read_events
from fm4npp.errors import FM4NPPError


class Reading(NamedTuple):
    """What a path gave.

    Attributes:
        events: that were handed on.
        error: what was said, "" if nothing.
        fault: what must not happen: another exception, a warning, several lines, sums that do not add up.
    """

    events: list
    error: str = ""
    fault: str = ""


def read(path, detector, reader, max_rejected, most=None):
    """Read all events, or the first `most`."""
    events, accounting = [], Accounting()
    with noted() as faults:
        try:
            found = read_events(path, detector, reader=reader, accounting=accounting, max_rejected=max_rejected)
            with closing(found):
                events.extend(islice(found, most))
        except FM4NPPError as error:
            return Reading([], str(error), "; ".join([*faults, *unclear(str(error), path)]))
        except BaseException as error:
            return Reading([], "", f"{type(error).__name__}: {error}"[:500])
    if accounting.spacepoints_used != sum(map(len, events)) or accounting.events_used != len(events):
        faults.append("the accounting does not add up")
    rejected = "; ".join(accounting.lines()) if accounting.rejected_events else ""
    return Reading([] if rejected else events, rejected, "; ".join(faults))


def unclear(message, path):
    """What is wrong with an error's message: it must be one line and name the path, or a file in it."""
    inside = [file.name for file in path.iterdir()] if path.is_dir() else []
    if len(message.splitlines()) != 1 or not message.isprintable():
        yield f"not one line: {message!r}"
    elif not any(name in message for name in (str(path), str(path.parent), *inside)):
        yield f"does not name {path.name}: {message}"


@contextmanager
def noted():
    """The warnings of a block, and the exceptions that its destructors raised, one line each."""
    faults, hook = [], sys.unraisablehook
    sys.unraisablehook = lambda raised: faults.append(f"{type(raised.exc_value).__name__} in {raised.object!r}")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield faults
    finally:
        sys.unraisablehook = hook
        faults.extend(f"{item.category.__name__}: {item.message}" for item in caught)


def difference(events, others):
    """The first thing in which two lists of events are not the same to the last bit; "" if there is none."""
    if len(events) != len(others):
        return f"{len(events)} events in place of {len(others)}"
    for index, (event, other) in enumerate(zip(events, others, strict=True)):
        found, expected = contents(event), contents(other)
        if found != expected:
            names = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
            return f"{', '.join(map(str, names[:3]))} of event {index}"
    return ""


def contents(event):
    """Name -> what an event holds under it, as bytes; its source aside."""
    values = {name: getattr(event, name) for name in ("positions", "features", "detector_ids")}
    for kind in ("labels", "particles", "left_out"):
        values |= {f"{kind}/{name}": array for name, array in getattr(event, kind).items()}
    flat = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in values.items()}
    flat |= {f"scalars/{name}": repr(value) for name, value in event.scalars.items()}
    plain = ("event_id", "detector", "subsystems", "feature_names")
    return flat | {name: getattr(event, name) for name in plain}


def conversion(path, detector, reader, max_rejected, folder, output, expected):
    """What is wrong with a conversion, "" if nothing.

    Args:
        path: input.
        detector: of the input.
        reader: of the input.
        max_rejected: share that may be.
        folder: an empty one, where the output goes.
        output: its name; ".parquet" for one file, else a folder.
        expected: what reading the same input gave.
    """
    target = folder / output
    with noted() as faults:
        try:
            # Some bases are a few spacepoints at random places: where they lie is not what is tested.
            convert([path], detector, target, reader=reader, max_rejected=max_rejected, max_outside=1.0)
        except FM4NPPError as error:
            left = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            if target.is_file() or (target / "manifest.json").exists() or any(".tmp" in name for name in left):
                return f"left {left} after: {error}"
            if expected.events and "differ" not in str(error):
                return f"reading works, converting does not: {error}"
            return "; ".join([*faults, *unclear(str(error), path)])
        except BaseException as error:
            return f"converting: {type(error).__name__}: {error}"[:500]
    if expected.error and max_rejected < 1:
        return f"converting works, reading does not: {expected.error}"
    if left := [file.name for file in folder.rglob("*") if ".tmp" in file.name]:
        return f"left {left}"
    reasons = [event.left_out for event in expected.events]
    if not expected.error and (other := difference(list(_with(read_events(target), reasons)), expected.events)):
        return f"converted, it has other {other}"
    return "; ".join(faults)


def _with(events, reasons):
    """Events of an events file, which keeps what was left out but not why, with the reasons if the places agree."""
    for event, expected in zip(events, reasons, strict=True):
        places = [np.sort(np.concatenate([*left_out.values(), []])) for left_out in (event.left_out, expected)]
        yield dataclasses.replace(event, left_out=expected) if np.array_equal(*places) else event


def peak_bytes():
    """The most memory that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():  # what `resource` says starts at what the parent process has had
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) << 10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
