"""Reads damaged files in a process of its own, so that what ends the interpreter ends only this one.

python -m tests.fuzz.child FOLDER SETTINGS, where FOLDER is empty and SETTINGS a list of JSON objects, see `Batch`. One
line of JSON is printed for every mutation, before and after it.
"""

import dataclasses
import faulthandler
import json
import random
import shutil
import sys
import time
from pathlib import Path

from fm4npp import detectors
from tests.fuzz.bases import BASES
from tests.fuzz.mutations import mutate
from tests.fuzz.outcomes import conversion, difference, peak_bytes, read
from tests.fuzz.real import REAL

SECONDS = 100
"""A mutation may take, on a machine whose disks are busy; the process then ends with a traceback."""
ADDRESS_SPACE = 16 << 30
"""Bytes that the process may ask for: what a damaged length makes a library ask for must not kill the machine."""
CONVERT_EVERY = 10


@dataclasses.dataclass(frozen=True)
class Batch:
    """Mutations of one base.

    Attributes:
        name: of the base.
        seeds: of the mutations.
        most: events that are read of a file; None for all.
        source: the folder of the real files; None for a base that is written here.
    """

    name: str
    seeds: list[int]
    most: int | None = None
    source: str | None = None


def main(folder, settings):
    """Read every mutation of some batches."""
    for number, values in enumerate(json.loads(settings)):
        (folder / str(number)).mkdir()
        run(folder / str(number), Batch(**values))


def run(folder, batch):
    """Read every mutation of a batch."""
    base = BASES[batch.name] if batch.source is None else REAL[batch.name]
    detector = detectors.build(base.detector)
    here, other = folder / "here", folder / "other"
    read_path, swapped_path = (place_base(base, batch, place, seed) for seed, place in enumerate((here, other)))
    files = sorted(file for file in here.rglob("*") if file.is_file() and file.stat().st_size > 1)
    contents = {file: file.read_bytes() for file in files}
    others = [(other / file.relative_to(here)).read_bytes() for file in files]
    truth, *swapped = (
        read(path, detector, base.reader, base.max_rejected, batch.most) for path in (read_path, swapped_path)
    )
    say(
        base=batch.name,
        events=len(truth.events),
        spacepoints=sum(map(len, truth.events)),
        fault=truth.fault or truth.error,
        bytes=sum(map(len, contents.values())),
    )
    before = peak_bytes()
    for seed in batch.seeds:
        place = random.Random(f"{batch.name}/{seed}/file").randrange(len(files))
        damaged, kind = mutate(contents[files[place]], others[place], f"{batch.name}/{seed}")
        say(base=batch.name, started=seed, file=files[place].name, kind=kind)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        start = time.process_time()
        files[place].write_bytes(damaged)
        try:
            found = try_one(read_path, detector, base, batch, [truth, *swapped], seed, folder)
        finally:
            files[place].write_bytes(contents[files[place]])
        faulthandler.cancel_dump_traceback_later()
        say(base=batch.name, seed=seed, file=files[place].name, kind=kind, seconds=time.process_time() - start, **found)
    say(base=batch.name, grown=peak_bytes() - before)


def place_base(base, batch, folder, seed):
    """Write or copy the files of a base; returns the path to read."""
    folder.mkdir()
    return base.write(folder, seed) if batch.source is None else base.copy(Path(batch.source), folder)


def try_one(path, detector, base, batch, truths, seed, folder):
    """One damaged file: outcome, and fault if there is one.

    Of the truths, the second is of the file whose tail may be all that counts: archives are read from their end.
    """
    reader = random.Random(f"{batch.name}/{seed}/reader").choice([base.reader, "auto"])
    found = read(path, detector, reader, base.max_rejected, batch.most)
    differences = [difference(found.events, truth.events) for truth in truths] if not found.error else [""]
    other = "" if "" in differences else differences[0]
    outcome = "error" if found.error else "differs" if other else "exact"
    result = {"outcome": outcome, "detail": found.error or other, "fault": found.fault}
    if seed % CONVERT_EVERY == 0 and batch.most is None and not found.fault:
        target = folder / "target"
        target.mkdir()
        output = "events.parquet" if seed % (2 * CONVERT_EVERY) else "events"
        result["fault"] = conversion(path, detector, reader, base.max_rejected, target, output, found)
        result["converted"] = True
        shutil.rmtree(target)
    return result


def say(**values):
    """One line."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def limit():
    """Limit what the process may ask for, where the system knows how."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    except (ImportError, ValueError, OSError):
        pass


if __name__ == "__main__":
    faulthandler.enable()
    limit()
    main(Path(sys.argv[1]), sys.argv[2])
