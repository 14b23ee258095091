"""Answers of a nested network from narrow to wide, for a ladder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy.typing as npt
import torch

from anywidth.core.errors import WidthError
from anywidth.core.modules import model_device
from anywidth.core.tensors import tensors_in
from anywidth.supernet import Supernet

__all__ = ["Refine", "Refinement"]

Array = npt.NDArray[Any]
Refine = Callable[[Sequence[Array]], Generator[tuple[float, list[Array]], None, None]]
"""Computes each width and its outputs from the inputs, in ascending order, one at a time."""


class Refinement:
    """Computes the answers of one batch in turn, each from the last one; one batch at a time, from any thread.

    Args:
        net: A nested supernet in evaluation mode, whose inputs are positional tensors.
        widths: Some of its widths.

    Raises:
        AnalysisError: progressive inference of this network is not possible.
        WidthError: the network is not nested, or does not have a width.

    >>> import numpy as np
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    >>> refine = Refinement(Supernet(model, torch.randn(1, 4), nested=(0.25, 0.5, 1.0)), [0.25, 1.0])
    >>> [(width, outputs[0].shape) for width, outputs in refine([np.zeros((2, 4), np.float32)])]
    [(0.25, (2, 3)), (1.0, (2, 3))]
    """

    def __init__(self, net: Supernet, widths: Sequence[float]) -> None:
        self._runner = net.progressive()
        self.widths = tuple(sorted(map(float, widths)))
        unknown = [width for width in self.widths if width not in net.nested]
        if unknown:
            known = ", ".join(f"{width:g}" for width in net.nested)
            raise WidthError(f"width {unknown[0]:g} cannot be reached by refinement; this network's widths are {known}")
        self._device = model_device(net.model)
        self._lock = threading.Lock()

    def __call__(self, inputs: Sequence[Array]) -> Generator[tuple[float, list[Array]], None, None]:
        """Each width and its outputs, in ascending order; a width is computed when it is asked for."""
        with self._lock:
            tensors = tuple(torch.from_numpy(array).to(self._device) for array in inputs)
            for width in self.widths:
                first = width == self.widths[0]
                result = self._runner.start(tensors, width) if first else self._runner.refine(width)
                yield width, [tensor.cpu().numpy() for tensor in tensors_in(result)]
