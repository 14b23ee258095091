"""Losses with a known distillation, and how to recognise them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import _reduction

from anywidth.core.errors import LossError

__all__ = ["KnownLoss", "Recipe", "known_losses", "loss_name", "recognise", "register", "takes_a_tensor", "unwrapped"]


class KnownLoss(Protocol):
    """A loss that can check its outputs and targets and that has a distillation."""

    def check(self, output: Tensor, target: Any, *, values: bool) -> None:
        """Raise if outputs and targets do not fit. `values` also checks the numbers, which synchronizes a GPU.

        Raises:
            LossError: outputs and targets do not fit.
        """
        ...

    def distill(self, output: Tensor, teacher: Tensor, target: Any = None) -> Tensor:
        """Loss of an output against a detached teacher's output, a scalar."""
        ...


Recipe = Callable[[Callable[..., Tensor], Mapping[str, Any]], KnownLoss]
"""Builds a `KnownLoss` from a loss and its arguments."""

_FUNCTIONS: dict[Hashable, tuple[Recipe, frozenset[str]]] = {}
_MODULES: dict[Callable[..., Any], tuple[Recipe, frozenset[str]]] = {}
_BY_NAME: dict[tuple[str, str], tuple[Recipe, frozenset[str]]] = {}


def register(
    *, function: Callable[..., Tensor] | None = None, module: type[nn.Module] | tuple[str, str], arguments: str
) -> Callable[[Recipe], Recipe]:
    """Decorator that registers the recipe of a known loss.

    Args:
        function: Functional form of the loss.
        module: Module form, or (Python module, class name) of one in an optional package.
        arguments: Names of its arguments besides outputs and targets.
    """

    def keep(recipe: Recipe) -> Recipe:
        entry = recipe, frozenset(arguments.split())
        if function is not None:
            _FUNCTIONS[function] = entry
        if isinstance(module, tuple):
            _BY_NAME[module] = entry
        else:
            _MODULES[module.forward] = entry
        return recipe

    return keep


def known_losses() -> list[str]:
    """Names of all known loss functions.

    >>> "mse_loss" in known_losses()
    True
    """
    return [function.__name__ for function in _FUNCTIONS]  # type: ignore[attr-defined]


def recognise(loss: Callable[..., Any]) -> KnownLoss | None:
    """Known loss for a function, a `functools.partial` of it, or a module; None for any other callable.

    A subclass of a known loss module counts as long as it inherits its forward.

    Raises:
        LossError: the loss is known, but its arguments make training impossible, such as `reduction="none"`.

    >>> from functools import partial
    >>> import torch.nn.functional as F
    >>> recognise(partial(F.cross_entropy, ignore_index=0)).ignore_index
    0
    >>> recognise(lambda output, target: F.cross_entropy(output, target))
    """
    function, given = unwrapped(loss)
    entry = _entry(function)
    if entry is None:
        return None
    recipe, names = entry
    if isinstance(function, nn.Module):
        if given:
            return None
        given = {name: getattr(function, name) for name in names if hasattr(function, name)}
    elif not given.keys() <= names | {"size_average", "reduce", "reduction"}:
        return None
    arguments = dict(given)
    old = arguments.pop("size_average", None), arguments.pop("reduce", None)
    if old != (None, None):
        arguments["reduction"] = _reduction.legacy_get_string(*old, emit_warning=False)
    if isinstance(function, nn.Module):
        arguments["reduction"] = getattr(function, "reduction", "mean")
    if arguments.setdefault("reduction", "mean") not in ("mean", "sum"):
        raise LossError(
            f"loss {loss_name(loss)} has reduction {arguments['reduction']!r}, which returns one loss per element; "
            'training needs a scalar, so use reduction="mean" or "sum"'
        )
    return recipe(loss, arguments)


def takes_a_tensor(loss: Callable[..., Any]) -> bool:
    """Whether a loss comes from torch, torchvision or timm and therefore compares a tensor with the targets.

    >>> import torch.nn.functional as F
    >>> takes_a_tensor(F.kl_div), takes_a_tensor(lambda output, target: output.loss)
    (True, False)
    """
    function, _ = unwrapped(loss)
    if isinstance(function, nn.Module):
        if _is_altered(function):
            return False
        function = type(function).forward
    where = getattr(function, "__module__", None) or ""
    return where.startswith(("torch.nn.functional", "torch.nn.modules.loss", "torchvision.ops", "timm.loss")) or (
        where == "torch._C._nn"
    )


def loss_name(loss: object) -> str:
    """Name of a loss for messages.

    >>> import torch.nn.functional as F
    >>> loss_name(F.mse_loss), loss_name(nn.L1Loss())
    ('mse_loss', 'L1Loss')
    """
    if isinstance(loss, partial):
        given = ", ".join([*(f"{argument!r:.20}" for argument in loss.args), *(f"{key}=..." for key in loss.keywords)])
        return f"partial({loss_name(loss.func)}, {given})"
    name = getattr(loss, "__qualname__", None) or type(loss).__name__
    code = getattr(loss, "__code__", None)
    if code is not None and not (getattr(loss, "__module__", None) or "").startswith("torch"):
        return f"{name.rpartition('.')[2]} ({code.co_filename.rpartition('/')[2]}, line {code.co_firstlineno})"
    return name


def unwrapped(loss: Callable[..., Any]) -> tuple[Callable[..., Any], Mapping[str, Any]]:
    """Function or module inside a partial, and its keyword arguments; a partial with positional arguments is kept."""
    if isinstance(loss, partial) and not loss.args:
        return loss.func, loss.keywords
    return loss, {}


def _entry(function: Callable[..., Any]) -> tuple[Recipe, frozenset[str]] | None:
    if not isinstance(function, nn.Module):
        return _FUNCTIONS.get(function) if isinstance(function, Hashable) else None
    if _is_altered(function):
        return None
    if type(function).forward in _MODULES:
        return _MODULES[type(function).forward]
    for base in type(function).__mro__:  # find the class that defines the forward
        if "forward" in vars(base):
            return _BY_NAME.get((base.__module__.partition(".")[0], base.__qualname__))
    return None


def _is_altered(module: nn.Module) -> bool:
    """Whether a module's computation differs from its class, for example through hooks."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return bool(hooks) or "forward" in vars(module) or type(module).__call__ is not nn.Module.__call__
