import numpy as np
import pytest

from fm4npp import readers
from fm4npp.data import read_events, write_events
from fm4npp.detectors import build
from fm4npp.errors import DataError
from fm4npp.readers import podio, podio_file
from tests.readers import podio_writer, writers

READER = readers.build("podio")
HITS = ("x", "y", "z")
OPTIONAL = ("energy", "time", "cell_id", "track_id", "quality", "particle_class")
REC, SIM = ["BarrelRecHits", "DiskRecHits"], ["BarrelHits", "DiskHits"]
MEMBERS = {"x": "position.x", "y": "position.y", "z": "position.z", "time": "time", "cell_id": "cellID"}
PARTICLES = {"pdg": "PDG", "px": "momentum.x", "vy": "vertex.y", "mass": "mass", "charge": "charge"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.edm4eic.root"


def check(found, events, truth, collections, energy="edep", step=1):
    """The events found are those written: their hits, bit for bit, and the particles of their hits."""
    assert len(found) == len(events)
    for number, (event, expected, of) in enumerate(zip(found, events, truth, strict=True)):
        assert event["event_id"] == number
        assert (event["event_number"], event["event_run"], event["event_weight"]) == (1000 + number, 7, 0.5)
        assert event["event_simulated"] == (collections[0] in SIM)
        for column, member in {**MEMBERS, "energy": energy}.items():
            values = np.concatenate([expected[name][member] for name in collections])[::step]
            assert event[column].dtype == values.dtype
            np.testing.assert_array_equal(event[column], values)
        if of is not None:
            np.testing.assert_array_equal(event["track_id"], np.concatenate([of[name] for name in collections])[::step])
        for column, member in PARTICLES.items():
            np.testing.assert_array_equal(event[f"particle_{column}"], expected["MCParticles"][member])
        np.testing.assert_array_equal(event["particle_track_id"], np.arange(len(expected["MCParticles"]["PDG"])))


@pytest.mark.parametrize("container", ["rntuple", "ttree"])
@pytest.mark.parametrize("generation", ["new", "old"])
@pytest.mark.parametrize("raw", [True, False])
def test_measured_hits_and_their_truth(path, container, generation, raw):
    sizes = (3, 0, 1, 9, 4)
    events, truth = podio_writer.write(path, sizes, container=container, generation=generation, raw=raw)
    assert READER.recognises(path)
    found = writers.read_all(READER, path, HITS, OPTIONAL)
    check(found, events, truth, REC)
    assert sum((event["track_id"] < 0).sum() for event in found) > 2
    assert "quality" not in found[0]


@pytest.mark.parametrize("energy", ["eDep", "EDep"])
def test_simulated_hits_where_there_are_no_measured_ones(path, energy):
    events, truth = podio_writer.write(path, measured=False, energy=energy)
    found = writers.read_all(READER, path, (*HITS, "momentum.x"), OPTIONAL)
    check(found, events, truth, SIM, energy)
    for event, expected in zip(found, events, strict=True):
        for column, member in (("quality", "quality"), ("momentum.x", "momentum.x")):
            np.testing.assert_array_equal(event[column], np.concatenate([expected[name][member] for name in SIM]))


@pytest.mark.parametrize("container", ["rntuple", "ttree"])
@pytest.mark.parametrize("generation", ["new", "old"])
def test_a_file_that_does_not_name_its_ids(path, container, generation):
    fields = {"metadata": False, "container": container, "generation": generation}
    events, truth = podio_writer.write(path, (3, 0, 1, 9), systems=("Disk",), **fields)
    assert READER.recognises(path)
    check(writers.read_all(READER, path, HITS, OPTIONAL), events, truth, ["DiskRecHits"])


def shrink(events):
    """Simulated hits of the disks are fewer than the links to the barrel's need, so the ids can be told apart."""
    for event in events:
        for name in list(event):
            if name.startswith("Disk") or name.startswith("_Disk"):
                event[name] = {member: values[:0] for member, values in event[name].items()}


def test_unnamed_ids_belong_to_the_only_collection_that_fits(path):
    events, truth = podio_writer.write(path, (3, 2, 1, 9), metadata=False, change=shrink)
    for of in truth:
        of["DiskRecHits"] = of["DiskRecHits"][:0]
    check(writers.read_all(READER, path, HITS, OPTIONAL), events, truth, REC)


def test_unnamed_ids_that_fit_several_collections_are_refused(path):
    podio_writer.write(path, metadata=False)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, HITS, OPTIONAL)
    writers.assert_one_line(error, path, "of unknown name", "track_id")
    assert len(writers.read_all(READER, path, HITS, ("energy",))) == 4


def test_collections_are_chosen_by_columns(path):
    events, truth = podio_writer.write(path)
    choices = ("collection/DiskRecHits", "collection/Absent")
    found = writers.read_all(READER, path, HITS, (*OPTIONAL, *choices))
    check(found, events, truth, ["DiskRecHits"])
    assert all(event["collection/DiskRecHits"].all() and "collection/Absent" not in event for event in found)
    both = writers.read_all(READER, path, HITS, (*OPTIONAL, *(f"collection/{name}" for name in (*SIM, *REC))))
    check(both, events, truth, REC)
    for event, expected in zip(both, events, strict=True):
        sizes = [len(expected[name]["time"]) for name in REC]
        np.testing.assert_array_equal(event["collection"], np.repeat([0, 1], sizes))
        np.testing.assert_array_equal(event["collection/DiskRecHits"], np.repeat([False, True], sizes))
        assert "collection/DiskHits" not in event
    check(writers.read_all(READER, path, HITS, (*OPTIONAL, "collection/DiskHits")), events, truth, SIM[1:], "eDep")


@pytest.mark.parametrize(
    ("required", "word"),
    [
        ((*HITS, "collection/Absent"), "Absent"),
        ((*HITS, "collection/BarrelRecHits", "collection/BarrelHits"), "BarrelHits"),
        ((*HITS, "charge"), "charge"),
        ((*HITS, "matched_particle_id"), "matched_particle_id"),
    ],
)
def test_what_is_required_must_be_there(path, required, word):
    podio_writer.write(path)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, required)
    writers.assert_one_line(error, path, word)


@pytest.mark.parametrize("generation", ["new", "old"])
def test_a_subset_collection_gives_its_order(path, generation):
    events, truth = podio_writer.write(path, subset=True, generation=generation)
    found = writers.read_all(READER, path, HITS, (*OPTIONAL, "collection/AllRecHits"))
    check(found, events, truth, REC, step=-1)
    check(writers.read_all(READER, path, HITS, OPTIONAL), events, truth, REC)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, HITS, ("collection/AllRecHits", "collection/DiskRecHits"))
    writers.assert_one_line(error, path, "AllRecHits", "alone")


@pytest.mark.parametrize("step_entries", [1, 2, 1000])
def test_parts_and_steps_change_nothing(path, monkeypatch, step_entries):
    sizes = np.random.default_rng(0).integers(0, 5, 23)
    events, truth = podio_writer.write(path, sizes, raw=False)
    whole = writers.read_all(READER, path, HITS, OPTIONAL)
    check(whole, events, truth, REC)
    monkeypatch.setattr(podio, "PART_ENTRIES", 5)
    monkeypatch.setattr(podio_file, "STEP_ENTRIES", step_entries)
    assert READER.parts(path) == ["0-5", "5-10", "10-15", "15-20", "20-23"]
    writers.assert_same_columns(writers.read_parts(READER, path, HITS, OPTIONAL), whole)


def test_steps_of_a_ttree(path, monkeypatch):
    events, truth = podio_writer.write(path, (3, 0, 1, 9, 4), container="ttree")
    monkeypatch.setattr(podio_file, "STEP_BYTES", 1)
    check(writers.read_all(READER, path, HITS, OPTIONAL), events, truth, REC)


def test_describe_lists_what_can_be_chosen(path):
    podio_writer.write(path)
    hits, events = READER.describe(path)
    assert hits.columns == {f"collection/{n}": f"{'measured' if n in REC else 'simulated'} hits" for n in (*REC, *SIM)}
    assert events.rows == 4
    assert events.columns["MCParticles"] == "edm4hep::MCParticleCollection"


def broken(collection, member, change):
    """What is done to the last event, which has six hits of each system."""

    def apply(events):
        events[-1][collection][member] = change(np.array(events[-1][collection][member]))

    return apply


def at(place, value):
    def change(values):
        values[place] = value
        return values

    return change


LINKS = "_BarrelRawHitAssociations"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (broken("_BarrelHits_particle", "index", at(0, 99)), ("object 99", "MCParticles", "event 3")),
        (broken("_BarrelHits_particle", "collectionID", at(0, 5)), ("_BarrelHits_particle", "id 5")),
        (broken(f"{LINKS}_simHit", "index", at(0, 6)), ("object 6", "BarrelHits", "event 3")),
        (broken(f"{LINKS}_simHit", "collectionID", at(0, podio_writer.IDS["BarrelRawHits"])), ("'BarrelRawHits'",)),
        (broken("BarrelRawHitAssociations", "weight", at(0, np.nan)), ("weights",)),
        (
            lambda events: [events[-1]["EventHeader"].update({m: []}) for m in podio.HEADER.values()],
            ("0 objects", "event 3"),
        ),
    ],
)
def test_references_that_lead_nowhere_are_refused(path, change, words):
    podio_writer.write(path, change=change)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, HITS, ("track_id",))
    writers.assert_one_line(error, path, *words)


@pytest.mark.parametrize(
    ("collection", "member"),
    [
        ("BarrelRecHits", "time"),
        ("_BarrelRecHits_rawHit", "index"),
        (f"{LINKS}_simHit", "index"),
        (LINKS[1:], "weight"),
    ],
)
def test_lengths_that_do_not_belong_together_are_refused(path, collection, member):
    podio_writer.write(path, container="ttree", change=broken(collection, member, lambda values: values[:-1]))
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, HITS, OPTIONAL)
    writers.assert_one_line(error, path)


def test_a_hit_twice_in_a_subset_is_refused(path):
    podio_writer.write(path, subset=True, change=broken("AllRecHits_objIdx", "index", at(slice(0, 2), 1)))
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, HITS, ("collection/AllRecHits",))
    writers.assert_one_line(error, path, "AllRecHits", "twice")


LINKS_OF_DISK = ("DiskRawHitAssociations", "_DiskRawHitAssociations_rawHit", "_DiskRawHitAssociations_simHit")


def without(*names):
    def change(events):
        for event in events:
            for name in names:
                del event[name]

    return change


def test_associations_of_some_collections_only_are_refused(path):
    podio_writer.write(path, change=without(*LINKS_OF_DISK))
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, HITS, ("track_id",))
    writers.assert_one_line(error, path, "DiskRecHits", "track_id")
    assert len(writers.read_all(READER, path, HITS)) == 4


def test_some_simulated_hits_without_particles_are_refused(path):
    podio_writer.write(path, measured=False, change=without("_DiskHits_particle"))
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, HITS, ("track_id",))
    writers.assert_one_line(error, path, "DiskHits", "choose other collections")


def test_files_without_truth_have_no_labels(path):
    podio_writer.write(path, measured=False, change=without("_DiskHits_particle", "_BarrelHits_particle"))
    found = writers.read_all(READER, path, HITS, OPTIONAL)
    assert all("track_id" not in event and not any(name.startswith("particle_") for name in event) for event in found)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, (*HITS, "track_id"))
    writers.assert_one_line(error, path, "track_id")


def test_values_that_are_not_finite_are_given_as_they_are(path):
    events, truth = podio_writer.write(path, change=broken("DiskRecHits", "position.y", at(1, np.nan)))
    check(writers.read_all(READER, path, HITS, OPTIONAL), events, truth, REC)


def test_truncated_files_are_refused(path):
    events, truth = podio_writer.write(path)
    for _ in writers.truncations(path):
        assert READER.recognises(path)
        for read in (writers.read_all, writers.read_parts):
            with pytest.raises(DataError) as error:
                read(READER, path, HITS, OPTIONAL)
            writers.assert_one_line(error, path)
    check(writers.read_all(READER, path, HITS, OPTIONAL), events, truth, REC)


def test_flipped_bytes_never_crash(path):
    podio_writer.write(path, container="ttree")
    content = bytearray(path.read_bytes())
    random = np.random.default_rng(0)
    for place in random.integers(100, len(content), 20):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            found = writers.read_all(READER, path, HITS, OPTIONAL)
        except DataError as error:
            message = str(error)
        else:
            message = ""
            assert len(found) <= 4
        assert "\n" not in message


@pytest.mark.parametrize("trees", [{}, {"T": {"x": np.arange(3)}}, {"events": {"x": np.arange(3)}}])
def test_other_files_are_not_podio(tmp_path, trees):
    path = writers.root_tree(tmp_path / "other.root", trees)
    assert not READER.recognises(path)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, HITS)
    writers.assert_one_line(error, path)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "energy", "count", "kind"),
    [
        ("EICrecon_test_sim.edm4hep", "eDep", 44, "edm4hep::SimTrackerHitData"),
        ("EICrecon_test_seeding2.edm4eic", "edep", 43, "edm4eic::TrackerHitData"),  # stays open for the next tests
    ],
)
def test_a_real_epic_file(shared_data, branch, name, energy, count, kind):
    path = shared_data / "eic" / f"{name}.root"
    assert READER.recognises(path)
    found = writers.read_all(READER, path, HITS, OPTIONAL)
    names = branch.of_type(path, kind)
    total = 0
    for number, event in enumerate(found):
        for column, member in {**MEMBERS, "energy": energy}.items():
            values = np.concatenate([branch(path, collection, member)[number] for collection in names])
            assert event[column].dtype == values.dtype
            np.testing.assert_array_equal(event[column], values)
        sizes = [len(branch(path, collection, "time")[number]) for collection in names]
        np.testing.assert_array_equal(event["collection"], np.repeat(np.arange(len(names)), sizes))
        np.testing.assert_array_equal(event["particle_pdg"], branch(path, "MCParticles", "PDG")[number])
        np.testing.assert_array_equal(event["particle_vx"], branch(path, "MCParticles", "vertex.x")[number])
        assert event["event_number"] == number
        total += len(event["x"])
    assert (len(found), total) == (5, count)


SIMULATED_OF = {
    "BarrelVertex": "VertexBarrelHits",
    "Barrel": "SiBarrelHits",
    "EndcapTracker": "TrackerEndcapHits",
}


@pytest.mark.shared_data
def test_the_truth_of_a_real_epic_file_by_hand(shared_data, branch):
    """Silicon hits: each raw hit's only association, its simulated hit, and that hit's particle, one at a time."""
    path = shared_data / "eic" / "EICrecon_test_seeding2.edm4eic.root"
    found = writers.read_all(READER, path, HITS, OPTIONAL)
    measured = branch.of_type(path, "edm4eic::TrackerHitData")
    num_checked, particles = 0, set()
    for number, event in enumerate(found):
        for stem, simulated in SIMULATED_OF.items():
            rec = f"Si{stem}TrackerRecHits" if stem == "Barrel" else f"Si{stem}RecHits"
            links = f"_Si{stem}RawHitAssociations"
            of_hits = event["track_id"][event["collection"] == measured.index(rec)]
            for hit, raw in enumerate(branch(path, f"_{rec}_rawHit", "index")[number]):
                linked = list(branch(path, f"{links}_rawHit", "index")[number]).index(raw)
                place = branch(path, f"{links}_simHit", "index")[number][linked]
                particle = branch(path, f"_{simulated}_particle", "index")[number][place]
                assert of_hits[hit] == particle
                particles.add(int(particle))
                num_checked += 1
    assert num_checked == 31
    assert len(particles) > 1


@pytest.mark.shared_data
def test_the_central_tracker_of_a_real_epic_file_is_a_subset(shared_data):
    path = shared_data / "eic" / "EICrecon_test_seeding2.edm4eic.root"
    found = writers.read_all(READER, path, HITS, ("collection/CentralTrackingRecHits", "track_id"))
    assert [len(event["x"]) for event in found] == [7, 8, 11, 6, 11]
    first = np.hypot(found[2]["x"], found[2]["y"])
    np.testing.assert_allclose(first[:4], [419, 427, 260, 265], atol=10)


@pytest.mark.shared_data
def test_a_real_fast_simulation_of_fcc(shared_data, branch):
    path = shared_data / "ee" / "test_FCC_Winter2023.root"
    assert READER.recognises(path)
    found = writers.read_all(READER, path, HITS, ("track_id", "matched_particle_id"))
    assert (len(found), sum(len(event["x"]) for event in found)) == (100, 8481)
    for number, event in enumerate(found):
        assert "track_id" not in event
        for axis in HITS:
            values = branch(path, "TrackerHits", f"position.{axis}")[number]
            assert event[axis].dtype == np.float64
            np.testing.assert_array_equal(event[axis], values)
    for number in (0, 57, 99):
        expected = particles_by_hand(branch, path, number)
        np.testing.assert_array_equal(found[number]["matched_particle_id"], expected)
        assert set(np.abs(branch(path, "Particle", "charge")[number][expected])) == {1.0}


def particles_by_hand(branch, path, number):
    """Hit -> track -> reconstructed particle -> Monte Carlo particle."""

    def get(collection, member="index"):
        return branch(path, collection, member)[number]

    particles = np.full(len(get("TrackerHits", "time")), -1)
    names = "ReconstructedParticles"
    for reconstructed, particle in zip(get("MCRecoAssociations#0"), get("MCRecoAssociations#1"), strict=True):
        begin, end = (get(names, f"tracks_{edge}")[reconstructed] for edge in ("begin", "end"))
        for track in get(f"{names}#1")[begin:end]:
            first, last = (get("EFlowTrack", f"trackerHits_{edge}")[track] for edge in ("begin", "end"))
            particles[get("EFlowTrack#0")[first:last]] = particle
    return particles


def test_a_file_becomes_events_and_comes_back(path, tmp_path):
    events, truth = podio_writer.write(path, (3, 0, 1, 9))
    detector = build({"type": "eic", "collections": REC, "eta": (-9, 9), "radius": (0, 500)})
    read = list(read_events(path, detector, max_rejected=1))
    write_events(iter(read), tmp_path / "events.parquet")
    again = list(read_events(tmp_path / "events.parquet"))
    for event, expected, of in zip(again, events, truth, strict=True):
        kept = event.places
        positions = [np.concatenate([expected[name][f"position.{axis}"] for name in REC])[kept] for axis in HITS]
        np.testing.assert_array_equal((event.positions * 10).astype(np.float32), np.stack(positions, axis=1))
        np.testing.assert_array_equal(event.labels["track_id"], np.concatenate([of[name] for name in REC])[kept])
        np.testing.assert_array_equal(event.particles["px"], expected["MCParticles"]["momentum.x"])
        assert event.scalars["simulated"] == 0
