"""Modules that the example inputs do not reach, such as a branch for another input size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn

from anywidth.core.errors import AnalysisError

__all__ = ["explain_unreached"]


def explain_unreached(model: nn.Module, subnet: nn.Module, paths: Iterable[str]) -> None:
    """Make unreached modules of a subnet raise a clear error if they receive narrower inputs, in place.

    Args:
        model: The full network.
        subnet: One of its subnets.
        paths: The modules that the example inputs did not reach.
    """
    for path in paths:
        ours, theirs = model.get_submodule(path), subnet.get_submodule(path)
        shapes = [[tensor.shape for tensor in module.parameters(recurse=False)] for module in (ours, theirs)]
        if shapes[0] == shapes[1]:
            theirs.forward = partial(_run, theirs.forward, path)


def _run(forward: Callable[..., Any], path: str, *args: Any, **kwargs: Any) -> Any:
    try:
        return forward(*args, **kwargs)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise AnalysisError(
            f"a narrow width reached module {path!r}, which the example inputs of the Supernet did not reach, so that "
            "it is as wide as in the full network: the forward takes another branch for these inputs. Build the "
            "Supernet with example inputs like these, or freeze the channels that the module reads: "
            "Supernet(..., frozen=[...])"
        ) from error
