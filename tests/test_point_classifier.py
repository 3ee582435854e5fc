import math

import pytest
import torch
from pydantic import ValidationError

from fm4npp.batch import EventBatch
from fm4npp.errors import DataError
from fm4npp.event import PARTICLE_CLASSES
from fm4npp.heads import HeadContext, registry
from fm4npp.heads.labels import mean_over_events
from fm4npp.heads.point_classifier import PointClassifier, PointClassifierConfig
from fm4npp.testing.heads import CONTEXT, make_sample, select

SMALL = PointClassifierConfig(label="kind", num_classes=3, width=16, num_heads=2)


def classifier(**fields):
    torch.manual_seed(0)
    return PointClassifier(SMALL.model_copy(update=fields), CONTEXT).eval()


@pytest.mark.parametrize("width", [256, 512, 1024, 1536])
@pytest.mark.parametrize(("name", "constant"), [("particle-id", 331_793), ("noise-tagging", 331_793 - 3 * 257)])
def test_number_of_parameters(name, constant, width):
    cls = registry.get(name)
    head = cls(cls.Config(), HeadContext(width, num_blocks=12, num_features=1))
    assert sum(parameter.numel() for parameter in head.parameters()) == constant + 259 * width


def test_particle_classes():
    config = registry.get("particle-id").Config()
    assert (config.label, config.num_classes, config.class_names) == ("particle_class", 5, PARTICLE_CLASSES)


def test_every_spacepoint_attends_to_its_whole_event():
    sample = make_sample((6, 5), ["kind"])
    head = classifier()
    sample.hidden.blocks[0].requires_grad_()
    logits = head(*sample)["logits"]
    for hit in range(11):
        (gradient,) = torch.autograd.grad(logits[hit].square().sum(), sample.hidden.blocks[0], retain_graph=True)
        seen = gradient.abs().sum(dim=1) > 0
        assert seen.tolist() == [(hit < 6) == (other < 6) for other in range(11)]


def test_without_layers_a_spacepoint_is_classified_by_itself():
    sample = make_sample((6,), ["kind"])
    head = classifier(num_layers=0)
    together = head(*sample)["logits"]
    alone = head(*select(sample, torch.tensor([4]), torch.tensor([0, 1])))["logits"]
    torch.testing.assert_close(alone[0], together[4])


def test_loss_is_the_mean_over_events_of_their_labelled_spacepoints():
    labels = [0, 2, -1, 1, 1, -1, -1]
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    batch = EventBatch(offsets=torch.tensor([0, 4, 4, 5, 7]), labels={"kind": torch.tensor(labels)})
    entropy = [
        math.log(sum(map(math.exp, row))) - row[max(label, 0)]
        for row, label in zip(logits.tolist(), labels, strict=True)
    ]
    expected = ((entropy[0] + entropy[1] + entropy[3]) / 3 + 0 + entropy[4] + 0) / 4
    assert classifier().loss({"logits": logits}, batch)["cross_entropy"].item() == pytest.approx(expected, rel=1e-6)


def test_mean_over_no_events_is_zero():
    nothing = torch.zeros(0)
    assert mean_over_events(nothing, nothing.bool(), torch.tensor([0])).item() == 0


def test_unlabelled_spacepoints_have_no_gradient():
    logits = torch.randn(3, 3, requires_grad=True)
    batch = EventBatch(offsets=torch.tensor([0, 3]), labels={"kind": torch.tensor([1, -1, 0])})
    classifier().loss({"logits": logits}, batch)["cross_entropy"].backward()
    assert (logits.grad.abs().sum(dim=1) > 0).tolist() == [True, False, True]


def test_a_class_that_the_head_does_not_have_is_explained():
    batch = EventBatch(offsets=torch.tensor([0, 2]), labels={"kind": torch.tensor([0, 3])})
    with pytest.raises(DataError, match="has the class 3, the head only 0 to 2; raise num_classes"):
        classifier().loss({"logits": torch.zeros(2, 3)}, batch)


def test_missing_label_is_explained():
    with pytest.raises(DataError, match="no label 'kind'"):
        classifier().loss({"logits": torch.zeros(0, 3)}, EventBatch(offsets=torch.tensor([0, 0]), labels={}))


def test_boolean_labels():
    cls = registry.get("noise-tagging")
    sample = make_sample((5,), ["is_noise"])
    head = cls(cls.Config(width=16), CONTEXT)
    assert sample.batch.labels["is_noise"].dtype == torch.bool
    outputs = head(*sample)
    expected = torch.nn.functional.cross_entropy(outputs["logits"], sample.batch.labels["is_noise"].long())
    torch.testing.assert_close(head.loss(outputs, sample.batch)["cross_entropy"], expected)


def test_prediction_is_the_likeliest_class():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    outcome = classifier().predict({"logits": logits}, EventBatch(offsets=torch.tensor([0, 2]), labels={}))
    assert outcome["kind"].tolist() == [1, 0]
    assert outcome["kind"].dtype == torch.int64
    torch.testing.assert_close(outcome["kind_probability"], torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True))


@pytest.mark.parametrize(
    "fields", [{"class_names": ("a", "b")}, {"width": 18, "num_heads": 4}, {"num_layers": 5}, {"num_classes": 1}]
)
def test_wrong_configuration_is_refused(fields):
    with pytest.raises(ValidationError):
        PointClassifierConfig(**{"label": "kind", "num_classes": 3, **fields})


def test_mixed_precision_loss_is_finite_and_single():
    sample = make_sample((7, 0, 2), ["kind"])
    head = classifier()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head.loss(head(*sample), sample.batch)["cross_entropy"]
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_learns_a_toy_label():
    sample = make_sample((60, 40), ["kind"])
    sample.batch.labels["kind"] = sample.hidden.blocks[1][:, 0].sign().long().clamp(min=0)
    head = classifier().train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        head.loss(head(*sample), sample.batch)["cross_entropy"].backward()
        optimizer.step()
    found = head.predict(head(*sample), sample.batch)["kind"]
    assert (found == sample.batch.labels["kind"]).float().mean() > 0.95
