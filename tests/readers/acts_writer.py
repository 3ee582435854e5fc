"""Events in the CSV dialect of the ACTS examples, written to the columns of CsvOutputData.hpp and of traccc."""

import numpy as np

from tests.readers.trackml_writer import write_event

SPLIT = ("particle_id_pv", "particle_id_sv", "particle_id_part", "particle_id_gen", "particle_id_subpart")
HITS = ("tx", "ty", "tz", "tt", "tpx", "tpy", "tpz", "te", "deltapx", "deltapy", "deltapz", "deltae")
PARTICLES = ("vx", "vy", "vz", "vt", "px", "py", "pz", "m", "q")


def single_precision(generator, count):
    """Numbers as ACTS writes them: float32, with all their digits."""
    return generator.normal(0, 100, count).astype(np.float32).astype(np.float64).tolist()


def make_event(generator, num_hits, split=False, particles_kind="particles"):
    """The tables of one event: kind -> name -> list."""
    parts = [(vertex, 0, particle, 0, 0) for vertex in (1, 2) for particle in (1, 2, 3)] + [(1, 1, 1, 1, 65535)]
    ids = [((((pv << 12 | sv) << 16 | part) << 8 | gen) << 16) | sub for pv, sv, part, gen, sub in parts]
    chosen = generator.integers(0, len(ids), num_hits).tolist()

    def identity(rows):
        if split:
            return {name: [parts[i][place] for i in rows] for place, name in enumerate(SPLIT)}
        return {"particle_id": [ids[i] for i in rows]}

    hits = {
        **identity(chosen),
        "geometry_id": (generator.integers(1, 255, num_hits, np.uint64) << np.uint64(56)).tolist(),
    }
    hits |= {name: single_precision(generator, num_hits) for name in HITS}
    hits["index"] = list(range(num_hits))
    rows = range(len(ids))
    particles = {**identity(rows), "particle_type": generator.choice([211, 11, 0], len(ids)).tolist()}
    particles["process"] = [0] * len(ids)
    particles |= {name: single_precision(generator, len(ids)) for name in PARTICLES}
    measurements = {"measurement_id": [], "geometry_id": [], "local_key": [], "local0": [], "local1": []}
    return {"hits": hits, particles_kind: particles, "measurements": measurements}, [ids[i] for i in chosen], ids


def write(path, sizes=(6, 0, 1), *, seed=0, split=False, suffix="", particles_kind="particles"):
    """Events in a folder; returns number -> (tables, ids of the hits' particles, ids of the particles)."""
    generator = np.random.default_rng(seed)
    events = {number: make_event(generator, size, split, particles_kind) for number, size in enumerate(sizes)}
    for number, (tables, _, _) in events.items():
        write_event(path, number, tables, suffix)
    return events
