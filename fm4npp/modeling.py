"""The model: embedding, backbone, the objective's projection, and heads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from torch import Tensor, nn

from fm4npp import backbones, heads
from fm4npp.backbones.embedding import SpacepointEmbedding
from fm4npp.backbones.packing import rowwise_linear
from fm4npp.batch import EventBatch, HiddenStates
from fm4npp.card import model_card
from fm4npp.checkpoint import load_strict, read_tensors, resolve, staged, weights_hash, write_tensors
from fm4npp.configuration import CONFIG_NAME, FM4NPPConfig, complete, typed
from fm4npp.errors import CheckpointError, ConfigurationError, DataError
from fm4npp.files import read_json, write_json
from fm4npp.heads import Head, HeadContext

HEAD_CONFIG_NAME = "head.json"


@dataclass(frozen=True)
class FM4NPPOutput:
    """What a forward pass gives.

    Attributes:
        loss: scalar to minimise: the sum of `losses`; None if the batch has neither targets nor labels.
        losses: its parts, "objective" and "<head>/<part>".
        predictions: "objective" -> (T, output_size); head name -> that head's raw outputs.
        last_hidden_state: (T, W), after the final norm.
        block_outputs: one (T, W) for every block, its update before the residual sum.
        embedding: (T, W), the input of the first block.
    """

    loss: Tensor | None
    last_hidden_state: Tensor
    block_outputs: tuple[Tensor, ...]
    embedding: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    predictions: Mapping[str, Any] = field(default_factory=dict)


class FM4NPPModel(nn.Module, ModelHubMixin):
    """A foundation model of detector events.

    Args:
        config: sizes and components; heads named in it are built too. Weights are random.
    """

    def __init__(self, config: FM4NPPConfig) -> None:
        super().__init__()
        self.config = config
        self.identity: dict[str, str] = {"name": "", "revision": ""}
        self.embedding = SpacepointEmbedding(config.embedding, config.width, config.subsystems, config.feature_names)
        name, sizes = typed(backbones.registry, config.backbone)
        self.backbone = backbones.get(name)(sizes)
        self.output = nn.Linear(config.width, config.objective.output_size)
        nn.init.zeros_(self.output.bias)
        self.heads = nn.ModuleDict({name: self._build_head(spec) for name, spec in config.heads.items()})

    # ---- running

    def encode(self, batch: EventBatch, *, blocks: bool = True) -> HiddenStates:
        """Embed a batch and run the backbone.

        Args:
            batch: see `EventBatch`.
            blocks: False skips the backbone, for heads that do not read it.

        Returns:
            The hidden states, (T, W) each.
        """
        embedding = self.embedding(batch.coordinates, batch.features, batch.detector_ids)
        if not blocks:
            return HiddenStates(embedding, (), embedding)
        updates, last = self.backbone(embedding, batch.offsets)
        return HiddenStates(embedding, updates, last)

    def forward(
        self,
        coordinates: Tensor,
        features: Tensor,
        detector_ids: Tensor,
        offsets: Tensor,
        order: Tensor | None = None,
        targets: Mapping[str, Tensor] | None = None,
        labels: Mapping[str, Tensor] | None = None,
    ) -> FM4NPPOutput:
        """Run the model on packed events; the arguments are the keys of `EventBatch`.

        Args:
            coordinates: (T, 3) normalised.
            features: (T, F) scaled.
            detector_ids: (T,).
            offsets: (B + 1,).
            order: (T,), not read.
            targets: the objective's; with them the loss has the part "objective".
            labels: truth; every head whose labels are all there adds its losses.
        """
        batch = EventBatch(
            coordinates=coordinates,
            features=features,
            detector_ids=detector_ids,
            offsets=offsets,
            order=order,
            targets=targets or {},
            labels=labels or {},
        )
        hidden = self.encode(batch, blocks=not self.heads or bool(targets) or self._reads_blocks())
        predictions: dict[str, Any] = {}
        losses: dict[str, Tensor] = {}
        if hidden.blocks:
            predictions["objective"] = rowwise_linear(hidden.last, self.output.weight, self.output.bias)
        if targets:
            losses["objective"] = self.config.objective.loss(predictions["objective"], targets)
        for name, head in self._heads():
            predictions[name] = head(hidden, batch)
            if set(head.labels.values()) <= set(batch.labels):
                losses |= {f"{name}/{part}": value for part, value in head.loss(predictions[name], batch).items()}
        loss = torch.stack(list(losses.values())).sum() if losses else None
        return FM4NPPOutput(loss, hidden.last, hidden.blocks, hidden.embedding, losses, predictions)

    @torch.no_grad()
    def predict(self, batch: EventBatch) -> dict[str, dict[str, Tensor]]:
        """Every head's predictions: head name -> name -> (T, ...), in the order of the batch.

        Raises:
            ConfigurationError: if the model has no head.
        """
        if not self.heads:
            raise ConfigurationError("the model has no head to predict with; add_head or load_head first")
        training = self.training
        self.eval()
        try:
            hidden = self.encode(batch, blocks=self._reads_blocks())
            return {name: head.predict(head(hidden, batch), batch) for name, head in self._heads()}
        finally:
            self.train(training)

    def freeze_backbone(self) -> None:
        """Exclude everything but the heads from training."""
        for module in (self.embedding, self.backbone, self.output):
            module.requires_grad_(False)

    # ---- heads

    def add_head(self, name: str, spec: str | Mapping[str, Any]) -> Head:
        """Attach a new head with random weights.

        Args:
            name: what its predictions are called.
            spec: registered name, or `{"type": name, **fields}`.

        Raises:
            ConfigurationError: if the name is taken, or the specification is wrong.
        """
        if not re.fullmatch(r"[a-z][\w-]*", name) or name == "objective" or hasattr(nn.ModuleDict, name):
            raise ConfigurationError(
                f"{name!r} cannot be the name of a head: choose another, of letters, digits, - and _"
            )
        if name in self.heads:
            raise ConfigurationError(f"the model has a head {name!r} already")
        head = self._build_head(spec)
        self.heads[name] = head.to(next(self.backbone.parameters()).device)
        self.config = self.config.updated(heads={**self.config.heads, name: complete(heads.registry, spec)})
        return head

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

    def remove_head(self, name: str) -> None:
        """Detach a head."""
        del self.heads[name]
        self.config = self.config.updated(heads={key: spec for key, spec in self.config.heads.items() if key != name})

    def require_labels(self, batch: EventBatch) -> None:
        """Check that a batch has the labels that every head is trained with.

        Raises:
            DataError: naming those that are missing.
        """
        for name, head in self._heads():
            missing = sorted(set(head.labels.values()) - set(batch.labels))
            if missing:
                raise DataError(
                    f"no label {', '.join(missing)}, which the head {name!r} is trained with",
                    remedy="convert the file together with its labels",
                )

    def backbone_identity(self) -> dict[str, str]:
        """Name, revision and weights hash of the embedding and the backbone: what a head depends on."""
        parts = {"embedding": self.embedding, "backbone": self.backbone}
        state = {f"{part}.{key}": value for part, module in parts.items() for key, value in module.state_dict().items()}
        return {**self.identity, "sha256": weights_hash(state)}

    # ---- saving and loading

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
    ) -> Self:
        """Load a checkpoint, strictly: every tensor must be there, in its shape, and none else.

        Args:
            pretrained_model_name_or_path: a folder, or the id of a Hub repository.
            revision: branch, tag or commit of the repository.
            cache_dir: cache to use in place of the default one.
            token: Hub token.
            local_files_only: do not ask the network.
            force_download: download even if the cache has it.
            device: where to put the model.

        Raises:
            CheckpointError: naming the file, the tensor or the component that is wrong.
        """
        folder = resolve(
            pretrained_model_name_or_path,
            marker=CONFIG_NAME,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        config = FM4NPPConfig.load(folder)
        model = cls(config)
        load_strict(model, read_tensors(folder), folder)
        model.identity = {"name": Path(pretrained_model_name_or_path).name, "revision": revision or ""}
        return model.to(device).eval()

    # ---- parts

    def num_parameters(self, *, trainable: bool = True) -> int:
        """Number of parameters; by default of the trainable ones."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable)

    def _build_head(self, spec: str | Mapping[str, Any]) -> Head:
        name, config = typed(heads.registry, spec)
        context = HeadContext(
            self.config.width, int(self.config.backbone["num_layers"]), len(self.config.feature_names)
        )
        return heads.get(name)(config, context)

    def _heads(self) -> list[tuple[str, Head]]:
        return list(self.heads.items())  # type: ignore[arg-type]

    def _reads_blocks(self) -> bool:
        return any("blocks" in head.config.inputs for _, head in self._heads())
