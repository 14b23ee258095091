"""Subnets compiled for training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo
from torch import nn

from anywidth.core.errors import TrainingError, first_line

__all__ = ["CompiledSubnets"]


class CompiledSubnets:
    """Compiles every network that a sandwich step runs, once.

    Pass it to every step: `sandwich_step(net, ..., execution=Execution(wrap=CompiledSubnets()))`.

    Compiling takes seconds to minutes per width, so draw random widths from a grid (`WidthSampler(grid=...)`). The
    compiled networks use the supernet's weights. Pass the same object to all steps.

    Args:
        limit: Maximum number of compiled networks; the least recently used is dropped.
        options: Options of `torch.compile`, such as `mode`.
    """

    def __init__(self, *, limit: int = 64, **options: Any) -> None:
        self.limit = limit
        self.options = {"dynamic": False, **options}
        self._compiled: OrderedDict[int, tuple[nn.Module, Callable[..., Any]]] = OrderedDict()

    def __len__(self) -> int:
        """The number of compiled networks."""
        return len(self._compiled)

    def __call__(self, subnet: nn.Module) -> Callable[..., Any]:
        """The compiled network; it compiles on its first call.

        Raises:
            TrainingError: on that call, if the network cannot be compiled.
        """
        found = self._compiled.get(id(subnet))
        if found is not None:
            self._compiled.move_to_end(id(subnet))
            return found[1]
        # All widths run the same code, and by default torch compiles the same code at most eight times.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * self.limit)
        network = torch.compile(subnet, **self.options)
        self._compiled[id(subnet)] = (subnet, network)
        if len(self._compiled) > self.limit:
            self._compiled.popitem(last=False)

        def first_call(*args: Any, **kwargs: Any) -> Any:
            try:
                return network(*args, **kwargs)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # errors of the compiler, of its generated code, and of the network
                raise TrainingError(
                    f"torch.compile failed: {first_line(error)}; install a C++ compiler, or train without compiling"
                ) from error

        return first_call
