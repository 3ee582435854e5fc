"""One function, several backends: which one runs, that it is the right one, and that another is refused."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from fm4npp import backbones
from fm4npp.backbones import kernels
from fm4npp.backbones.norms import GatedRMSNorm
from fm4npp.backbones.stack import StackBackbone
from fm4npp.errors import BackendError, CheckpointError
from fm4npp.golden import GOLDEN_NAME
from fm4npp.modeling import FM4NPPModel
from fm4npp.testing import agreement, reference
from tests import kernels_double
from tests.conftest import rehash, tiny_config

NAMES = list(reference.MIXERS)


@pytest.fixture
def install(monkeypatch):
    """Put stand-ins in the place of the compiled kernels, on the CPU."""

    def put(found):
        monkeypatch.setattr(kernels, "find", lambda: found)
        monkeypatch.setattr(kernels, "unusable", lambda device: None)

    return put


def tiny_model(name="mamba2", **named):
    torch.manual_seed(0)
    return FM4NPPModel(tiny_config(backbone={"type": name, "width": 32, "num_layers": 2, "state_size": 8}), **named)


def test_every_backbone_has_a_reference():
    assert set(backbones.names()) == set(reference.MIXERS)


@pytest.fixture
def by_torch(monkeypatch):
    """Without the compiled loops, so that what is broken below is what runs."""
    monkeypatch.setenv("FM4NPP_COMPILED", "0")


@pytest.mark.parametrize("shape", agreement.LENGTHS)
@pytest.mark.parametrize("precision", agreement.LIMITS)
@pytest.mark.parametrize(("name", "loops"), [("mamba1", "1"), ("mamba2", "0"), ("mamba2", "1")])
def test_golden_table(name, loops, precision, shape, monkeypatch):
    monkeypatch.setenv("FM4NPP_COMPILED", loops)
    found = agreement.compare(name, shape, precision)
    assert found.agrees, found
    assert found.backend == "torch"


@pytest.mark.parametrize("shape", ["1", "Q + 1", "packed"])
@pytest.mark.parametrize("name", NAMES)
def test_kernels_run_on_packed_events(name, shape, install):
    install(kernels_double.right())
    found = agreement.compare(name, shape, backend="mamba-ssm")
    assert found.backend == "mamba-ssm"
    assert found.error <= 5e-6
    assert found.gradient_error <= 1e-4


@pytest.mark.parametrize("wrong", [kernels_double.without_C, kernels_double.leaking, kernels_double.failing])
@pytest.mark.parametrize("name", NAMES)
def test_wrong_kernels_are_not_used(name, wrong, install):
    install(wrong())
    module = agreement.make(name)
    with pytest.warns(UserWarning, match="mamba-ssm is not used"):
        assert module.running_backend(torch.device("cpu")) == "torch"
    module.backend = "mamba-ssm"
    with pytest.raises(BackendError, match="'torch' runs everywhere"):
        module(torch.randn(5, 32), torch.tensor([0, 5]))


def test_backends_that_are_not_there():
    model = tiny_model(backend="mamba-ssm")
    with pytest.raises(BackendError, match=r"not installed|need a CUDA device|cannot be imported"):
        _ = model.backend
    assert tiny_model().backend == "torch"


def test_a_package_whose_own_init_fails_still_gives_its_modules(tmp_path, monkeypatch):
    files = {
        "mamba_ssm/__init__.py": "raise ImportError('cannot import name GreedySearchDecoderOnlyOutput')",
        "mamba_ssm/ops/__init__.py": "",
        "mamba_ssm/ops/triton/__init__.py": "",
        "mamba_ssm/ops/triton/ssd_combined.py": "def mamba_chunk_scan_combined(): pass",
        "mamba_ssm/ops/selective_scan_interface.py": "def selective_scan_fn(): pass",
        "causal_conv1d/__init__.py": "def causal_conv1d_fn(): pass",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(kernels, "versions", lambda: "of a test")
    before = set(kernels.sys.modules)
    try:
        found = kernels.find.__wrapped__()
        assert isinstance(found, kernels.Kernels)
        assert found.mamba_chunk_scan_combined.__module__ == "mamba_ssm.ops.triton.ssd_combined"
        assert "mamba_ssm" not in kernels.sys.modules
        (tmp_path / "mamba_ssm/__init__.py").write_text("")
        (tmp_path / "mamba_ssm/ops/selective_scan_interface.py").write_text("import selective_scan_cuda")
        for name in set(kernels.sys.modules) - before:
            del kernels.sys.modules[name]
        assert "No module named 'selective_scan_cuda'" in kernels.find.__wrapped__()
        (tmp_path / "mamba_ssm/ops/selective_scan_interface.py").write_text("def selective_scan_fn(): pass  # longer")
        (tmp_path / "causal_conv1d/__init__.py").write_text("import causal_conv1d_cuda")
        for name in set(kernels.sys.modules) - before:
            del kernels.sys.modules[name]
        assert "cannot be imported (ModuleNotFoundError: No module named 'causal_conv1d_cuda')" in (
            kernels.find.__wrapped__()
        )
    finally:
        for name in set(kernels.sys.modules) - before:
            del kernels.sys.modules[name]


# ---- checkpoints


def drop_C(monkeypatch):
    def scan(x, dt, A, B, C, D):
        return recurrence(x, dt, A, B, torch.ones_like(C), D)

    recurrence = reference.recurrence
    monkeypatch.setattr(reference, "recurrence", scan)
    _run_as_written(monkeypatch, "mamba2_mixer")


def gate_after_the_norm(monkeypatch):
    def forward(self, values, gate):
        scale = torch.rsqrt(values.square().mean(-1, keepdim=True) + self.eps)
        return values * scale * self.weight * torch.nn.functional.silu(gate)

    monkeypatch.setattr(GatedRMSNorm, "forward", forward)


def no_gate(monkeypatch):
    def forward(self, values, gate):
        return values * torch.rsqrt(values.square().mean(-1, keepdim=True) + self.eps) * self.weight

    monkeypatch.setattr(GatedRMSNorm, "forward", forward)


def forget_the_events(monkeypatch):
    own = StackBackbone._layout
    monkeypatch.setattr(StackBackbone, "_layout", lambda self, offsets, name: own(self, offsets[[0, -1]], name))


def _run_as_written(monkeypatch, name):
    """Let the model itself run the (broken) recurrence."""
    mixer = getattr(reference, name)

    def forward(self, embedding, offsets):
        updates, last = reference.backbone(self, embedding, offsets)
        return tuple(update.float() for update in updates), last.float()

    monkeypatch.setattr(reference, "MIXERS", {"mamba2": mixer})
    monkeypatch.setattr(StackBackbone, "forward", forward)


@pytest.mark.parametrize("breaking", [drop_C, gate_after_the_norm, no_gate, forget_the_events])
def test_loading_refuses_another_function(breaking, tmp_path, monkeypatch, by_torch):
    tiny_model().save_pretrained(tmp_path)
    assert FM4NPPModel.from_pretrained(tmp_path).verify(tmp_path) <= 1e-6
    breaking(monkeypatch)
    with pytest.raises(BackendError, match="computes another function"):
        FM4NPPModel.from_pretrained(tmp_path)
    assert FM4NPPModel.from_pretrained(tmp_path, verify=False).config.width == 32


def test_loading_verifies_the_kernels(tmp_path, install):
    tiny_model().save_pretrained(tmp_path)
    install(kernels_double.right())
    model = FM4NPPModel.from_pretrained(tmp_path, backend="mamba-ssm")
    assert model.backend == "mamba-ssm"
    assert model.verify(tmp_path) <= 1e-5
    install(kernels_double.without_C())
    with pytest.raises(BackendError, match="mamba-ssm"):
        FM4NPPModel.from_pretrained(tmp_path, backend="mamba-ssm")


def test_what_wrote_a_checkpoint_is_recorded(tmp_path, install):
    install(kernels_double.right())
    tiny_model().save_pretrained(tmp_path)
    from safetensors import safe_open

    with safe_open(tmp_path / GOLDEN_NAME, framework="pt") as handle:
        assert handle.metadata() == {"backend": "mamba-ssm", "torch": torch.__version__}


def test_golden_outputs_that_are_gone_or_damaged(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / GOLDEN_NAME)
    save_file({name: value for name, value in tensors.items() if name != "input.offsets"}, tmp_path / GOLDEN_NAME)
    rehash(tmp_path)
    with pytest.raises(CheckpointError, match="lacks offsets"):
        FM4NPPModel.from_pretrained(tmp_path)
    save_file(tensors | {"output.block_mean": tensors["output.block_mean"][:, :5].contiguous()}, tmp_path / GOLDEN_NAME)
    rehash(tmp_path)
    with pytest.raises(CheckpointError, match="does not belong"):
        FM4NPPModel.from_pretrained(tmp_path)
    (tmp_path / GOLDEN_NAME).write_bytes(b"short")
    rehash(tmp_path)
    with pytest.raises(CheckpointError, match="damaged"):
        FM4NPPModel.from_pretrained(tmp_path)
    (tmp_path / GOLDEN_NAME).unlink()
    with pytest.raises(CheckpointError, match="golden.safetensors: cannot be read"):
        FM4NPPModel.from_pretrained(tmp_path)
    rehash(tmp_path)
    with pytest.warns(UserWarning, match="could not be verified"):
        FM4NPPModel.from_pretrained(tmp_path)


def test_other_weights_are_refused(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "backbone.layers.1.mixer.out_proj.weight"
    save_file(weights | {name: weights[name] * 1.01}, tmp_path / "model.safetensors")
    rehash(tmp_path)
    with pytest.raises(BackendError):
        FM4NPPModel.from_pretrained(tmp_path)


def test_a_model_that_is_not_finite_is_not_saved(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.output.weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="not finite"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


# ---- streams of events, and long ones


def test_encode_gives_what_the_model_computes(events, processor):
    torch.manual_seed(0)
    model = FM4NPPModel(processor.config).eval()
    names = ("embedding", "last_hidden_state", "block_outputs", "predictions")
    batch = processor(events, targets=False)
    hidden = model.hidden_states(batch)
    whole = {"embedding": hidden.embedding, "last_hidden_state": hidden.last}
    whole |= {"block_outputs": torch.stack(hidden.blocks, 1), "predictions": model.project(hidden)}
    expected = processor.restore(whole, batch)
    for budget in (1, 200, 10**6):
        found = list(model.encode(iter(events), outputs=names, tokens_per_batch=budget))
        assert [event for event, _ in found] == list(events)
        for (event, values), right in zip(found, expected, strict=True):
            assert set(values) == set(names)
            for name in names:
                assert len(values[name]) == len(event)
                assert (values[name] == right[name]).all()


def test_encode_takes_known_outputs_only(processor, events):
    model = FM4NPPModel(processor.config)
    with pytest.raises(Exception, match="no output attention"):
        next(model.encode(events, outputs=["attention"]))


def test_encode_is_lazy(processor, events):
    def endless():
        while True:
            yield from events

    stream = FM4NPPModel(processor.config).encode(endless(), tokens_per_batch=100)
    assert len(next(stream)[1]["last_hidden_state"]) == len(events[0])


@pytest.mark.parametrize("name", NAMES)
def test_checkpointed_gradients_are_the_same(name):
    module = agreement.make(name)
    rows, offsets = torch.randn(150, 32), torch.tensor([0, 70, 150])
    found = []
    for checkpointing in (False, True):
        module.checkpoint_gradients = checkpointing
        module.zero_grad()
        updates, last = module(rows, offsets)
        (last.square().mean() + updates[0].mean()).backward()
        found.append([parameter.grad.clone() for parameter in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_checkpointing_keeps_less():
    def kept(checkpointing):
        module = agreement.make("mamba2")
        module.checkpoint_gradients = checkpointing
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            module(torch.randn(500, 32, requires_grad=True), torch.tensor([0, 500]))
        return sum(sizes)

    assert kept(True) < 0.3 * kept(False)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_backbone_computes_the_same(name, by_torch):
    module = agreement.make(name)
    rows, offsets = torch.randn(150, 32), torch.tensor([0, 70, 150])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(module, backend="eager")
        found = compiled(rows, offsets)
    assert torch.equal(found[1], module(rows, offsets)[1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "state_size"), [(64, 4), (128, 8), (64, 32)])
def test_memory_for_training_is_what_the_sizes_say(name, width, state_size, by_torch):
    cls = backbones.get(name)
    module = cls(cls.Config(width=width, num_layers=3, state_size=state_size))
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    rows = torch.randn(2048, width, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        updates, last = module(rows, torch.tensor([0, 1000, 2048]))
    for output in (*updates, last):
        pack(output)
    numbers = sum(storage.nbytes() for place, storage in kept.items() if place not in own) / 4
    assert numbers / len(rows) == pytest.approx(module.config.kept_per_token, rel=0.06)


def test_an_agreement_is_json():
    found = agreement.compare("mamba2", "packed")
    assert json.dumps(found.__dict__)
