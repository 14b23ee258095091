"""How the passes of a training step run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from anywidth.training.pass_graphs import Runner, run_directly

__all__ = ["DIRECT", "Execution"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How the passes of a sandwich step run; nothing here changes what is learned.

    Attributes:
        runner: Runs a pass, such as `PassGraphs(net)` with CUDA graphs.
        wrap: Returns what to call instead of a network, such as `CompiledSubnets()`.
        check_finite: Raise on a NaN or infinite loss, which synchronises a GPU once per step.
    """

    runner: Runner = run_directly
    wrap: Callable[[nn.Module], Callable[..., Any]] | None = None
    check_finite: bool = True


DIRECT = Execution()
"""Direct calls of the networks, and a check of every loss."""
