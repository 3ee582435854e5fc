"""The card of a checkpoint, written from its own configuration."""

from __future__ import annotations

from huggingface_hub import ModelCard, ModelCardData

from fm4npp.configuration import FM4NPPConfig

TEMPLATE = """---
{metadata}
---

# FM4NPP model of {detectors}

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
TAGS = ["nuclear-physics", "particle-physics", "state-space-model", "tracking"]
SHOWN = ("source", "step", "events", "tokens", "training_loss", "validation_loss")


def model_card(config: FM4NPPConfig) -> ModelCard:
    """The card of a model with this configuration."""
    backbone = ", ".join(f"{key} {config.backbone[key]}" for key in ("type", "width", "num_layers"))
    training = ", ".join(f"{key} {config.training[key]}" for key in SHOWN if key in config.training)
    objective = config.objective.spec()
    fields = {
        "detectors": ", ".join(detector.name for detector in config.detectors),
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
