"""The simulation against published figures, the real silicon sample, theory, and the eye.

    python benchmarks/validate_simulation.py tpcpp    [--events 5000]                   # TPCpp-10M, arXiv 2509.05792
    python benchmarks/validate_simulation.py silicon  [--sample FOLDER]                 # sPHENIX silicon, GEANT4
    python benchmarks/validate_simulation.py dedx                                       # bands of energy loss
    python benchmarks/validate_simulation.py displays                                   # an event of every facility
    python benchmarks/validate_simulation.py all --output validation --json validation.json

Each simulates its own events, or reads those of `--input EVENTS` (written by `fm4npp simulate`). Tables go to the
terminal, pictures and a JSON of all numbers to `--output`. `--gun` takes the place of PYTHIA where it is not installed;
then only the detector is tested.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import silicon_tracks
from scipy.optimize import nnls

from fm4npp import detectors
from fm4npp.data import read_events
from fm4npp.detectors import MEDIA, Detector, Medium
from fm4npp.event import PARTICLE_CLASSES, Event
from fm4npp.plotting import draw_event

Array = np.ndarray[Any, Any]
Table = dict[str, tuple[float, float]]

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "detectors"
SLOWEST = 1.0
"""beta gamma below which losses in a row are not small beside the largest single one, and exceed equation 34.12."""
LONGEST, MOST_TRACKS = 3200, 150
"""The released loader drops events with more spacepoints or tracks; the published figures are of the rest."""
PUBLISHED = {
    "hits an event": 834.0,
    "tracks an event": 15.4,
    "hits a track": 54.0,
    "noise hits": 0.107,
    "energy mean": 253.0982,
    "energy std": 268.7093,
    "energy std / mean": 268.7093 / 253.0982,
    "smallest r (cm)": 31.371997833251953,
    "largest r (cm)": 75.38493347167969,
    "largest |z| (cm)": 105.5,
}
"""TPCpp-10M. 834, 15.4 and 54: 5,793,045 spacepoints and 107,003 tracks in the 6,943 test events that the released
loader keeps. Whether a track needs a number of spacepoints is not documented; here every id counts. Energy and r:
constants of the released code. Noise: follows from the paper's table 5, see docs/simulation.md."""
PID_TABLE = {
    "GATConv": (0.6922, (0.0947, 0.9106, 0.0057, 0.4567, 0.5190), (0.5709, 0.7014, 0.6146, 0.6117, 0.6854)),
    "GCNConv": (0.6892, (0.0782, 0.9140, 0.0073, 0.4501, 0.5058), (0.5762, 0.6966, 0.5871, 0.6140, 0.6858)),
    "GraphConv": (0.7079, (0.1304, 0.9133, 0.0080, 0.4766, 0.5597), (0.5790, 0.7146, 0.5791, 0.6272, 0.7178)),
    "SAGEConv": (0.7262, (0.1085, 0.9126, 0.0338, 0.6242, 0.6024), (0.5790, 0.7382, 0.5239, 0.7071, 0.7028)),
    "OneFormer3D": (0.7701, (0.3029, 0.9207, 0.0000, 0.4859, 0.7389), (0.5758, 0.7658, 0.0000, 0.6991, 0.8427)),
    "AdapterOnly": (0.6631, (0.0095, 0.9511, 0.0002, 0.4120, 0.3209), (0.7714, 0.6596, 0.2872, 0.6366, 0.7008)),
}
"""Accuracy, recall and precision of others, pions, kaons, protons, electrons (arXiv 2508.14087, table 6; its last row
is a mean over seeds and does not add up)."""
PAIRS = {
    "rhic-pp sphenix-tpc": ("rhic-pp", "sphenix-tpc"),
    "rhic-pp sphenix": ("rhic-pp", "sphenix"),
    "rhic-pp star-tpc": ("rhic-pp", "star-tpc"),
    "lep-z aleph": ("lep-z", EXAMPLES / "aleph_tracker.yaml"),
    "hera-ep zeus": ("hera-ep", EXAMPLES / "zeus_tracker.yaml"),
    "eic-ep eic": ("eic-ep", EXAMPLES / "eic_tracker.yaml"),
}


def simulated(
    options: argparse.Namespace, facility: str, detector: Detector, num_events: int, **fields: Any
) -> Iterator[Event]:
    """Events of `--input`, or new ones; `fields` are further ones of `Pythia8`."""
    if options.input:
        return islice(read_events(options.input), num_events)
    from fm4npp.simulation import ParticleGun, Pythia8, simulate

    generator = ParticleGun() if options.gun else Pythia8(facility=facility, **fields)
    return iter(simulate(detector, num_events, options.seed, generator))


def show(title: str, table: Mapping[str, tuple[float, float]], extra: Mapping[str, float] | None = None) -> None:
    """Ours beside theirs."""
    print(f"\n{title}\n  {'':32}{'ours':>12}{'theirs':>12}{'ratio':>9}")
    for name, (ours, theirs) in table.items():
        ratio = f"{ours / theirs:9.3f}" if theirs else ""
        print(f"  {name:32}{ours:12.4g}{theirs:12.4g}{ratio}")
    for name, value in (extra or {}).items():
        print(f"  {name:32}{value:12.4g}")


# --- TPCpp-10M -------------------------------------------------------------------------------------------------------


def implied_shares(models: Iterable[str] = tuple(PID_TABLE)) -> dict[str, float]:
    """The class shares of the test set that published recalls and precisions imply.

    Of N_c spacepoints of class c, R_c N_c are found, and R_c N_c / P_c are called so; these add up to all of them, and
    the found ones to the accuracy. Several models overdetermine the five shares; least squares, none below 0.
    """
    rows, right = [np.full(5, 100.0)], [100.0]  # the shares add up to 1
    for model in models:
        accuracy, recall, precision = PID_TABLE[model]
        called = [r / p if p else 0.0 for r, p in zip(recall, precision, strict=True)]
        rows += [np.array(recall), np.array(called) - 1]
        right += [accuracy, 0.0]
    shares, _ = nnls(np.array(rows), np.array(right))
    return dict(zip(PARTICLE_CLASSES, shares.tolist(), strict=True))


def tpc_figures(events: Iterable[Event]) -> tuple[dict[str, float], dict[str, float]]:
    """What is published of TPCpp-10M, and what is not, of events that the released loader would keep."""
    hits, tracks, long, quiet, sums = [], [], [], [], np.zeros(3)
    radius, height = [], 0.0
    classes, number, empty = np.zeros(len(PARTICLE_CLASSES), int), 0, 0
    for event in events:
        number += 1
        _, lengths = np.unique(event.labels["track_id"], return_counts=True)
        kinds = len(lengths)
        if not 0 < len(event) <= LONGEST or kinds > MOST_TRACKS:
            empty += not len(event)
            continue
        signal = ~event.labels["is_noise"]
        hits.append(len(event))
        tracks.append(kinds)
        long.append(np.count_nonzero(lengths >= 20))
        quiet.append((np.count_nonzero(signal), len(np.unique(event.labels["track_id"][signal]))))
        classes += np.bincount(event.labels["particle_class"], minlength=len(classes))
        energy = event.feature("energy").astype(float)
        sums += len(energy), energy.sum(), (energy**2).sum()
        r = np.hypot(event.positions[:, 0], event.positions[:, 1])
        radius += [r.min(), r.max()]
        height = max(height, float(np.abs(event.positions[:, 2]).max()))
    mean = sums[1] / sums[0]
    std = float(np.sqrt(sums[2] / sums[0] - mean**2))
    signal_hits, signal_tracks = np.sum(quiet, axis=0)
    found = {
        "hits an event": float(np.mean(hits)),
        "tracks an event": float(np.mean(tracks)),
        "hits a track": sum(hits) / sum(tracks),
        "noise hits": float(1 - signal_hits / sum(hits)),
        "energy mean": float(mean),
        "energy std": std,
        "energy std / mean": float(std / mean),
        "smallest r (cm)": float(min(radius)),
        "largest r (cm)": float(max(radius)),
        "largest |z| (cm)": height,
    }
    others = {
        "events": float(number),
        "tracks an event, no noise": float(signal_tracks / len(hits)),
        "hits a track, no noise": float(signal_hits / signal_tracks),
        "tracks of 20 hits an event": float(np.mean(long)),
        "all hits / tracks of 20 hits": sum(hits) / max(1, sum(long)),
        "median hits an event": float(np.median(hits)),
        "95 % of hits an event": float(np.quantile(hits, 0.95)),
        "most hits": float(max(hits)),
        "most tracks": float(max(tracks)),
        "events without hits": empty / number,
        "events too long": (number - empty - len(hits)) / number,
    }
    shares = {name: float(count / sum(hits)) for name, count in zip(PARTICLE_CLASSES, classes, strict=True)}
    return found | shares, others


def tpcpp(options: argparse.Namespace) -> dict[str, Any]:
    """Against TPCpp-10M."""
    detector = detectors.build("sphenix-tpc")
    ours, others = tpc_figures(simulated(options, "rhic-pp", detector, options.events))
    theirs = PUBLISHED | implied_shares()
    table = {name: (ours[name], theirs[name]) for name in theirs}
    show("rhic-pp in sphenix-tpc, against TPCpp-10M", table, others)
    print("  shares of classes: theirs follow from the paper's table 6, see implied_shares")
    return {"table": table, "others": others}


# --- sPHENIX silicon -------------------------------------------------------------------------------------------------


def silicon(options: argparse.Namespace) -> dict[str, Any]:
    """Against the real simulation of MVTX and INTT, events without heavy-flavour trigger."""
    files = sorted(options.sample.glob("*.tar.xz"))
    if not files:
        print(f"\nno sample in {options.sample}: nothing to compare the silicon with")
        return {}
    detector = detectors.build("sphenix-silicon")
    real = chain.from_iterable(read_events(file, detector="sphenix-silicon") for file in files)
    theirs = silicon_tracks.tracks_of(real)
    made = simulated(options, "rhic-pp", detector, options.events, beam_spot=silicon_tracks.BEAM_SPOT)
    ours = silicon_tracks.tracks_of(made)
    ours, theirs, heavy = (
        silicon_tracks.selected(tracks)
        for tracks in (ours, theirs.of_events(theirs.trigger == 0), theirs.of_events(theirs.trigger == 1))
    )
    values, reference = silicon_tracks.distributions(ours), silicon_tracks.distributions(theirs)
    numbers, expected = silicon_tracks.figures(ours), silicon_tracks.figures(theirs)
    table = {name: (numbers[name], expected[name]) for name in expected}
    show(f"rhic-pp in sphenix-silicon, {len(ours.trigger)} events, against {len(theirs.trigger)} real ones", table)
    distance = silicon_tracks.distances(values, reference)
    scale = silicon_tracks.distances(silicon_tracks.distributions(heavy), reference)
    print(f"\n  {'Kolmogorov-Smirnov distance':32}{'ours':>12}{'heavy':>12}    heavy: their own events with trigger")
    for name in distance:
        print(f"  {name:32}{distance[name]:12.4f}{scale[name]:12.4f}")
    draw_silicon(values, reference, options.output / "silicon.png")
    return {"table": table, "distance": distance, "heavy": scale}


def draw_silicon(ours: Mapping[str, Array], theirs: Mapping[str, Array], path: Path) -> None:
    """A panel for each distribution, the real one filled."""
    pyplot = figure_library()
    figure, axes = pyplot.subplots(3, 4, figsize=(16, 11), layout="constrained")
    for axis, (name, values) in zip(axes.flat, theirs.items(), strict=True):
        values, made = values[np.isfinite(values)], ours[name][np.isfinite(ours[name])]
        tail = 0.02 if name.startswith(("field", "r ")) else 0.002
        low, high = np.quantile(values, [tail, 1 - tail])
        whole = values.dtype.kind == "i"
        bins = np.arange(np.floor(low), high + 1.5) - 0.5 if whole else np.linspace(low, high, 61)
        for sample, style, label in ((values, {"histtype": "stepfilled", "alpha": 0.35}, "real"), (made, {}, "ours")):
            weights = np.full(len(sample), 1 / len(sample))
            axis.hist(sample, bins, weights=weights, **({"histtype": "step", "linewidth": 1.6} | style), label=label)
        axis.set(xlabel=name, yscale="log" if name.startswith("p") else "linear")
    axes.flat[0].legend()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    print(f"  {path}")


# --- energy loss -----------------------------------------------------------------------------------------------------


def most_probable(beta_gamma: Array, medium: Medium, thickness: float) -> Array:
    """(N,) most probable loss in keV of a unit charge in a thin layer: PDG (2024), equation 34.12."""
    square = beta_gamma**2
    beta2 = square / (1 + square)
    constant, low, high, scale, power = medium.sternheimer
    x = np.log10(beta_gamma)
    delta = np.where(x >= low, 2 * np.log(10) * x - constant + scale * np.maximum(high - x, 0) ** power, 0.0)
    xi = 0.153537 * medium.charge_per_mass * medium.density * thickness / beta2  # MeV
    excitation = medium.excitation * 1e-6
    return 1e3 * xi * (np.log(2 * 0.51099895 * square / excitation) + np.log(xi / excitation) + 0.2 - beta2 - delta)


def truncated_losses(events: Iterable[Event], detector: Detector) -> dict[str, Array]:
    """Momentum, species and truncated mean of energy / path of particles from the beam in at least 20 rows.

    The path in a row follows from the true momentum: a circle from the beam crosses a radius r at the angle with sine
    r / 2R; those that turn back are left out. The spacepoints of a row add up; the mean is over the lowest 60 % of the
    rows, as is usual against the Landau tail.
    """
    geometry, response = detector.responses[detector.subsystems[0]]
    thickness = np.broadcast_to(np.asarray(response.thickness, float), (len(geometry.layers),))
    radii = np.asarray(geometry.layers)
    momenta, codes, losses = [], [], []
    for event in events:
        order = np.argsort(event.labels["track_id"], kind="stable")
        track, layer = event.labels["track_id"][order], event.labels["layer"][order]
        energy = event.feature("energy")[order].astype(float)
        particles = {name: np.asarray(values) for name, values in event.particles.items()}
        near = np.hypot(particles["vx"], particles["vy"]) < 1.0
        for row in np.flatnonzero(near & (particles["num_hits"] >= 20)):
            chosen = slice(*np.searchsorted(track, [particles["track_id"][row], particles["track_id"][row] + 1]))
            px, py, pz = (float(particles[name][row]) for name in ("px", "py", "pz"))
            transverse = np.hypot(px, py)
            sine = radii * silicon_tracks.TESLA_CM * response.field / (2 * transverse)
            if sine[-1] > 0.8:
                continue
            crossed, place = np.unique(layer[chosen], return_inverse=True)
            if len(crossed) < 20:
                continue
            path = thickness[crossed] * np.hypot(1, pz / transverse) / np.sqrt(1 - sine[crossed] ** 2)
            ratio = np.sort(np.bincount(place, energy[chosen]) / path)
            momenta.append(np.hypot(transverse, pz))
            codes.append(abs(int(particles["pdg"][row])))
            losses.append(ratio[: max(1, int(0.6 * len(ratio)))].mean())
    return {"momentum": np.array(momenta), "pdg": np.array(codes), "loss": np.array(losses)}


def dedx(options: argparse.Namespace) -> dict[str, Any]:
    """Bands of pions, kaons, protons and electrons."""
    detector = detectors.build("sphenix-tpc")
    _, response = detector.responses["sphenix-tpc"]
    found = truncated_losses(simulated(options, "rhic-pp", detector, options.events), detector)
    medium, thickness = MEDIA[response.medium], float(np.mean(response.thickness))
    masses = {"pion": (211, 0.13957), "kaon": (321, 0.49368), "proton": (2212, 0.93827), "electron": (11, 0.000511)}
    expected = {
        name: most_probable(found["momentum"] / mass, medium, thickness) / thickness
        for name, (_, mass) in masses.items()
    }
    pions = found["pdg"] == 211
    scale = float(np.median(found["loss"][pions] / expected["pion"][pions]))
    rows: dict[str, dict[str, float]] = {}
    for name, (code, mass) in masses.items():
        chosen = (found["pdg"] == code) & (found["momentum"] > SLOWEST * mass)
        if np.count_nonzero(chosen) < 10:
            continue
        pull = found["loss"][chosen] / (scale * expected[name][chosen])
        rows[name] = {"number": int(chosen.sum()), "ratio": float(np.median(pull)), "width": half_width(pull)}
    print(f"\nenergy loss, truncated mean against the most probable loss, scale {scale:.3g} fitted to pions")
    for name, row in rows.items():
        print(f"  {name:10}{row['number']:8} tracks, measured / expected {row['ratio']:.3f}, width {row['width']:.3f}")
    draw_losses(found, medium, thickness, scale, masses, options.output / "dedx.png")
    return {"scale": scale, "bands": rows}


def half_width(values: Array) -> float:
    """Half of the central 68 %."""
    low, high = np.quantile(values, [0.1587, 0.8413])
    return float(high - low) / 2


def draw_losses(
    found: Mapping[str, Array],
    medium: Medium,
    thickness: float,
    scale: float,
    masses: Mapping[str, tuple[int, float]],
    path: Path,
) -> None:
    """Loss against momentum, one colour a species, with the expected curves."""
    pyplot = figure_library()
    figure, axis = pyplot.subplots(figsize=(9, 6), layout="constrained")
    momentum = np.geomspace(0.1, 5, 200)
    for (name, (code, mass)), colour in zip(masses.items(), ("C0", "C2", "C3", "C1"), strict=True):
        chosen = found["pdg"] == code
        axis.plot(found["momentum"][chosen], found["loss"][chosen], ".", ms=2.5, color=colour, alpha=0.5, label=name)
        curve = scale * most_probable(momentum / mass, medium, thickness) / thickness
        axis.plot(momentum, curve, color=colour, lw=1.2)
    top = float(np.quantile(found["loss"], 0.98)) * 2
    axis.set(xscale="log", xlim=(0.1, 5), ylim=(0, top), xlabel="p (GeV/c)", ylabel="energy / path (units / cm)")
    axis.legend(title="lines: most probable loss (PDG 34.12)")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    print(f"  {path}")


# --- displays --------------------------------------------------------------------------------------------------------


def displays(options: argparse.Namespace) -> dict[str, Any]:
    """The event with the median number of spacepoints, of 21 with any, of every facility in a detector of its own."""
    found = {}
    print()
    for name, (facility, spec) in PAIRS.items():
        if isinstance(spec, Path) and not spec.exists():
            print(f"  {name}: no {spec}")
            continue
        detector = detectors.load(spec)
        made = [event for event in simulated(options, facility, detector, 42) if len(event)][:21]
        event = sorted(made, key=len)[len(made) // 2]
        path = options.output / f"{name.replace(' ', '_')}.png"
        draw_event(event, output=path, title=f"{name}: {event.source}", geometry=detector.geometry)
        found[name] = {"hits": [len(event) for event in made], "tracks": len(np.unique(event.labels["track_id"]))}
        print(f"  {path}: {len(event)} spacepoints, {found[name]['tracks']} tracks")
    return found


def figure_library() -> Any:
    """Matplotlib without a window."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


CHECKS = {"tpcpp": tpcpp, "silicon": silicon, "dedx": dedx, "displays": displays}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="+", choices=[*CHECKS, "all"])
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--input", type=Path, help="an events file instead of new events; for one check")
    parser.add_argument("--gun", action="store_true", help="the particle gun instead of PYTHIA")
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "sphenix_silicon"
    parser.add_argument("--sample", type=Path, default=default, help="folder with train.tar.xz, test.tar.xz")
    parser.add_argument("--output", type=Path, default=Path("validation"), help="folder for pictures")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    names = list(CHECKS) if "all" in options.checks else options.checks
    if options.input and (len(names) > 1 or names == ["displays"]):
        parser.error("--input holds the events of one detector: choose one check, and not displays")
    report = {name: CHECKS[name](options) for name in names}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return report


if __name__ == "__main__":
    main()
