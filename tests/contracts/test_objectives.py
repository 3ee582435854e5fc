import numpy as np
import pytest
import torch

from fm4npp import objectives
from fm4npp.objectives.k_next_nearest import KNextNearest
from fm4npp.objectives.next_spacepoint import NextSpacepoint
from fm4npp.testing import check_objective


@pytest.mark.parametrize("name", objectives.names())
def test_registered_objectives_keep_the_contract(name):
    check_objective(objectives.get(name))


@pytest.mark.parametrize("targets", ["absolute", "offset"])
@pytest.mark.parametrize("energy", [False, True])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("k", [1, 5, 100])
def test_k_next_nearest_keeps_the_contract_with_all_options(targets, energy, periodic, k):
    check_objective(KNextNearest, targets=targets, energy=energy, periodic=periodic, k=k)


@pytest.mark.parametrize("targets", ["absolute", "offset"])
def test_neighbours_that_the_scan_has_not_passed_keep_it_too(targets):
    check_objective(KNextNearest, targets=targets, among="unseen", k=5)


class Few(KNextNearest):
    k: int = 4


class Undeclared(NextSpacepoint):
    @property
    def uses_order(self):
        return False


class NotANumberWhenEmpty(Few):
    def loss(self, predictions, targets):
        neighbours = targets["neighbours"]
        error = (predictions.view(neighbours.shape) - neighbours)[targets["valid"]]
        return error.square().mean()


class SumsInHalf(Few):
    def loss(self, predictions, targets):
        return super().loss(predictions, targets).to(predictions.dtype)


class DependsOnTheFirstRow(Few):
    def loss(self, predictions, targets):
        return super().loss(predictions, targets) + predictions[:1].float().square().sum()


class OneLossARow(Few):
    def loss(self, predictions, targets):
        return predictions.square().mean(dim=1)


class NeverZero(Few):
    def loss(self, predictions, targets):
        return super().loss(predictions, targets) + 0.1 * len(predictions)


class InputOrder(Few):
    def targets(self, coordinates, geometry, features):
        targets = super().targets(coordinates, geometry, features)
        return {**targets, "place": np.arange(len(coordinates))}


class PadsWithNaN(Few):
    def targets(self, coordinates, geometry, features):
        targets = super().targets(coordinates, geometry, features)
        return {**targets, "neighbours": np.where(targets["valid"][..., None], targets["neighbours"], np.nan)}


class Ragged(Few):
    def targets(self, coordinates, geometry, features):
        targets = super().targets(coordinates, geometry, features)
        return {name: values[:, : len(coordinates)] for name, values in targets.items()}


class DropsTheLast(NextSpacepoint):
    def targets(self, coordinates, geometry, features):
        targets = super().targets(coordinates, geometry, features)
        return {name: values[:-1] for name, values in targets.items()}


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (NotANumberWhenEmpty, "loss of .* is nan"),
        (SumsInHalf, "sum in float32"),
        (DependsOnTheFirstRow, "order of the rows"),
        (OneLossARow, "return a scalar"),
        (NeverZero, "perfect prediction"),
        (InputOrder, "depend on the order of the input"),
        (PadsWithNaN, "not finite; mask"),
        (Ragged, "differ in shape"),
        (DropsTheLast, "for 60 spacepoints"),
        (Undeclared, "let the property uses_order be true"),
    ],
)
def test_the_check_finds(cls, message):
    with pytest.raises(AssertionError, match=message):
        check_objective(cls)


def test_the_check_asks_for_the_perfect_prediction():
    class Classifies(Few):
        @property
        def output_size(self):
            return 2

        def loss(self, predictions, targets):
            sign = torch.where(targets["valid"].any(1), 1.0, -1.0)
            return (1 - predictions[:, 0].float() * sign).relu().sum() / max(len(sign), 1)

    with pytest.raises(AssertionError, match="`perfect`"):
        check_objective(Classifies)
    check_objective(
        Classifies, perfect=lambda targets: torch.where(targets["valid"].any(1), 1.0, -1.0)[:, None].expand(-1, 2)
    )
