"""The model: embedding, backbone, the objective's projection, and heads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fm4npp import backbones, heads
from fm4npp.backbones.embedding import SpacepointEmbedding
from fm4npp.backbones.packing import rowwise_linear
from fm4npp.batch import EventBatch, HiddenStates
from fm4npp.choices import Backend
from fm4npp.configuration import FM4NPPConfig, complete, typed
from fm4npp.detector_set import built_head, change, with_detector, without_detector
from fm4npp.detectors import Detector
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.event import Event
from fm4npp.heads import Head
from fm4npp.heads.base import LayerMix
from fm4npp.pretrained import PretrainedModel
from fm4npp.processing import FM4NPPProcessor

ENCODINGS: Mapping[str, Callable[[FM4NPPModel, HiddenStates], Tensor]] = {
    "embedding": lambda model, hidden: hidden.embedding,
    "last_hidden_state": lambda model, hidden: hidden.last,
    "block_outputs": lambda model, hidden: torch.stack(hidden.blocks, dim=1),
    "predictions": lambda model, hidden: model.project(hidden),
}
"""What `FM4NPPModel.encode` can give."""


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


class FM4NPPModel(PretrainedModel):
    """A foundation model of detector events.

    Args:
        config: sizes and components; heads named in it are built too. Weights are random.
        backend: what computes the backbone: "torch", "mamba-ssm", or "auto", which takes mamba-ssm's kernels where they
            are installed, run on the device, and agree with PyTorch.
    """

    def __init__(self, config: FM4NPPConfig, *, backend: Backend = "auto") -> None:
        super().__init__()
        self.config = config
        self.identity: dict[str, str] = {"name": "", "revision": ""}
        self.embedding = SpacepointEmbedding(config.embedding, config.width, config.subsystems, config.feature_names)
        name, sizes = typed(backbones.registry, config.backbone)
        self.backbone = backbones.get(name)(sizes)
        self.backbone.backend = backend
        self.output = nn.Linear(config.width, config.objective.output_size)
        nn.init.zeros_(self.output.bias)
        self.heads = nn.ModuleDict({name: built_head(config, spec) for name, spec in config.heads.items()})

    # ---- running

    def hidden_states(self, batch: EventBatch, *, blocks: bool = True) -> HiddenStates:
        """Embed a batch and run the backbone, unless the batch brings its hidden states along.

        Args:
            batch: see `EventBatch`.
            blocks: False skips the backbone, for heads that do not read it.

        Returns:
            The hidden states, (T, W) each.

        Raises:
            ConfigurationError: if the batch brings hidden states that are not of this model, or parts are to be
                trained that such hidden states leave out.
        """
        if batch.hidden:
            hidden = self._stored_states(batch)
            return hidden if blocks else HiddenStates(hidden.embedding, (), hidden.embedding)
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
        hidden: Mapping[str, Tensor] | None = None,
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
            hidden: hidden states that were stored; embedding and backbone are then not run.
        """
        batch = EventBatch(
            coordinates=coordinates,
            features=features,
            detector_ids=detector_ids,
            offsets=offsets,
            order=order,
            targets=targets or {},
            labels=labels or {},
            hidden=hidden or {},
        )
        states = self.hidden_states(batch, blocks=not self.heads or bool(targets) or self._reads_blocks())
        predictions: dict[str, Any] = {}
        losses: dict[str, Tensor] = {}
        if states.blocks:
            predictions["objective"] = self.project(states)
        if targets:
            losses["objective"] = self.config.objective.loss(predictions["objective"], targets)
        for name, head in self._heads():
            predictions[name] = head(states, batch)
            if head.needed <= set(batch.labels):
                losses |= {f"{name}/{part}": value for part, value in head.loss(predictions[name], batch).items()}
        loss = torch.stack(list(losses.values())).sum() if losses else None
        return FM4NPPOutput(loss, states.last, states.blocks, states.embedding, losses, predictions)

    @torch.no_grad()
    def predict(self, batch: EventBatch) -> dict[str, dict[str, Tensor]]:
        """Every head's predictions: head name -> name -> (T, ...), in the order of the batch.

        What a head reads and the batch does not have, such as tracks, is what another head of the model predicts.

        Raises:
            ConfigurationError: if the model has no head.
            DataError: if a head reads something that is neither there nor predicted.
        """
        if not self.heads:
            raise ConfigurationError("the model has no head to predict with; add_head or load_head first")
        training = self.training
        self.eval()
        try:
            hidden = self.hidden_states(batch, blocks=self._reads_blocks())
            found: dict[str, dict[str, Tensor]] = {}
            for name, head in sorted(self._heads(), key=lambda named: len(named[1].reads)):
                own = self._completed(batch, head, found)
                found[name] = head.predict(head(hidden, own), own)
            return {name: found[name] for name in self.heads}
        finally:
            self.train(training)

    @torch.no_grad()
    def encode(
        self,
        events: Iterable[Event],
        *,
        outputs: Sequence[str] = ("last_hidden_state",),
        tokens_per_batch: int = 16384,
    ) -> Iterator[tuple[Event, dict[str, NDArray[np.float32]]]]:
        """What the frozen model makes of a stream of events, in bounded memory.

        Args:
            events: of the model's detectors.
            outputs: of "embedding" (N, W), "last_hidden_state" (N, W), "block_outputs" (N, num_layers, W) and
                "predictions" (N, output_size), the objective's.
            tokens_per_batch: spacepoints run at once, at most; a longer event runs alone.

        Yields:
            Each event with its outputs, in the order of the input; N is in the order of the event's spacepoints.

        Raises:
            ConfigurationError: for an unknown output.
            DataError: naming file and event, if an event cannot be read by the model.
        """
        unknown = set(outputs) - set(ENCODINGS)
        if unknown:
            raise ConfigurationError(f"no output {', '.join(sorted(unknown))}; there are {', '.join(ENCODINGS)}")
        processor = FM4NPPProcessor(self.config)
        for group, batch in processor.batches(events, tokens_per_batch):
            hidden = self.hidden_states(batch.to(self.device))
            found = {name: ENCODINGS[name](self, hidden) for name in outputs}
            yield from zip(group, processor.restore(found, batch), strict=True)

    def freeze_backbone(self) -> None:
        """Exclude everything but the heads from training."""
        for module in (self.embedding, self.backbone, self.output):
            module.requires_grad_(False)

    def freeze_layer_mix(self) -> None:
        """Hold the heads' mixes of block outputs at the plain mean, for training on the mean of all blocks alone.

        Raises:
            ConfigurationError: if a head has learned another mix.
        """
        for name, head in self._heads():
            for mix in _layer_mixes(head):
                if (mix.weight != mix.weight[0]).any():
                    raise ConfigurationError(
                        f"the head {name!r} has learned a mix of the blocks, which their mean cannot give; "
                        "store raw block outputs"
                    )
                mix.weight.requires_grad_(False)

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
        head = built_head(self.config, spec)
        self.heads[name] = head.to(next(self.backbone.parameters()).device)
        self.config = self.config.updated(heads={**self.config.heads, name: complete(heads.registry, spec)})
        return head

    def remove_head(self, name: str) -> None:
        """Detach a head."""
        del self.heads[name]
        self.config = self.config.updated(heads={key: spec for key, spec in self.config.heads.items() if key != name})

    # ---- detectors

    def add_detector(
        self, detector: str | Mapping[str, Any] | Detector, events: Iterable[Event] | None = None, *, seed: int = 0
    ) -> Self:
        """Make the model read the events of one more detector; what it computes of the others stays, to the bit.

        See `with_detector` for what is fitted and `changed_embedding` for the new weights. Processors that were made
        before do not know the detector: make another of `config`.

        Args:
            detector: registered name, YAML file, specification, or the detector itself.
            events: of it, that the serializer and the objective's constants are fitted to.
            seed: of the new weights that are random.

        Returns:
            This model.

        Raises:
            ConfigurationError: if the model knows it already or cannot take it; nothing is changed then.
            DataError: if it cannot be fitted to the events.
        """
        self._require_no_adapter("adding a detector")
        change(self, with_detector(self.config, detector, events), seed)
        return self

    def remove_detector(self, name: str) -> Self:
        """Forget a detector; what the model computes of the others stays, to the bit.

        Returns:
            This model.

        Raises:
            ConfigurationError: if the model does not know it, or knows no other; nothing is changed then.
        """
        self._require_no_adapter("removing a detector")
        change(self, without_detector(self.config, name))
        return self

    def require_labels(self, batch: EventBatch) -> None:
        """Check that a batch has the labels that every head is trained with.

        Raises:
            DataError: naming those that are missing.
        """
        for name, head in self._heads():
            missing = sorted(head.needed - set(batch.labels))
            if missing:
                raise DataError(
                    f"no label {', '.join(missing)}, which the head {name!r} is trained with",
                    remedy="convert the file together with its labels",
                )

    # ---- parts

    def project(self, hidden: HiddenStates) -> Tensor:
        """The objective's predictions, (T, output_size)."""
        return rowwise_linear(hidden.last, self.output.weight, self.output.bias)

    def num_parameters(self, *, trainable: bool = True) -> int:
        """Number of parameters; by default of the trainable ones."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable)

    def _heads(self) -> list[tuple[str, Head]]:
        return list(self.heads.items())  # type: ignore[arg-type]

    def _completed(self, batch: EventBatch, head: Head, found: Mapping[str, Mapping[str, Tensor]]) -> EventBatch:
        """The batch with what a head reads and only other heads know."""
        missing = sorted(set(head.reads) - set(batch.labels))
        predicted = {label: self._predicted(label, head, found) for label in missing}
        return EventBatch(batch, labels={**batch.labels, **predicted}) if predicted else batch

    def _predicted(self, label: str, reader: Head, found: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        """What the one head that is judged by a label has found."""
        sources = {
            name: values[prediction]
            for name, values in found.items()
            for prediction, judged_by in dict(self._heads())[name].labels.items()
            if judged_by == label
        }
        if len(sources) != 1:
            said = f"the heads {' and '.join(sources)} all predict" if sources else "no other head predicts"
            raise DataError(
                f"the head {type(reader).registered_name!r} needs {label}, which the events do not have and {said}",
                remedy="load one head that predicts it beside this one, or give labelled events",
            )
        return next(iter(sources.values()))

    def _stored_states(self, batch: EventBatch) -> HiddenStates:
        """The hidden states that a batch brings along, after a check that they fit this model and what it trains."""
        shapes = {name: tuple(values.shape) for name, values in batch.hidden.items()}
        mean = (batch.num_tokens, self.config.width)
        raw = (batch.num_tokens, self._num_blocks, self.config.width)
        if set(shapes) != {"embedding", "blocks", "last"} or not (
            shapes["embedding"] == shapes["last"] == mean and shapes["blocks"] in (raw, mean)
        ):
            raise ConfigurationError(f"stored hidden states {shapes} are not of this model; compute them again")
        if torch.is_grad_enabled():
            self._check_frozen(mixed=shapes["blocks"] == mean)
        return HiddenStates.of_stored(batch.hidden, self._num_blocks)

    def _check_frozen(self, *, mixed: bool) -> None:
        """Refuse to train what hidden states that were stored leave out."""
        if any(p.requires_grad for module in (self.embedding, self.backbone) for p in module.parameters()):
            raise ConfigurationError("stored hidden states leave the backbone untrained; freeze it, or do without them")
        mixes = [mix for _, head in self._heads() for mix in _layer_mixes(head)]
        if mixed and any(mix.weight.requires_grad for mix in mixes):
            raise ConfigurationError(
                "the stored mean of the blocks teaches no mix of them; freeze_layer_mix, or store raw block outputs"
            )

    @property
    def _num_blocks(self) -> int:
        return int(self.config.backbone["num_layers"])

    def _reads_blocks(self) -> bool:
        return any("blocks" in head.config.inputs for _, head in self._heads())


def _layer_mixes(head: nn.Module) -> list[LayerMix]:
    return [module for module in head.modules() if isinstance(module, LayerMix)]
