"""The ladder: several widths of one network in memory, selected by each call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from anywidth.core.errors import ExportError, WidthError
from anywidth.core.modules import model_device
from anywidth.core.tensors import tensors_in
from anywidth.export.session import open_session
from anywidth.serving.branches import branches
from anywidth.serving.memory import give_back_memory
from anywidth.serving.refinement import Refine, Refinement
from anywidth.supernet import Supernet, load

__all__ = ["Ladder", "TensorSpec"]

Array = npt.NDArray[Any]
Step = Callable[[Sequence[Array]], list[Array]]
"""Runs one width on the inputs, in the order of `Ladder.inputs`."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """An input or output: its name, NumPy type and shape; the batch dimension is None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


class Ladder:
    """Several widths of one network in memory; each call selects one, from any thread.

    There are two kinds. For a supernet (`Ladder.share`) or its folder (`Ladder.load`), the subnets run in PyTorch. They
    may have any widths and share one copy of the weights, so they need little more memory than the full network. For an
    ONNX ladder file (`Ladder.load`), each width is a session of ONNX Runtime, which cuts its weights out of the file's
    one copy when it is opened. This runs fastest, but each width has dense weights in memory.

    >>> net = Supernet(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.randn(1, 4))
    >>> ladder = Ladder.share(net, [0.25, 1.0])
    >>> ladder.widths, ladder.outputs[0].shape
    ((0.25, 1.0), (None, 2))
    >>> ladder.run([np.zeros((3, 4), np.float32)], width=0.25)[0].shape
    (3, 2)

    Attributes:
        refinement: Of a nested network: computes the widths in turn, each from the last one. None where every width
            starts from the inputs.
    """

    def __init__(
        self,
        steps: Mapping[float, Step],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        runtime: str,
        *,
        refinement: Refine | None = None,
    ) -> None:
        self.refinement = refinement
        self._steps = dict(sorted(steps.items()))
        self.inputs, self.outputs, self.runtime = tuple(inputs), tuple(outputs), runtime

    @property
    def widths(self) -> tuple[float, ...]:
        """The loaded widths, in ascending order."""
        return tuple(self._steps)

    def run(self, inputs: Sequence[Array], *, width: float) -> list[Array]:
        """The outputs of the network at one width; `inputs` are in the order of `Ladder.inputs`.

        Raises:
            WidthError: the width is not loaded.
        """
        step = self._steps.get(width)
        if step is None:
            known = ", ".join(f"{ready:g}" for ready in self._steps)
            raise WidthError(f"width {width} is not loaded; ready are {known}")
        return step(inputs)

    @classmethod
    def load(
        cls,
        path: str | Path,
        widths: Sequence[float] | None = None,
        *,
        model: nn.Module | None = None,
        threads: int | None = None,
    ) -> Ladder:
        """A ladder from a supernet's folder (in PyTorch, as in `share`) or from an ONNX ladder file (in ONNX Runtime).

        Args:
            path: A folder that `anywidth train` or `Supernet.save` wrote, or a file that `anywidth.export_ladder`
                wrote.
            widths: For a folder, any calibrated widths; for a file, any widths of the file; by default all.
            model: For a folder: as in `anywidth.load`.
            threads: For a file: threads per operator; by default as many as torch uses.

        Raises:
            CheckpointError: the folder does not contain a supernet, is damaged, or needs `model`.
            ExportError: the file is missing, damaged or not a ladder.
            UncalibratedError: a width of a folder has no up-to-date batch-norm statistics.
            WidthError: the file does not contain a width, or the folder does not list the calibrated widths.
            MissingExtraError: the packages of the extra `onnx` are not installed.
        """
        if Path(path).is_dir():
            net = load(path, model)
            return cls.share(net, _calibrated(net) if widths is None else widths)
        found = branches(Path(path))
        for width in widths or ():
            if width not in found:
                known = ", ".join(f"{w:g}" for w in found)
                raise WidthError(
                    f"{path} has no width {width}; it has {known}. Export a ladder with the widths you need"
                )
        chosen = list(found) if widths is None else list(widths)
        if not chosen:
            raise WidthError("a ladder needs at least one width")
        sessions: dict[float, Any] = {}
        with tempfile.TemporaryDirectory() as folder:  # a session that is created from bytes keeps them
            for width in chosen:
                file = Path(folder, "branch.onnx")
                file.write_bytes(found[width]().SerializeToString())
                sessions[width] = open_session(file, threads=threads)
        del found
        give_back_memory()
        first = next(iter(sessions.values()))
        return cls(
            {width: _session_step(session) for width, session in sessions.items()},
            [_spec(item) for item in first.get_inputs()],
            [_spec(item) for item in first.get_outputs()],
            "onnx",
        )

    @classmethod
    def share(cls, net: Supernet, widths: Sequence[float], *, refine: bool = False) -> Ladder:
        """A ladder of widths of a supernet, in PyTorch, that shares its weights and its device.

        This sets the supernet's model to evaluation mode. Do not change its weights while the ladder is in use.

        Args:
            net: The supernet; its inputs must be positional tensors.
            widths: Any widths, each calibrated.
            refine: Compute widths in turn, each from the last one (`Refinement`); for nested networks.

        Raises:
            AnalysisError: `refine` is not possible for this network.
            UncalibratedError: a width has no up-to-date batch-norm statistics.
            ExportError: the network has inputs other than tensors.
            WidthError: there are no widths, or `refine` is given and the network is not nested.
        """
        if net.inputs.kwargs or not all(isinstance(argument, Tensor) for argument in net.inputs.args):
            raise ExportError("a ladder runs networks whose inputs are positional tensors")
        if not widths:
            raise WidthError("a ladder needs at least one width")
        device = model_device(net.model)
        steps: dict[float, Step] = {}
        returned: list[Tensor] = []
        for width in widths:
            subnet = net.subnet(width)
            subnet.eval()
            with torch.inference_mode():  # an uncalibrated width is an error now instead of at the first request
                result = net.inputs.map(lambda tensor: tensor.to(device)).call(subnet)
            returned = tensors_in(result)
            steps[float(width)] = _module_step(subnet, device)
        refinement = None
        if refine:
            net.model.eval()
            refinement = Refinement(net, widths)
            steps = {float(width): _refined_step(refinement, float(width)) for width in widths}
        specs = _specs("input", net.inputs.tensors()), _specs("output", returned)
        return cls(steps, *specs, "torch", refinement=refinement)


def _calibrated(net: Supernet) -> list[float]:
    """The calibrated widths of a supernet that are numbers."""
    if not net.statistics.needed:
        raise WidthError("the network has no batch norms and runs at any width; give widths=")
    numbers = {config.label for config in net.statistics.configs if isinstance(config.label, float)}
    return sorted(numbers | {1.0})


def _session_step(session: Any) -> Step:
    names = [item.name for item in session.get_inputs()]

    def step(inputs: Sequence[Array]) -> list[Array]:
        return session.run(None, dict(zip(names, inputs, strict=True)))

    return step


def _module_step(module: nn.Module, device: torch.device) -> Step:
    def step(inputs: Sequence[Array]) -> list[Array]:
        with torch.inference_mode():
            result = module(*(torch.from_numpy(array).to(device) for array in inputs))
        return [tensor.cpu().numpy() for tensor in tensors_in(result)]

    return step


def _refined_step(refinement: Refinement, width: float) -> Step:
    def step(inputs: Sequence[Array]) -> list[Array]:
        with closing(refinement(inputs)) as answers:
            return next(outputs for reached, outputs in answers if reached == width)

    return step


def _spec(item: Any) -> TensorSpec:
    kinds = {"float": np.dtype(np.float32), "double": np.dtype(np.float64)}
    name = item.type.removeprefix("tensor(").removesuffix(")")
    dtype = kinds.get(name) or np.dtype({"bool": np.bool_}.get(name, name))
    return TensorSpec(
        name=item.name, dtype=dtype, shape=tuple(size if isinstance(size, int) else None for size in item.shape)
    )


def _specs(kind: str, tensors: Sequence[Tensor]) -> list[TensorSpec]:
    names = [kind] if len(tensors) == 1 else [f"{kind}_{number}" for number in range(len(tensors))]
    return [
        TensorSpec(name=name, dtype=torch.empty(0, dtype=t.dtype).numpy().dtype, shape=(None, *t.shape[1:]))
        for name, t in zip(names, tensors, strict=True)
    ]
