"""The backbone on this machine's GPU: agreement with the recurrence, and the speed of training steps in bfloat16.

    make gpu-check            # or: python benchmarks/gpu.py [--output docs/performance.md] [--sizes m1 m2 ...]

Writes what it found between the markers in docs/performance.md, with the machine named. Without a CUDA device it says
so and does nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from fm4npp.backbones import kernels
from fm4npp.backbones.mamba2 import Mamba2Backbone, Mamba2Config
from fm4npp.choices import WIDTHS
from fm4npp.errors import BackendError
from fm4npp.testing.agreement import Agreement, golden_table

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "A40": 150e12, "V100": 125e12}
"""Dense bfloat16 (V100: float16) products, FLOP/s, by the makers' data sheets; SXM versions."""
TOKENS, EVENT = 32_768, 834
START, END = "<!-- gpu-check -->", "<!-- end of gpu-check -->"


def seconds_of(function: object, repeats: int = 5) -> float:
    """Best seconds of a call on the GPU, after two that are not counted."""
    best = float("inf")
    for number in range(repeats + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()  # type: ignore[operator]
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start) if number > 1 else best
    return best


def matrix_rate() -> float:
    """Measured bfloat16 products of 8192 x 8192 matrices, FLOP/s."""
    a, b = torch.randn(2, 8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / seconds_of(lambda: a @ b)


def agreement(backend: str) -> list[Agreement] | str:
    """The golden table on the GPU, or why there is none."""
    try:
        return golden_table("cuda", backend)  # type: ignore[arg-type]
    except BackendError as error:
        return str(error)


def training_step(size: str, backend: str) -> tuple[float, float]:
    """Tokens/s of AdamW steps in bfloat16, and their forward and backward FLOP/s, on events of 834 spacepoints."""
    torch.manual_seed(0)
    model = Mamba2Backbone(Mamba2Config(width=WIDTHS[size])).cuda()
    model.backend = backend  # type: ignore[assignment]
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    offsets = torch.arange(0, TOKENS + EVENT, EVENT, device="cuda")
    rows = torch.randn(int(offsets[-1]), WIDTHS[size], device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            output = model(rows, offsets)[1]
        output.float().square().mean().backward()
        optimizer.step()

    rate = len(rows) / seconds_of(step)
    return rate, 3 * model.config.flops_per_token * rate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "performance.md")
    parser.add_argument("--sizes", nargs="+", default=list(WIDTHS), choices=list(WIDTHS))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu-check skipped: no CUDA device here")
        return 0
    name, found, lines, wrong = torch.cuda.get_device_name(0), kernels.find(), [], 0
    lines += [
        f"Machine: {name}, torch {torch.__version__}, CUDA {torch.version.cuda}; kernels: "
        f"{found if isinstance(found, str) else found.version}.",
        "",
    ]
    backends = ["torch", "mamba-ssm"]
    lines += ["| backend | backbone | precision | largest error | of gradients | |", "|---|---|---|---|---|---|"]
    for backend in list(backends):
        table = agreement(backend)
        if isinstance(table, str):
            backends.remove(backend)
            lines.append(f"| {backend} | not run: {table} | | | | |")
            continue
        wrong += sum(not one.agrees for one in table)
        for key in dict.fromkeys((one.backbone, one.precision) for one in table):
            some = [one for one in table if (one.backbone, one.precision) == key]
            gradients = [one.gradient_error for one in some if one.gradient_error is not None]
            verdict = "agrees" if all(one.agrees for one in some) else "WRONG"
            gradient = f"{max(gradients):.0e}" if gradients else ""
            lines.append(
                f"| {backend} | {key[0]} | {key[1]} | {max(one.error for one in some):.0e} | {gradient} | {verdict} |"
            )
    rate = matrix_rate()
    peak = next((value for model, value in PEAKS.items() if model in name), None)
    lines += [
        "",
        f"bfloat16 products measured: {rate / 1e12:.0f} TFLOP/s"
        + (f" (data sheet {peak / 1e12:.0f})." if peak else "."),
        "",
        f"Training steps in bfloat16, about {TOKENS:,} tokens in events of {EVENT}:",
        "",
        "| size | backend | tokens/s | TFLOP/s | of the measured rate | of the data sheet |",
        "|---|---|---|---|---|---|",
    ]
    for size in arguments.sizes:
        for backend in backends:
            try:
                tokens, flops = training_step(size, backend)
            except (BackendError, torch.cuda.OutOfMemoryError) as error:
                lines.append(f"| {size} | {backend} | not run: {str(error).splitlines()[0]} | | | |")
                continue
            share = f"{flops / peak:.1%}" if peak else "unknown"
            lines.append(f"| {size} | {backend} | {tokens:,.0f} | {flops / 1e12:.1f} | {flops / rate:.1%} | {share} |")
            print(lines[-1], flush=True)
    text = "\n".join(lines)
    print(text)
    write_between(arguments.output, text)
    return 1 if wrong else 0


def write_between(path: Path, text: str) -> None:
    """Replace what is between the markers of a page."""
    before, _, rest = path.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
