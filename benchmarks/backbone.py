"""The Mamba-2 backbone on a CPU against transformers' Mamba2Model of the same sizes and weights.

    pip install transformers            # for this benchmark only
    GOMP_SPINCOUNT=0 python benchmarks/backbone.py [--states 128 16] [--rounds 5] [--threads 2] [--json FILE]

12 layers, width 256, head_dim 64; an AdamW step and inference on 4 x 1024 and 1 x 4096 tokens, all in one process and
in turn, so that the ratios hold where the seconds do not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Timing, inference, interleave, machine, matrix_rate, ours, peer, ratio, shown, stepper

from fm4npp.backbones.norms import RMSNorm
from fm4npp.backbones.packing import Layout, rowwise_linear

SHAPES = {"4 x 1024": (4, 1024), "1 x 4096": (1, 4096)}


def against_peer(state_size: int, shape: str, rounds: int) -> dict[str, Any]:
    """Times and ratios of one size and shape; the outputs must agree."""
    model, (batch, length) = ours(state_size), SHAPES[shape]
    other = peer(model)
    rows = torch.randn(batch * length, model.config.width)
    offsets, padded = torch.arange(batch + 1) * length, rows.view(batch, length, -1)

    def run_ours() -> torch.Tensor:
        return model(rows, offsets)[1]

    def run_peer() -> torch.Tensor:
        return other(inputs_embeds=padded).last_hidden_state.flatten(0, 1)

    with torch.no_grad():
        difference = float((run_ours() - run_peer()).abs().max() / run_peer().abs().max())
    assert difference < 1e-5, f"the two models differ by {difference}"
    training = {
        "transformers": stepper(other, run_peer),
        "fm4npp": stepper(model, run_ours),
        "fm4npp bf16 linears": stepper(model, run_ours, "bfloat16"),
    }
    inferring = {
        "transformers": inference(run_peer),
        "fm4npp": inference(run_ours),
        "fm4npp bf16 linears": inference(run_ours, "bfloat16"),
    }
    found: dict[str, Any] = {"state_size": state_size, "shape": shape, "difference": difference}
    for task, functions in (("training", training), ("inference", inferring)):
        timings = interleave(functions, rounds)
        found[task] = {name: _summary(timing, len(rows)) for name, timing in timings.items()}
        for name in ("fm4npp", "fm4npp bf16 linears"):
            found[task][name]["ratio"] = ratio(timings, "transformers", name)
    return found


def _summary(timing: Timing, num_tokens: int) -> dict[str, Any]:
    return {"seconds": timing.seconds, "tokens_per_second": num_tokens / timing.median}


def parts(state_size: int, rate: float, rounds: int) -> dict[str, Any]:
    """Forward and backward times of each part of one block on 4 x 1024 tokens, and the share of the matrix rate."""
    model = ours(state_size, 1)
    config, mixer = model.config, model.layers[0].mixer
    layout = Layout.of(torch.arange(5) * 1024, config.rows_per_chunk)
    rows = torch.randn(4096, config.width)
    norm, width, inner = RMSNorm(config.width, config.eps), config.width, config.inner_width
    projected = torch.randn(4096, len(mixer.in_proj.weight))
    tokens = len(rows)
    core_flops = config.flops_per_token - 2 * width * (2 * inner + config.num_channels + config.num_heads)
    cases: dict[str, tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...], float]] = {
        "norm": (norm, (rows,), 0.0),
        "in_proj": (rowwise_linear, (rows, mixer.in_proj.weight), 2.0 * width * len(mixer.in_proj.weight)),
        "convolution, SSD, gated norm": (partial(_core, mixer, layout), (projected,), core_flops),
        "out_proj": (rowwise_linear, (torch.randn(4096, inner), mixer.out_proj.weight), 2.0 * inner * width),
    }
    found = {}
    for name, (function, inputs, flops) in cases.items():
        variables = [value.detach().requires_grad_() for value in inputs]
        output = function(*variables)
        seed = torch.randn_like(output)
        timings = interleave(
            {
                "forward": lambda f=function, v=variables: f(*v),
                "backward": lambda o=output, v=variables, s=seed: torch.autograd.grad(o, v, s, retain_graph=True),
            },
            rounds,
        )
        forward, backward = timings["forward"].best, timings["backward"].best
        found[name] = {
            "forward_ms": 1e3 * forward,
            "backward_ms": 1e3 * backward,
            "share_of_matrix_rate": 3 * flops * tokens / (forward + backward) / rate,
        }
    return found


def _core(mixer: Any, layout: Layout, projected: torch.Tensor) -> torch.Tensor:
    return mixer.core(projected, layout)


def lengths(rounds: int) -> dict[int, float]:
    """Inference seconds per 1,000 tokens, 50,000 of them in calls of one event each, longer and longer (2 layers)."""
    model, total = ours(16, 2), 50_000
    functions = {}
    for length in (1_000, 2_000, 5_000, 10_000, 20_000, 50_000):
        rows, offsets = torch.randn(length, 256), torch.tensor([0, length])

        def calls(r: torch.Tensor = rows, o: torch.Tensor = offsets, n: int = total // length) -> None:
            for _ in range(n):
                model(r, o)

        functions[str(length)] = inference(calls)
    timings = interleave(functions, rounds)
    done = {length: total // length * length for length in map(int, functions)}
    return {int(name): 1e3 * timing.best / done[int(name)] for name, timing in timings.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, nargs="+", default=[128, 16])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rate = matrix_rate()
    print(f"{machine()}; float32 matrix products {rate / 1e9:.0f} GFLOP/s")
    report: dict[str, Any] = {"machine": machine(), "matrix_rate": rate, "peer": [], "parts": {}}
    for state_size in arguments.states:
        for shape in arguments.shapes:
            found = against_peer(state_size, shape, arguments.rounds)
            report["peer"].append(found)
            for task in ("training", "inference"):
                for name, values in found[task].items():
                    times = f"{values['tokens_per_second']:7,.0f} tokens/s"
                    faster = f", {shown(values['ratio'])} x transformers" if "ratio" in values else ""
                    print(f"state {state_size:3}, {shape}, {task:9} {name:20} {times}{faster}")
        report["parts"][state_size] = parts(state_size, rate, arguments.rounds)
        for name, values in report["parts"][state_size].items():
            print(
                f"state {state_size:3}, one block, {name:29} forward {values['forward_ms']:6.1f} ms, backward "
                f"{values['backward_ms']:6.1f} ms, {values['share_of_matrix_rate']:5.1%} of the matrix rate"
            )
    report["seconds_per_1000_tokens"] = lengths(arguments.rounds)
    print("inference ms per 1,000 tokens, 50,000 of them in calls of one event each, 2 layers:")
    for length, seconds in report["seconds_per_1000_tokens"].items():
        print(f"  {length:6,} tokens {1e3 * seconds:6.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
