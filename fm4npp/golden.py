"""A small input and its output inside every checkpoint, so that a backend that computes something else is refused.

The released project's fallback loaded every weight strictly and computed another function; names and shapes cannot
show that, numbers can.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fm4npp.backbones.stack import KERNEL_TOLERANCE
from fm4npp.batch import EventBatch
from fm4npp.errors import BackendError, CheckpointError

GOLDEN_NAME = "golden.safetensors"
LENGTHS = (1, 70)
"""Spacepoints of the events; the second is longer than a chunk, so that a state is carried on."""
TOLERANCE = 1e-3
"""Largest relative difference taken for agreement, but for `KERNEL_TOLERANCE` where one of the two is mamba-ssm;
rounding leaves about 1e-5."""
INPUTS = ("coordinates", "features", "detector_ids", "offsets")


def golden_batch(num_features: int, num_subsystems: int) -> EventBatch:
    """A fixed input: uniform coordinates, standard-normal features, subsystems in turn.

    Args:
        num_features: F.
        num_subsystems: of the model.
    """
    generator = torch.Generator().manual_seed(0)
    total = sum(LENGTHS)
    return EventBatch(
        coordinates=torch.rand(total, 3, generator=generator),
        features=torch.randn(total, num_features, generator=generator),
        detector_ids=torch.arange(total) % num_subsystems,
        offsets=torch.tensor([0, *LENGTHS]).cumsum(0),
        order=torch.cat([torch.arange(length) for length in LENGTHS]),
        targets={},
        labels={},
    )


def write_golden(folder: Path, batch: EventBatch, outputs: Mapping[str, Tensor], backend: str) -> None:
    """Write an input and its output to `golden.safetensors`.

    Args:
        folder: of the checkpoint.
        batch: the input.
        outputs: name -> tensor.
        backend: what computed them; stored with the version of PyTorch.

    Raises:
        CheckpointError: if an output is not finite, so that nothing could be compared with it.
    """
    wrong = [name for name, value in outputs.items() if not value.isfinite().all()]
    if wrong:
        raise CheckpointError(f"{folder}: not saved, for the model's {', '.join(wrong)} are not finite")
    tensors = {f"input.{name}": batch[name] for name in INPUTS}
    tensors |= {f"output.{name}": value.detach().to("cpu").contiguous() for name, value in outputs.items()}
    save_file(tensors, folder / GOLDEN_NAME, metadata={"backend": backend, "torch": torch.__version__})


def read_golden(folder: Path) -> tuple[EventBatch, dict[str, Tensor], str]:
    """The input, its output, and the backend that computed it.

    Raises:
        CheckpointError: if the file is damaged.
    """
    path = folder / GOLDEN_NAME
    try:
        with safe_open(path, framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            backend = (handle.metadata() or {}).get("backend", "unknown")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: is damaged ({error})") from error
    missing = [name for name in INPUTS if f"input.{name}" not in tensors]
    outputs = {name.removeprefix("output."): value for name, value in tensors.items() if name.startswith("output.")}
    if missing or not outputs:
        raise CheckpointError(f"{path}: lacks {', '.join(missing) or 'an output'}")
    inputs = {name: tensors[f"input.{name}"] for name in INPUTS}
    return EventBatch(**inputs, order=inputs["offsets"].new_zeros(0), targets={}, labels={}), outputs, backend


def compare(
    folder: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], backends: tuple[str, str]
) -> float:
    """Compare what a model computes now with what it computed when it was saved.

    Args:
        folder: of the checkpoint.
        expected: name -> tensor, stored.
        found: name -> tensor, computed now.
        backends: that computed the stored and the present ones.

    Returns:
        The largest difference, relative to the largest value of the output it is in.

    Raises:
        BackendError: if it is too large.
        CheckpointError: if the stored outputs are of another shape.
    """
    if {name: value.shape for name, value in expected.items()} != {name: value.shape for name, value in found.items()}:
        raise CheckpointError(f"{folder / GOLDEN_NAME}: does not belong to this model")
    differences = {name: relative_difference(found[name], value) for name, value in expected.items()}
    worst = max(differences, key=lambda name: differences[name])
    limit = KERNEL_TOLERANCE if "mamba-ssm" in backends else TOLERANCE
    if not differences[worst] <= limit:
        raise BackendError(
            f"{folder}: backend {backends[1]!r} computes another function than {backends[0]!r} did when the checkpoint "
            f"was written: {worst} differs by {differences[worst]:.1e} of its largest value, more than {limit:.0e}; "
            "see fm4npp doctor, or load with another backend"
        )
    return differences[worst]


def relative_difference(value: Tensor, reference: Tensor, least: float = 0.0) -> float:
    """Largest absolute difference, as a share of the largest absolute value of the reference (NaN if one is NaN).

    Args:
        value: any shape, at least one number.
        reference: the same shape.
        least: what the difference is a share of, if all of the reference is smaller.
    """
    value, reference = (tensor.detach().to("cpu", torch.float64) for tensor in (value, reference))
    scale = max(float(reference.abs().max()), least, torch.finfo(torch.float64).tiny)
    return float((value - reference).abs().max()) / scale
