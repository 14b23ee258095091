"""The ladder: several widths of one network, loaded side by side; every call says which."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from anywidth.core.errors import ExportError, WidthError
from anywidth.core.modules import model_device
from anywidth.export.session import open_session
from anywidth.serving.branches import branches
from anywidth.serving.memory import give_back_memory
from anywidth.supernet import Supernet, load

__all__ = ["Ladder", "TensorSpec"]

Array = npt.NDArray[Any]
Step = Callable[[Sequence[Array]], list[Array]]
"""Runs one width on the inputs, in order."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """An input or output: its name, its numpy type, and its shape, where the batch is None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


class Ladder:
    """Several widths of one network, ready at once; every call says which, from any thread.

    There are two kinds. Of a supernet (`Ladder.share`) or the folder of one (`Ladder.load`), the subnets run in
    PyTorch: any widths, which all read one copy of the weights, so that they take hardly more memory than the full
    network. Of an ONNX ladder file (`Ladder.load`), each width is a session of ONNX Runtime, whose weights are cut out
    of the file's one copy as it is opened: the fastest to run, but each width has dense weights in memory.

    >>> net = Supernet(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.randn(1, 4))
    >>> ladder = Ladder.share(net, [0.25, 1.0])
    >>> ladder.widths, ladder.outputs[0].shape
    ((0.25, 1.0), (None, 2))
    >>> ladder.run([np.zeros((3, 4), np.float32)], width=0.25)[0].shape
    (3, 2)
    """

    def __init__(
        self, steps: Mapping[float, Step], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], runtime: str
    ) -> None:
        self._steps = dict(sorted(steps.items()))
        self.inputs, self.outputs, self.runtime = tuple(inputs), tuple(outputs), runtime

    @property
    def widths(self) -> tuple[float, ...]:
        """The widths that are ready, in ascending order."""
        return tuple(self._steps)

    def run(self, inputs: Sequence[Array], *, width: float) -> list[Array]:
        """What the network returns at one width; `inputs` are in the order of `Ladder.inputs`.

        Raises:
            WidthError: the width is none of those that are ready.
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
        """Widths of the folder of a supernet, by PyTorch as in `share`, or of an ONNX ladder file, by ONNX Runtime.

        Args:
            path: A folder that `anywidth train` or `Supernet.save` wrote, or what `anywidth.export_ladder` wrote.
            widths: Of a folder, any that are calibrated, by default all of these; of a file, any of the file's, by
                default all.
            model: For a folder: as in `anywidth.load`.
            threads: For a file: within an operator; by default as many as torch uses.

        Raises:
            CheckpointError: the folder holds no supernet, it is damaged, or its model has to be given.
            ExportError: the file is missing, damaged or no ladder.
            UncalibratedError: a width of a folder has no up-to-date batch-norm statistics.
            WidthError: the file does not have a width, or the folder does not say which are calibrated.
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
            raise WidthError("a ladder needs a width at least")
        sessions: dict[float, Any] = {}
        with tempfile.TemporaryDirectory() as folder:  # a session that is given bytes keeps them
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
    def share(cls, net: Supernet, widths: Sequence[float]) -> Ladder:
        """Widths of a supernet, by PyTorch, on its one copy of the weights and on its device.

        The supernet's model is put into evaluation mode. Weights must not change meanwhile.

        Args:
            net: The supernet; its inputs have to be positional tensors.
            widths: Any widths, each calibrated.

        Raises:
            UncalibratedError: a width has no up-to-date batch-norm statistics.
            ExportError: the network takes something else than tensors.
        """
        if net.inputs.kwargs or not all(isinstance(argument, Tensor) for argument in net.inputs.args):
            raise ExportError("a ladder runs networks whose inputs are positional tensors")
        if not widths:
            raise WidthError("a ladder needs a width at least")
        device = model_device(net.model)
        steps: dict[float, Step] = {}
        returned: list[Tensor] = []
        for width in widths:
            subnet = net.subnet(width).eval()
            with torch.inference_mode():  # an uncalibrated width is an error now and not at the first request
                result = net.inputs.map(lambda tensor: tensor.to(device)).call(subnet)
            returned = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
            steps[float(width)] = _module_step(subnet, device)
        return cls(steps, _specs("input", net.inputs.tensors()), _specs("output", returned), "torch")


def _calibrated(net: Supernet) -> list[float]:
    """The numbers among the widths of a supernet that are calibrated."""
    if not net.statistics.needed:
        raise WidthError("the network has no batch norms and runs at any width; say which")
    labels = (net.statistics.labels[config] for config in net.statistics.configs)
    numbers = {float(label) for label in labels if label.replace(".", "", 1).isdigit()}
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
        return [leaf.cpu().numpy() for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]

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
