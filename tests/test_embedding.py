"""The embedding of spacepoints."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from fm4npp.backbones.embedding import EmbeddingConfig, SpacepointEmbedding, nerf_encoding
from fm4npp.errors import ConfigurationError

SILICON = {"mvtx": ("cluster_size", "layer"), "tpc": ("energy",), "intt": ()}
COLUMNS = ("energy", "layer", "cluster_size")


def draw(num_rows: int, num_columns: int, num_subsystems: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_rows)
    return (
        torch.rand(num_rows, 3, generator=generator),
        torch.randn(num_rows, num_columns, generator=generator),
        torch.randint(num_subsystems, (num_rows,), generator=generator),
    )


def test_nerf_encoding_by_hand() -> None:
    coordinates = draw(5, 0)[0].double()
    encoded = nerf_encoding(coordinates, 10)
    assert encoded.shape == (5, 63)
    for row, point in zip(encoded.tolist(), coordinates.tolist(), strict=True):
        expected = list(point)
        for octave in range(10):
            expected += [math.sin(2**octave * p) for p in point]
            expected += [math.cos(2**octave * p) for p in point]
        assert row == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("width", [64, 256, 1536])
def test_frozen_counts_of_the_released_models(width: int) -> None:
    embedding = SpacepointEmbedding(EmbeddingConfig(), width, {"sphenix-tpc": ("energy",)}, ("energy",))
    assert sum(parameter.numel() for parameter in embedding.parameters()) == 64 * width
    assert not any(parameter.requires_grad for parameter in embedding.parameters())
    assert set(embedding.state_dict()) == {"position_projection", "feature_projections.sphenix-tpc"}


def test_one_subsystem_is_the_published_formula() -> None:
    embedding = SpacepointEmbedding(EmbeddingConfig(), 32, {"tpc": ("energy",)}, ("energy",)).double()
    coordinates, energy, ids = (value.double() for value in draw(100, 1))
    expected = (
        energy * embedding.feature_projections["tpc"] + nerf_encoding(coordinates) @ embedding.position_projection
    )
    torch.testing.assert_close(embedding(coordinates, energy, ids.long()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("projection", ["frozen", "learned"])
def test_each_subsystem_reads_its_own_columns(projection: str) -> None:
    embedding = SpacepointEmbedding(EmbeddingConfig(projection=projection), 16, SILICON, COLUMNS).double()
    torch.nn.init.normal_(embedding.detector_embedding)
    coordinates, features, ids = draw(60, 3, 3)
    output = embedding(coordinates.double(), features.double(), ids)
    for row in range(60):
        name = list(SILICON)[ids[row]]
        own = features[row, [COLUMNS.index(column) for column in SILICON[name]]].double()
        expected = nerf_encoding(coordinates[row : row + 1].double())[0] @ embedding.position_projection
        expected = expected + own @ embedding.feature_projections[name] + embedding.detector_embedding[ids[row]]
        torch.testing.assert_close(output[row], expected, rtol=1e-12, atol=1e-12)


def test_foreign_columns_are_never_read() -> None:
    embedding = SpacepointEmbedding(EmbeddingConfig(), 16, SILICON, COLUMNS)
    coordinates, features, _ = draw(10, 3)
    features[:, 1:] = torch.nan
    assert embedding(coordinates, features, torch.ones(10, dtype=torch.int64)).isfinite().all()


def test_learned_embedding_starts_with_unit_variance() -> None:
    torch.manual_seed(0)
    embedding = SpacepointEmbedding(EmbeddingConfig(projection="learned"), 512, {"tpc": ("energy",)}, ("energy",))
    assert all(parameter.requires_grad for parameter in embedding.parameters())
    assert float(embedding(*draw(4000, 1)).detach().var()) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("width", [16, 64, 256])
def test_rows_do_not_depend_on_each_other(width: int, num_threads: int) -> None:
    embedding = SpacepointEmbedding(EmbeddingConfig(), width, SILICON, COLUMNS)
    inputs = draw(700, 3, 3)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    whole = embedding(*inputs)
    for start, size in [(0, 1), (3, 2), (20, 17), (101, 63), (99, 64), (0, 300), (211, 489), (5, 0)]:
        part = embedding(*(value[start : start + size] for value in inputs))
        assert torch.equal(part, whole[start : start + size])
    torch.set_num_threads(before)


def test_gradients_reach_every_learned_parameter() -> None:
    embedding = SpacepointEmbedding(EmbeddingConfig(projection="learned"), 8, SILICON, COLUMNS)
    embedding(*draw(50, 3, 3)).square().sum().backward()
    for name, parameter in embedding.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.numel() == 0 or bool((parameter.grad != 0).all()), name


@pytest.mark.parametrize(
    ("subsystems", "problem"),
    [({"tpc": ("charge",)}, "'tpc' measures 'charge'"), ({"t.pc": ("energy",)}, "'t.pc'"), ({"": ()}, "''")],
)
def test_impossible_subsystems(subsystems: dict[str, tuple[str, ...]], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        SpacepointEmbedding(EmbeddingConfig(), 8, subsystems, COLUMNS)


def test_unknown_option() -> None:
    with pytest.raises(ValidationError, match="octaves"):
        EmbeddingConfig(octaves=3)
