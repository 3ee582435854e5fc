"""Commands on data sets of the Hub: data push."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fm4npp.cli.app import AsJson, Debug, command, data_app, finish


@partial(command, group=data_app)
def push(
    events: Annotated[Path, typer.Argument(help="Events file, or folder of them, as `fm4npp convert` writes them.")],
    repo_id: Annotated[str, typer.Argument(help="user/name on the Hub.")],
    license: Annotated[str, typer.Option(help="License of the data, e.g. cc-by-4.0. Required: only you can say.")],
    description: Annotated[str, typer.Option(help="What the events are.")] = "",
    source: Annotated[str, typer.Option(help="Where they come from: experiment, generator, publication.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the card and the files; send nothing.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Publish events with a data card: schema, units, what was left out, content hashes, license.

    Example: fm4npp data push events/ user/my-events --license cc-by-4.0 --dry-run
    """
    from fm4npp.hub import prepare_upload, push_events

    upload = prepare_upload(events, repo_id, license=license, description=description, source=source)
    size = sum(file.stat().st_size for file in upload.files.values())
    files = [f"{name}  {file.stat().st_size} bytes" for name, file in upload.files.items()]
    summary = {"repo_id": repo_id, "files": list(upload.files), "bytes": size, "pushed": not dry_run}
    if dry_run:
        finish(summary, as_json, upload.card, *files, f"nothing was sent: {len(files)} files, {size} bytes")
        return
    url = push_events(upload, repo_id, private=private)
    finish({**summary, "url": url}, as_json, f"{url}: {len(files)} files, {size} bytes")
