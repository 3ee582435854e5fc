"""Events files to the Hugging Face Hub, with a card written from the files themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from fm4npp.errors import ConfigurationError, DataError, FM4NPPError, first_line
from fm4npp.readers.events_parquet import MANIFEST, files, read_metadata, read_summary

CARD = "README.md"
TEMPLATE = """---
{metadata}
---

# {title}

{description}

{events} events with {spacepoints} spacepoints of the detector `{detector}`, in {num_files} Parquet file{s} written by
fm4npp {version}.

```python
import fm4npp

events = fm4npp.data.load("{repo_id}", streaming=True)
```

`datasets.load_dataset("{repo_id}")` reads the same files: one row an event, one flat list a quantity.

| column | type | unit |
|---|---|---|
{schema}

## What was read, and what of it is here

{accounting}

## Files

| file | events | spacepoints | content (SHA-256) |
|---|---|---|---|
{files}

## License and source

License: {license}. {source}
"""
TAGS = ["nuclear-physics", "particle-physics", "spacepoints", "fm4npp"]


@dataclass(frozen=True)
class Upload:
    """What a push sends.

    Attributes:
        files: name in the repository -> the file here.
        card: text of the data card.
    """

    files: Mapping[str, Path]
    card: str


def prepare_upload(path: str | Path, repo_id: str, *, license: str, description: str = "", source: str = "") -> Upload:
    """The files and the card that a push of events would send.

    Args:
        path: an events file, or a finished folder of them.
        repo_id: `user/name` on the Hub.
        license: an identifier of the Hub, such as "cc-by-4.0"; of the data, so only its owner can say.
        description: what the events are.
        source: where they come from.

    Raises:
        ConfigurationError: if the license is empty.
        DataError: if the path holds no events, or its files are not what the manifest says.
    """
    if not license.strip():
        raise ConfigurationError(
            "a data set without a license cannot be used by anyone; give --license, e.g. cc-by-4.0"
        )
    found = [Path(file) for file in files(path)]
    metadata = read_metadata(path)
    summaries = {file.name: read_summary(file) for file in found}
    names = {f"data/{file.name}": file for file in found}
    if (manifest := Path(path) / MANIFEST).is_file():
        names[f"data/{MANIFEST}"] = manifest
    configs = [{"config_name": "default", "data_files": "data/*.parquet"}]
    front = DatasetCardData(license=license, pretty_name=repo_id.rpartition("/")[2], tags=TAGS, configs=configs)
    card = TEMPLATE.format(
        metadata=front.to_yaml(),
        title=repo_id.rpartition("/")[2],
        description=description or "Detector events for pretraining and evaluating foundation models.",
        events=sum(summary["events"] for summary in summaries.values()),
        spacepoints=sum(summary["spacepoints"] for summary in summaries.values()),
        detector=metadata["detector"],
        num_files=len(found),
        s="s" * (len(found) != 1),
        version=metadata["version"],
        repo_id=repo_id,
        schema=_schema(found[0], metadata["units"]),
        accounting=_accounting(summaries),
        files="\n".join(
            f"| {name} | {summary['events']} | {summary['spacepoints']} | `{summary['content']}` |"
            for name, summary in summaries.items()
        ),
        license=license,
        source=source or "The source was not stated.",
    )
    return Upload(names, card)


def push_events(upload: Upload, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Send events and their card to a data set repository, which is made if it does not exist.

    Args:
        upload: what to send; the card goes last.
        repo_id: `user/name`.
        private: whether a new repository is private.
        token: of the Hub; by default the one that is logged in.

    Returns:
        The address of the repository.

    Raises:
        FM4NPPError: if the Hub refuses or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        for name, file in upload.files.items():
            api.upload_file(path_or_fileobj=str(file), path_in_repo=name, repo_id=repo_id, repo_type="dataset")
        api.upload_file(path_or_fileobj=upload.card.encode(), path_in_repo=CARD, repo_id=repo_id, repo_type="dataset")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        remedy = "check the name, the token (`hf auth login`) and the network, then push again: what was sent stays"
        raise FM4NPPError(f"{repo_id}: cannot be pushed ({first_line(error)}); {remedy}") from error
    return str(url)


def _schema(file: Path, units: Mapping[str, str]) -> str:
    def kind(field: pa.Field) -> str:
        return f"list of {field.type.value_type}" if pa.types.is_list(field.type) else str(field.type)

    try:
        fields = pq.read_schema(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot be read ({first_line(error)})", file=file) from error
    return "\n".join(f"| `{field.name}` | {kind(field)} | {units.get(field.name, '')} |" for field in fields)


def _accounting(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Read, used and left out, over all files, as a list."""
    total: dict[str, int] = {}
    reasons: dict[str, int] = {}
    for summary in summaries.values():
        counted = summary["accounting"]
        for name in ("events_read", "events_used", "empty_events", "spacepoints_read", "spacepoints_used"):
            total[name] = total.get(name, 0) + counted[name]
        for kind in ("rejected_events", "rejected_spacepoints"):
            for reason, count in counted[kind].items():
                key = f"{kind.replace('_', ' ')}: {reason}"
                reasons[key] = reasons.get(key, 0) + count
    lines = [f"- {name.replace('_', ' ')}: {count}" for name, count in total.items()]
    return "\n".join(lines + [f"- {reason}: {count}" for reason, count in reasons.items()])
