"""Packed events against events padded to the longest of 32, on a heavy-tailed set (50 to 10,000 spacepoints, mean 834).

    pip install transformers            # for this benchmark only
    GOMP_SPINCOUNT=0 python benchmarks/packing.py [--layers 2] [--batches 1] [--rounds 3] [--threads 2] [--json FILE]

Real spacepoints per second in inference: this backbone on packed batches, the same backbone on batches padded to
their longest event, and transformers' Mamba2Model on the same padded batches, a few events at a time where they would
not fit.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from common import inference, interleave, machine, ours, peer, ratio, shown

from fm4npp.backbones.packing import Layout

MEAN, LOW, HIGH, SIGMA = 834, 50, 10_000, 1.0
BATCH = 32
PEER_TOKENS = 16_384


def draw_lengths(number: int, seed: int = 0) -> list[int]:
    """Lognormal lengths cut to [50, 10,000], with the measured mean of the labelled test set of TPCpp-10M."""
    generator = np.random.default_rng(seed)
    normal = generator.standard_normal(200_000)

    def cut(location: float) -> np.ndarray:
        return np.clip(np.exp(location + SIGMA * normal), LOW, HIGH)

    low, high = 0.0, 10.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if cut(middle).mean() < MEAN else (low, middle)
    return np.rint(cut(low)[:number]).astype(int).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--state", type=int, default=16)
    parser.add_argument("--batches", type=int, default=1, help="of 32 events")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = ours(arguments.state, arguments.layers)
    other = peer(model)

    many = draw_lengths(100_000)
    layout = Layout.of(torch.tensor([0, *many]).cumsum(0), model.config.rows_per_chunk)
    padded_rows = sum(BATCH * max(many[i : i + BATCH]) for i in range(0, len(many) - BATCH, BATCH))
    waste, padded_waste = 1 - sum(many) / layout.num_rows, 1 - sum(many) / padded_rows
    batches = [many[i * BATCH : (i + 1) * BATCH] for i in range(arguments.batches)]
    real = sum(map(sum, batches))

    def packed() -> None:
        for lengths in batches:
            offsets = torch.tensor([0, *lengths]).cumsum(0)
            model(torch.zeros(int(offsets[-1]), 256).normal_(), offsets)

    def padded() -> None:
        for lengths in batches:
            longest = max(lengths)
            events = max(PEER_TOKENS // longest, 1)
            for start in range(0, BATCH, events):
                number = min(events, BATCH - start)
                model(torch.zeros(number * longest, 256).normal_(), torch.arange(number + 1) * longest)

    def padded_peer() -> None:
        for lengths in batches:
            longest = max(lengths)
            events = max(PEER_TOKENS // longest, 1)
            for start in range(0, BATCH, events):
                other(inputs_embeds=torch.zeros(min(events, BATCH - start), longest, 256).normal_())

    functions = {"transformers, padded": padded_peer, "fm4npp, padded": padded, "fm4npp, packed": packed}
    timings = interleave({name: inference(function) for name, function in functions.items()}, arguments.rounds)
    print(machine())
    print(f"100,000 events, mean {np.mean(many):.0f} spacepoints, longest {max(many):,}:")
    print(f"  wasted rows: packed {waste:.1%}, padded to the longest of {BATCH} {padded_waste:.1%}")
    print(f"{len(batches)} batches timed, {real:,} spacepoints, the longest of each {[max(b) for b in batches]}")
    for name, timing in timings.items():
        print(f"  {name:21} {real / timing.median:9,.0f} spacepoints/s")
    ratios = {name: ratio(timings, name, "fm4npp, packed") for name in functions if name != "fm4npp, packed"}
    for name, values in ratios.items():
        print(f"  packed is {shown(values)} x {name}")
    if arguments.json:
        seconds = {name: timing.seconds for name, timing in timings.items()}
        report = {"machine": machine(), "waste": waste, "padded_waste": padded_waste, "real": real}
        arguments.json.write_text(json.dumps({**report, "seconds": seconds, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
