"""Which detector the events files of a data set are of: by its name, or by what the files hold of it."""

import dataclasses

import pytest

from fm4npp import detectors
from fm4npp.data import EventDataset, EventWriter
from fm4npp.data.specifications import specification
from fm4npp.errors import DataError
from fm4npp.readers.events_schema import SPECIFICATION

CYLINDER = {"type": "cylindrical", "radius": [1.0, 90.0], "measured": {"energy": {"std": 2.0}}}
OTHER = {**CYLINDER, "radius": [1.0, 80.0]}
RESPONSE = {"response": {"gain": 3.0}}


def of(*specs, name):
    """The metadata of files, one a specification."""
    return [{"detector": name, SPECIFICATION: spec} if spec else {"detector": name} for spec in specs]


def spec(fields):
    return detectors.build(fields).spec()


@pytest.mark.parametrize(
    ("name", "specs", "found"),
    [
        ("sphenix-tpc", [None], "sphenix-tpc"),
        ("sphenix-tpc", [None, {"type": "sphenix-tpc"}], "sphenix-tpc"),
        ("sphenix-tpc", [{"type": "sphenix-tpc", **RESPONSE}], "sphenix-tpc"),
        ("sphenix-silicon", [{"type": "sphenix-silicon"}], "sphenix-silicon"),
        ("sphenix-tpc", [{"type": "sphenix-tpc", "radius": [20.0, 90.0]}], 0),  # unnamed
        ("sphenix-tpc", [{**CYLINDER, "name": "sphenix-tpc"}], 0),
        ("cylindrical", [CYLINDER], 0),
        ("cylindrical", [None, CYLINDER], 1),
        ("mine", [{**CYLINDER, "name": "mine"}, {**CYLINDER, "name": "mine", **RESPONSE}], 0),
        ("mine", [None], "mine"),
        ("mine", [], "mine"),
        ("gone", [{"type": "gone", "length": 3}, {"type": "gone", "length": 3, "response": None}], 0),
    ],
)
def test_a_name_where_that_is_all_else_what_a_file_holds(name, specs, found):
    full = [fields and (spec(fields) if fields["type"] in detectors.names() else fields) for fields in specs]
    metadata = [*of(None, spec({**CYLINDER, "name": "another"}), name="another"), *of(*full, name=name)]
    assert specification(name, metadata) == (full[found] if isinstance(found, int) else found)


def test_fields_that_a_file_lacks_have_their_defaults():
    """Files of an earlier version lack the fields that were added since."""
    assert specification("sphenix-tpc", of({"type": "sphenix-tpc"}, name="sphenix-tpc")) == "sphenix-tpc"
    assert specification("cylindrical", of(CYLINDER, spec(CYLINDER), name="cylindrical")) == CYLINDER


@pytest.mark.parametrize(
    ("name", "specs"),
    [
        ("cylindrical", [CYLINDER, OTHER]),
        ("mine", [{**CYLINDER, "name": "mine"}, None, {**OTHER, "name": "mine"}]),
        ("sphenix-tpc", [{**CYLINDER, "name": "sphenix-tpc"}, None]),
        ("gone", [{"type": "gone", "length": 3}, {"type": "gone", "length": 4}]),
    ],
)
def test_different_detectors_of_one_name_are_refused(name, specs):
    metadata = of(*specs, name=name)
    last = len(specs) - 1
    paths = [f"{place}.parquet" for place in range(len(specs))]
    with pytest.raises(DataError, match=rf"^{last}\.parquet: another detector .* 0\.parquet.*'{name}'") as error:
        specification(name, metadata, paths)
    assert "\n" not in str(error.value)


def test_a_data_set_knows_the_detector_of_a_yaml_file(events, tmp_path):
    """One without a name, and one with that of a registered detector."""
    for fields in (CYLINDER, {**CYLINDER, "name": "sphenix-tpc"}):
        detector = detectors.build(fields)
        for number, one in enumerate((detector, detector.replace(radius=(1.0, 80.0)))):
            with EventWriter(tmp_path / f"{number}.parquet", detector=one) as writer:
                writer.write(dataclasses.replace(events[0], detector=one.name, subsystems=one.subsystems))
        dataset = EventDataset([tmp_path / "0.parquet"])
        assert detectors.build(dataset.specifications[0]) == detector
        with pytest.raises(DataError, match=r"1\.parquet: another detector"):
            EventDataset([tmp_path / "0.parquet", tmp_path / "1.parquet"])
