"""Saving and loading: checkpoints that are whole, strict, and verified to compute what they computed when written."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fm4npp.backbones import Backbone
from fm4npp.backbones.embedding import SpacepointEmbedding
from fm4npp.backbones.packing import full_precision
from fm4npp.batch import EventBatch, HiddenStates
from fm4npp.card import CARD_NAME, is_changed, model_card
from fm4npp.checkpoint import (
    check_files,
    commit_of,
    load_strict,
    read_tensors,
    resolve,
    staged,
    weights_hash,
    write_tensors,
)
from fm4npp.choices import Backend
from fm4npp.configuration import CONFIG_NAME, FM4NPPConfig
from fm4npp.errors import CheckpointError, ConfigurationError
from fm4npp.files import read_json, write_json
from fm4npp.golden import GOLDEN_NAME, compare, golden_batch, read_golden, write_golden
from fm4npp.heads import Head
from fm4npp.original import fetch, is_alias, read_released

HEAD_CONFIG_NAME = "head.json"
ADAPTER_NAME = "adapter_model.safetensors"
"""Of a head's adapter, as peft names it; peft's `adapter_config.json` beside it is for peft and not read here."""
ADAPTER_PREFIX = "base_model.model."
"""What peft puts before the names of the adapted modules; the modules are the backbone's."""


class Adapter(Protocol):
    """What is trained in a backbone in place of its own weights, and not merged into them yet."""

    @property
    def base(self) -> dict[str, str]:
        """Identity of the backbone without it."""

    def write(self, folder: Path) -> dict[str, Any]:
        """Write it into a folder; returns what `head.json` says of it."""


class PretrainedModel(nn.Module, ModelHubMixin):
    """What `FM4NPPModel` can be saved as and loaded from.

    Attributes:
        config: everything the model is made of.
        identity: name and revision it was loaded by, and the head whose adapter was merged into it.
        adapter: of the backbone, while it is trained.
        embedding: of spacepoints.
        backbone: its blocks.
        output: the objective's projection.
        heads: name -> head.
    """

    config: FM4NPPConfig
    identity: dict[str, str]
    adapter: Adapter | None = None
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
        """Write `config.json`, `model.safetensors` and a card; a card that somebody changed is kept.

        The files are written beside the folder's own first and moved in at the end, so that an interruption
        leaves the previous checkpoint whole.

        Args:
            save_directory: created if it does not exist.
            arguments: `push_to_hub`, `repo_id` and others of `ModelHubMixin.save_pretrained`.

        Raises:
            CheckpointError: if it cannot be written.
            ConfigurationError: if its backbone has an adapter that is not merged.
        """
        self._require_no_adapter("saving the model")
        push, repo_id = arguments.pop("push_to_hub", False), arguments.pop("repo_id", None)
        keep = is_changed(Path(save_directory))
        with staged(save_directory) as stage:
            super().save_pretrained(stage)
            if keep:
                (stage / CARD_NAME).unlink()
        return self.push_to_hub(repo_id or Path(save_directory).name, **arguments) if push else None

    def _save_pretrained(self, save_directory: Path) -> None:
        batch = golden_batch(len(self.config.feature_names), len(self.config.subsystems))
        write_golden(save_directory, batch, self._golden_outputs(batch), self.backend)
        write_tensors(self, save_directory)
        write_json(save_directory / CONFIG_NAME, self.config.json_object())

    def generate_model_card(self, *arguments: Any, **named: Any) -> ModelCard:
        """The card that is saved where there is none that somebody changed, from the configuration."""
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
        check_files(folder)
        model.identity = {
            "name": Path(pretrained_model_name_or_path).name,
            "revision": commit_of(folder) or revision or "",
        }
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

        The backbone's adapter is written with it, if it has one that is not merged.

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
            "backbone": self.backbone_identity() if self.adapter is None else self.adapter.base,
            "training": dict(training or {}),
        }
        with staged(folder) as stage:
            write_tensors(self.heads[name], stage)
            if self.adapter is not None:
                description["adapter"] = self.adapter.write(stage)
            write_json(stage / HEAD_CONFIG_NAME, description)

    def load_head(self, folder_or_hub_id: str | Path, name: str | None = None, **download: Any) -> str:
        """Attach a head that was saved alone; an adapter that was saved with it is merged into the backbone.

        Args:
            folder_or_hub_id: what `save_head` wrote, or the id of a Hub repository that holds it.
            name: what to call it, in place of the name it was saved under.
            download: `revision`, `cache_dir`, `token`, `local_files_only`.

        Returns:
            The name of the head in this model.

        Raises:
            CheckpointError: if it is damaged, was trained on another backbone, or would change the backbone under
                the heads that are there.
        """
        self._require_no_adapter("loading a head")
        folder = resolve(folder_or_hub_id, marker=HEAD_CONFIG_NAME, **download)
        description = read_json(folder / HEAD_CONFIG_NAME, CheckpointError)
        missing = {"name", "head", "backbone"} - set(description if isinstance(description, dict) else ())
        if missing:
            raise CheckpointError(f"{folder / HEAD_CONFIG_NAME}: lacks {', '.join(sorted(missing))}")
        self._check_backbone(folder, description)
        name = name or str(description["name"])
        head = self.add_head(name, description["head"])
        try:
            load_strict(head, read_tensors(folder), folder)
            check_files(folder)
            if "adapter" in description:
                self._merge_saved(folder, description["adapter"], folder_or_hub_id)
        except CheckpointError:
            self.remove_head(name)
            raise
        return name

    def _check_backbone(self, folder: Path, description: Mapping[str, Any]) -> None:
        """Refuse a head of another backbone, and one whose adapter would change it under other heads."""
        own, theirs = self.backbone_identity(), description["backbone"]
        if theirs.get("sha256") != own["sha256"]:
            remedy = "load each on a model of its own" if "adapter" in own else "load its own backbone"
            raise CheckpointError(
                f"{folder}: this head was trained on another backbone ({_told(theirs)}) than the one it is "
                f"loaded on ({_told(own)}); {remedy}"
            )
        if "adapter" in description and self.heads:
            raise CheckpointError(
                f"{folder}: this head comes with a LoRA adapter, which would change the backbone under the model's "
                f"other heads ({', '.join(self.heads)}); load each on a model of its own"
            )

    def _merge_saved(self, folder: Path, adapter: Mapping[str, Any], name: str | Path) -> None:
        """Merge the adapter that a head was saved with; nothing is changed if it is damaged."""
        tensors = _read_adapter(folder / ADAPTER_NAME)
        rank, alpha = adapter.get("rank"), adapter.get("alpha")
        if adapter.get("type") != "lora" or not isinstance(rank, int) or not isinstance(alpha, int | float):
            raise CheckpointError(f"{folder / HEAD_CONFIG_NAME}: describes no adapter that this version can merge")
        self.merge_lora(tensors, rank, alpha, name)

    @torch.no_grad()
    def merge_lora(self, tensors: Mapping[str, Tensor], rank: int, alpha: float, where: str | Path) -> None:
        """Add a LoRA adapter to the backbone's weights, W + (alpha / rank) B A (arXiv:2106.09685, section 4.1).

        Args:
            tensors: peft's name -> A, (rank, inputs), and B, (outputs, rank), of every adapted weight.
            rank: of the adapter.
            alpha: its strength.
            where: what it comes from, for messages; its last part is kept in `identity`.

        Raises:
            CheckpointError: naming the weight that it does not fit; nothing is changed then.
        """
        own = dict(self.backbone.named_parameters())
        modules = sorted({key.removeprefix(ADAPTER_PREFIX).partition(".lora_")[0] for key in tensors})
        merged: dict[str, Tensor] = {}
        for module in modules:
            A, B = (tensors.get(f"{ADAPTER_PREFIX}{module}.lora_{part}.weight") for part in "AB")
            weight = own.get(f"{module}.weight")
            if A is None or B is None or weight is None or not _fit(weight, A, B, rank):
                raise CheckpointError(f"{where}: the adapter of {module} does not fit the backbone")
            merged[f"{module}.weight"] = weight + (B.to(weight) @ A.to(weight)) * (alpha / rank)
        if len(tensors) != 2 * len(modules) or not modules:
            raise CheckpointError(f"{where}: the adapter holds tensors that are no LoRA matrices, or none at all")
        for name, value in merged.items():
            own[name].copy_(value)
        self.identity = {**self.identity, "adapter": Path(where).name}

    def _require_no_adapter(self, action: str) -> None:
        if self.adapter is not None:
            raise ConfigurationError(f"{action}: the backbone has an adapter; call fm4npp.training.lora.merge first")

    def backbone_identity(self) -> dict[str, str]:
        """Name, revision and weights hash of the embedding and the backbone: what a head depends on."""
        parts = {"embedding": self.embedding, "backbone": self.backbone}
        state = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
        return {**self.identity, "sha256": weights_hash(state)}


def _told(identity: Mapping[str, str]) -> str:
    """A backbone's identity, for a message."""
    changed = f", changed by the LoRA adapter of {identity['adapter']}" if "adapter" in identity else ""
    return f"{identity.get('name') or 'unnamed'}{changed}, weights {str(identity.get('sha256'))[:12]}"


def _fit(weight: Tensor, A: Tensor, B: Tensor, rank: int) -> bool:
    """Whether LoRA matrices have the shapes that a weight needs."""
    return weight.ndim == 2 and A.shape == (rank, weight.shape[1]) and B.shape == (weight.shape[0], rank)


def _read_adapter(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: is missing") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: is damaged ({error})") from error
