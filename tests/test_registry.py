import importlib.metadata
from types import SimpleNamespace
from typing import ClassVar

import pytest

from fm4npp import detectors
from fm4npp.errors import ConfigurationError, PluginError
from fm4npp.registry import Component, Registry, Unknown, suggest


class Fruit(Component):
    sweetness: int = 1


class Apple(Fruit):
    registered_name: ClassVar[str] = "apple"
    colour: str = "red"


class Pear(Fruit):
    registered_name: ClassVar[str] = "pear"


class Stone:
    pass


class Point:
    """An entry point that counts how often it is loaded."""

    def __init__(self, name, loads, distribution="fm4npp-fruits", value="fruits:It"):
        self.name, self.value, self._loads, self.num_loads = name, value, loads, 0
        self.dist = SimpleNamespace(name=distribution, version="2.0") if distribution else None

    def load(self):
        self.num_loads += 1
        if isinstance(self._loads, Exception):
            raise self._loads
        return self._loads


@pytest.fixture
def points(monkeypatch):
    """The entry points that are installed."""
    installed = []
    monkeypatch.delenv("FM4NPP_PLUGINS", raising=False)
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda *, group: installed if group == "fm4npp.fruits" else []
    )
    return installed


@pytest.fixture
def registry(points):
    return Registry("fruit", Fruit)


def test_register_get_and_build(registry):
    assert registry.register("apple")(Apple) is Apple
    assert registry.names() == ("apple",)
    assert registry.get("apple") is Apple
    assert registry.build("apple") == Apple()
    apple = registry.build({"type": "apple", "colour": "green"}, sweetness=3)
    assert apple == Apple(colour="green", sweetness=3)
    assert registry.build(apple) is apple
    assert registry.build(apple.spec()) == apple
    assert apple.spec() == {"type": "apple", "colour": "green", "sweetness": 3}
    registry.unregister("apple")
    assert registry.names() == ()


def test_components_are_frozen_and_replaced(registry):
    apple = Apple()
    with pytest.raises(ValueError, match="frozen"):
        apple.colour = "blue"
    assert apple.replace(colour="green") == Apple(colour="green")
    with pytest.raises(ValueError, match="sweetness"):
        apple.replace(sweetness="very")


def test_duplicates_and_strangers_are_refused(registry, points):
    registry.register("apple")(Apple)
    with pytest.raises(PluginError, match="registered already"):
        registry.register("apple")(Apple)
    with pytest.raises(PluginError, match="not a subclass of Fruit"):
        registry.register("stone")(Stone)
    with pytest.raises(PluginError, match="calls itself 'pear'"):
        registry.register("plum")(Pear)
    other = Registry("fruit", Fruit)
    points.append(Point("pear", Pear))
    with pytest.raises(PluginError, match="registered already"):
        other.register("pear")(Pear)


def test_unknown_names_and_fields_say_what_there_is(registry):
    registry.register("apple")(Apple)
    registry.register("pear")(Pear)
    with pytest.raises(Unknown, match="did you mean 'apple'\\? choices: apple, pear"):
        registry.get("aple")
    with pytest.raises(ConfigurationError, match="fruit 'apple': color: unknown key"):
        registry.build({"type": "apple", "color": "red"})
    with pytest.raises(ConfigurationError, match="sweetness"):
        registry.build({"type": "apple", "sweetness": "very"})
    for spec in ({}, {"colour": "red"}, 3, None, ["apple"]):
        with pytest.raises(ConfigurationError, match="a fruit is given by its name"):
            registry.build(spec)
    assert suggest("x", ()) == "choices: none"


def test_listing_imports_nothing(registry, points):
    points += [Point("apple", Apple), Point("pear", ImportError("no fruits here"))]
    assert registry.names() == ("apple", "pear")
    assert [point.num_loads for point in points] == [0, 0]
    assert registry.get("apple") is registry.get("apple") is Apple
    assert [point.num_loads for point in points] == [1, 0]
    assert (registry.origin("apple").distribution, registry.origin("apple").version) == ("fm4npp-fruits", "2.0")


def test_a_broken_plugin_fails_only_when_it_is_chosen(registry, points):
    points += [Point("apple", Apple), Point("pear", ImportError("no fruits here")), Point("stone", Stone)]
    for name, words in {"pear": "no fruits here", "stone": "not a subclass"}.items():
        with pytest.raises(PluginError, match=words) as error:
            registry.build(name)
        assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match="cannot be loaded|not a subclass"):
        rows = registry.describe()
    assert [row[0] for row in rows] == ["apple", "pear", "stone"]
    assert [row[2] for row in rows][1:] == ["cannot be loaded"] * 2


def test_plugins_can_be_switched_off(points, monkeypatch):
    points += [Point("apple", Apple), Point("pear", Pear, distribution="fm4npp")]
    assert Registry("fruit", Fruit).names() == ("apple", "pear")
    monkeypatch.setenv("FM4NPP_PLUGINS", "0")
    assert Registry("fruit", Fruit).names() == ("pear",)


def test_two_providers_of_one_name_are_refused(registry, points):
    points += [Point("apple", Apple, "one"), Point("apple", Apple, "two", "other:Apple")]
    with pytest.raises(PluginError, match="both 'one' and 'two'"):
        registry.names()


def test_one_provider_seen_twice_is_one(registry, points):
    points += [Point("apple", Apple), Point("apple", Apple)]
    assert registry.names() == ("apple",)


def test_the_origin_of_a_registered_class_is_its_module(registry):
    registry.register("apple")(Apple)
    assert registry.origin("apple").distribution == __name__.partition(".")[0]


def test_the_built_in_detectors_are_listed():
    rows = detectors.registry.describe()
    assert {row[0] for row in rows} >= {"cylindrical", "sphenix-tpc", "sphenix-silicon", "star-tpc"}
    assert all(row[1].startswith("fm4npp ") and row[2].endswith(".") for row in rows if row[1].startswith("fm4npp"))
