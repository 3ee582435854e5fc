"""The card of a checkpoint, written from its own configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from fm4npp.configuration import ADDED, FM4NPPConfig
from fm4npp.detectors import Detector
from fm4npp.errors import FM4NPPError

TEMPLATE = """---
{metadata}
---

# FM4NPP model of {names}

{weights}

| part | |
|---|---|
| detectors | {detectors} |
| backbone | {backbone} |
| serializer | {serializers} |
| objective | {objective} |
| embedding | {embedding} |
| heads | {heads} |
| training | {training} |

```python
import fm4npp

model = fm4npp.FM4NPPModel.from_pretrained("<this folder or repository>")
processor = fm4npp.FM4NPPProcessor.from_pretrained("<this folder or repository>")
```

## Limitations

To be written by the people who trained it: what it was evaluated on, what it must not be used for, and the license of
the weights.

## Citation

The method: FM4NPP, arXiv 2508.14087.
"""
CARD_NAME = "README.md"
TAGS = ["nuclear-physics", "particle-physics", "state-space-model", "tracking"]
SHOWN = ("source", "step", "events", "tokens", "training_loss", "validation_loss")


def model_card(config: FM4NPPConfig) -> ModelCard:
    """The card of a model with this configuration."""
    backbone = ", ".join(f"{key} {config.backbone[key]}" for key in ("type", "width", "num_layers"))
    training = ", ".join(f"{key} {config.training[key]}" for key in SHOWN if key in config.training)
    objective = config.objective.spec()
    fields = {
        "names": ", ".join(detector.name for detector in config.detectors),
        "detectors": ", ".join(_told(config, detector) for detector in config.detectors),
        "weights": "" if training else "**The weights are random**: nothing has been trained.",
        "backbone": backbone,
        "serializers": ", ".join(f"{s.registered_name} ({name})" for name, s in config.serializers.items()),
        "objective": ", ".join(f"{k} {v}" for k, v in objective.items() if not isinstance(v, list | dict | None)),
        "embedding": config.embedding.projection,
        "heads": ", ".join(config.heads) or "none",
        "training": training or "none",
        "metadata": ModelCardData(library_name="fm4npp", tags=TAGS).to_yaml(),
    }
    return ModelCard(TEMPLATE.format(**fields))


def is_changed(folder: Path) -> bool:
    """Whether a checkpoint's folder holds a card that is not the one its configuration gives: it is somebody's."""
    card = folder / CARD_NAME
    if not card.exists():
        return False
    try:
        return card.read_text(encoding="utf-8") != str(model_card(FM4NPPConfig.load(folder)))
    except (FM4NPPError, OSError, UnicodeDecodeError):
        return True


def _told(config: FM4NPPConfig, detector: Detector) -> str:
    """A detector's name, with its subsystems, and whether the weights were trained without it."""
    parts = [] if detector.subsystems == (detector.name,) else [" + ".join(detector.subsystems)]
    parts += ["added after the training"] if detector.name in config.training.get(ADDED, {}) else []
    return f"{detector.name} ({'; '.join(parts)})" if parts else detector.name


BEGIN, END = "<!-- fm4npp evaluation: begin -->", "<!-- fm4npp evaluation: end -->"
"""Around the table that an evaluation writes; what stands between them is replaced."""


def with_evaluation(card: ModelCard, table: str, results: Sequence[EvalResult], name: str) -> ModelCard:
    """A card with the numbers of an evaluation in place of those of the one before.

    Args:
        card: of a model or a head.
        table: Markdown.
        results: the same numbers for the card's `model-index`; entries of other types of data stay.
        name: of the model, if the card does not say.
    """
    section = f"{BEGIN}\n## Evaluation\n\n{table}\n{END}"
    before, found, after = card.text.partition(BEGIN)
    text = before + section + after.partition(END)[2] if found else f"{card.text.rstrip()}\n\n{section}\n"
    own = {result.dataset_type for result in results}
    data = cast(ModelCardData, card.data)
    others = [result for result in data.eval_results or [] if result.dataset_type not in own]
    data.eval_results, data.model_name = [*others, *results] or None, data.model_name or name
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text.lstrip()}")


def empty_card(title: str) -> ModelCard:
    """The card of a folder that has none."""
    return ModelCard(f"---\n{ModelCardData(library_name='fm4npp', tags=TAGS).to_yaml()}\n---\n# {title}\n")
