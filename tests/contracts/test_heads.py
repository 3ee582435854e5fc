import pytest
import torch
from torch import nn

from fm4npp import heads
from fm4npp.batch import pad, unpad
from fm4npp.heads.point_classifier import NoiseTagger, ParticleIdentifier, PointClassifier
from fm4npp.testing.heads import check_head

REQUIRED_FIELDS = {
    "point-classification": {"label": "kind", "num_classes": 3},
    "point-regression": {"mean": [0.5], "std": [2.0]},
    "track-regression": {"quantities": ["particle.log_pt", "particle.eta"], "mean": [0.5, 0], "std": [2.0, 1.0]},
}
"""Configuration of heads that have fields without a default."""


@pytest.mark.parametrize("name", heads.names())
def test_registered_heads_keep_the_contract(name):
    check_head(heads.get(name), **REQUIRED_FIELDS.get(name, {}))


@pytest.mark.parametrize("inputs", [("embedding",), ("coordinates",), ("blocks", "embedding", "coordinates")])
@pytest.mark.parametrize("name", heads.names())
def test_registered_heads_keep_the_contract_with_other_inputs(name, inputs):
    check_head(heads.get(name), inputs=inputs, **REQUIRED_FIELDS.get(name, {}))


class SeesPadding(NoiseTagger):
    def forward(self, hidden, batch):
        logits, mask = pad(super().forward(hidden, batch)["logits"], batch.offsets)
        return {"logits": unpad(logits - logits.mean(dim=1, keepdim=True), mask)}


class SeesOtherEvents(NoiseTagger):
    def forward(self, hidden, batch):
        logits = super().forward(hidden, batch)["logits"]
        return {"logits": logits + logits.sum(dim=0)}


class SeesPosition(NoiseTagger):
    def predict(self, outputs, batch):
        start = torch.repeat_interleave(batch.offsets[:-1], batch.offsets.diff())
        return {"is_noise": torch.arange(len(outputs["logits"])) - start}


class MeanOverSpacepoints(NoiseTagger):
    def loss(self, outputs, batch):
        return {"loss": outputs["logits"].square().sum() / max(batch.num_tokens, 1)}


class NotANumberWhenEmpty(NoiseTagger):
    def loss(self, outputs, batch):
        return {"loss": outputs["logits"].mean()}


class UnusedParameter(NoiseTagger):
    def __init__(self, config, context):
        super().__init__(config, context)
        self.unused = nn.Parameter(torch.zeros(1))


class HiddenState(NoiseTagger):
    def __init__(self, config, context):
        super().__init__(config, context)
        self.shift = torch.randn(2)

    def predict(self, outputs, batch):
        return {"is_noise": (outputs["logits"] + self.shift).softmax(1)}


class OneRowAnEvent(NoiseTagger):
    def predict(self, outputs, batch):
        return {"is_noise": batch.offsets[1:]}


class OtherName(NoiseTagger):
    def predict(self, outputs, batch):
        return {"noise": outputs["logits"].argmax(1)}


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (SeesPadding, "alone than in a batch"),
        (SeesOtherEvents, "alone than in a batch"),
        (SeesPosition, "depend on the order"),
        (MeanOverSpacepoints, "mean over its events"),
        (NotANumberWhenEmpty, "is nan"),
        (UnusedParameter, "unused gets no gradient"),
        (HiddenState, "after saving and loading"),
        (OneRowAnEvent, "one row for each"),
        (OtherName, "labels names the prediction"),
        (PointClassifier, "label: Field required"),
    ],
)
def test_the_check_finds(cls, message):
    with pytest.raises(AssertionError, match=message):
        check_head(cls)


def test_the_check_passes_a_subclass():
    class Thin(ParticleIdentifier):
        pass

    check_head(Thin, width=32, num_layers=2)
