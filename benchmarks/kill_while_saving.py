"""Kill a process while it saves, many times, and flip every bit of what it saved: what is lost, and what is noticed?

    python benchmarks/kill_while_saving.py --kills 200

Each round kills four children at a random moment, one after another, so that what disturbs one disturbs all: one that
writes states of a run, one that saves a model, and two controls: `torch.save` onto the target, as the released code
does it, and safetensors onto the target. Both sides save tensors of the same size, again and again.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file, save_file

from fm4npp import FM4NPPModel
from fm4npp.configuration import FM4NPPConfig
from fm4npp.errors import FM4NPPError
from fm4npp.training import state

Save = Callable[[Path, int], object]
Read = Callable[[Path], int]


def tensors(number: int, size: int) -> dict[str, torch.Tensor]:
    return {f"tensor{index}": torch.full((size,), float(number)) for index in range(4)}


def number_of(values: dict[str, torch.Tensor]) -> int:
    """Which save it is; every value of every tensor says so."""
    found = {value for tensor in values.values() for value in tensor.unique().tolist()}
    if len(found) != 1:
        raise ValueError(f"of several saves: {sorted(found)}")
    return int(found.pop())


def state_methods(size: int) -> tuple[Save, Read]:
    def save(folder: Path, number: int) -> None:
        state.write(folder, number, {"model": tensors(number, size)}, {"loop": {"step": number}}, keep=2)

    def read(folder: Path) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # none may be damaged
            saved = state.newest(folder)
        if saved is None:
            raise ValueError("nothing is there")
        return number_of(saved.tensors["model"])

    return save, read


def model_methods() -> tuple[Save, Read]:
    config = FM4NPPConfig.create(
        detectors=["sphenix-tpc"],
        backbone={"type": "mamba2", "width": 64, "num_layers": 2},
        objective={"type": "k-nnn", "k": 4},
    )
    model = FM4NPPModel(config)

    with tempfile.TemporaryDirectory() as warm:
        model.save_pretrained(warm)  # compiles what all children then have

    def save(folder: Path, number: int) -> None:
        with torch.no_grad():
            model.output.bias.fill_(number)
        model.config = config.updated(training={"step": number})
        model.save_pretrained(folder)

    def read(folder: Path) -> int:
        loaded = FM4NPPModel.from_pretrained(folder)  # compares the weights with the stored output
        if loaded.config.training["step"] != number_of({"bias": loaded.output.bias.detach()}):
            raise ValueError("configuration and weights of two saves")
        return int(loaded.config.training["step"])

    return save, read


def methods(size: int) -> dict[str, tuple[Save, Read]]:
    """Name -> how to save into a folder, and how to read the number of what is there."""
    return {
        "state.write": state_methods(size),
        "model.save_pretrained": model_methods(),
        "torch.save onto the target": (
            lambda folder, number: torch.save(tensors(number, size), folder / "state.pt"),
            lambda folder: number_of(torch.load(folder / "state.pt", weights_only=True)),
        ),
        "safetensors onto the target": (
            lambda folder, number: save_file(tensors(number, size), folder / "state.safetensors"),
            lambda folder: number_of(load_file(folder / "state.safetensors")),
        ),
    }


def child(work: Callable[[Callable[[str], object]], None]) -> tuple[int, int]:
    """Start a process that can tell something; its id, and where to hear it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work(lambda text: os.write(writer, text.encode()))
        except (FM4NPPError, OSError, RuntimeError, ValueError, Warning) as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    return pid, reader


def heard(work: Callable[[Callable[[str], object]], None]) -> str:
    """All that a process tells."""
    pid, reader = child(work)
    with os.fdopen(reader) as handle:
        text = handle.read()
    os.waitpid(pid, 0)
    return text


def kill_one(save: Save, read: Read, folder: Path, first: int) -> tuple[int | None, int, str]:
    """Save again and again from `first` on, and die in the middle of the third to the fifth.

    Returns:
        The number that is read afterwards, the last that was saved for certain, and what went wrong.
    """

    def work(tell: Callable[[str], object]) -> None:
        for number in range(first, first + 1000):
            start = time.perf_counter()
            save(folder, number)
            tell(f"{number} {time.perf_counter() - start}\n")

    pid, reader = child(work)
    with os.fdopen(reader) as handle:
        told = [handle.readline().split() for _ in range(2)]
        time.sleep(random.uniform(0, 3) * float(told[-1][1]))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        told += [line.split() for line in handle]
    text = heard(lambda tell: tell(str(read(folder))))
    return (int(text) if text.isdigit() else None), int(told[-1][0]), text


def temporaries(folder: Path) -> int:
    return sum(path.name.startswith(".") for path in folder.rglob("*"))


def kills(number: int, size: int) -> dict[str, dict[str, int]]:
    """Kill every method `number` times, in turn."""
    place = Path(tempfile.mkdtemp(prefix="kill-"))
    ways = methods(size)
    counts = {name: {"kills": 0, "unreadable": 0, "older": 0, "temporaries": 0, "left": 0} for name in ways}
    first = dict.fromkeys(counts, 1)
    for _ in range(number):
        for name, (save, read) in ways.items():
            folder, found = place / name.replace(" ", "-"), counts[name]
            folder.mkdir(exist_ok=True)
            value, last, text = kill_one(save, read, folder, first[name])
            found["kills"] += 1
            found["unreadable"] += value is None
            found["older"] += value is not None and value < last
            found["temporaries"] += temporaries(folder) > 0
            if value is None and "onto" not in name:
                print(f"{name}: {text}", flush=True)
            first[name] = last + 2
            heard(lambda tell, save=save, folder=folder, again=last + 1: save(folder, again))
            found["left"] += temporaries(folder) > 0
    shutil.rmtree(place)
    return counts


def flips() -> dict[str, dict[str, int]]:
    """Flip every bit of a small state, one after another; the control is what safetensors says of its file alone."""
    place = Path(tempfile.mkdtemp(prefix="flip-"))
    folder = state.write(place, 25, {"model": tensors(25, 50)}, {"loop": {"step": 25}}, keep=1)
    counts = {name: {"bits": 0, "missed": 0} for name in ("state.read", "safetensors alone", "JSON alone")}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        binary = path.suffix == ".safetensors"
        control, parse = ("safetensors alone", load) if binary else ("JSON alone", json.loads)
        for place_of_bit in range(8 * len(content)):
            damaged = bytearray(content)
            damaged[place_of_bit // 8] ^= 1 << place_of_bit % 8
            path.write_bytes(damaged)
            for name, way, argument in (("state.read", state.read, folder), (control, parse, bytes(damaged))):
                counts[name]["bits"] += 1
                counts[name]["missed"] += readable(way, argument)
        path.write_bytes(content)
    shutil.rmtree(place)
    return counts


def readable(way: Callable[[Any], object], argument: object) -> bool:
    try:
        way(argument)
    except Exception:
        return False
    return True


def main(arguments: list[str] | None = None) -> dict[str, dict[str, dict[str, int]]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of each method")
    parser.add_argument("--size", type=int, default=250_000, help="values of each of the four tensors that are saved")
    parser.add_argument("--no-flips", action="store_true", help="only kill")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    random.seed(6)
    report = {"kills": kills(options.kills, options.size)}
    print(f"{'':28} {'kills':>6} {'unreadable':>11} {'older than the last':>20} {'temporaries':>12} {'after next':>11}")
    for name, found in report["kills"].items():
        print(f"{name:28} {found['kills']:6} {found['unreadable']:11} {found['older']:20} ", end="")
        print(f"{found['temporaries']:12} {found['left']:11}")
    if not options.no_flips:
        report["flips"] = flips()
        for name, found in report["flips"].items():
            print(f"{name:28} misses {found['missed']} of {found['bits']} flipped bits")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return report


if __name__ == "__main__":
    main()
