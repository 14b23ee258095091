"""Progressive inference: answer at a narrow width, then go on to wider ones without computing anything twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anywidth.core.errors import AnalysisError, AnywidthError, WidthError
from anywidth.core.inputs import Inputs, normalise_inputs
from anywidth.supernet.dense_copies import held, synced
from anywidth.supernet.early_exit import EarlyExit
from anywidth.supernet.progressive_step import CHANNEL_DIMS, Cache, Step
from anywidth.supernet.shell_norm import ShellNorm
from anywidth.supernet.weight_changes import WeightSamples

if TYPE_CHECKING:
    from anywidth.supernet.supernet import Supernet
    from anywidth.widths import Width

__all__ = ["Progressive"]


class Progressive:
    """Runs a nested network from narrow to wide, in evaluation mode; every step computes the new channels alone.

    Args:
        net: A supernet with `nested=`, in evaluation mode.

    Raises:
        AnalysisError: channels are read by something other than convolutions and linear layers.
        WidthError: the network is not nested.

    >>> from anywidth import Supernet
    >>> model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    >>> net = Supernet(model, torch.randn(1, 4), nested=(0.25, 0.5, 1.0))
    >>> x, runner = torch.randn(2, 4), net.progressive()
    >>> first = runner.start(x, 0.25)
    >>> better = runner.refine(1.0)
    >>> torch.allclose(better, model(x), atol=1e-6)
    True
    """

    def __init__(self, net: Supernet) -> None:
        self._net, self._shells = net, net.shells
        self._steps: dict[tuple[int, ...], Step] = {}
        self._tails: dict[int, nn.Module] = {}
        self._generation = -1
        self._modules: list[nn.Module] = []
        self._tensors: list[Tensor] = []
        self._versions: list[int] = []
        self._samples = WeightSamples(())
        self._numbers: list[object] = []
        self._path: tuple[int, ...] = ()
        self._cache = Cache()
        self._inputs: Inputs | None = None
        _check(net)
        self._shells.check(every=True)

    @property
    def width(self) -> float | None:
        """The width of the last answer; None before the first."""
        return self._net.nested[self._path[-1]] if self._path else None

    @property
    def next_width(self) -> float | None:
        """The width to which `refine` goes on by default; None at the full width."""
        number = self._path[-1] + 1 if self._path else 0
        return self._net.nested[number] if number < len(self._net.nested) else None

    def start(self, inputs: Any, width: Width | None = None) -> Any:
        """The output at a width, the narrowest by default.

        Weights that have changed since the last call are seen. Version counters do not show writes through `.data`, so
        a few numbers of every tensor on the CPU are compared as well.

        Args:
            inputs: One batch: a tensor, a tuple of arguments or a dict of keyword arguments.
            width: A width of the nested network.

        Raises:
            AnywidthError: the network is in training mode.
        """
        self._follow()
        self._path, self._cache = (), Cache()
        self._inputs = normalise_inputs(inputs).map(Tensor.clone)  # a camera may write to its buffer before `refine`
        return self._go(self._net.nested[0] if width is None else width)

    def refine(self, width: Width | None = None) -> Any:
        """The output for the same inputs at a wider width, the next one by default.

        The weights are those that the network had at `start`.

        Raises:
            AnywidthError: `start` was not called.
            WidthError: the width is not wider than the last one.
        """
        if self._inputs is None:
            raise AnywidthError("there is nothing to refine: call start(inputs) first")
        width = self.next_width if width is None else width
        if width is None:
            raise WidthError("the last answer was at full width already; call start(inputs) for the next inputs")
        return self._go(width)

    def select(self, samples: Tensor) -> None:
        """Go on with some samples of the batch only.

        Args:
            samples: Indices along the first dimension of every input, or a boolean for each of them.
        """
        if self._inputs is None:
            raise AnywidthError("there are no samples to select from: call start(inputs) first")
        if samples.dtype == torch.bool:
            samples = samples.nonzero().flatten()
        self._inputs = self._inputs.map(lambda tensor: tensor.index_select(0, samples))
        self._cache.select(samples)

    def exit_when(self, *, confidence: float) -> EarlyExit:
        """A classifier that answers every sample at the narrowest width that is confident; see `exit_early`.

        Args:
            confidence: The softmax probability, in [0, 1], that the most likely class of a sample has to reach.

        Raises:
            SettingsError: the confidence is not in [0, 1].

        >>> from anywidth import Supernet
        >>> model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
        >>> net = Supernet(model, torch.randn(1, 4), nested=(0.25, 0.5, 1.0))
        >>> classify = net.progressive().exit_when(confidence=0.9)
        >>> classify(torch.randn(8, 4)).outputs.shape
        torch.Size([8, 3])
        """
        return EarlyExit(self, confidence)

    def _follow(self) -> None:
        """Take note of changes of the network, once per batch: looking for them takes as long as some small layers."""
        net = self._net
        with net.settled():
            self._shells = net.shells
            if net.generation != self._generation:
                self._generation = net.generation
                self._modules = list(net.model.modules())
                self._tensors = [*net.model.parameters(), *net.model.buffers()]
                self._versions.clear()
                self._samples = WeightSamples(self._tensors)
            if any(module.training for module in self._modules):
                raise AnywidthError("progressive inference needs a network in evaluation mode; call net.model.eval()")
            versions = [tensor._version for tensor in self._tensors]
            numbers = self._samples.read()
            self._shells.check()
            if versions != self._versions or numbers != self._numbers:
                self._steps.clear()
                self._tails.clear()
                self._versions, self._numbers = versions, numbers
            # These follow the train/eval flags of the model, and their statistics may have been replaced.
            self._tails = {number: net.subnet(net.nested[number]) for number in self._tails}

    @torch.no_grad()
    def _go(self, width: Width) -> Any:
        number = self._number(width)
        if self._path and number <= self._path[-1]:
            raise WidthError(f"width {width} is not wider than {self.width}, at which the last answer was")
        path = (*self._path, number)
        if path not in self._steps:
            with torch.inference_mode(False):  # steps are used outside of it as well
                self._steps[path] = Step(self._net, path)
        if number not in self._tails:
            self._tails[number] = self._net.subnet(self._net.nested[number])
            with synced(self._tails[number]):
                pass
        assert self._inputs is not None
        self._steps[path].run(self._inputs, self._cache)
        self._path = path
        tail = self._tails[number]
        with held(tail), self._shells.replayed(tail, self._cache.outputs):
            return self._inputs.call(tail)

    def _number(self, width: Width) -> int:
        """The position of a width among those of the network."""
        if isinstance(width, float) and width in self._net.nested:
            return self._net.nested.index(width)
        return self._shells.number(self._net.config(width))


def _check(net: Supernet) -> None:
    shells = net.shells
    for path, module in net.model.named_modules():
        if isinstance(module, ShellNorm):
            raise AnalysisError(
                f"progressive inference is not possible: {path} (ShellNorm) needs the channels of earlier shells for "
                "its statistics, which a step does not compute. Use net.subnet at each width"
            )
    for name in shells.nesting.later:
        path, _, last = name.rpartition(".")
        module = net.model.get_submodule(path)
        if last != "weight" or not isinstance(module, tuple(CHANNEL_DIMS)):
            raise AnalysisError(
                f"progressive inference is not possible: {path or 'the model itself'} ({type(module).__name__}) reads "
                f"channels by {name}. It needs convolutions (not transposed) or linear layers there"
            )
