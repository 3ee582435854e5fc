"""The parameters of the authors' models: what the shapes say of the sizes, and what each is called here.

Names, shapes and the order of rows are those of the released code (`MambaGPT`, `Mamba1GPT`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fm4npp.configuration import FM4NPPConfig
from fm4npp.errors import CheckpointError

Shapes = dict[str, tuple[int, ...]]

DETECTOR = "sphenix-tpc"
"""What the released models were trained on, with the bounds and scales of our class of this name."""
NUM_AXES = 3
SHOWN = 8
"""Problems that a refusal lists."""

ENERGY, ENCODING = "embedder.proj", "embedder.embed.projection"
OUTPUT = "output_layer.weight"
MARKS = {"mamba2": ("lin_B.weight", "lin_C.weight", "dt_bias"), "mamba1": ("x_proj.weight", "dt_proj.weight")}
"""Parameters that only one of the two mixers has."""
HEADS = (
    "the released heads (tracking, particle ID, noise) cannot be converted; train a head of this project on the "
    "backbone, fm4npp adapt"
)


class Misfit(CheckpointError):
    """Tensors that are not those of one of the authors' models; the file is not named yet."""


@dataclass(frozen=True)
class Sizes:
    """What the shapes say.

    Attributes:
        mixer: "mamba2" or "mamba1".
        width: W.
        num_layers: blocks.
        inner: channels inside a block, 2 W in the released models.
        state: N.
        taps: of the causal convolution.
        heads: H of Mamba-2; of Mamba-1 the rank of its step sizes.
        encoding: numbers that encode a position, 3 + 6 per octave.
        outputs: numbers predicted, 3 k.
    """

    mixer: str
    width: int
    num_layers: int
    inner: int
    state: int
    taps: int
    heads: int
    encoding: int
    outputs: int


def measure(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """The sizes of a model, from a few of its tensors.

    Raises:
        Misfit: if these are missing, or no model can have such shapes.
    """
    layers = {match[1] for name in shapes if (match := re.match(r"mamba_layers\.(\d+)\.", name))}
    if not layers:
        raise Misfit(f"holds no mamba_layers.*, so it is no backbone; {HEADS}")
    kinds = [kind for kind, marks in MARKS.items() if any(name.endswith(marks) for name in shapes)]
    if len(kinds) != 1:
        raise Misfit(f"its blocks are {'both' if kinds else 'neither'} Mamba-2's and Mamba-1's, by their parameters")
    state, heads = ("lin_B.weight", "A_log") if kinds == ["mamba2"] else ("A_log", "dt_proj.weight")
    sizes = Sizes(
        mixer=kinds[0],
        num_layers=len(layers),
        width=_size(shapes, ENERGY, 2, 1),
        encoding=_size(shapes, ENCODING, 2, 0),
        outputs=_size(shapes, OUTPUT, 2, 0),
        inner=_size(shapes, _mixer("out_proj.weight"), 2, 1),
        taps=_size(shapes, _mixer("conv1d.weight"), 3, 2),
        state=_size(shapes, _mixer(state), 2, 0 if kinds == ["mamba2"] else 1),
        heads=_size(shapes, _mixer(heads), 1 if kinds == ["mamba2"] else 2, -1),
    )
    _possible(sizes, shapes)
    return sizes


def _mixer(name: str, layer: int = 0) -> str:
    return f"mamba_layers.{layer}.1.{name}"


def _size(shapes: Mapping[str, tuple[int, ...]], name: str, num_axes: int, axis: int) -> int:
    if name not in shapes:
        raise Misfit(f"missing {name}; if this is a head, {HEADS}")
    if len(shapes[name]) != num_axes or 0 in shapes[name]:
        raise Misfit(f"{name} has shape {shapes[name]}; {num_axes} axes are expected, none of them empty")
    return shapes[name][axis]


def _possible(sizes: Sizes, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check what divides what.

    Raises:
        Misfit: naming the tensor.
    """
    problems = {
        OUTPUT: (sizes.outputs % NUM_AXES, f"its rows are not {NUM_AXES} coordinates each of k neighbours"),
        ENCODING: ((sizes.encoding - 3) % 6, "its rows are not 3 + 6 for each octave"),
        _mixer("out_proj.weight"): (sizes.inner % sizes.width, "its columns are no multiple of the width"),
    }
    if sizes.mixer == "mamba2":
        problems[_mixer("A_log")] = (sizes.inner % sizes.heads, f"which does not divide {sizes.inner} channels")
    for name, (remainder, problem) in problems.items():
        if remainder:
            raise Misfit(f"{name} has shape {shapes[name]}: {problem}")


def expected_shapes(sizes: Sizes) -> Shapes:
    """Every tensor that a model of these sizes has, and its shape."""
    width = sizes.width
    mixer = _mamba2_shapes(sizes) if sizes.mixer == "mamba2" else _mamba1_shapes(sizes)
    shapes: Shapes = {ENERGY: (1, width), ENCODING: (sizes.encoding, width)}
    for layer in range(sizes.num_layers):
        shapes[f"mamba_layers.{layer}.0.weight"] = (width,)
        shapes |= {_mixer(name, layer): shape for name, shape in mixer.items()}
    return shapes | {"norm.weight": (width,), OUTPUT: (sizes.outputs, width), "output_layer.bias": (sizes.outputs,)}


def _mamba2_shapes(sizes: Sizes) -> Shapes:
    channels = sizes.inner + 2 * sizes.state
    return {
        "in_proj.weight": (2 * sizes.inner + sizes.heads, sizes.width),
        "lin_B.weight": (sizes.state, sizes.width),
        "lin_C.weight": (sizes.state, sizes.width),
        "conv1d.weight": (channels, 1, sizes.taps),
        "conv1d.bias": (channels,),
        "dt_bias": (sizes.heads,),
        "A_log": (sizes.heads,),
        "D": (sizes.heads,),
        "norm.weight": (sizes.inner,),
        "out_proj.weight": (sizes.width, sizes.inner),
    }


def _mamba1_shapes(sizes: Sizes) -> Shapes:
    return {
        "in_proj.weight": (2 * sizes.inner, sizes.width),
        "conv1d.weight": (sizes.inner, 1, sizes.taps),
        "conv1d.bias": (sizes.inner,),
        "x_proj.weight": (sizes.heads + 2 * sizes.state, sizes.inner),
        "dt_proj.weight": (sizes.inner, sizes.heads),
        "dt_proj.bias": (sizes.inner,),
        "A_log": (sizes.inner, sizes.state),
        "D": (sizes.inner,),
        "out_proj.weight": (sizes.width, sizes.inner),
    }


def check(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the tensors of a file with those of a model, all of them.

    Raises:
        Misfit: naming the first of those that are missing, unexpected or of another shape.
    """
    problems = [f"missing {name}" for name in expected if name not in shapes]
    problems += [f"unexpected {name}" for name in shapes if name not in expected]
    problems += [
        f"{name} has shape {shapes[name]}, not {shape}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise Misfit(f"is not one of the authors' backbones: {'; '.join(problems[:SHOWN])}{more}")


def configuration(sizes: Sizes) -> FM4NPPConfig:
    """The configuration of a model of these sizes, its raster scan without bin edges, which are in no checkpoint."""
    backbone = {
        "type": sizes.mixer,
        "width": sizes.width,
        "num_layers": sizes.num_layers,
        "state_size": sizes.state,
        "expand": sizes.inner // sizes.width,
        "conv_width": sizes.taps,
    }
    own = {"head_dim": sizes.inner // sizes.heads} if sizes.mixer == "mamba2" else {"dt_rank": sizes.heads}
    return FM4NPPConfig.create(
        detectors=[DETECTOR],
        serializer="raster-scan",
        objective={"type": "k-nnn", "k": sizes.outputs // NUM_AXES},
        embedding={"projection": "frozen", "num_octaves": (sizes.encoding - 3) // 6},
        backbone={**backbone, **own},
    )


def renamed(tensors: Mapping[str, Tensor], sizes: Sizes) -> dict[str, Tensor]:
    """The authors' tensors under the names of `FM4NPPModel`, rows in its order.

    Args:
        tensors: those of `expected_shapes`.
        sizes: of the model.
    """
    ours = {
        f"embedding.feature_projections.{DETECTOR}": tensors[ENERGY],
        "embedding.position_projection": tensors[ENCODING],
        "backbone.norm_f.weight": tensors["norm.weight"],
        "output.weight": tensors[OUTPUT],
        "output.bias": tensors["output_layer.bias"],
    }
    for layer in range(sizes.num_layers):
        start = _mixer("", layer)
        mixer = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        if sizes.mixer == "mamba2":
            mixer["in_proj.weight"] = _one_projection(mixer, sizes)
        ours[f"backbone.layers.{layer}.norm.weight"] = tensors[f"mamba_layers.{layer}.0.weight"]
        ours |= {f"backbone.layers.{layer}.mixer.{name}": tensor for name, tensor in mixer.items()}
    return ours


def _one_projection(mixer: dict[str, Tensor], sizes: Sizes) -> Tensor:
    """Their [z | x | dt] with B and C in matrices of their own, to our [z | x | B | C | dt]."""
    gate_and_input, steps = mixer["in_proj.weight"].split([2 * sizes.inner, sizes.heads])
    return torch.cat([gate_and_input, mixer.pop("lin_B.weight"), mixer.pop("lin_C.weight"), steps])
