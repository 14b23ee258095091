"""Refuse wrapped models, on which a supernet cannot be built or trained."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from anywidth.core.errors import AnalysisError, TrainingError

__all__ = ["check_plain", "check_unsharded", "check_unwrapped", "local_norms"]

_LIBRARIES = ("torch", "deepspeed", "fairscale", "apex", "horovod", "colossalai", "megatron")
_PARALLEL = {
    "DataParallel": "module", "DistributedDataParallel": "module", "FullyShardedDataParallel": "module",
    "ShardedDataParallel": "module", "DeepSpeedEngine": "module", "PipelineEngine": "module", "PipelineModule": "",
    "FSDPModule": "", "GeminiDDP": "module",
}  # fmt: skip
"""Names of classes that distribute a network over processes or devices, with the attribute of the plain module."""

_WAY = (
    "train with sandwich_step(net, inputs, targets), and call anywidth.training.sync_gradients(net.parameters()) "
    "before optimizer.step()"
)


def check_plain(model: nn.Module) -> None:
    """Raise if a model or a module in it is wrapped for several processes, sharded or compiled.

    Raises:
        AnalysisError: it is; the message names the module and the plain one to use instead.

    >>> check_plain(nn.DataParallel(nn.Linear(2, 2)))
    Traceback (most recent call last):
    anywidth.core.errors.AnalysisError: the model is wrapped by DataParallel, which subnets cannot run through...
    """
    for path, module in model.named_modules():
        where = f"module {path!r}" if path else "the model"
        wrapper = _wrapper(module)
        if wrapper is not None:
            plain = f" ({_access(path, _PARALLEL[wrapper])})" if _PARALLEL[wrapper] else " before it is sharded"
            raise AnalysisError(
                f"{where} is wrapped by {wrapper}, which subnets cannot run through. Build the Supernet on the plain "
                f"module{plain}, {_WAY}"
            )
        if _is_from(module, "OptimizedModule"):
            raise AnalysisError(
                f"{where} is wrapped by torch.compile, whose code belongs to the full network. Build the Supernet on "
                f"the plain module ({_access(path, '_orig_mod')}); to train compiled subnets, give "
                "sandwich_step(..., execution=Execution(wrap=CompiledSubnets()))"
            )
    check_unsharded(model, error=AnalysisError)


def check_unsharded(model: nn.Module, error: type[AnalysisError | TrainingError] = TrainingError) -> None:
    """Raise if parameters of a model are sharded over several processes.

    Raises:
        TrainingError: they are (or raises `error` instead); the message names the parameter.
    """
    for name, parameter in model.named_parameters():
        kinds = [cls.__name__ for cls in type(parameter).__mro__]
        kind = next((kind for kind in kinds if kind in ("DTensor", "FlatParameter")), "")
        if hasattr(parameter, "ds_id"):
            kind = "a ZeRO-3 parameter of DeepSpeed"
        if kind:
            raise error(f"{name} is sharded ({kind}), so that subnets cannot share it. {_unsharded_way()}")
    if getattr(model, "_is_fsdp_managed_module", False):
        raise error(f"{type(model).__name__} is sharded by FSDP, so that subnets cannot share it. {_unsharded_way()}")


def check_unwrapped(model: nn.Module) -> None:
    """Raise if this module was wrapped for several processes.

    The wrapper synchronizes backward passes of its own forward, which subnets do not use. A module does not know its
    wrappers, so this searches all objects: call it once.

    Raises:
        TrainingError: it was; the message names the wrapper's class.
    """
    for candidate in gc.get_objects():
        if issubclass(type(candidate), nn.Module) and "_modules" in candidate.__dict__:
            wrapper = _wrapper(candidate)
            if wrapper is not None and candidate._modules.get(_PARALLEL[wrapper]) is model:
                raise TrainingError(
                    f"{type(model).__name__} is wrapped by {wrapper}, which does not synchronise the gradients of "
                    "subnets. Leave the wrapper out (with Accelerate, prepare the optimizer and the loader but not the "
                    f"model), start with anywidth.training.same_start(net.model), {_WAY}"
                )


@contextmanager
def local_norms(model: nn.Module) -> Iterator[None]:
    """Context manager in which synchronized batch norms run on this process alone, on any device."""
    changed = [(m, m.__dict__.get("forward")) for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    try:
        for norm, _ in changed:
            norm.forward = MethodType(_BatchNorm.forward, norm)
        yield
    finally:
        for norm, forward in changed:
            norm.__dict__.pop("forward", None)
            if forward is not None:
                norm.forward = forward


def _unsharded_way() -> str:
    return f"Build the Supernet on the plain module, do not shard it, {_WAY}"


def _wrapper(module: nn.Module) -> str | None:
    return next((name for name in _PARALLEL if _is_from(module, name)), None)


def _is_from(module: nn.Module, name: str) -> bool:
    return any(cls.__name__ == name and cls.__module__.partition(".")[0] in _LIBRARIES for cls in type(module).__mro__)


def _access(path: str, attribute: str) -> str:
    return f"its {attribute}" if path else f"model.{attribute}"
