"""Small maps learned on frozen features: what they reach says what the features hold, and how plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, huber_loss, relu

Array = NDArray[Any]
Depth = Literal["linear", "one-layer"]

RIDGE = 1e-4
"""Weight decay of a linear probe, of features of unit variance: small against the mean loss of a spacepoint."""
HIDDEN = 64
"""Units of a one-layer probe."""
STEPS, BATCH, LEARNING_RATE = 400, 2048, 5e-3
"""Of a one-layer probe and of a triplet map, with AdamW and a cosine decay."""
MAP_SIZE, MARGIN, NEGATIVES = 16, 1.0, 8
"""Dimensions of a triplet map, its margin (FaceNet, arXiv:1503.03832), and the spacepoints of other tracks that are
drawn for each anchor, of which the nearest counts."""


def standardised(train: Array, *others: Array) -> list[Array]:
    """Features shifted and scaled to mean 0 and variance 1 on the training spacepoints; constant ones become 0.

    Args:
        train: (T, D) float32.
        others: (..., D), transformed the same way.
    """
    mean, std = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scale = np.where(std > 1e-6 * (np.abs(mean) + 1e-6), 1 / np.maximum(std, 1e-30), 0.0)
    return [((values - mean) * scale).astype(np.float32) for values in (train, *others)]


def classes(train: Array, labels: Array, test: Array, num_classes: int, depth: Depth, seed: int = 0) -> Array:
    """A classifier on standardised features, every class of the training spacepoints weighing the same.

    Args:
        train: (T, D) standardised.
        labels: (T,) int64, from 0 to C - 1.
        test: (S, D) standardised.
        num_classes: C.
        depth: "linear", multinomial logistic regression; "one-layer", with a layer of `HIDDEN` units before it.
        seed: of weights and batches of the one-layer probe.

    Returns:
        (S, C) float32 probabilities.
    """
    target = torch.from_numpy(labels)
    counts = np.bincount(labels, minlength=num_classes)
    weight = torch.tensor(len(labels) / (max((counts > 0).sum(), 1) * np.maximum(counts, 1)), dtype=torch.float32)
    weight[torch.from_numpy(counts == 0)] = 0

    def loss(outputs: Tensor, rows: Tensor) -> Tensor:
        return (cross_entropy(outputs, target[rows], reduction="none") * weight[target[rows]]).mean()

    network = _fitted(torch.from_numpy(train), num_classes, depth, loss, seed)
    with torch.no_grad():
        outputs: Array = network(torch.from_numpy(test)).softmax(1).numpy()
    return outputs


def values(train: Array, truth: Array, test: Array, depth: Depth, seed: int = 0) -> Array:
    """A regression on standardised features: ridge, or one layer trained with the Huber loss.

    Args:
        train: (T, D) standardised.
        truth: (T,) finite.
        test: (S, D) standardised.
        depth: "linear" or "one-layer".
        seed: of weights and batches of the one-layer probe.

    Returns:
        (S,) float64, in the unit of `truth`.
    """
    mean, std = float(truth.mean()), float(truth.std()) or 1.0
    target = (truth - mean) / std
    if depth == "linear":
        features = train.astype(np.float64)
        gram = features.T @ features / len(features) + RIDGE * np.eye(features.shape[1])
        predicted = test.astype(np.float64) @ np.linalg.solve(gram, features.T @ target / len(features))
    else:
        goal = torch.from_numpy(target.astype(np.float32))
        network = _fitted(
            torch.from_numpy(train), 1, depth, lambda outputs, rows: huber_loss(outputs[:, 0], goal[rows]), seed
        )
        with torch.no_grad():
            predicted = network(torch.from_numpy(test))[:, 0].double().numpy()
    scaled: Array = predicted * std + mean
    return scaled


def triplet_map(train: Array, tracks: Array, offsets: Array, seed: int = 0) -> Array:
    """A linear map after which spacepoints of one track are closer than those of another track of the same event.

    Trained with the triplet loss max(0, |a - p|^2 - |a - n|^2 + margin): a and p of one track, n the nearest of a few
    spacepoints of other tracks.

    Args:
        train: (T, D) standardised.
        tracks: (T,) int64, unique within an event; below 0: of no track, and left out.
        offsets: (E + 1,), where each event starts.
        seed: of weights and triplets.

    Returns:
        (D, `MAP_SIZE`) float32; zeros if no event has two tracks, one of them of two spacepoints.
    """
    generator = np.random.default_rng(seed)
    pools = _Triplets(tracks, offsets)
    weight = torch.zeros(train.shape[1], MAP_SIZE)
    if not len(pools.anchors):
        return weight.numpy()
    nn.init.normal_(weight, std=train.shape[1] ** -0.5, generator=torch.Generator().manual_seed(seed))
    weight.requires_grad_()
    features = torch.from_numpy(train)

    def loss() -> Tensor:
        anchor, positive, negative = pools.draw(generator, BATCH // NEGATIVES)
        own, same = features[anchor] @ weight, features[positive] @ weight
        others = (features[negative.reshape(-1)] @ weight).view(*negative.shape, -1)
        nearest = (own[:, None] - others).square().sum(2).min(1).values
        return relu((own - same).square().sum(1) - nearest + MARGIN).mean()

    _descend([weight], loss)
    mapped: Array = weight.detach().numpy()
    return mapped


class _Triplets:
    """Draws anchors with a partner of the same track and strangers of the same event."""

    def __init__(self, tracks: Array, offsets: Array) -> None:
        event = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        rows = np.flatnonzero(tracks >= 0)
        self.rows = rows[np.lexsort((tracks[rows], event[rows]))]
        event, track = event[self.rows], tracks[self.rows]
        self.event_start, self.event_stop = _runs(event, event)
        self.track_start, self.track_stop = _runs(event, track)
        size = self.track_stop - self.track_start
        self.anchors = np.flatnonzero((size > 1) & (size < self.event_stop - self.event_start))

    def draw(self, generator: np.random.Generator, count: int) -> tuple[Array, Array, Array]:
        """(B,) anchors, (B,) partners, (B, `NEGATIVES`) strangers: rows of the features."""
        anchor = generator.choice(self.anchors, count)
        start, stop = self.track_start[anchor], self.track_stop[anchor]
        partner = start + (anchor - start + 1 + _below(generator, stop - start - 1)) % (stop - start)
        first, last = self.event_start[anchor], self.event_stop[anchor]
        number = _below(generator, np.repeat((last - first - (stop - start))[:, None], NEGATIVES, axis=1))
        before = (start - first)[:, None]  # the track itself is skipped
        stranger = np.where(number < before, first[:, None] + number, stop[:, None] + number - before)
        return self.rows[anchor], self.rows[partner], self.rows[stranger]


def _runs(*keys: Array) -> tuple[Array, Array]:
    """Where the run of equal keys that each entry is in begins and ends."""
    changes = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1])
    sizes = np.diff([*starts, len(keys[0])])
    return np.repeat(starts, sizes), np.repeat(starts + sizes, sizes)


def _below(generator: np.random.Generator, high: Array) -> Array:
    """Integers from 0 to each of `high` - 1."""
    return (generator.random(high.shape) * high).astype(np.int64).clip(max=high - 1)


def _fitted(
    features: Tensor, num_outputs: int, depth: Depth, loss: Callable[[Tensor, Tensor], Tensor], seed: int
) -> nn.Module:
    """A network trained on all rows: linear ones to convergence, the others in batches."""
    generator = torch.Generator().manual_seed(seed)
    if depth == "linear":
        network = nn.Linear(features.shape[1], num_outputs)
        nn.init.zeros_(network.weight), nn.init.zeros_(network.bias)
        everything = torch.arange(len(features))
        return _converged(network, lambda: loss(network(features), everything) + RIDGE * network.weight.square().sum())
    first, second = nn.Linear(features.shape[1], HIDDEN), nn.Linear(HIDDEN, num_outputs)
    for layer in (first, second):
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
        nn.init.zeros_(layer.bias)
    layers = nn.Sequential(first, nn.GELU(), second)

    def batch_loss() -> Tensor:
        rows = torch.randint(len(features), (min(BATCH, len(features)),), generator=generator)
        return loss(layers(features[rows]), rows)

    _descend(list(layers.parameters()), batch_loss)
    return layers


def _converged(network: nn.Linear, loss: Callable[[], Tensor]) -> nn.Linear:
    """L-BFGS on a convex loss."""
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        torch.autograd.backward(value)
        return value

    optimizer.step(closure)
    return network


def _descend(parameters: list[Tensor], loss: Callable[[], Tensor]) -> None:
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.autograd.backward(loss())
        optimizer.step()
        schedule.step()
