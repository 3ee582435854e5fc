"""A stack of pre-norm residual blocks, whatever mixes the rows inside, and the choice of what computes it."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fm4npp.backbones import kernels
from fm4npp.backbones.base import Backbone, BackboneConfig, Count
from fm4npp.backbones.norms import RMSNorm
from fm4npp.backbones.packing import Layout, full_precision
from fm4npp.errors import BackendError, first_line

KERNEL_TOLERANCE = 1e-2
"""Largest relative difference of mamba-ssm's kernels, which multiply in TF32, taken for agreement."""
CHECK_LENGTHS = (1, 70, 33)
"""Events on which kernels are compared with PyTorch before they are used."""


class StackConfig(BackboneConfig):
    """Sizes common to the state-space backbones.

    Attributes:
        state_size: N, numbers remembered for each channel; None is filled with width / 16, at least 1.
        expand: inner channels for one of the width.
        conv_width: taps of the causal convolution.
        dt_min: least initial step size.
        dt_max: largest initial step size.
        eps: of all norms.
        chunk_size: rows of a chunk, Q. It decides speed, not results (they agree to 1e-6); None is chosen by the sizes.
        alternate: every second block reads the events from their end to their beginning, so that a spacepoint's
            features depend on all of its event, not only on what comes before it.
    """

    state_size: Count | None = None
    expand: Count = 2
    conv_width: Count = 4
    dt_min: float = Field(1e-3, gt=0)
    dt_max: float = Field(1e-1, gt=0)
    eps: float = Field(1e-5, gt=0)
    chunk_size: Count | None = None
    alternate: bool = False

    def model_post_init(self, context: Any) -> None:
        """Fill in the state size and check the range of step sizes."""
        if self.state_size is None:
            object.__setattr__(self, "state_size", max(self.width // 16, 1))
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min {self.dt_min} exceeds dt_max {self.dt_max}")

    @property
    def inner_width(self) -> int:
        """Channels inside a block."""
        return self.expand * self.width

    @property
    def num_states(self) -> int:
        """`state_size` as a number."""
        assert self.state_size is not None
        return self.state_size

    @property
    def num_channels(self) -> int:
        """Channels of the convolution."""
        return self.inner_width

    @property
    def flops_per_token(self) -> int:
        """Multiplications and additions of a forward pass for one token: matrix products, convolution, recurrence."""
        return self.num_layers * (self._projection_flops + 2 * self.conv_width * self.num_channels + self._scan_flops)

    @property
    def kept_per_token(self) -> int:
        """Numbers that a forward pass keeps for the backward pass for one token, without gradient checkpointing."""
        return self.num_layers * (4 * self.width + self._kept_in_mixer)

    @property
    def _kept_in_mixer(self) -> int:
        """Numbers that a mixer keeps for one token."""
        raise NotImplementedError

    @property
    def _projection_flops(self) -> int:
        """Multiplications and additions of a mixer's matrix products for one token."""
        raise NotImplementedError

    @property
    def _scan_flops(self) -> int:
        """For every channel and state h <- decay h + x B and y <- y + C h: three products and two sums."""
        return 5 * self.inner_width * self.num_states

    @property
    def rows_per_chunk(self) -> int:
        """`chunk_size`, or its default."""
        raise NotImplementedError


def initial_dt_bias(number: int, dt_min: float, dt_max: float) -> Tensor:
    """Inverse softplus of step sizes log-uniform in [dt_min, dt_max], (number,)."""
    dt = torch.empty(number).uniform_(math.log(dt_min), math.log(dt_max)).exp()
    return dt + torch.log(-torch.expm1(-dt))


def reversed_order(offsets: Tensor) -> Tensor:
    """(B + 1,) offsets to the (T,) index that turns every event round; it is its own inverse."""
    ends = torch.repeat_interleave(offsets[:-1] + offsets[1:] - 1, offsets.diff())
    return ends - torch.arange(len(ends), device=offsets.device)


class Block(nn.Module):
    """Norm and mixer; the caller adds the result to the residual stream."""

    def __init__(self, config: StackConfig, mixer: nn.Module) -> None:
        super().__init__()
        self.norm = RMSNorm(config.width, config.eps)
        self.mixer = mixer

    def forward(self, rows: Tensor, layout: Layout | kernels.Sequence) -> Tensor:
        """(S, W) residual stream to its (S, W) update."""
        update: Tensor = self.mixer(self.norm(rows), layout)
        return update.to(rows.dtype)


class StackBackbone(Backbone):
    """Residual blocks of one kind of mixer; an event's output does not change by one bit with its batch mates.

    Subclasses name their mixer: built as `Mixer(config)`, called as `mixer(rows, layout)` on (S, W) rows that lie as
    the layout says, with gaps that are zero before and after.
    """

    Mixer: ClassVar[type[nn.Module]]
    config: StackConfig

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Block(config, self.Mixer(config)) for _ in range(config.num_layers))
        self.norm_f = RMSNorm(config.width, config.eps)
        self._checked: dict[torch.device, str | None] = {}

    def forward(self, embedding: Tensor, offsets: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """See `Backbone.forward`."""
        layout = self._layout(offsets, self.running_backend(embedding.device))
        # Under autocast the products are bfloat16; the stream that sums them up stays in the weights' precision.
        stream = layout.align(embedding.to(self.norm_f.weight.dtype))
        updates = []
        backwards = reversed_order(offsets) if self.config.alternate else None
        for number, block in enumerate(self.layers):
            if backwards is not None and number % 2:
                rows = layout.align(layout.pack(stream)[backwards])
                update = layout.align(layout.pack(self._update(block, rows, layout))[backwards])
            else:
                update = self._update(block, stream, layout)
            stream = stream + update
            updates.append(layout.pack(update))
        return tuple(updates), layout.pack(self.norm_f(stream))

    def running_backend(self, device: torch.device) -> str:
        """See `Backbone.running_backend`; kernels are used only where one block agrees with PyTorch."""
        if self.backend == "torch":
            return "torch"
        problem = kernels.unusable(device)
        if problem is None:
            problem = self._check_kernels(device)
            if problem is None:
                return "mamba-ssm"
        if self.backend == "mamba-ssm":
            raise BackendError(f"backend 'mamba-ssm': {problem}; 'torch' runs everywhere")
        return "torch"

    def _layout(self, offsets: Tensor, backend: str) -> Layout | kernels.Sequence:
        if backend == "mamba-ssm":
            return kernels.Sequence.of(offsets)
        return Layout.of(offsets, self.config.rows_per_chunk)

    def _update(self, block: nn.Module, stream: Tensor, layout: Layout | kernels.Sequence) -> Tensor:
        if self.checkpoint_gradients and torch.is_grad_enabled():
            update: Tensor = checkpoint(block, stream, layout, use_reentrant=False)
        else:
            update = block(stream, layout)
        return update

    def _check_kernels(self, device: torch.device) -> str | None:
        """Compare the kernels with PyTorch the first time they could be used on a device; None if they agree."""
        if device not in self._checked:
            self._checked[device] = problem = self._disagreement(device)
            if problem is not None and self.backend == "auto":
                warnings.warn(f"mamba-ssm is not used: {problem}", stacklevel=3)
        return self._checked[device]

    @torch.no_grad()
    def _disagreement(self, device: torch.device) -> str | None:
        """How the kernels' result differs from PyTorch's in a block of these sizes; None if it does not."""
        lengths = torch.tensor(CHECK_LENGTHS)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(device)
        rows = torch.randn(int(lengths.sum()), self.config.width, generator=torch.Generator().manual_seed(0))
        block = self._strong_block().to(device)
        with full_precision(device):
            try:
                expected, found = (
                    layout.pack(block(layout.align(rows.to(device)), layout))
                    for layout in (self._layout(offsets, name) for name in ("torch", "mamba-ssm"))
                )
            except Exception as error:  # a kernel that does not take these sizes, or was compiled for another device
                return f"{type(error).__name__}: {first_line(error)}"
        difference = float((found - expected).abs().max() / expected.abs().max())
        if difference <= KERNEL_TOLERANCE:
            return None
        return f"its result differs from PyTorch's by {difference:.1e} of the largest value"

    def _strong_block(self) -> Block:
        """A block with weights several times larger than new ones.

        In a new or a little trained block the direct path D x outweighs the state, and hides what is wrong with it.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            block = Block(self.config, self.Mixer(self.config))
            for parameter in block.parameters():
                parameter.copy_(torch.randn_like(parameter) * (3 if parameter.ndim > 1 else 1) * _spread(parameter))
        return block


def _spread(parameter: Tensor) -> float:
    """Standard deviation of new weights: one over the root of the summands of a product, 1 for vectors."""
    return float(parameter[0].numel()) ** -0.5 if parameter.ndim > 1 else 1.0
