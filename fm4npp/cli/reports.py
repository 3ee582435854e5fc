"""What `evaluate` makes of a report beside the JSON: a page with pictures, and the numbers on a card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fm4npp.errors import ConfigurationError

CARD_NAME = "README.md"
REPORT_NAME = "evaluation.json"
"""Of the report that is written beside a card."""
HUB_FOLDER = ".eval_results"


def write_page(path: Path, report: dict[str, Any], model: Any, processor: Any, events: Any) -> None:
    """Write a report as a page with its pictures.

    Args:
        path: of the page.
        report: what `assemble` gave.
        model: that was evaluated.
        processor: of the same checkpoint.
        events: that it was evaluated on, by index.

    Raises:
        FM4NPPError: if a picture or the page cannot be written.
    """
    from fm4npp.evaluation.page import page
    from fm4npp.files import atomic_path

    drawn = [
        picture
        for entry, values in report["heads"].items()
        for picture in (*_pictures(entry, values), *_examples(entry, values, model, processor, events))
    ]
    with atomic_path(path) as temporary:
        temporary.write_text(page(report, drawn), encoding="utf-8")


def _pictures(entry: str, values: dict[str, Any]) -> Iterator[Any]:
    """The plots of one entry of a report."""
    from fm4npp.evaluation.page import Picture
    from fm4npp.plotting import report as plots

    if values["task"] == "track finding":
        for quantity, bins in values["efficiency_against"].items():
            if any(row["true"] for row in bins):
                caption = f"Efficiency against {plots.AXES.get(quantity, quantity)}; bars: 95 % (Clopper and Pearson)."
                unknown = values["efficiency_where_unknown"].get(quantity, {}).get("true", 0)
                caption += f" Of {unknown:,} true tracks it is not known." if unknown else ""
                yield Picture(entry, caption, "svg", plots.efficiency_picture(quantity, bins))
        ari = [value for value in values["ari_per_event"] if value is not None]
        if ari:
            caption = f"Adjusted Rand index of {len(ari):,} events with spacepoints."
            yield Picture(entry, caption, "svg", plots.histogram_picture(ari, "adjusted Rand index of an event"))
    if values["task"] == "classification":
        names = values["class_names"]
        caption = f"Confusion: share of a true class's {values['unit']}, and their number."
        yield Picture(entry, caption, "svg", plots.confusion_picture(values["confusion"], names))
        if chances := values.get("probabilities"):
            error = chances["expected_calibration_error"]
            told = "undefined" if error is None else f"{error:.4f}"
            caption = f"Calibration, expected error {told}; on the line, probabilities are what they say."
            yield Picture(entry, caption, "svg", plots.reliability_picture(chances["reliability"]))
            curves = plots.roc_picture(chances["roc_curves"], names, chances["roc_auc"])
            yield Picture(entry, "ROC of each class against the rest.", "svg", curves)


def _examples(entry: str, values: dict[str, Any], model: Any, processor: Any, events: Any) -> Iterator[Any]:
    """The best, the median and the worst event by adjusted Rand index, truth beside prediction."""
    from fm4npp.evaluation.page import Picture
    from fm4npp.evaluation.predict import predict_events
    from fm4npp.evaluation.report import extremes
    from fm4npp.plotting.report import event_picture

    name, _, prediction = entry.partition("/")
    for kind, index in extremes(values.get("ari_per_event", ()), events.lengths).items():
        event, found = next(predict_events(model, processor, [events[index]]))
        chosen = prediction or next(iter(model.heads[name].labels))
        ari = values["ari_per_event"][index]
        caption = f"The {kind} event of the longer half by adjusted Rand index, {ari:.3f}: "
        caption += f"event {event.event_id}, number {index}."
        known = [detector for detector in model.config.detectors if detector.name == event.detector]
        geometry = known[0].geometry if known else None
        title = f"{kind}: event {event.event_id}, adjusted Rand index {ari:.3f}"
        yield Picture(entry, caption, "png", event_picture(event, found[name][chosen], title, geometry))


def check_card(folder: Path) -> None:
    """Refuse what is no folder of a model or a head.

    Raises:
        ConfigurationError: naming it.
    """
    if not any((folder / name).is_file() for name in ("config.json", "head.json")):
        raise ConfigurationError(f"{folder}: is no folder of a model or a head; give one that holds its weights")


def write_card(folder: Path, report: dict[str, Any], dataset: str | None = None) -> None:
    """Put the numbers of a report on the card of a model or a head, and the report beside it.

    Args:
        folder: of the model or the head.
        report: what `assemble` gave.
        dataset: `owner/name` of the data set on the Hub that the events are of, for `.eval_results/`.

    Raises:
        ConfigurationError: if the model has seen the events in training.
    """
    import yaml
    from huggingface_hub import ModelCard

    from fm4npp.card import empty_card, with_evaluation
    from fm4npp.evaluation.report import card_table, eval_results, hub_entries
    from fm4npp.files import atomic_path, write_json

    results, path = eval_results(report), folder / CARD_NAME
    card = ModelCard(path.read_text(encoding="utf-8")) if path.exists() else empty_card(folder.name)
    write_json(folder / REPORT_NAME, report)
    with atomic_path(path) as temporary:
        temporary.write_text(str(with_evaluation(card, card_table(report), results, folder.name)), encoding="utf-8")
    if dataset is not None:
        entries = yaml.safe_dump(hub_entries(report, dataset), sort_keys=False, allow_unicode=True)
        with atomic_path(folder / HUB_FOLDER / f"{dataset.replace('/', '--')}.yaml") as temporary:
            temporary.write_text(entries, encoding="utf-8")
