"""Latency model fitted to measured subnets, because a search cannot measure thousands of them."""

from __future__ import annotations

import hashlib
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from anywidth.core.errors import CheckpointError, SearchError
from anywidth.core.files import write_atomically
from anywidth.cost.latency import latency
from anywidth.cost.named import Cost
from anywidth.supernet import Supernet
from anywidth.widths import WidthConfig, WidthSampler

__all__ = ["LatencyModel", "fit_latency"]

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class LatencyModel:
    """Latency of a config as a constant plus a time per MAC of each operator; usable as a cost.

    Attributes:
        operators: Counted operators of the fitted network, as `module: operator`.
        per_mac: Milliseconds per MAC of each operator.
        constant: Milliseconds for everything else.
        error: Median relative error on held-out configs.
        worst: Largest relative error on held-out configs.
        measured: Number of configs used for the fit.
        held_out: Number of held-out configs.
        about: Description of the measurement and the machine.
    """

    operators: tuple[str, ...]
    per_mac: tuple[float, ...]
    constant: float
    error: float
    worst: float
    measured: int
    held_out: int
    about: Mapping[str, Any]
    name: str = "latency"
    unit: str = "ms"

    def __call__(self, net: Supernet, width: Any = 1.0) -> float:
        """Milliseconds of one forward pass at a width, for the measured batch size.

        Raises:
            SearchError: the model was fitted to another network.
        """
        if _operators(net) != self.operators:
            raise SearchError(
                f"this latency model belongs to another network, not to this {type(net.model).__name__}; fit a new one"
            )
        counts = _counts(net, net.config(width))
        return self.constant + sum(c * ms for c, ms in zip(counts, self.per_mac, strict=True))

    @property
    def identity(self) -> str:
        """Digest that identifies this model."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        """Content as JSON values."""
        return {"format": _FORMAT, **asdict(self)}

    def to_json(self, path: str | Path) -> Path:
        """Write a file for `from_json`."""
        text = json.dumps(self.as_json(), indent=1) + "\n"
        return write_atomically(Path(path), lambda temporary: temporary.write_text(text))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LatencyModel:
        """Latency model from the result of `as_json`.

        Raises:
            CheckpointError: the content is not a latency model.
        """
        try:
            values = dict(content)
            if values.pop("format") != _FORMAT:
                raise CheckpointError(
                    f"the latency model has format {content['format']}; this version reads {_FORMAT}, fit it again"
                )
            values |= {name: tuple(values[name]) for name in ("operators", "per_mac")}
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"not a latency model: {error}; remove it and fit a new one") from error

    @classmethod
    def from_json(cls, path: str | Path) -> LatencyModel:
        """Read a file that `to_json` wrote.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            content = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"cannot read a latency model from {path}: {error}; remove the file and fit again"
            ) from error
        return cls.from_dict(content)


def fit_latency(
    net: Supernet,
    measure: Cost = latency,
    *,
    configs: int = 48,
    held_out: int = 16,
    seed: int = 0,
    name: str = "latency",
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> LatencyModel:
    """Fit a latency model of a network on this machine, with its error on held-out configs.

    Latency is a constant plus, for every operator, its MACs times a nonnegative factor, fitted by least squares of
    relative errors. Configs are random: half uniform, half with a separate width for every group.

    Args:
        net: The supernet; its example inputs define the batch size.
        measure: `measure(net, config)`, in milliseconds, such as `anywidth.latency`.
        configs: Number of configs to fit.
        held_out: Number of further configs to estimate the error on.
        seed: Seed of the configs.
        name: Name of the cost in tables and files.
        progress: Called with the number of measured configs and the total.

    Raises:
        SearchError: there are too few configs, or a measured time is not above 0.

    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 32), nn.Linear(32, 2)), torch.randn(1, 4))
    >>> model = fit_latency(net, lambda net, config: 1.0 + 0.01 * config["0"], configs=8, held_out=4)
    >>> round(model(net, 1.0), 3), model.error < 1e-6
    (1.32, True)
    """
    from sklearn.linear_model import LinearRegression

    if configs < 4 or held_out < 1:
        raise SearchError(f"configs is {configs} and held_out is {held_out}; give at least 4 and 1")
    chosen = _random_configs(net, configs + held_out, seed)
    times: list[float] = []
    for number, config in enumerate(chosen):
        progress(number, len(chosen))
        value = float(measure(net, config))
        if not 0 < value < float("inf"):
            raise SearchError(f"the measured latency of config {config.key[:8]} is {value}; it must be above 0 ms")
        times.append(value)
    progress(len(chosen), len(chosen))
    full = [max(count, 1) for count in _counts(net, net.config(1.0))]
    rows = [[1.0, *(c / f for c, f in zip(_counts(net, config), full, strict=True))] for config in chosen]
    # Relative errors, so that small networks count as much as large ones.
    weighted = [[x / ms for x in row] for row, ms in zip(rows, times, strict=True)]
    found = LinearRegression(positive=True, fit_intercept=False).fit(weighted[:configs], [1.0] * configs)
    constant, *factors = (float(factor) for factor in found.coef_)
    guesses = [constant + sum(f * x for f, x in zip(factors, row[1:], strict=True)) for row in rows]
    errors = [abs(guess - ms) / ms for guess, ms in zip(guesses[configs:], times[configs:], strict=True)]
    return LatencyModel(
        operators=_operators(net),
        per_mac=tuple(f / count for f, count in zip(factors, full, strict=True)),
        constant=constant,
        error=statistics.median(errors),
        worst=max(errors),
        measured=configs,
        held_out=held_out,
        about={
            "inputs": [list(tensor.shape) for tensor in net.inputs.tensors()], "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
            "day": time.strftime("%Y-%m-%d"),
        },
        name=name,
    )  # fmt: skip


def _random_configs(net: Supernet, count: int, seed: int) -> list[WidthConfig]:
    sampler = WidthSampler(net.min_width, seed=seed)
    names = [group.name for group in net.analysis.elastic]
    both = [net.config(sampler.nonuniform(names) if n % 2 else sampler.uniform()) for n in range(count)]
    random.Random(seed).shuffle(both)
    return both


def _operators(net: Supernet) -> tuple[str, ...]:
    return tuple(f"{operator.module}: {operator.operator}" for operator in net.analysis.operators)


def _counts(net: Supernet, config: WidthConfig) -> list[int]:
    blocks = net.analysis.blocks(config)
    return [operator.count(blocks) for operator in net.analysis.operators]
