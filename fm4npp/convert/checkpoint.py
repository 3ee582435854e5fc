"""The authors' released checkpoints to ours."""

from __future__ import annotations

from pathlib import Path

from fm4npp import original
from fm4npp.checkpoint import load_strict
from fm4npp.files import sha256
from fm4npp.modeling import FM4NPPModel


def load_original_checkpoint(
    path: str | Path, *, bin_edges: str | Path | None = None, trust_pickle: bool = False
) -> FM4NPPModel:
    """A model with the weights of one of the authors' released backbones; see `fm4npp.original.read`.

    Args:
        path: the released `.ckpt` file, or "fm4npp-m3" to "fm4npp-m6" to download it.
        bin_edges: the authors' pickle of bin edges. Without it the serializer is not fitted, and the processor has to
            be, before it can order events.
        trust_pickle: unpickle in full a file that holds more than tensors, plain values and NumPy arrays. This runs
            whatever code is in the file.

    Raises:
        CheckpointError: if a file is damaged, holds something else, or cannot be had.
    """
    if original.is_alias(path):
        found = original.read_released(original.fetch(path), trust_pickle=trust_pickle)
    else:
        found = original.read(path, trust_pickle=trust_pickle)
    config = found.config
    if bin_edges is not None:
        scan = original.read_bin_edges(bin_edges)
        origin = {"source": Path(bin_edges).name, "sha256": sha256(bin_edges)}
        config = config.updated(
            serializers=dict.fromkeys(config.serializers, scan), training={**config.training, "bin_edges": origin}
        )
    model = FM4NPPModel(config)
    load_strict(model, found.tensors, path)
    return model.eval()
