"""What studies found, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fm4npp.evaluation.report import number

Report = Mapping[str, Any]


def data_efficiency(found: Report) -> str:
    """Tables of scores, label ratios and comparisons.

    Args:
        found: what `study.json` holds.
    """
    score = found["score"]
    better = "higher is better" if score["sign"] > 0 else "lower is better"
    lines = ["# Data efficiency", "", f"Compared by {score['metric']} of {score['entry']} ({better}): "
             f"{score['definition']}", ""]  # fmt: skip
    if found["answer"]:
        lines += [f"**{found['answer']}**", ""]
    lines += _state(found)
    for entry in found["summary"][0]["metrics"]:
        lines += [f"## {entry}", "", "Mean over seeds, and standard deviation (N - 1).", "", *_scores(found, entry), ""]
    if found["label_ratios"]:
        lines += ["## Labels needed for the same score", "", *_ratios(found), ""]
    if found["comparisons"]:
        lines += ["## Differences with the same labels", "", *_comparisons(found), ""]
    return "\n".join(lines)


def _state(found: Report) -> list[str]:
    lines = []
    if found["missing"]:
        lines.append(f"- **Not complete:** {len(found['missing'])} cells are missing: {', '.join(found['missing'])}")
    lines += [f"- **Warning:** {text}" for text in found["warnings"]]
    return [*lines, ""] if lines else []


def _scores(found: Report, entry: str) -> list[str]:
    names = list(found["summary"][0]["metrics"][entry])
    rows = [
        [
            f"{row['labels']:,}",
            row["variant"],
            *(_spread(row["metrics"][entry][name]) for name in names),
            str(row["num_seeds"]),
            f"{row['training_seconds']:.0f}",
        ]
        for row in sorted(found["summary"], key=lambda row: row["labels"])
    ]
    return table(["labels", "variant", *names, "seeds", "training s"], rows)


def _spread(value: Report) -> str:
    return number(value["mean"]) + (f" ± {number(value['sd'])}" if value["sd"] is not None else "")


def _ratios(found: Report) -> list[str]:
    rows = [
        [
            row["variant"],
            f"{row['reference']} at {row['labels']:,}",
            row["told"],
            row["told_interval"] or "-",
            row["saves_4x"],
        ]
        for row in found["label_ratios"]
    ]
    header = ["variant", "needs, for the score of", "the labels", "95 % interval", "at least 4 x"]
    return table(header, rows)


def _comparisons(found: Report) -> list[str]:
    rows = []
    for row in found["comparisons"]:
        interval = "-" if row["interval"] is None else f"{row['interval'][0]:+.4f} to {row['interval'][1]:+.4f}"
        about = [f"{row['labels']:,}", f"{row['first']} - {row['second']}", f"{row['mean_difference']:+.4f}", interval]
        judged = f"{row['num_pairs']} {row['over']}, {row['num_seeds']} seeds"
        rows.append([*about, f"{row['rank_biserial']:+.2f}", f"{row['holm_p']:.2g}", judged])
    return table(["labels", "difference", "mean", "95 % interval", "effect size", "p (Holm)", "over"], rows)


def scaling(found: Report) -> str:
    """Tables of fits and cells.

    Args:
        found: what `study.json` holds.
    """
    lines = ["# Scaling", "", "Validation loss of the pretraining objective; operations are estimated as 6 x "
             "parameters x spacepoints.", "", *_state(found)]  # fmt: skip
    lines += ["## Fits: loss = floor + a x^-b", "", *_fits(found["fits"]), ""] if found["fits"] else []
    lines += ["## Runs", "", *_runs(found["cells"]), ""]
    if any(row["probes"] for row in found["cells"]):
        lines += ["## Probes of the frozen features", "", *_probes(found["cells"]), ""]
    return "\n".join(lines)


def _fits(fits: Sequence[Report]) -> list[str]:
    rows = []
    for fit in fits:
        held = ", ".join(f"{axis} {value:,}" for axis, value in fit["held"].items())
        numbers = [_bounded(fit, name) if fit[name] is not None else "-" for name in ("floor", "a", "b")]
        if fit["form"] == "a x^-b" and fit["floor"] is not None:
            numbers[0] = "0 (not fitted)"
        far = _bounded(fit, "extrapolated") if fit["extrapolated"] is not None else "-"
        points = f"{fit['num_points']} points, {fit['num_cells']} runs"
        against = fit["label"] + (f" ({held})" if held else "" if fit["axis"] else " (best for the cost)")
        rows.append([against, *numbers, far, points, "; ".join(fit["warnings"]) or "-"])
    return table(["x", "floor", "a", "b", "extrapolated to 10 x", "from", "caution"], rows)


def _bounded(fit: Report, name: str) -> str:
    interval = fit["intervals"][name]
    told = f"{fit[name]:.4g}"
    return told if interval is None else f"{told} [{interval[0]:.4g}, {interval[1]:.4g}]"


def _runs(cells: Sequence[Report]) -> list[str]:
    names = ("parameters", "events", "steps", "tokens", "flops", "seconds")
    rows = [
        [
            row["name"],
            number(row["validation_loss"]),
            *("-" if row[name] is None else _count(row[name]) for name in names),
        ]
        for row in cells
    ]
    return table(["run", "validation loss", "parameters", "events", "steps", "spacepoints", "operations", "s"], rows)


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 1e9 else f"{value:.3g}"


def _probes(cells: Sequence[Report]) -> list[str]:
    names = list(dict.fromkeys(probe_name(one) for row in cells for one in row["probes"]))
    rows = []
    for row in cells:
        values = {probe_name(one): one["value"] for one in row["probes"]}
        rows.append([row["name"], *(f"{values[name]:.4f}" if name in values else "-" for name in names)])
    return table(["run", *names], rows)


def probe_name(one: Report) -> str:
    """What a probe's number is called."""
    return f"{one['task']}, {one['probe']}: {one['measure']}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]
