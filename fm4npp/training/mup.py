"""Maximal update parametrization (μP) of state-space models: how wider models start and learn like a narrow one.

A model is compared with its base model, the same specification at `mup_base_width`. Every parameter, or part of the
rows of one, has a role; the role and the ratios of the two models' sizes give what its initial values and its learning
rate are multiplied by. At the base width every multiplier is 1, but the readout starts at zero at every width.
`docs/mup.md` has the derivation and the measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fm4npp import backbones
from fm4npp.backbones import Backbone
from fm4npp.configuration import typed
from fm4npp.errors import ConfigurationError
from fm4npp.modeling import FM4NPPModel
from fm4npp.training.config import MuPRule, TrainingConfig
from fm4npp.training.schedule import RowMultipliers

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a parameter (its first axis) that have one role."""

    role: str
    num_rows: int


@dataclass(frozen=True)
class Sizes:
    """What a rule depends on; of a model, or as ratios of a model's to its base model's.

    Attributes:
        width: of the residual stream; the inner width grows with it (the paper's N_u, of either).
        states: summands of y = sum_n C_n h_n (the paper's N_x).
        rank: inputs of Mamba-1's `dt_proj`; 1 where there is none.
    """

    width: float
    states: float
    rank: float = 1.0

    def over(self, base: Sizes) -> Sizes:
        """The ratios to a base model's sizes."""
        return Sizes(self.width / base.width, self.states / base.states, self.rank / base.rank)


@dataclass(frozen=True)
class Multipliers:
    """What the standard initial values and the learning rate of a role are multiplied by."""

    initialisation: float
    learning_rate: float


VECTORS = ("embedding", "conv", "dt_bias", "A", "D", "norm", "readout_bias")
"""Roles whose fan-in does not grow: Adam moves each number by the learning rate, at any width."""
HIDDEN = ("z", "x", "B", "dt", "out_proj")
"""Roles whose fan-in grows with the width; standard initialisation scales with it already."""


def role_multipliers(role: str, ratios: Sizes, rule: MuPRule = "derived") -> Multipliers:
    """Multipliers of a role (Yang et al., arXiv:2203.03466, Table 8 for Adam; for C see `docs/mup.md`).

    Args:
        role: of a `Part`.
        ratios: of the model's sizes to its base model's.
        rule: "derived", or "paper": the formulas for W_B and W_C as printed in the paper's appendix B.6.
    """
    width, states = ratios.width, ratios.states
    if rule == "paper" and role in _PAPER:
        return _PAPER[role](width, states)
    if role in VECTORS:
        return Multipliers(1.0, 1.0)
    if role in HIDDEN:
        return Multipliers(1.0, 1 / width)
    if role == "C":  # a readout of the state: its N_x products with the state add up
        return Multipliers(1 / states, 1 / (states * width))
    if role == "C_bias":
        return Multipliers(1 / states, 1 / states)
    if role == "dt_proj":
        return Multipliers(1.0, 1 / ratios.rank)
    if role == "readout":  # zero as in Yang et al., appendix D.2: else it starts smaller the wider the model
        return Multipliers(0.0, 1 / width)
    raise ConfigurationError(f"parameterization 'mup' has no rule for the role {role!r}")


_PAPER: Mapping[str, Callable[[float, float], Multipliers]] = {
    # sigma_B ~ sqrt(N_x / N_u), over the 1 / sqrt(N_u) of standard initialisation; eta_B ~ N_x / sqrt(N_u).
    "B": lambda width, states: Multipliers(states**0.5, states / width**0.5),
    # sigma_C ~ 1 / sqrt(N_x N_u), over the same; eta_C ~ 1 / (N_x sqrt(N_u)).
    "C": lambda width, states: Multipliers(states**-0.5, 1 / (states * width**0.5)),
    "C_bias": lambda width, states: Multipliers(1.0, 1.0),
}


# ---- roles of a model's parameters


def _mamba2(shapes: Shapes) -> tuple[Sizes, dict[str, tuple[Part, ...]]]:
    width, inner = shapes["out_proj.weight"]
    (heads,) = shapes["A_log"]
    states = (shapes["in_proj.weight"][0] - 2 * inner - heads) // 2
    return Sizes(width, states), {
        "in_proj.weight": (
            Part("z", inner),
            Part("x", inner),
            Part("B", states),
            Part("C", states),
            Part("dt", heads),
        ),
        "conv1d.weight": (Part("conv", inner + 2 * states),),
        "conv1d.bias": (Part("conv", inner + states), Part("C_bias", states)),
        "dt_bias": (Part("dt_bias", heads),),
        "A_log": (Part("A", heads),),
        "D": (Part("D", heads),),
        "norm.weight": (Part("norm", inner),),
        "out_proj.weight": (Part("out_proj", width),),
    }


def _mamba1(shapes: Shapes) -> tuple[Sizes, dict[str, tuple[Part, ...]]]:
    width, inner = shapes["out_proj.weight"]
    states, rank = shapes["A_log"][1], shapes["dt_proj.weight"][1]
    return Sizes(width, states, rank), {
        "in_proj.weight": (Part("x", inner), Part("z", inner)),
        "conv1d.weight": (Part("conv", inner),),
        "conv1d.bias": (Part("conv", inner),),
        "x_proj.weight": (Part("dt", rank), Part("B", states), Part("C", states)),
        "dt_proj.weight": (Part("dt_proj", inner),),
        "dt_proj.bias": (Part("dt_bias", inner),),
        "A_log": (Part("A", inner),),
        "D": (Part("D", inner),),
        "out_proj.weight": (Part("out_proj", width),),
    }


MIXERS: Mapping[str, Callable[[Shapes], tuple[Sizes, dict[str, tuple[Part, ...]]]]] = {
    "mamba2": _mamba2,
    "mamba1": _mamba1,
}
"""Backbone -> the sizes and the roles of its blocks' mixers, from the shapes of their parameters."""


def parts(model: FM4NPPModel) -> dict[str, tuple[Part, ...]]:
    """The roles of every parameter of a model without heads.

    Raises:
        ConfigurationError: if a parameter's role is not known.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: _role(model, name, shape) for name, shape in shapes.items()}
    wrong = [name for name, rows in found.items() if sum(part.num_rows for part in rows) != shapes[name][0]]
    if wrong:
        raise ConfigurationError(
            f"parameterization 'mup' does not know the role of {', '.join(wrong[:3])} "
            f"({len(wrong)} parameters in all); use parameterization 'standard'"
        )
    return found


def _role(model: FM4NPPModel, name: str, shape: tuple[int, ...]) -> tuple[Part, ...]:
    """The parts of one parameter; none if its role is not known."""
    area, _, local = name.partition(".")
    if area == "embedding":
        return (Part("embedding", shape[0]),)
    if area == "output":
        return (Part("readout" if local == "weight" else "readout_bias", shape[0]),)
    if area == "backbone" and ".mixer." not in local and local.endswith(("norm.weight", "norm_f.weight")):
        return (Part("norm", shape[0]),)
    if area == "backbone" and ".mixer." in local:
        return mixer_parts(model.backbone)[1].get(local.partition(".mixer.")[2], ())
    return ()


def mixer_parts(backbone: Backbone) -> tuple[Sizes, dict[str, tuple[Part, ...]]]:
    """Sizes and roles of a backbone's mixers, which are all alike."""
    name = backbone.registered_name
    if name not in MIXERS:
        raise ConfigurationError(
            f"parameterization 'mup' does not know the roles of the backbone {name!r}'s parameters, only those of "
            f"{', '.join(MIXERS)}; use parameterization 'standard'"
        )
    prefix = "layers.0.mixer."
    shapes = {
        key.removeprefix(prefix): tuple(parameter.shape)
        for key, parameter in backbone.named_parameters()
        if key.startswith(prefix)
    }
    return MIXERS[name](shapes)


# ---- a model in the parameterization that is asked for


def size_ratios(model: FM4NPPModel, backbone: Mapping[str, Any], base_width: int) -> Sizes:
    """The ratios of a model's sizes to its base model's.

    Args:
        model: to be trained.
        backbone: its specification as it was given: what it leaves out (`state_size`) follows the width.
        base_width: of the base model.

    Raises:
        ConfigurationError: if there is no such backbone at the base width.
    """
    try:
        name, config = typed(backbones.registry, {**backbone, "width": base_width})
    except ConfigurationError as error:
        raise ConfigurationError(f"training.mup_base_width: {error}") from error
    with torch.device("meta"):
        base = backbones.get(name)(config)
    return mixer_parts(model.backbone)[0].over(mixer_parts(base)[0])


def parameterize(model: FM4NPPModel, backbone: Mapping[str, Any], config: TrainingConfig) -> dict[str, RowMultipliers]:
    """Scale a new model's initial weights as its parameterization wants them.

    Args:
        model: with the weights it was built with; scaled in place, or left alone in the standard parameterization.
        backbone: its specification as it was given: what it leaves out follows the width.
        config: of the run.

    Returns:
        Parameter -> learning-rate multipliers of its rows; empty in the standard parameterization.

    Raises:
        ConfigurationError: if the role of a parameter is not known.
    """
    if config.parameterization == "standard":
        return {}
    roles, ratios = parts(model), size_ratios(model, backbone, config.mup_base_width)
    found = {
        name: [(part.num_rows, role_multipliers(part.role, ratios, config.mup_rule)) for part in rows]
        for name, rows in roles.items()
    }
    for name, rows in found.items():
        _scale(model.get_parameter(name), [(count, each.initialisation) for count, each in rows])
    return {name: tuple((count, each.learning_rate) for count, each in rows) for name, rows in found.items()}


@torch.no_grad()
def _scale(parameter: nn.Parameter, rows: list[tuple[int, float]]) -> None:
    """Multiply rows of a parameter in place."""
    for part, (_, multiplier) in zip(parameter.split([count for count, _ in rows]), rows, strict=True):
        part.mul_(multiplier)
