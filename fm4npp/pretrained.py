"""Saving and loading: checkpoints that are whole, strict, and verified to compute what they computed when written."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from torch import Tensor, nn

from fm4npp.backbones import Backbone
from fm4npp.backbones.base import Backend
from fm4npp.backbones.embedding import SpacepointEmbedding
from fm4npp.backbones.packing import full_precision
from fm4npp.batch import EventBatch, HiddenStates
from fm4npp.card import model_card
from fm4npp.checkpoint import load_strict, read_tensors, resolve, staged, weights_hash, write_tensors
from fm4npp.configuration import CONFIG_NAME, FM4NPPConfig
from fm4npp.errors import CheckpointError, ConfigurationError
from fm4npp.files import read_json, write_json
from fm4npp.golden import GOLDEN_NAME, compare, golden_batch, read_golden, write_golden
from fm4npp.heads import Head
from fm4npp.original import fetch, is_alias, read_released

HEAD_CONFIG_NAME = "head.json"


class PretrainedModel(nn.Module, ModelHubMixin):
    """What `FM4NPPModel` can be saved as and loaded from.

    Attributes:
        config: everything the model is made of.
        identity: name and revision it was loaded by.
        embedding: of spacepoints.
        backbone: its blocks.
        output: the objective's projection.
        heads: name -> head.
    """

    config: FM4NPPConfig
    identity: dict[str, str]
    embedding: SpacepointEmbedding
    backbone: Backbone
    output: nn.Linear
    heads: nn.ModuleDict

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.output.weight.device

    @property
    def backend(self) -> str:
        """The backend that computes the backbone where the weights are.

        Raises:
            BackendError: if the one that was asked for cannot.
        """
        return self.backbone.running_backend(self.device)

    def hidden_states(self, batch: EventBatch, *, blocks: bool = True) -> HiddenStates:
        """Embed a batch and run the backbone."""
        raise NotImplementedError

    def project(self, hidden: HiddenStates) -> Tensor:
        """The objective's predictions, (T, output_size)."""
        raise NotImplementedError

    def add_head(self, name: str, spec: str | Mapping[str, Any]) -> Head:
        """Attach a new head with random weights."""
        raise NotImplementedError

    def remove_head(self, name: str) -> None:
        """Detach a head."""
        raise NotImplementedError

    # ---- checkpoints

    def save_pretrained(self, save_directory: str | Path, **arguments: Any) -> str | None:
        """Write `config.json`, `model.safetensors` and a card; an existing card is kept.

        The files are written beside the folder's own first and moved in at the end, so that an interruption
        leaves the previous checkpoint whole.

        Args:
            save_directory: created if it does not exist.
            arguments: `push_to_hub`, `repo_id` and others of `ModelHubMixin.save_pretrained`.

        Raises:
            CheckpointError: if it cannot be written.
        """
        push, repo_id = arguments.pop("push_to_hub", False), arguments.pop("repo_id", None)
        card = Path(save_directory) / "README.md"
        with staged(save_directory) as stage:
            super().save_pretrained(stage)
            if card.exists():
                (stage / card.name).unlink()
        return self.push_to_hub(repo_id or Path(save_directory).name, **arguments) if push else None

    def _save_pretrained(self, save_directory: Path) -> None:
        batch = golden_batch(len(self.config.feature_names), len(self.config.subsystems))
        write_golden(save_directory, batch, self._golden_outputs(batch), self.backend)
        write_tensors(self, save_directory)
        write_json(save_directory / CONFIG_NAME, self.config.json_object())

    def generate_model_card(self, *arguments: Any, **named: Any) -> ModelCard:
        """The card that is saved where there is none yet, from the configuration."""
        return model_card(self.config)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        device: str | torch.device = "cpu",
        backend: Backend = "auto",
        verify: bool = True,
    ) -> Self:
        """Load a checkpoint, strictly: every tensor must be there, in its shape, and none else.

        Args:
            pretrained_model_name_or_path: a folder, the id of a Hub repository, or "fm4npp-m3" to "fm4npp-m6",
                the authors' released checkpoints.
            revision: branch, tag or commit of the repository.
            cache_dir: cache to use in place of the default one.
            token: Hub token.
            local_files_only: do not ask the network.
            force_download: download even if the cache has it.
            device: where to put the model.
            backend: what computes the backbone, see the class.
            verify: compare what the model computes here with what was computed when the checkpoint was written.

        Raises:
            BackendError: if the backend computes another function than the one that wrote the checkpoint.
            CheckpointError: naming the file, the tensor or the component that is wrong.
        """
        download: dict[str, Any] = {
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
            "force_download": force_download,
        }
        if is_alias(pretrained_model_name_or_path):
            folder = cls._released(pretrained_model_name_or_path, **download)
        else:
            folder = resolve(pretrained_model_name_or_path, marker=CONFIG_NAME, **download)
        config = FM4NPPConfig.load(folder)
        model = cls(config, backend=backend)
        load_strict(model, read_tensors(folder), folder)
        model.identity = {"name": Path(pretrained_model_name_or_path).name, "revision": revision or ""}
        model = model.to(device).eval()
        if verify:
            model.verify(folder)
        return model

    @classmethod
    def _released(cls, alias: str | Path, **download: Any) -> Path:
        """The folder of a checkpoint that the authors released, converted the first time it is asked for."""
        source = fetch(alias, **download)
        if download["force_download"] or not source.converted:
            found = read_released(source)
            model = cls(found.config, backend="torch")
            load_strict(model, found.tensors, source.path)
            model.save_pretrained(source.folder)
        return source.folder

    # ---- golden outputs

    @torch.no_grad()
    def _golden_outputs(self, batch: EventBatch) -> dict[str, Tensor]:
        """What this model computes of a small input; the mean over blocks shows what the residual stream may hide."""
        with full_precision(self.device):
            hidden = self.hidden_states(batch.to(self.device))
            blocks = torch.stack(hidden.blocks).mean(0)
            return {"last_hidden_state": hidden.last, "block_mean": blocks, "predictions": self.project(hidden)}

    def verify(self, folder: str | Path) -> float | None:
        """Compare what this model computes now, here, with what was computed when a checkpoint was written.

        Returns:
            The largest relative difference; None, with a warning, if the checkpoint holds nothing to compare with.

        Raises:
            BackendError: if it is too large.
        """
        if not (Path(folder) / GOLDEN_NAME).exists():
            warnings.warn(f"{folder}: holds no {GOLDEN_NAME}, so the backend could not be verified", stacklevel=2)
            return None
        batch, expected, backend = read_golden(Path(folder))
        return compare(Path(folder), expected, self._golden_outputs(batch), (backend, self.backend))

    # ---- heads alone

    def save_head(self, name: str, folder: str | Path, training: Mapping[str, Any] | None = None) -> None:
        """Write one head alone: its weights, and `head.json` with its specification and its backbone's identity.

        Args:
            name: of the head.
            folder: created if it does not exist.
            training: what made the weights; informative.
        """
        if name not in self.heads:
            raise ConfigurationError(f"the model has no head {name!r}; it has: {', '.join(self.heads) or 'none'}")
        description = {
            "format": 1,
            "name": name,
            "head": self.config.heads[name],
            "backbone": self.backbone_identity(),
            "training": dict(training or {}),
        }
        with staged(folder) as stage:
            write_tensors(self.heads[name], stage)
            write_json(stage / HEAD_CONFIG_NAME, description)

    def load_head(self, folder_or_hub_id: str | Path, name: str | None = None, **download: Any) -> str:
        """Attach a head that was saved alone.

        Args:
            folder_or_hub_id: what `save_head` wrote, or the id of a Hub repository that holds it.
            name: what to call it, in place of the name it was saved under.
            download: `revision`, `cache_dir`, `token`, `local_files_only`.

        Returns:
            The name of the head in this model.

        Raises:
            CheckpointError: if it is damaged, or was trained on another backbone.
        """
        folder = resolve(folder_or_hub_id, marker=HEAD_CONFIG_NAME, **download)
        description = read_json(folder / HEAD_CONFIG_NAME, CheckpointError)
        missing = {"name", "head", "backbone"} - set(description if isinstance(description, dict) else ())
        if missing:
            raise CheckpointError(f"{folder / HEAD_CONFIG_NAME}: lacks {', '.join(sorted(missing))}")
        own, theirs = self.backbone_identity(), description["backbone"]
        if theirs.get("sha256") != own["sha256"]:
            raise CheckpointError(
                f"{folder}: this head was trained on another backbone "
                f"({theirs.get('name') or 'unnamed'}, weights {str(theirs.get('sha256'))[:12]}) than the one it is "
                f"loaded on ({own['name'] or 'unnamed'}, weights {own['sha256'][:12]}); load its own backbone"
            )
        name = name or str(description["name"])
        head = self.add_head(name, description["head"])
        try:
            load_strict(head, read_tensors(folder), folder)
        except CheckpointError:
            self.remove_head(name)
            raise
        return name

    def backbone_identity(self) -> dict[str, str]:
        """Name, revision and weights hash of the embedding and the backbone: what a head depends on."""
        parts = {"embedding": self.embedding, "backbone": self.backbone}
        state = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
        return {**self.identity, "sha256": weights_hash(state)}
