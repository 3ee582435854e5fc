"""Models of several detectors: whose is every spacepoint, one detector more, one less, and what is left as it was."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fm4npp import detectors
from fm4npp.backbones.embedding import EmbeddingConfig, SpacepointEmbedding
from fm4npp.card import model_card
from fm4npp.cli import app
from fm4npp.configuration import FM4NPPConfig
from fm4npp.data import write_events
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.simulation import ParticleGun, simulate
from fm4npp.training import pretrain
from tests.conftest import tiny_config
from tests.training.runs import pretrain_config

MIXTURE = ("sphenix-tpc", "sphenix-mvtx", "aleph", "zeus")
EIC = str(Path(__file__).parents[1] / "examples" / "detectors" / "eic_tracker.yaml")
OFFSETS = {"type": "k-nnn", "k": 4, "targets": "offset"}
HEADS = {
    "noise": {"type": "noise-tagging", "width": 16},
    "tracks": {"type": "track-finding", "num_queries": 8, "width": 16, "num_layers": 1, "num_heads": 2},
    "edges": {"type": "edge-clustering", "width": 16, "edge_width": 8},
}


def measured(name, hits, number):
    """An event of objects, the momenta of a simulated event's particles, for an experiment that has no hits."""
    rng = np.random.default_rng(number)
    momentum = np.stack([hits.particles[axis] for axis in ("px", "py", "pz")])
    size = momentum.shape[1]
    if name == "aleph":
        columns = dict(zip(("px", "py", "pz"), momentum, strict=True))
        columns |= {key: rng.integers(0, 2, size) for key in ("charge", "mass", "ntpc", "nitc", "nvdet")}
        columns |= {key: rng.normal(size=size) for key in ("d0", "z0")}
    else:
        columns = {f"Zufo[{axis}]": momentum[axis] for axis in range(3)}
        columns |= {"Zufo[3]": np.sqrt((momentum**2).sum(axis=0)), "Zufoecal": rng.exponential(size=size)}
    return detectors.build(name).event({**columns, "track_id": np.arange(size) // 2, "event_id": number})


@pytest.fixture(scope="module")
def samples(events):
    """Detector -> a few small events."""
    gun = ParticleGun(mean_primaries=2.0)
    hits = {name: list(simulate(detectors.load(name), 2, 7, gun)) for name in ("sphenix-mvtx", EIC, "star-tpc")}
    objects = {
        name: [measured(name, event, number) for number, event in enumerate(events[:2])] for name in ("aleph", "zeus")
    }
    found = {"sphenix-tpc": list(events[:2]), **hits, **objects}
    return {name: [event.take(np.arange(min(len(event), 60))) for event in some] for name, some in found.items()}


def model_of(samples, *names, **fields):
    """A model of these detectors, fitted, with different detector embeddings."""
    torch.manual_seed(3)
    config = tiny_config(
        detectors=list(names), **{"objective": OFFSETS, "embedding": {"projection": "learned"}, **fields}
    )
    fitted = FM4NPPProcessor(config).fit(event for name in names for event in samples[name])
    model = FM4NPPModel(fitted.config).eval()
    if model.embedding.detector_embedding is not None:
        torch.nn.init.normal_(model.embedding.detector_embedding)
    for name, head in HEADS.items():
        model.add_head(name, head)
    return model.eval()


@pytest.fixture(scope="module")
def mixed(samples):
    return model_of(samples, *MIXTURE)


@torch.no_grad()
def outputs(model, events):
    """All that the model makes of each event alone: its states, its loss, and what its heads predict."""
    found = {}
    for number, event in enumerate(events):
        batch = FM4NPPProcessor(model.config)([event])
        output = model(**batch)
        found |= {f"{number} embedding": output.embedding, f"{number} last": output.last_hidden_state}
        found |= {f"{number} objective": output.predictions["objective"], f"{number} loss": output.losses["objective"]}
        for head, values in model.predict(batch).items():
            found |= {f"{number} {head} {name}": value for name, value in values.items()}
    return found


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# ---- a batch of several detectors


@given(order=st.permutations(range(8)))
@settings(max_examples=5)
def test_events_of_four_detectors_do_not_feel_each_other(mixed, samples, order):
    chosen = [samples[MIXTURE[place % 4]][place // 4] for place in order]
    processor = FM4NPPProcessor(mixed.config)
    batch = processor(chosen)
    with torch.no_grad():
        together = mixed.hidden_states(batch)
    for event, start, stop in zip(chosen, batch.offsets, batch.offsets[1:], strict=False):
        assert batch.detector_ids[start:stop].unique().tolist() == [MIXTURE.index(event.detector)]
        with torch.no_grad():
            alone = mixed.hidden_states(processor([event]))
        assert torch.equal(together.embedding[start:stop], alone.embedding)
        assert torch.equal(together.last[start:stop], alone.last)
        assert torch.equal(mixed.project(together)[start:stop], mixed.project(alone))


def test_a_spacepoint_is_read_as_its_own_detector_s(mixed, samples):
    """With the detectors of two events exchanged, their outputs change; those of a third event do not."""
    batch = FM4NPPProcessor(mixed.config)([samples[name][0] for name in ("sphenix-tpc", "aleph", "zeus")])
    swapped = batch["detector_ids"].clone()
    swapped[batch["detector_ids"] == 0], swapped[batch["detector_ids"] == 2] = 2, 0
    with torch.no_grad():
        before, after = (mixed(**{**batch, "detector_ids": ids}) for ids in (batch["detector_ids"], swapped))
    zeus = batch["detector_ids"] == 3
    changed = (before.last_hidden_state != after.last_hidden_state).any(dim=1)
    assert bool(changed[~zeus].all())
    assert not bool(changed[zeus].any())


def test_projections_are_those_of_the_subsystem_s_name():
    """In whatever order the names are."""
    torch.manual_seed(0)
    features = {"z": ("a", "b"), "m": (), "c": ("b", "d", "e")}
    embedding = SpacepointEmbedding(EmbeddingConfig(projection="learned"), 8, features, tuple("abde"))
    coordinates, values, ids = torch.rand(9, 3), torch.randn(9, 4), torch.arange(9) % 3
    with torch.no_grad():
        found = embedding(coordinates, values, ids)
        nothing = embedding(coordinates, torch.zeros(9, 4), ids)
        for row, name in enumerate(list(features) * 3):
            own = values[row, ["abde".index(column) for column in features[name]]]
            expected = nothing[row] + own @ embedding.feature_projections[name]
            torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-5)


def test_subsystems_of_one_name_measure_the_same():
    other = {"type": "cylindrical", "name": "b", "eta": [-1, 1], "radius": [1, 2]}
    parts = {"type": "composite", "name": "c", "parts": [{**other, "name": "sphenix-tpc"}, other]}
    with pytest.raises(ConfigurationError, match="'sphenix-tpc' of sphenix-tpc measures energy, but of c nothing but"):
        tiny_config(detectors=["sphenix-tpc", parts])


# ---- one more


@pytest.mark.parametrize(("names", "new"), [(("sphenix-tpc",), "star-tpc"), (MIXTURE, EIC)])
def test_a_detector_is_added_and_the_others_stay_to_the_bit(samples, tmp_path, names, new):
    model = model_of(samples, *names)
    model.freeze_backbone()
    shown = [samples[name][0] for name in names]
    before, config, state = outputs(model, shown), model.config, torch.random.get_rng_state()
    assert model.add_detector(new, samples[new]) is model
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_same(outputs(model, shown), before)
    name = detectors.load(new).name
    assert [one.name for one in model.config.detectors] == [*names, name]
    assert {key: model.config.serializers[key] for key in names} == config.serializers
    assert model.config.objective == config.objective
    assert model.config.fitted
    assert all(head.weight.requires_grad for head in [model.heads["noise"].inputs.mix])
    assert not any(p.requires_grad for p in model.embedding.parameters())
    found = outputs(model, samples[new][:1])
    assert all(value.isfinite().all() for value in found.values())
    model.save_pretrained(tmp_path)
    again = FM4NPPModel.from_pretrained(tmp_path)
    assert_same(outputs(again, shown), before)
    assert_same(outputs(again, samples[new][:1]), found)
    assert f"{name} (" in model_card(again.config).text
    assert all(one in model_card(again.config).text for one in MIXTURE if one in names)


def test_a_detector_without_the_feature_that_the_objective_predicts_is_read_but_not_pretrained_on(samples):
    model = model_of(samples, "sphenix-tpc", objective={"type": "continuation", "steps": [1, 2], "energy": True})
    model.add_detector("sphenix-mvtx", samples["sphenix-mvtx"])
    assert model.config.objectives == {}
    processor = FM4NPPProcessor(model.config)
    found = model.predict(processor(samples["sphenix-mvtx"][:1], targets=False))["noise"]
    assert found["is_noise_probability"].isfinite().all()
    with pytest.raises(ConfigurationError, match="needs the feature 'energy'.*nothing but positions"):
        processor(samples["sphenix-mvtx"][:1])


def test_new_weights_are_the_means_of_the_others_or_random_by_seed(samples):
    model = model_of(samples, "sphenix-tpc", "aleph")
    embedding = model.embedding
    means = embedding.detector_embedding.detach().mean(dim=0)
    rows = {"energy": embedding.feature_projections["sphenix-tpc"][0]}
    momenta = list(model.config.subsystems["aleph"])
    rows |= {name: embedding.feature_projections["aleph"][momenta.index(name)] for name in ("px", "py", "pz", "pt")}
    found = [copy.deepcopy(model).add_detector("zeus", samples["zeus"], seed=seed) for seed in (0, 0, 1)]
    first, same, other = (one.embedding.feature_projections["zeus"].detach() for one in found)
    assert torch.equal(found[0].embedding.detector_embedding[-1], means)
    features = found[0].config.subsystems["zeus"]
    for place, name in enumerate(features):
        if name in rows:
            assert torch.equal(first[place], rows[name])
    fresh = features.index("calorimeter_energy")
    assert torch.equal(first, same)
    assert not torch.equal(first[fresh], other[fresh])
    assert 0 < first[fresh].std() < 1
    assert all(p.requires_grad for p in found[0].embedding.parameters())


def test_a_detector_s_own_constants_are_those_of_its_own_events(mixed, samples):
    added = copy.deepcopy(mixed).add_detector("star-tpc", samples["star-tpc"]).config
    single = tiny_config(detectors=["star-tpc"], objective=OFFSETS)
    alone = FM4NPPProcessor(single).fit(samples["star-tpc"]).config
    assert added.serializers["star-tpc"] == alone.serializers["star-tpc"]
    assert added.objective_of("star-tpc") == alone.objective
    assert added.objective_of("aleph") == mixed.config.objective
    event = samples["star-tpc"][0]
    expected = FM4NPPProcessor(alone)([event])["targets"]
    found = FM4NPPProcessor(added)([event])["targets"]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    everything = [event for name in (*MIXTURE, "star-tpc") for event in samples[name]]
    refitted = FM4NPPProcessor(added).fit(everything).config
    assert refitted.objectives == added.objectives
    assert refitted.objective == mixed.config.objective
    assert FM4NPPConfig.create(**added.json_object()) == added


def test_heads_that_read_coordinates_get_columns_for_new_features(samples):
    model = model_of(samples, "sphenix-tpc", "sphenix-mvtx")
    torch.manual_seed(1)
    model.add_head("raw", {"type": "noise-tagging", "width": 16, "inputs": ["coordinates"]})
    shown = [samples[name][0] for name in ("sphenix-tpc", "sphenix-mvtx")]
    before = outputs(model, shown)
    model.add_detector("zeus", samples["zeus"])
    wider = outputs(model, shown)
    model.remove_detector("sphenix-mvtx").remove_detector("zeus")
    narrow = outputs(model, shown[:1])
    for name in narrow:
        torch.testing.assert_close(wider[name], before[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(narrow[name], before[name], rtol=1e-5, atol=1e-6)


def test_what_cannot_be_added_is_one_line_and_changes_nothing(mixed, samples):
    weights, config = mixed.state_dict(), mixed.config
    box = {"type": "cartesian", "name": "box", "low": [0, 0, 0], "high": [9, 9, 9]}
    other = {"type": "cylindrical", "name": "other", "eta": [-1, 1], "radius": [1, 2]}
    twice = {"type": "composite", "name": "c", "parts": [{**other, "name": "sphenix-tpc"}, other]}
    cases = [
        ("aleph", samples["aleph"], ConfigurationError, "knows a detector 'aleph' already"),
        (twice, [], ConfigurationError, "'sphenix-tpc' of sphenix-tpc measures energy, but of c nothing but positions"),
        ("star-tpc", None, ConfigurationError, "raster-scan has to be fitted to events of 'star-tpc'"),
        ("star-tpc", samples["zeus"], DataError, "is of the detector 'zeus', not 'star-tpc'"),
        ("star-tpc", [], DataError, "no spacepoints of detector 'star-tpc'"),
        (box, samples["zeus"], DataError, "is of the detector 'zeus'"),
    ]
    for detector, events, error, words in cases:
        with pytest.raises(error, match=words) as caught:
            mixed.add_detector(detector, events)
        assert "\n" not in str(caught.value)
    moved = [copy.copy(event) for event in samples["sphenix-mvtx"]]
    for event in moved:
        object.__setattr__(event, "detector", "box")
        object.__setattr__(event, "subsystems", ("box",))
    with pytest.raises(ConfigurationError, match="'edges' cannot stay, remove_head it first: .* periodic"):
        mixed.add_detector(box, moved)
    with pytest.raises(ConfigurationError, match="does not know the detector 'eic'; it knows: sphenix-tpc, .*add-det"):
        mixed.remove_detector("eic")
    assert mixed.config is config
    assert all(torch.equal(value, mixed.state_dict()[name]) for name, value in weights.items())


# ---- one less


@pytest.mark.parametrize("removed", ["sphenix-tpc", "aleph"])
def test_a_detector_is_removed_and_the_others_stay_to_the_bit(mixed, samples, removed):
    model = copy.deepcopy(mixed)
    rest = [name for name in MIXTURE if name != removed]
    shown = [samples[name][0] for name in rest]
    before, tensors = outputs(model, shown), dict(model.named_parameters())
    assert model.remove_detector(removed) is model
    assert_same(outputs(model, shown), before)
    assert [one.name for one in model.config.detectors] == rest
    left = dict(model.named_parameters())
    assert tensors.keys() - left.keys() == {f"embedding.feature_projections.{removed}"}
    with pytest.raises(ConfigurationError, match=f"does not know the detector {removed!r}"):
        FM4NPPProcessor(model.config)([samples[removed][0]])


def test_the_last_one_keeps_its_own_embedding(mixed, samples, tmp_path):
    model = copy.deepcopy(mixed)
    before = outputs(model, samples["aleph"][:2])
    for name in ("sphenix-tpc", "sphenix-mvtx", "zeus"):
        model.remove_detector(name)
    assert_same(outputs(model, samples["aleph"][:2]), before)
    model.save_pretrained(tmp_path)
    assert_same(outputs(FM4NPPModel.from_pretrained(tmp_path), samples["aleph"][:2]), before)
    with pytest.raises(ConfigurationError, match="'aleph' is the only detector of the model"):
        model.remove_detector("aleph")


def test_added_and_removed_again_is_what_it_was(samples):
    model = model_of(samples, "sphenix-tpc")
    config, state = model.config, {name: value.clone() for name, value in model.state_dict().items()}
    model.add_detector(EIC, samples[EIC]).remove_detector("eic-tracker")
    assert model.config == config
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@given(
    sizes=st.lists(st.integers(0, 12), min_size=2, max_size=6),
    width=st.sampled_from([16, 48, 256]),
    rows=st.sampled_from([1, 63, 300]),
    data=st.data(),
)
@settings(max_examples=15)
def test_subsystems_that_are_not_there_do_not_change_a_bit(sizes, width, rows, data):
    """What `remove_detector` and `add_detector` rest on, whatever the numbers of features."""
    torch.manual_seed(rows)
    every = {f"s{place}": tuple(f"f{place}.{number}" for number in range(size)) for place, size in enumerate(sizes)}
    kept = data.draw(st.integers(0, len(sizes) - 1))
    own = {f"s{kept}": every[f"s{kept}"]}
    columns = tuple(name for names in every.values() for name in names)
    config = EmbeddingConfig(projection="learned", single_detector_embedding=True)
    wide = SpacepointEmbedding(config, width, every, columns)
    torch.nn.init.normal_(wide.detector_embedding)
    narrow = SpacepointEmbedding(config, width, own, own[f"s{kept}"])
    narrow.position_projection = wide.position_projection
    narrow.feature_projections[f"s{kept}"] = wide.feature_projections[f"s{kept}"]
    narrow.detector_embedding.data = wide.detector_embedding.data[kept : kept + 1]
    coordinates, features = torch.rand(rows, 3), torch.zeros(rows, len(columns))
    places = [columns.index(name) for name in own[f"s{kept}"]]
    features[:, places] = torch.randn(rows, len(places))
    ids = torch.zeros(rows, dtype=torch.int64)
    with torch.no_grad():
        assert torch.equal(wide(coordinates, features, ids + kept), narrow(coordinates, features[:, places], ids))


# ---- as users do it


@pytest.fixture(scope="module")
def run(samples, tmp_path_factory):
    """A model that was pretrained for two steps on files of four detectors, and the file of a fifth."""
    folder = tmp_path_factory.mktemp("mixing")
    for name in (*MIXTURE, EIC):
        write_events(samples[name], folder / f"{name.rpartition(chr(47))[2]}.parquet", detectors.load(name))
    files = {"train": folder / "absent", "validation": folder / "zeus.parquet"}
    train = [str(folder / f"{name}.parquet") for name in MIXTURE]
    overrides = [f"data.train={json.dumps(train)}", "data.weights={zeus: 2, aleph: 1, sphenix-tpc: 1, sphenix-mvtx: 1}"]
    settings = {"steps": 2, "validate_every": 2, "tokens_per_batch": 2000}
    pretrain(pretrain_config(files, overrides, **settings), folder / "model")
    return folder


def call(*arguments, status=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return " ".join(result.output.split())


def test_a_mixture_is_pretrained_loses_one_detector_and_gains_another(run, samples):
    records = [json.loads(line) for line in (run / "model" / "metrics.jsonl").read_text().splitlines()]
    assert set(MIXTURE) <= {key.removeprefix("loss/") for record in records for key in record}
    model = FM4NPPModel.from_pretrained(run / "model")
    assert [one.name for one in model.config.detectors] == list(MIXTURE)
    kept = ("sphenix-tpc", "sphenix-mvtx", "aleph")
    model.add_head("noise", HEADS["noise"])
    shown = [event for name in kept for event in samples[name][:1]]
    before = outputs(model, shown)
    model.remove_detector("zeus").add_detector(EIC, samples[EIC])
    assert_same(outputs(model, shown), before)
    processor = FM4NPPProcessor(model.config)
    batch = processor([*shown, samples[EIC][0]])
    predicted = processor.restore(model.predict(batch)["noise"], batch)
    assert len(predicted[-1]["is_noise"]) == len(samples[EIC][0])


def test_add_detector_on_the_command_line(run, samples):
    model, data = run / "model", run / "eic_tracker.yaml.parquet"
    adapt = ("adapt", "--model", model, "--data", data, "--head", "noise-tagging", "--output", run / "head")
    refused = call(*adapt, status=1)
    assert "events of 'eic-tracker', a detector that the model does not have" in refused
    advised = f"fm4npp add-detector --model {model} --detector eic-tracker --data {data} --output DIR"
    assert advised in refused
    arguments = advised.split()[1:-1]
    said = call(*arguments, run / "wider", "--json")
    assert "sphenix-tpc, sphenix-mvtx, aleph, zeus, and now eic-tracker; fitted to 2 events" in said
    summary = json.loads(said[said.index('{"output"') :])
    assert (summary["added"], summary["events"], summary["fitted"]) == ("eic-tracker", 2, True)
    found = FM4NPPModel.from_pretrained(run / "wider")
    expected = FM4NPPModel.from_pretrained(model).add_detector(EIC, samples[EIC])
    assert_same(dict(found.named_parameters()), dict(expected.named_parameters()))
    assert found.config.objectives == expected.config.objectives
    assert "eic-tracker (" in (run / "wider" / "README.md").read_text()
    assert "exists and is not an empty folder" in call(*arguments, run / "wider", status=1)
    assert "give --data" in call("add-detector", "--model", model, "--output", run / "none", status=1)
    other = ("add-detector", "--model", model, "--data", data, "--detector", "star-tpc", "--output", run / "none")
    assert "holds events of eic-tracker, none of 'star-tpc'" in call(*other, status=1)
    assert not (run / "none").exists()
