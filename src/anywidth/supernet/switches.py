"""Switches: the fixed widths of a slimmable network, each with separate batch norms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from anywidth.core.errors import CheckpointError, WidthError
from anywidth.groups.analysis import Analysis
from anywidth.groups.narrow import take
from anywidth.supernet.statistics import Statistics, norm_modules
from anywidth.widths import WidthConfig, check_width

__all__ = ["Switches", "check_distinct", "check_switches"]

T = TypeVar("T", bound=Tensor)


def check_switches(widths: Iterable[float]) -> tuple[float, ...]:
    """The validated switches in ascending order.

    >>> check_switches([1.0, 0.5])
    (0.5, 1.0)
    """
    chosen = sorted({check_width(width, what="switch") for width in widths})
    if len(chosen) < 2 or chosen[-1] != 1.0:
        raise WidthError(f"switches must be width 1.0 and at least one narrower, not {chosen}")
    return tuple(chosen)


def check_distinct(switches: Iterable[tuple[float, WidthConfig]]) -> None:
    """Raise if two fixed widths have the same channels everywhere.

    Raises:
        WidthError: two of them do; the message names both.
    """
    widths: dict[WidthConfig, float] = {}
    for width, config in switches:
        if config in widths:
            raise WidthError(
                f"widths {widths[config]:g} and {width:g} are the same network after rounding channels; "
                "leave one out, or lower the divisor"
            )
        widths[config] = width


class Switches:
    """Batch-norm parameters (if `affine`) and running statistics of every switch, by width config.

    Width 1 uses the model's own. Statistics are running averages that training updates, as in any network. They are
    stored in `statistics` with those of calibrated widths.

    Source: Slimmable Neural Networks (arXiv 1812.08928), section 3.3.
    """

    def __init__(self, model: nn.Module, analysis: Analysis, statistics: Statistics, *, affine: bool) -> None:
        self.model, self.analysis, self.statistics, self.affine = model, analysis, statistics, affine
        self.widths: dict[WidthConfig, float] = {}
        self._parameters: dict[WidthConfig, dict[str, nn.Parameter]] = {}
        self._counters: dict[WidthConfig, dict[str, Tensor]] = {}
        norms = [f"{name}." if name else "" for name in norm_modules(model)]
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._affine = [f"{n}{p}" for n in norms for p in ("weight", "bias") if affine and f"{n}{p}" in tensors]
        self._counted = [f"{norm}num_batches_tracked" for norm in norms if f"{norm}num_batches_tracked" in tensors]
        self._moments = [f"{norm}{moment}" for norm in norms for moment in ("running_mean", "running_var")]

    def add(self, width: float, config: WidthConfig, source: WidthConfig | None = None) -> None:
        """Add a switch that starts with the parameters of the model, or with parameters and statistics of `source`.

        Raises:
            WidthError: another switch has the same channels everywhere.
        """
        check_distinct([*((known, other) for other, known in self.widths.items()), (width, config)])
        self.widths[config] = width
        self.widths = dict(sorted(self.widths.items(), key=lambda item: item[1]))
        if width == 1.0:
            return
        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        self._counters[config] = {name: own[name].detach().clone().zero_() for name in self._counted}
        self._parameters[config] = {}
        self.statistics.adopt(config)
        with torch.no_grad():
            for name in self._affine:
                value = self._part(name, own[name], config, source)
                self._parameters[config][name] = nn.Parameter(value, requires_grad=own[name].requires_grad)
            moments = {name: self._part(name, own[name], config, source) for name in self._moments}
            if source is None:
                moments = {name: torch.full_like(t, name.endswith("running_var")) for name, t in moments.items()}
            self.statistics.store(config, moments)

    def check_config(self, config: WidthConfig) -> None:
        """Raise unless a config is that of a switch.

        Raises:
            WidthError: it is not.
        """
        if config not in self.widths:
            known = ", ".join(f"{switch:g}" for switch in self.widths.values())
            raise WidthError(f"width {config} is not a switch of this network, whose switches are {known}")

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that do not belong to the model."""
        own = dict(self.model.named_parameters())
        for tensors in self._parameters.values():
            for name, parameter in tensors.items():
                yield _like(parameter, own[name])

    def own_tensor(self, config: WidthConfig, name: str, tensor: Tensor) -> Tensor | None:
        """A switch's parameter or batch count; None if `name` is neither, or the config is not a switch."""
        parameter = self._parameters.get(config, {}).get(name)
        if parameter is not None:
            return _like(parameter, tensor)
        counter = self._counters.get(config, {}).get(name)
        return None if counter is None else _like(counter, tensor)

    def state(self) -> dict[str, Tensor]:
        """All tensors that do not belong to the model, as `WIDTH/NAME`."""
        found: dict[str, Tensor] = {}
        for config, width in self.widths.items():
            if width < 1.0:
                tensors = (self._parameters[config], self._counters[config], self.statistics[config])
                found.update({f"{width!r}/{name}": t.detach() for part in tensors for name, t in part.items()})
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a result of `state`.

        Raises:
            CheckpointError: the state belongs to different switches.
        """
        own = self.state()
        strange = sorted(set(state) ^ set(own)) or [name for name in own if own[name].shape != state[name].shape]
        if strange:
            raise CheckpointError(f"the saved switches are not those of this network ({strange[0]} differs)")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def _part(self, name: str, full: Tensor, config: WidthConfig, source: WidthConfig | None) -> Tensor:
        """A vector of the model or of a wider switch, cut to the channels of a config."""
        kept = self._positions(name, config)
        if source is None or self.widths[source] == 1.0:
            whole = full
        else:
            mine = self._parameters[source]
            whole = mine[name] if name in mine else self.statistics[source][name]
            kept = np.searchsorted(self._positions(name, source), kept)
        return take(whole.detach(), [kept]).clone()

    def _positions(self, name: str, config: WidthConfig) -> npt.NDArray[np.int64]:
        canonical = self.analysis.names[name]
        (kept,) = self.analysis.kept(canonical, self.analysis.blocks(config))
        if kept is None:
            kept = self.analysis.shapes[canonical][0]
        return np.arange(kept) if isinstance(kept, int) else kept


def _like(tensor: T, other: Tensor) -> T:
    """The same tensor, moved in place to the model's device and type."""
    if tensor.device != other.device or tensor.dtype != other.dtype:
        tensor.data = tensor.data.to(other)
    return tensor
