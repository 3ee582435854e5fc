"""A report as one page that needs nothing else: no network, no other file, no script."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from fm4npp.evaluation.report import Report, Row, detector_rows, rows, told

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #202020; background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 62rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #eee; vertical-align: top; }
.value { white-space: nowrap; } abbr { text-decoration: underline dotted #888; cursor: help; }
td.interval, .small { color: #555; font-size: .875rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; max-width: 100%; }
figcaption { font-size: .875rem; color: #555; max-width: 26rem; } img { max-width: 100%; height: auto; }
.warning { background: #fff3cd; border-left: .4rem solid #c77700; padding: .6rem 1rem; margin: 1rem 0; }
.warning p { margin: .2rem 0; } code { font-size: .875rem; }
dt { font-weight: 600; margin-top: .5rem; } dd { margin: 0 0 0 1rem; }
""".strip()
WRITTEN = {"ari": "ARI", "f1": "F1", "roc": "ROC", "auc": "area", "trackml": "TrackML"}
TYPES = {"png": "image/png", "svg": "image/svg+xml"}


class Picture(NamedTuple):
    """One picture of a page.

    Attributes:
        entry: of the report that it belongs to.
        caption: below it, and read to those who do not see it.
        format: "png" or "svg".
        content: of the file.
    """

    entry: str
    caption: str
    format: str
    content: bytes


def page(report: Report, pictures: Sequence[Picture] = ()) -> str:
    """The report as HTML; whatever comes from files is text in it.

    Args:
        report: what `assemble` gave.
        pictures: in the order of the page.
    """
    found = rows(report)
    body = [
        f"<h1>Evaluation of {_text(report['model'].get('name') or 'a model')}</h1>",
        f'<p class="small">{_text(report["created"])}, fm4npp {_text(report["fm4npp"])}</p>',
        _warnings(report["warnings"]),
        f"<p><b>Tracks that count:</b> {_text(report['selection']['text'])}</p>",
        _section("Data", _data(report["data"])),
        _section("Results", _results(found)),
        _section("By detector", _by_detector(detector_rows(report))),
        *(_section(entry, _entry(entry, values, pictures)) for entry, values in report["heads"].items()),
        _section("Definitions", _definitions(found)),
        _section("Provenance", _provenance(report)),
    ]
    title = _text(f"Evaluation of {report['model'].get('name') or 'a model'}")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{STYLE}\n</style>\n</head>\n<body>\n" + "\n".join(filter(None, body)) + "\n</body>\n</html>\n"
    )


def _text(value: Any) -> str:
    return escape(str(value), quote=True)


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{_text(heading)}</h2>\n{content}\n</section>" if content else ""


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML."""
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _warnings(texts: Sequence[str]) -> str:
    if not texts:
        return ""
    lines = "\n".join(f"<p><b>Warning:</b> {_text(text)}.</p>" for text in texts)
    return f'<div class="warning" role="alert">\n{lines}\n</div>'


def _data(files: Sequence[Mapping[str, Any]]) -> str:
    heads = ("file", "detector", "events", "spacepoints", "empty events", "content")
    return _table(
        heads,
        (
            (
                f'<span title="{_text(file["path"])}">{_text(Path(file["path"]).name)}</span>',
                _text(file["detector"]),
                f"{file['num_events']:,}",
                f"{file['num_spacepoints']:,}",
                f"{file['num_empty_events']:,}",
                _hash(file["content"]),
            )
            for file in files
        ),
    )


def _hash(value: str | None) -> str:
    return f'<code title="{_text(value)}">{_text(value[:12])}</code>' if value else "unknown"


def _results(found: Sequence[Row]) -> str:
    """The headline numbers; where there is an interval, it holds 95 %."""
    lines = (
        (
            _text(row.entry),
            f'<abbr title="{_text(row.definition)}">{_text(readable(row.metric))}</abbr>',
            f'<span class="value">{_text(told(row))}</span>',
            f'<span class="small">{_text(row.counts)}</span>',
        )
        for row in found
    )
    return _table(("head", "metric", "value [95 % interval]", "of"), lines)


def _by_detector(found: Mapping[str, Sequence[Row]]) -> str:
    """The same numbers, a column for each detector; nothing unless there are several."""
    lines = (
        (
            _text(first.entry),
            _text(readable(first.metric)),
            *(f'<span class="value">{_text(told(row))}</span>' for row in (first, *others)),
        )
        for first, *others in zip(*found.values(), strict=True)
    )
    return _table(("head", "metric", *found), lines) if found else ""


def readable(metric: str) -> str:
    """A metric's name for people."""
    words = metric.removeprefix("probabilities.").split("_")
    return " ".join(WRITTEN.get(word, word) for word in words)


def _entry(entry: str, values: Report, pictures: Sequence[Picture]) -> str:
    own = [_figure(picture) for picture in pictures if picture.entry == entry]
    shown = [_per_class(values)] if values["task"] == "classification" else []
    return "\n".join([*shown, *([f'<div class="pictures">\n{chr(10).join(own)}\n</div>'] if own else [])])


def _figure(picture: Picture) -> str:
    source = f"data:{TYPES[picture.format]};base64,{base64.b64encode(picture.content).decode()}"
    caption = _text(picture.caption)
    return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _per_class(values: Report) -> str:
    """Precision, recall and F1 of every class."""
    columns = [values[name] for name in ("precision", "recall", "f1")]
    support = [sum(row) for row in values["confusion"]]
    lines = (
        (_text(name), *("undefined" if value is None else f"{value:.4f}" for value in scores), f"{count:,}")
        for name, *scores, count in zip(values["class_names"], *columns, support, strict=True)
    )
    return _table(("class", "precision", "recall", "F1", "true"), lines)


def _definitions(found: Sequence[Row]) -> str:
    """Every headline metric once."""
    kinds = {(row.task, row.metric): row.definition for row in found}
    items = (
        f"<dt>{_text(readable(metric))} ({_text(task)})</dt><dd>{_text(kinds[task, metric])}</dd>"
        for task, metric in kinds
    )
    intervals = (
        "Intervals are of 95 %: of Clopper and Pearson for rates of tracks, from the bootstrap over events for the "
        "others. The JSON report defines every other number."
    )
    return "<dl>\n" + "\n".join(items) + f'\n</dl>\n<p class="small">{intervals}</p>'


def _provenance(report: Report) -> str:
    model = report["model"]
    lines = [("backbone", _text(model.get("name") or "unnamed"), _hash(model["sha256"]))]
    lines += [
        (f"head {_text(name)}", _text(about["path"] or "of the model"), _hash(about["sha256"]))
        for name, about in report["head_weights"].items()
    ]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines += [
        ("backend", _text(report["backend"]), _text(report["device"])),
        ("versions", _text(f"fm4npp {report['fm4npp']}, {versions}"), ""),
    ]
    seen = f'<p class="small">{_text(report["hygiene"]["not_caught"])}</p>'
    return _table(("what", "from", "weights"), lines) + "\n" + seen
