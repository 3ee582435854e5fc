"""How far each backend is from the recurrence, on this machine: what `fm4npp doctor` and the golden table show."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fm4npp import backbones
from fm4npp.backbones.stack import StackBackbone
from fm4npp.choices import Backend
from fm4npp.golden import relative_difference
from fm4npp.testing import reference

LIMITS = {"float64": (1e-12, 1e-10), "float32": (5e-6, 1e-4), "bfloat16": (2e-2, None)}
"""Precision -> largest relative difference of outputs, and of gradients, that is taken for agreement."""
KERNEL_LIMITS = {"float32": (2e-2, 2e-2), "bfloat16": (2e-2, None)}
"""The same for mamba-ssm, whose kernels multiply in TF32 even where numbers are float32, and know no float64."""
LENGTHS: dict[str, tuple[int, ...]] = {
    "1": (1,),
    "2": (2,),
    "Q - 1": (63,),
    "Q": (64,),
    "Q + 1": (65,),
    "1,000": (1000,),
    "10,000": (10_000,),
    "packed": (1, 70, 0, 64, 200),
}
"""Shape -> spacepoints of its events, for chunks of Q = 64 rows."""
LONGEST_WITH_GRADIENTS = 1000


@dataclass(frozen=True)
class Agreement:
    """One comparison with the recurrence.

    Attributes:
        backbone: registered name.
        backend: that computed.
        device: it computed on.
        precision: float64, float32, or bfloat16 products with a float32 state.
        shape: key of `LENGTHS`.
        error: largest difference of an output (every block and the last norm), relative to that output's largest value.
        gradient_error: the same of the gradients of the input and of every parameter, where a hundredth of the
            largest gradient counts as the least largest value; None if not compared.
    """

    backbone: str
    backend: str
    device: str
    precision: str
    shape: str
    error: float
    gradient_error: float | None

    @property
    def limits(self) -> tuple[float, float | None]:
        """Largest errors taken for agreement."""
        return (KERNEL_LIMITS if self.backend == "mamba-ssm" else LIMITS)[self.precision]

    @property
    def agrees(self) -> bool:
        """Whether both errors are within their limits."""
        limit, gradient_limit = self.limits
        close = self.gradient_error is None or gradient_limit is None or self.gradient_error <= gradient_limit
        return self.error <= limit and close


def make(name: str, backend: Backend = "auto") -> StackBackbone:
    """A backbone of two small blocks with fixed random weights, away from the initialisation where many are one."""
    cls: Any = backbones.get(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = cls(cls.Config(width=32, num_layers=2, state_size=8))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    assert isinstance(module, StackBackbone)
    module.backend = backend
    return module


def compare(
    name: str, shape: str, precision: str = "float32", backend: Backend = "auto", device: torch.device | str = "cpu"
) -> Agreement:
    """Compare a backbone with the recurrence.

    Args:
        name: registered backbone that has a reference.
        shape: key of `LENGTHS`.
        precision: key of `LIMITS`.
        backend: to use.
        device: to compute on.

    Raises:
        BackendError: if the backend cannot be used.
    """
    device, module = torch.device(device), make(name, backend)
    offsets = torch.tensor([0, *LENGTHS[shape]]).cumsum(0)
    rows = torch.randn(int(offsets[-1]), 32, generator=torch.Generator().manual_seed(1))
    gradients = len(rows) <= LONGEST_WITH_GRADIENTS and precision != "bfloat16"
    with torch.set_grad_enabled(gradients):
        slow = copy.deepcopy(module).double()
        expected, expected_gradients = _run(slow, rows.double(), partial(reference.backbone, slow), offsets)
        module = module.to(device, torch.float64 if precision == "float64" else torch.float32)
        rows = rows.to(device, module.norm_f.weight.dtype)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            found, found_gradients = _run(module, rows, module, offsets.to(device))
    least = max((float(gradient.abs().max()) for gradient in expected_gradients), default=0.0) / 100
    return Agreement(
        name,
        module.running_backend(device),
        str(device),
        precision,
        shape,
        max(map(relative_difference, found, expected)),
        max(
            (relative_difference(*pair, least) for pair in zip(found_gradients, expected_gradients, strict=True)),
            default=None,
        ),
    )


def _run(
    module: StackBackbone, rows: Tensor, function: Callable[..., Any], offsets: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradients of a fixed sum of them where gradients are enabled."""
    rows = rows.clone().requires_grad_(torch.is_grad_enabled())
    updates, last = function(rows, offsets)
    outputs = [*updates, last]
    if not torch.is_grad_enabled():
        return outputs, []
    weights = torch.linspace(-1, 1, last.numel(), dtype=torch.float64, device=last.device).view(last.shape)
    total = sum((output * weights).sum() for output in outputs)
    return outputs, list(torch.autograd.grad(total, [rows, *module.parameters()]))


def golden_table(device: torch.device | str = "cpu", backend: Backend = "auto") -> list[Agreement]:
    """Every backbone that has a reference, in every precision and shape, on one device."""
    precisions = list(KERNEL_LIMITS if backend == "mamba-ssm" else LIMITS)
    if torch.device(device).type == "mps":
        precisions.remove("float64")
    return [
        compare(name, shape, precision, backend, device)
        for name in reference.MIXERS
        for precision in precisions
        for shape in LENGTHS
    ]
