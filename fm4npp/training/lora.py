"""Low-rank adaptation of the backbone (LoRA, arXiv:2106.09685) through peft, which is imported only when it is used.

peft adapts a linear layer by wrapping its `forward`. Our blocks never call it: they read the `weight` of their linear
layers and hand it to fused functions, so that peft's own layer would be trained on nothing, without a word. The layer
that is injected here is peft's with one difference: its `weight` is the adapted one, W + (alpha / rank) B A. All that
surrounds it (names, initial values, the adapter's file) is peft's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor, nn

from fm4npp.backbones.packing import full_precision
from fm4npp.errors import ConfigurationError
from fm4npp.files import write_json
from fm4npp.pretrained import ADAPTER_NAME, ADAPTER_PREFIX
from fm4npp.training.config import LoRAConfig

if TYPE_CHECKING:
    from fm4npp.modeling import FM4NPPModel

ADAPTER_CONFIG_NAME = "adapter_config.json"
NAME = "default"
"""What peft calls an adapter that is given no name; it is part of the names of its parameters."""


@dataclass(frozen=True)
class LoRAAdapter:
    """A LoRA adapter in a model's backbone; see `fm4npp.pretrained.Adapter`.

    Attributes:
        config: rank, strength and targets.
        base: identity of the backbone without it.
        tuner: peft's, around the backbone.
    """

    config: LoRAConfig
    base: dict[str, str]
    tuner: Any

    def tensors(self) -> dict[str, Tensor]:
        """A, (rank, inputs), and B, (outputs, rank), of every adapted weight, by the names in peft's file."""
        return {
            ADAPTER_PREFIX + name.replace(f".{NAME}.", "."): tensor.detach().cpu().contiguous()
            for name, tensor in self.tuner.model.state_dict().items()
            if ".lora_" in name
        }

    def write(self, folder: Path) -> dict[str, Any]:
        """Write peft's two files, the weights as safetensors; returns what `head.json` says of the adapter."""
        save_file(self.tensors(), folder / ADAPTER_NAME, metadata={"format": "pt"})
        values = {**self.tuner.peft_config[NAME].to_dict(), "inference_mode": True}
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}
        write_json(folder / ADAPTER_CONFIG_NAME, plain)
        return {"type": "lora", **self.config.model_dump(mode="json")}


def inject(model: FM4NPPModel, config: LoRAConfig) -> None:
    """Put an adapter into a model's backbone, in place; it and the heads are all that is trained from then on.

    B is zero at first, so that the model computes what it computed before; A is drawn from torch's global generator.
    `model.save_head` writes the adapter with the head.

    Args:
        model: with the one head that is to be trained, or without any yet.
        config: of the adapter.

    Raises:
        ConfigurationError: if peft is missing, there is an adapter already or there are several heads, the head does
            not read the backbone, a target is none of its linear layers, or the rank is larger than one of their sides.
    """
    _check_model(model)
    names = _targets(model.backbone, config)
    peft = _peft()
    base = model.backbone_identity()
    model.freeze_backbone()
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=names, base_model_name_or_path=base["name"] or None
    )
    settings._register_custom_module({nn.Linear: _layer()})
    tuner = peft.LoraModel(model.backbone, settings, NAME)
    model.adapter = LoRAAdapter(config, base, tuner)


def merge(model: FM4NPPModel) -> None:
    """Add a model's adapter to the weights it adapts and take peft's layers out, in place.

    The backbone is then another one, with an identity of its own; a head saved from now on belongs to that.

    Raises:
        ConfigurationError: if the model has no adapter.
    """
    adapter = _adapter(model)
    tensors = adapter.tensors()
    adapter.tuner.unload()
    model.adapter = None
    model.merge_lora(tensors, adapter.config.rank, adapter.config.alpha, f"rank {adapter.config.rank}")


def adapter_tensors(model: FM4NPPModel) -> dict[str, Tensor]:
    """The tensors of a model's adapter, see `LoRAAdapter.tensors`.

    Raises:
        ConfigurationError: if the model has none.
    """
    return _adapter(model).tensors()


def _adapter(model: FM4NPPModel) -> LoRAAdapter:
    if not isinstance(model.adapter, LoRAAdapter):
        raise ConfigurationError("the model has no LoRA adapter; inject one first")
    return model.adapter


def _check_model(model: FM4NPPModel) -> None:
    if model.adapter is not None:
        raise ConfigurationError("the model has an adapter already; merge it first")
    if len(model.heads) > 1:
        raise ConfigurationError(
            f"tuning=lora changes the backbone under the heads {', '.join(model.heads)}, but an adapter is saved with "
            "one head; start from a model without heads"
        )
    for name, head in model.heads.items():
        inputs: Any = head.config.inputs  # type: ignore[union-attr]
        if "blocks" not in inputs:
            raise ConfigurationError(
                f"tuning=lora: the head {name!r} does not read the backbone's blocks, see its inputs"
            )


def _targets(backbone: nn.Module, config: LoRAConfig) -> list[str]:
    """Full names of the linear layers that are adapted."""
    sizes = {name: module.weight.shape for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    chosen: list[str] = []
    for target in config.targets:
        found = [name for name in sizes if name == target or name.endswith(f".{target}")]
        if not found:
            choices = ", ".join(sorted({name.rpartition(".")[2] for name in sizes})) or "none"
            raise ConfigurationError(f"lora.targets: the backbone has no linear layer {target!r}; it has: {choices}")
        chosen += found
    for name in chosen:
        if config.rank > min(sizes[name]):
            raise ConfigurationError(
                f"lora.rank {config.rank} is larger than a side of {name}, {tuple(sizes[name])}; lower it, or train "
                "the whole backbone"
            )
    return sorted(set(chosen))


def _peft() -> Any:
    """The package peft, imported; that takes seconds, for it imports transformers."""
    try:
        import peft
    except ImportError as error:
        raise ConfigurationError(
            f'LoRA needs peft, which cannot be imported ({error}); pip install "fm4npp[lora]"'
        ) from error
    return peft


@cache
def _layer() -> type[nn.Module]:
    """The layer of peft for `nn.Linear`, with the adapted weight for those that read `weight`."""
    from peft.tuners.lora import Linear

    class AdaptedLinear(Linear):
        @property
        def weight(self) -> Tensor:
            """W + (alpha / rank) B A, (outputs, inputs); in full precision, so that merging changes nothing."""
            own: Any = self.get_base_layer().weight
            with full_precision(own.device):
                adapted: Tensor = own + self.get_delta_weight(NAME)
            return adapted

    return AdaptedLinear
