"""What the benchmarks share: interleaved timing, the machine's matrix rate, the peer."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fm4npp.backbones.mamba2 import Mamba2Backbone, Mamba2Config


@dataclass(frozen=True)
class Timing:
    """Seconds of every round."""

    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleave(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Timing]:
    """Time functions in turn, after one round that is not counted, so that what disturbs one disturbs all."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def ratio(timings: Mapping[str, Timing], slow: str, fast: str) -> dict[str, float]:
    """How many times faster: best of best, median, and the range over rounds."""
    rounds = [a / b for a, b in zip(timings[slow].seconds, timings[fast].seconds, strict=True)]
    return {
        "best": timings[slow].best / timings[fast].best,
        "median": statistics.median(rounds),
        "low": min(rounds),
        "high": max(rounds),
    }


def shown(values: Mapping[str, float]) -> str:
    return f"{values['median']:.2f} ({values['low']:.2f} to {values['high']:.2f}, best/best {values['best']:.2f})"


def matrix_rate(size: int = 2048, rounds: int = 20) -> float:
    """Measured float32 matrix products of this machine, FLOP/s."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / interleave({"mm": lambda: a @ b}, rounds)["mm"].best


def machine() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    spinning = os.environ.get("GOMP_SPINCOUNT", "not set")
    processor = (names or [platform.processor()])[0]
    return f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}, GOMP_SPINCOUNT {spinning}"


def ours(state_size: int, num_layers: int = 12) -> Mamba2Backbone:
    torch.manual_seed(0)
    return Mamba2Backbone(Mamba2Config(width=256, num_layers=num_layers, state_size=state_size, head_dim=64))


def peer(model: Mamba2Backbone) -> Any:
    """Transformers' Mamba-2 with the same sizes and weights."""
    import transformers

    transformers.logging.set_verbosity_error()
    config = model.config
    found = transformers.Mamba2Model(
        transformers.Mamba2Config(
            hidden_size=config.width,
            num_hidden_layers=config.num_layers,
            state_size=config.state_size,
            head_dim=config.head_dim,
            num_heads=config.num_heads,
            n_groups=config.num_groups,
            expand=config.expand,
            conv_kernel=config.conv_width,
            vocab_size=8,
            use_cache=False,
        )
    )
    weights = {"embeddings.weight": torch.zeros(8, config.width), **model.state_dict()}
    found.load_state_dict(weights, strict=True)
    return found


def stepper(model: torch.nn.Module, run: Callable[[], Tensor], precision: str = "float32") -> Callable[[], None]:
    """A training step: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            output = run()
        output.float().square().mean().backward()
        optimizer.step()

    return step


def inference(run: Callable[[], Tensor], precision: str = "float32") -> Callable[[], None]:
    def infer() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            run()

    return infer
