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
    """Compiles every network that a sandwich step runs, once: `sandwich_step(net, ..., wrap=CompiledSubnets())`.

    Compiling takes seconds to minutes per width, so let random widths come from a ladder (`WidthSampler(ladder=...)`).
    Weights stay those of the supernet. Give one object to all steps.

    Args:
        limit: How many networks are kept compiled; the one used longest ago goes first.
        options: Of `torch.compile`, such as `mode`.
    """

    def __init__(self, *, limit: int = 64, **options: Any) -> None:
        self.limit = limit
        self.options = {"dynamic": False, **options}
        self._compiled: OrderedDict[int, tuple[nn.Module, Callable[..., Any]]] = OrderedDict()

    def __len__(self) -> int:
        """The number of compiled networks."""
        return len(self._compiled)

    def __call__(self, subnet: nn.Module) -> Callable[..., Any]:
        """The compiled network, which compiles at its first call.

        Raises:
            TrainingError: at that call, if the network cannot be compiled.
        """
        found = self._compiled.get(id(subnet))
        if found is not None:
            self._compiled.move_to_end(id(subnet))
            return found[1]
        # All widths run the same code, which torch gives up to compile after eight times by default.
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
            except Exception as error:  # those of the compiler, of the code that it makes, and of the network
                raise TrainingError(
                    f"torch.compile failed: {first_line(error)}; install a C++ compiler, or train without compiling"
                ) from error

        return first_call
