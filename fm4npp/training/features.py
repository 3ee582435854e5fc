"""Computing what the frozen backbone makes of a set of events, once for all heads that are trained on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fm4npp import __version__
from fm4npp.backbones.packing import full_precision
from fm4npp.batch import HiddenStates
from fm4npp.data import EventDataset
from fm4npp.data.features import Array, FeatureStore, Kind, Layout, Type
from fm4npp.event import Event
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor

READ = 64
"""Events read at a time."""


def feature_store(
    dataset: EventDataset,
    model: FM4NPPModel,
    processor: FM4NPPProcessor,
    folder: str | Path,
    *,
    kind: Kind = "raw",
    dtype: Type = "float32",
) -> FeatureStore:
    """Where the hidden states of a dataset are, or will be, stored; nothing is computed.

    Args:
        dataset: the events.
        model: frozen.
        processor: fitted, of the same checkpoint.
        folder: of the stored states; it may serve any number of files, but of one backbone.
        kind: "raw", every block's output; "mixed", their mean, for heads whose layer mix is frozen.
        dtype: "float32", exact, or "bfloat16" or "float16", half as large and rounded.

    Raises:
        ConfigurationError: naming what differs, if the folder holds hidden states of another backbone, of other data
            under the same name, or stored in another way.
        DataError: if what it holds is damaged.
    """
    layout = Layout(kind, dtype, model.config.width, int(model.config.backbone["num_layers"]))
    of_model = _model_key(model)
    keys = [of_model | _detector_key(processor, dataset.detector(part)) for part in range(len(dataset.paths))]
    return FeatureStore(dataset, folder, keys, layout)


def build_features(
    store: FeatureStore,
    model: FM4NPPModel,
    processor: FM4NPPProcessor,
    *,
    tokens_per_batch: int = 16384,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Compute and write what a store lacks, file by file, in bounded memory.

    Memory: (L + 2) W numbers for each token of a batch, twice, beside what the model needs.

    Args:
        store: of the same model and processor.
        model: frozen; it computes in full precision, where it is.
        processor: as of `feature_store`.
        tokens_per_batch: spacepoints run at once, at most; a longer event runs alone.
        progress: called with the number of events computed so far, after every batch.

    Raises:
        ConfigurationError: if the disk does not hold it.
        FM4NPPError: if it cannot be written.
        DataError: naming file and event, if an event cannot be read by the model, or its hidden states not be stored.
    """
    store.check_space()
    made_by = {"device": model.device.type, "torch": torch.__version__, "num_threads": torch.get_num_threads()}
    done = 0

    def counted(part: int) -> Iterator[tuple[Event, dict[str, Array]]]:
        nonlocal done
        for group in _computed(_events(store.dataset, part), model, processor, store.layout, tokens_per_batch):
            yield from group
            done += len(group)
            progress(done)

    with _evaluating(model):
        for part in store.missing:
            if not store.path(part).exists():  # by now: another process
                store.write(part, counted(part), made_by)


def stored_features(
    dataset: EventDataset,
    model: FM4NPPModel,
    processor: FM4NPPProcessor,
    folder: str | Path,
    *,
    kind: Kind = "raw",
    dtype: Type = "float32",
    tokens_per_batch: int = 16384,
    progress: Callable[[int], None] = lambda done: None,
) -> FeatureStore:
    """The hidden states of a dataset from a folder; what the folder lacks is computed first.

    Args:
        dataset: see `feature_store`.
        model: see `feature_store`.
        processor: see `feature_store`.
        folder: see `feature_store`.
        kind: see `feature_store`.
        dtype: see `feature_store`.
        tokens_per_batch: see `build_features`.
        progress: see `build_features`.

    Returns:
        What `loader` takes as `stored`.

    Raises:
        FM4NPPError: as of the two.
    """
    store = feature_store(dataset, model, processor, folder, kind=kind, dtype=dtype)
    build_features(store, model, processor, tokens_per_batch=tokens_per_batch, progress=progress)
    return store


def _model_key(model: FM4NPPModel) -> dict[str, Any]:
    """What an event's hidden states depend on in the model, as JSON."""
    config = model.config
    return {
        "backbone": model.backbone_identity()["sha256"],
        "sizes": {"embedding": config.embedding.model_dump(mode="json"), "backbone": config.backbone},
        "features": {"all": list(config.feature_names), "of": {k: list(v) for k, v in config.subsystems.items()}},
        "backend": model.backend,
        "version": __version__,
    }


def _detector_key(processor: FM4NPPProcessor, name: str) -> dict[str, Any]:
    """What they depend on before the model: scales and geometry, and the order of the tokens."""
    return {
        "detector": processor.config.detector(name).spec(),
        "serializer": processor.config.serializers[name].spec(),
    }


def _events(dataset: EventDataset, part: int) -> Iterator[Event]:
    first, stop = dataset.starts[part : part + 2]
    for start in range(first, stop, READ):
        yield from dataset.__getitems__(range(start, min(start + READ, stop)))


@torch.no_grad()
def _computed(
    events: Iterator[Event], model: FM4NPPModel, processor: FM4NPPProcessor, layout: Layout, tokens_per_batch: int
) -> Iterator[list[tuple[Event, dict[str, Array]]]]:
    """The events of each batch, each with its `order` (N,) and hidden states (N, ...)."""
    for group, batch in processor.batches(events, tokens_per_batch):
        with full_precision(model.device):
            arrays = _arrays(model.hidden_states(batch.to(model.device)), layout)
        arrays["order"] = batch.order.numpy()
        bounds = pairwise(batch.offsets.tolist())
        rows = [{name: values[start:stop] for name, values in arrays.items()} for start, stop in bounds]
        yield list(zip(group, rows, strict=True))


def _arrays(hidden: HiddenStates, layout: Layout) -> dict[str, Array]:
    blocks = torch.stack(hidden.blocks, dim=1) if layout.kind == "raw" else _mean(hidden.blocks)
    tensors = {"embedding": hidden.embedding, "blocks": blocks, "last": hidden.last}
    return {name: np.asarray(tensor.float().cpu().numpy()) for name, tensor in tensors.items()}


def _mean(blocks: tuple[Tensor, ...]) -> Tensor:
    """L tensors (T, W) to their mean, without a copy of all of them."""
    total = blocks[0].clone()
    for block in blocks[1:]:
        total += block
    return total / len(blocks)


@contextmanager
def _evaluating(model: FM4NPPModel) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
