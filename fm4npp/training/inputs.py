"""What a run is given, looked at before anything slow starts: are the files there, and of the right detectors?"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fm4npp import detectors
from fm4npp.errors import CheckpointError, ConfigurationError, DataError
from fm4npp.files import read_json
from fm4npp.readers.events_parquet import files, is_url, read_metadata, read_summary
from fm4npp.registry import suggest
from fm4npp.training.config import AdaptConfig, DataConfig, PretrainConfig

MODEL_CONFIG = "config.json"
ADD = "fm4npp add-detector --model {model} --detector {{detector}} --data {{file}} --output DIR"


def check_pretraining(config: PretrainConfig) -> None:
    """Look at what a pretraining run is given; see `check_data`."""
    known = [
        detectors.load(given).name if isinstance(given, str) else detectors.build(given).name
        for given in config.model.detectors
    ]
    check_data(config.data, known or None)


def check_adaptation(model: str | Path, config: AdaptConfig) -> None:
    """Look at what an adaptation run is given; a model on the Hub is not asked for.

    Raises:
        CheckpointError: if the model's folder holds no model.
    """
    known = None
    if Path(model).is_dir():
        found = read_json(Path(model) / MODEL_CONFIG, CheckpointError)
        if not isinstance(found, dict) or "detectors" not in found:
            raise CheckpointError(f"{Path(model) / MODEL_CONFIG}: is not the configuration of an FM4NPP model")
        known = [detectors.build(specification).name for specification in found["detectors"]]
    check_data(config.data, known, f"; add it: {ADD.format(model=model)}")


def check_data(data: DataConfig, known: Sequence[str] | None, hint: str = "") -> None:
    """Look at the headers of the events files that are on this machine.

    Args:
        data: of a run.
        known: detectors that the model has; None if it takes those of the data.
        hint: what to do about a detector that it does not have, with `{detector}` and `{file}`.

    Raises:
        DataError: if a file is missing, no events file, or of a detector that the model does not have, or if the
            training or the validation files hold no spacepoints.
        ConfigurationError: if a weight is of a detector that the training files do not hold.
    """
    training = _detectors(data.train, "training", known, hint)
    _detectors(data.validation, "validation", known, hint)
    unknown = [name for name in data.weights if training is not None and name not in training]
    if unknown:
        hint = suggest(unknown[0], tuple(training or ()))
        raise ConfigurationError(f"data.weights: no training events of {unknown[0]!r}; {hint}")


def _detectors(paths: Sequence[str], split: str, known: Sequence[str] | None, hint: str) -> set[str] | None:
    """The detectors of events files; None if some of them are on the Hub."""
    found: set[str] = set()
    spacepoints = 0
    for path in paths:
        if _on_the_hub(path):
            return None
        matching = _matching(path)
        if not matching:
            raise DataError("no such file or folder", file=path, remedy=f"check the path of the {split} events")
        for file in (file for match in matching for file in files(match)):
            name = str(read_metadata(file)["detector"])
            if known is not None and name not in known:
                told = hint.replace("{detector}", name).replace("{file}", str(file))
                remedy = f"it has {', '.join(known)}{told}"
                raise DataError(
                    f"events of {name!r}, a detector that the model does not have", file=file, remedy=remedy
                )
            found.add(name)
            spacepoints += int(read_summary(file)["spacepoints"])
    if paths and not spacepoints:
        raise DataError(f"the {split} events hold no spacepoints", file=", ".join(paths))
    return found


def _on_the_hub(path: str) -> bool:
    """Whether a path must be the id of a repository, owner/name, or is a URL."""
    local = path.count("/") != 1 or path.startswith((".", "/", "~")) or path.endswith(".parquet") or _matching(path)
    return is_url(path) or not local


def _matching(path: str) -> list[str]:
    if Path(path).exists():
        return [path]
    return sorted(glob.glob(path, recursive=True))  # noqa: PTH207 (absolute patterns)


def data_identity(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """What identifies the content of events files: detector, numbers of events and spacepoints, content hash.

    A file on the Hub is identified by its URL, which names the commit.

    Raises:
        DataError: if a file cannot be read.
    """
    found: list[dict[str, Any]] = []
    for path in paths:
        if is_url(path):
            found.append({"path": str(path)})
            continue
        summary = read_summary(path)
        counts = {name: summary[name] for name in ("events", "spacepoints", "content")}
        found.append({"path": str(path), "detector": str(read_metadata(path)["detector"]), **counts})
    return found
