"""What somebody with a detector, or a component, of their own does first: new-detector, and check."""

import json

import awkward as ak
import numpy as np
import pytest
import uproot
import yaml
from typer.testing import CliRunner

from fm4npp import detectors, objectives, serializers
from fm4npp.cli import app
from fm4npp.simulation import ParticleGun, simulate


def call(*arguments, status=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(scope="module")
def hits(tmp_path_factory):
    """Hits of a tracker of five layers, as somebody might have them, in mm."""
    tracker = {"type": "cylindrical", "name": "t", "radius": [4, 22], "layers": [5, 8, 12, 16, 20], "eta": [-1, 1]}
    response = {"field": 1.0, "half_length": 30, "resolution_rphi": 0.01, "resolution_z": 0.01, "efficiency": 1.0}
    response |= {"medium": "silicon", "thickness": 0.03, "radiation_lengths": 0.003}
    detector = detectors.build({**tracker, "response": response})
    events = list(simulate(detector, 40, 5, ParticleGun(mean_primaries=6.0)))
    path = tmp_path_factory.mktemp("hits") / "hits.root"
    with uproot.recreate(path) as root:
        branches = {
            f"hit_{axis}": ak.Array([10 * event.positions[:, i] for event in events]) for i, axis in enumerate("xyz")
        }
        branches["hit_layer"] = ak.Array([event.labels["layer"] for event in events])
        root["hits"] = branches
    return path


def test_from_a_file_to_a_detector_that_is_checked_and_drawn(hits, tmp_path):
    place = tmp_path / "mine.yaml"
    told = call("new-detector", "mine", hits, "--output", place).output
    assert "for you to check" in told
    described = yaml.safe_load(place.read_text())
    assert described["name"] == "mine"
    assert described["layers"] == pytest.approx([50.0, 80.0, 120.0, 160.0, 200.0], rel=0.01)
    checked = call("check", place, "--data", hits, "--output", tmp_path / "mine.png", "--json")
    found = json.loads(checked.stdout.splitlines()[-1])
    assert found["kind"] == "detector"
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    assert "keeps the contract of detectors" in checked.output
    assert "is there already" in call("new-detector", "mine", hits, "--output", place, status=1).output


def test_a_wrong_description_is_refused_with_what_would_fit(hits, tmp_path):
    columns = {"x": "hit_x", "y": "hit_y", "z": "hit_z"}
    (tmp_path / "d.yaml").write_text(
        yaml.safe_dump(
            {"type": "cylindrical", "name": "d", "radius": [4, 22], "columns_of": columns, "length_unit": "m"}
        )
    )
    told = call("check", tmp_path / "d.yaml", "--data", hits, status=1).output
    assert "Error" not in told
    assert "with length_unit: mm" in told or "rejected" in told


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, of in (("serializer", serializers), ("objective", objectives)) for name in of.names()],
)
def test_components_are_checked_by_name(kind, name):
    assert f"{name}: keeps the contract of {kind}s" in call("check", name).output


def test_a_component_without_defaults_is_given_fields():
    told = call("check", "point-classification", "label=is_noise", "num_classes=2").output
    assert "point-classification: keeps the contract of heads" in told
    assert "'label' is no field; write key=value" in call("check", "point-classification", "label", status=1).output


def test_a_reader_is_checked_on_a_file(hits):
    told = call("check", "root-tree", "--data", hits, "--columns", "hit_x,hit_y").output
    assert "root-tree: keeps the contract of readers" in told
    assert "give one of 'root-tree' with --data" in call("check", "root-tree", status=1).output


def test_a_registered_detector_is_drawn_from_simulated_events(tmp_path):
    told = call("check", "sphenix-mvtx", "--output", tmp_path / "mvtx.svg").output
    assert "sphenix-mvtx: keeps the contract of detectors" in told
    text = (tmp_path / "mvtx.svg").read_text()
    assert "spacepoints of 50 events" in text
    assert "what k-nnn asks of 4 spacepoints" in text


def test_a_broken_component_is_one_line(monkeypatch):
    @serializers.register("lazy")
    class Lazy(serializers.get("radial")):
        registered_name = "lazy"

        def order(self, coordinates, geometry):
            return np.arange(len(coordinates))[:-1]

    try:
        result = call("check", "lazy", status=1)
    finally:
        serializers.registry.unregister("lazy")
    assert result.output.count("\n") == 1
    assert "Lazy: " in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nothing",), "nothing is called 'nothing'"),
        (("k-nnnn",), "did you mean 'k-nnn'"),
        (("k-nnn", "--kind", "heads"), "unknown kind 'heads'; did you mean 'head'"),
        (("k-nnn", "--output", "a.png"), "pictures are drawn of detectors"),
        (("missing.yaml",), "missing.yaml"),
    ],
)
def test_mistakes_are_one_line(arguments, told):
    output = call("check", *arguments, status=1).output
    assert told in output
    assert output.count("\n") == 1
