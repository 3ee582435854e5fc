"""Several processes: how a model is spread over them, and its weights and the optimizer's state as whole tensors.

Data parallelism (DDP) keeps a copy of the model on every process. Fully sharded data parallelism (FSDP2) keeps a part
of every parameter on each, the rows of its first axis, and gathers a block's weights while it runs. Both average the
gradients, so a loss that is a share of the whole batch is multiplied by the number of processes before `backward`.

What is written to disk does not know how the model was spread: it holds whole tensors under the model's own names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from fm4npp.backbones.stack import Block
from fm4npp.errors import CheckpointError, ConfigurationError

OptimizerT = TypeVar("OptimizerT", bound=torch.optim.Optimizer)
SHARDING_VARIABLE = "ACCELERATE_USE_FSDP"
VERSION_VARIABLE = "FSDP_VERSION"
"""What `accelerate launch --use_fsdp --fsdp_version 2` sets."""


# ---- spreading a model


def sharding_asked(configured: bool = False) -> bool:
    """Whether the model is to be cut over the processes.

    Args:
        configured: what the run's configuration says.

    Returns:
        True if the configuration or `accelerate launch --use_fsdp` asks for it.

    Raises:
        ConfigurationError: if `accelerate launch` asks for the first version of FSDP.
    """
    launched = os.environ.get(SHARDING_VARIABLE, "").lower() in ("1", "true", "yes")
    if launched and os.environ.get(VERSION_VARIABLE, "1") != "2":
        raise ConfigurationError("accelerate launch --use_fsdp: only version 2 is supported; add --fsdp_version 2")
    return configured or launched


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: OptimizerT, *, sharded: bool = False
) -> tuple[nn.Module, OptimizerT]:
    """Put a model on this process's device and spread it over the processes; every process starts from the first's.

    Accelerate does not shard on CPUs, so it is done here, the same way on every device.

    Args:
        accelerator: of this run.
        model: its blocks are gathered one at a time, everything else for the whole forward pass.
        optimizer: of the model's parameters, before its first step; it is changed in place.
        sharded: cut the parameters over the processes; otherwise each has a copy, and one process trains alone.

    Returns:
        What to call in place of the model, and the optimizer.

    Raises:
        ConfigurationError: if learning rates of single rows are set, and the parameters are to be cut.
    """
    if not sharded:
        prepared = accelerator.prepare_model(model)
        if isinstance(prepared, DistributedDataParallel):
            # The buffers are constant tables; sending them would make every process validate equally many batches.
            prepared.broadcast_buffers = False
        return prepared, optimizer
    if accelerator.num_processes == 1:
        raise ConfigurationError("sharding needs several processes: start them with accelerate launch or torchrun")
    if any(group.get("rows") for group in optimizer.param_groups):
        raise ConfigurationError(
            "parameterization mup: it sets learning rates of single rows, which sharding cuts apart; "
            "switch sharding off, or use the standard parameterization"
        )
    names = {parameter: name for name, parameter in model.named_parameters()}
    shard(model.to(accelerator.device))
    own = dict(model.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [own[names[parameter]] for parameter in group["params"]]
    return model, optimizer


def shard(model: nn.Module) -> None:
    """Cut a model's parameters over all processes, in place, as the first process has them.

    Args:
        model: on this process's device. Its `Block`s are units of their own, the rest of it is one.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        torch.distributed.broadcast(tensor.detach(), src=0)
    device = next(model.parameters()).device.type
    mesh = torch.distributed.device_mesh.init_device_mesh(device, (torch.distributed.get_world_size(),))
    for module in list(model.modules()):
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    # Cut again after every forward pass: a model left whole by a validation would show other parameters than those that
    # the optimizer and an average of the weights know.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of DDP and `torch.compile`; a sharded one has none."""
    while True:
        inner = model.module if isinstance(model, DistributedDataParallel) else getattr(model, "_orig_mod", model)
        if inner is model:
            return model
        model = inner


def freeze_unread(model: nn.Module, loss: Tensor) -> list[str]:
    """Exclude from training what a loss does not depend on, before `prepare`: DDP waits for every gradient it expects.

    Fully trained for a head alone, a model has such weights: the objective's projection and the last norm.

    Args:
        model: not prepared yet.
        loss: of one batch, the same on every process; its graph is used up.

    Returns:
        The parameters that were frozen.

    Raises:
        ConfigurationError: if the loss depends on no parameter.
    """
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not loss.requires_grad:
        raise ConfigurationError("the loss depends on no weight that is trained; freeze less")
    gradients = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
    unread = [name for name, gradient in zip(own, gradients, strict=True) if gradient is None]
    for name in unread:
        own[name].requires_grad_(False)
    return unread


# ---- running it


@contextmanager
def no_sync(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Keep the gradients of a backward pass on this process: for all batches of a step but the last.

    Args:
        model: as `prepare` returned it.
        enabled: False changes nothing, for the last batch.
    """
    if enabled and isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    elif enabled and isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
    else:
        yield


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Scale the gradients down to a norm, as one vector over all parameters and processes.

    Args:
        model: as `prepare` returned it, after the backward pass of the step's last batch.
        max_norm: the norm they are scaled down to.

    Returns:
        The norm before, the same on every process; NaN or infinite if one gradient is.
    """
    return float(_whole(nn.utils.clip_grad_norm_(model.parameters(), max_norm)))


@contextmanager
def gathered(model: nn.Module) -> Iterator[nn.Module]:
    """The whole model on every process, without a word between them: for validation on unequal numbers of batches.

    Every process enters and leaves; inside, each runs what it likes, its methods called directly included. The
    weights must not be changed or saved in there.

    Args:
        model: as `prepare` returned it.

    Yields:
        The model without wrappers.
    """
    units = [module for module in unwrapped(model).modules() if isinstance(module, FSDPModule)]
    try:
        for unit in units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        yield unwrapped(model)
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(True, recurse=False)


# ---- whole tensors


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """A whole tensor on the CPU; every process calls it.

    Args:
        tensor: a parameter, a state of the optimizer or an average of weights, cut over processes or not.

    Returns:
        Its values, detached. One that is whole and on the CPU already is not copied.
    """
    return _whole(tensor.detach()).cpu()


def fill(target: Tensor, values: Tensor) -> None:
    """Put a whole tensor's values into one that may be cut over processes; every process calls it.

    Args:
        target: changed in place.
        values: of the same shape and type; those of the first process are taken if the target is cut.
    """
    target = target.detach()
    values = values.to(target.device)
    if isinstance(target, DTensor):
        values = distribute_tensor(values, target.device_mesh, target.placements)
    target.copy_(values)


def trainable(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """The weights that are trained, whole; every process calls it.

    Args:
        model: as `prepare` returned it.
        keep: False takes part and returns nothing, for processes that do not write.

    Returns:
        Parameter -> its values on the CPU.
    """
    found = ((name, full(parameter)) for name, parameter in _trained(model).items())
    return dict(found) if keep else _discard(found)


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """What an optimizer remembers of its parameters, whole; every process calls it.

    Args:
        optimizer: of the model's parameters, wrapped by Accelerate or not.
        model: as `prepare` returned it.
        keep: False takes part and returns nothing, for processes that do not write.

    Returns:
        "<parameter>.exp_avg", "<parameter>.exp_avg_sq", "<parameter>.step" -> their values on the CPU; nothing for a
        parameter that has not been stepped yet.

    Raises:
        ValueError: if it remembers parameters that the model does not have or does not train.
        TypeError: if it remembers anything but tensors.
    """
    own = _trained(model)
    if not _bare(optimizer).state.keys() <= set(own.values()):
        raise ValueError("the optimizer remembers weights that the model does not train")

    def states() -> Iterator[tuple[str, Tensor]]:
        for name, parameter in own.items():
            for key, value in _bare(optimizer).state.get(parameter, {}).items():
                if not isinstance(value, Tensor):
                    raise TypeError(f"{type(_bare(optimizer)).__name__} remembers a {type(value).__name__} as {key}")
                yield f"{name}.{key}", full(value)

    return dict(states()) if keep else _discard(states())


def load_trainable(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `trainable` returned; every process calls it.

    Args:
        model: before or after `prepare`.
        tensors: parameter -> its values, for every parameter that is trained.

    Raises:
        CheckpointError: naming a weight that is missing, too many, or unlike the model's; nothing is changed then.
    """
    own = _trained(model)
    _check_names(own, tensors)
    for name, parameter in own.items():
        _check_shape(name, tensors[name], parameter)
    for name, parameter in own.items():
        fill(parameter, tensors[name])


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_state` returned; every process calls it.

    Args:
        optimizer: of the model's parameters, wrapped by Accelerate or not; what it remembers is replaced.
        model: before or after `prepare`, as it is when the optimizer steps.
        tensors: "<parameter>.<key>" -> values, for any of the parameters that are trained.

    Raises:
        CheckpointError: naming a state that belongs to no parameter or is unlike it; nothing is changed then.
    """
    own = _trained(model)
    states: dict[str, dict[str, Tensor]] = {}
    for name, values in tensors.items():
        owner, _, key = name.rpartition(".")
        if owner not in own:
            raise CheckpointError(f"the optimizer's state {name!r} belongs to no parameter that is trained")
        if values.ndim:
            _check_shape(name, values, own[owner])
        states.setdefault(owner, {})[key] = values
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    state = _bare(optimizer).state
    state.clear()
    for owner, remembered in states.items():
        parameter = own[owner]
        state[parameter] = {
            key: _like(parameter, values) if values.ndim else _counter(values, parameter, groups[id(parameter)])
            for key, values in remembered.items()
        }


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, under the model's own names."""
    return {
        name.replace("_orig_mod.", ""): parameter
        for name, parameter in unwrapped(model).named_parameters()
        if parameter.requires_grad
    }


def _bare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer inside Accelerate's wrapper."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner


def _like(parameter: Tensor, values: Tensor) -> Tensor:
    """Whole values in the parameter's place: on its device, and cut as it is."""
    place = torch.empty_like(parameter.detach(), dtype=values.dtype)
    fill(place, values)
    return place


def _counter(values: Tensor, parameter: Tensor, group: Mapping[str, Any]) -> Tensor:
    """A count of steps, which PyTorch keeps on the CPU but for its fused and capturable optimizers."""
    on_device = group.get("fused") or group.get("capturable")
    return values.to(parameter.device, copy=True) if on_device else values.clone()


def _discard(found: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
    for _ in found:
        pass
    return {}


def _check_names(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for problem, names in (("lacks the", own.keys() - tensors.keys()), ("has unknown", tensors.keys() - own.keys())):
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"the checkpoint {problem} trained weights {min(names)!r}{others}")


def _check_shape(name: str, values: Tensor, parameter: Tensor) -> None:
    found, wanted = ((tuple(tensor.shape), tensor.dtype) for tensor in (values, parameter))
    if found != wanted:
        raise CheckpointError(f"the checkpoint's {name!r} is {found[0]} of {found[1]}, not {wanted[0]} of {wanted[1]}")
