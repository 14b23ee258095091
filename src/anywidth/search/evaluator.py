"""Score and loss of a network on held-out images, with batch-norm statistics from training images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.batchnorm.collect import collect_moments, same_random_numbers, stored_values
from anywidth.core.batches import samples
from anywidth.core.errors import SearchError
from anywidth.core.inputs import Inputs
from anywidth.core.modules import model_device
from anywidth.core.tensors import tensors_in
from anywidth.evaluation import Score as ScoreFunction
from anywidth.evaluation import score_samples, top1
from anywidth.evaluation.means import means
from anywidth.search.activation_cache import ActivationCache
from anywidth.search.affected import affected_modules, changed_modules, paths_above
from anywidth.search.scores import Score, check_score
from anywidth.search.split import SearchData
from anywidth.supernet import Supernet, norm_modules
from anywidth.tasks import Logits, Loss, MetricValues, Task, detached, logits_of, metrics_of, objective_of
from anywidth.widths import WidthConfig

__all__ = ["Evaluator"]

Moments = dict[str, tuple[Tensor, Tensor]]


class Evaluator:
    """Scores width configs of one supernet on one set of images; nothing of the supernet changes.

    A call gives what `anywidth.calibrate` on the calibration batches and `anywidth.evaluate` on the held-out ones give.
    Configs that differ little from the base (`set_base`) take less time, because what they share with it is cached.

    Args:
        net: The supernet.
        data: Calibration and held-out batches.
        score: `score(output, targets)`, one number per sample; by default the first metric of the task, or top-1
            accuracy in percent.
        loss: As in `anywidth.sandwich_step`, the mean over a batch.
        task: As in `anywidth.sandwich_step`, for its loss and its first metric.
        logits: As in `anywidth.sandwich_step`.
        memory: Bytes of activations to share; 0 computes every network from the input on.
        channels_last: See `SearchSettings`.

    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> data = SearchData.of([(torch.randn(8, 4), torch.zeros(8).long())], [(torch.randn(8, 4), torch.zeros(8).long())])
    >>> 0 <= Evaluator(net, data)(net.config(0.5)).value <= 100
    True
    """

    def __init__(
        self,
        net: Supernet,
        data: SearchData,
        *,
        score: ScoreFunction | None = None,
        loss: Loss | None = None,
        task: Task | None = None,
        logits: Logits = logits_of,
        memory: float = 0,
        channels_last: bool | None = None,
    ) -> None:
        if net.effects.norms:
            raise SearchError(
                f"{net.effects.norms[0][0]} is the running mean of a batch norm that is not a module of torch, which a "
                "search cannot calibrate: use nn.BatchNorm1d, 2d or 3d there"
            )
        self.net = net
        self.score = score or top1
        self.metric: Callable[[], MetricValues] | None = None
        if score is None and task is not None:
            name, metric = next(iter(metrics_of(task).items()))
            self.metric = partial(
                MetricValues, {name: metric}, task.predict, None,  # type: ignore[attr-defined] # checked before
                device=model_device(net.model), pooled=False,
            )  # fmt: skip
        self.objective = objective_of(loss, distillation=None, logits=logits, task=task)
        self.channels_last = _has_depthwise(net.model) if channels_last is None else channels_last
        device = model_device(net.model)
        data = data.to(device, channels_last=self.channels_last)
        self.calibration: Sequence[Inputs] = data.calibration if net.statistics.needed else ()
        self.held_out: Sequence[tuple[Inputs, Any]] = data.held_out
        self.activation_cache = ActivationCache(memory)
        self.base: WidthConfig | None = None
        self._moments: Moments = {}
        self._affected = affected_modules(net) if memory else {}
        self._proved = False
        self._looked = False

    @torch.no_grad()
    def __call__(self, config: WidthConfig) -> Score:
        """Score and loss of a config.

        Raises:
            LossError: score or loss does not fit the outputs and the targets.
            SearchError: one of them is not finite.
        """
        label = f"the network of config {config.key[:8]}"
        found = None if self.metric is None else self.metric()

        def measure(inputs: Inputs, targets: Any, output: Any) -> tuple[tuple[float, float], int]:
            self.objective.check(output, targets, values=not self._looked or not _is_cuda(targets))
            self._looked = True
            loss = float(self.objective.value(output, targets))
            if not math.isfinite(loss):  # the outputs contain NaN, so their score means nothing
                check_score(Score(value=math.nan, loss=loss), label)
            if found is not None:
                found.update(output, targets)
                return (0.0, loss * samples(inputs)), samples(inputs)
            total, number = score_samples(self.score, output, targets, samples=samples(inputs))
            return (total, loss * number), number

        value, loss = means(self._outputs(config, record=False), measure, pooled=False)
        if found is not None:
            (value,) = found.values().values()
        return check_score(Score(value=value, loss=loss), label)

    @torch.no_grad()
    def logits(self, config: WidthConfig) -> list[Tensor]:
        """The logits of a config for every held-out batch."""
        return [logits_of(output) for _, _, output in self._outputs(config, record=False)]

    @torch.no_grad()
    def set_base(self, config: WidthConfig) -> None:
        """Keep what the modules of a config give, for configs that differ little from it."""
        if self.activation_cache.memory and not self._proved:
            self._prove(config)
        if not self.activation_cache.memory or config == self.base:
            return
        self.activation_cache.start_base()
        for _ in self._outputs(config, record=True):
            pass
        self.activation_cache.finish_base()
        self.base = config

    def _prove(self, config: WidthConfig) -> None:
        """Try on a few images whether the cache changes any number, as where a module reads weights of another one."""
        self._proved = True
        # The held-out images serve as both: their labels are not asked for.
        inputs, targets = self.held_out[0]
        few = inputs.map(lambda tensor: tensor[:4] if tensor.ndim else tensor)
        data = SearchData((few,), ((few, targets),))
        plain, shared = (
            Evaluator(self.net, data, memory=memory, channels_last=self.channels_last) for memory in (0, 1e12)
        )
        shared._proved = True
        shared.set_base(config)
        for group in self.net.analysis.elastic:
            if config[group.name] > group.block_size:
                other = WidthConfig({**config, group.name: config[group.name] - group.block_size})
                if not _equal(plain, shared, other):
                    self.activation_cache.memory = 0
                    warnings.warn(
                        f"modules of {type(self.net.model).__name__} compute with more than their inputs and weights "
                        f"(seen at group {group.name!r}), so every network is computed from the input on, which takes "
                        "longer",
                        stacklevel=5,
                    )
                    return

    # Not inference mode, whose tensors do not count how often they are written to.
    def _outputs(self, config: WidthConfig, *, record: bool) -> Iterator[tuple[Inputs, Any, Any]]:
        """Inputs, targets and output of a config for every held-out batch; all are to be taken, within `no_grad`."""
        network = self._network(config)
        changed = set() if self.base is None else changed_modules(self._affected, config, self.base)
        moments = self._calibrate(network, changed, record=record)
        changed |= {path for name in self._differing(moments) for path in (name, *paths_above(f"{name}."))}
        network.eval()
        for number, (inputs, targets) in enumerate(self.held_out, start=len(self.calibration)):
            with self.activation_cache.running(network, number, changed, record=record):
                output = inputs.call(network)
            yield inputs, targets, output
        if record:
            self._moments = moments

    def _network(self, config: WidthConfig) -> nn.Module:
        network = self.net.extract(config, calibrated=False).requires_grad_(False)
        if self.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in network.modules():
            if isinstance(getattr(module, "inplace", None), bool):
                module.inplace = False  # type: ignore[assignment] # what is written over cannot be reused
        return network

    def _calibrate(self, network: nn.Module, changed: set[str], *, record: bool) -> Moments:
        """Give a network its batch-norm statistics, which are returned by module."""
        norms = norm_modules(network)
        if not norms or not self.calibration:
            return {}

        def around(number: int) -> AbstractContextManager[object]:
            return self.activation_cache.running(network, number, changed, record=record)

        with same_random_numbers(network):
            seen = collect_moments(network, list(norms.values()), self.calibration, around=around)
        found: Moments = {}
        for name, norm in norms.items():
            if norm in seen:
                found[name] = stored_values(norm, seen[norm])
            elif name in self._moments:  # it was inside of a reused module
                found[name] = self._moments[name]
            else:  # not part of the evaluation graph, such as an auxiliary head
                continue
            norm.running_mean.copy_(found[name][0])  # type: ignore[union-attr]
            norm.running_var.copy_(found[name][1])  # type: ignore[union-attr]
        return found

    def _differing(self, moments: Moments) -> list[str]:
        """Norms whose statistics are not those of the base."""
        base = self._moments
        return [
            name
            for name, found in moments.items()
            if name not in base
            or (
                found is not base[name]
                and not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(found, base[name], strict=True))
            )
        ]


@torch.no_grad()
def _equal(plain: Evaluator, shared: Evaluator, config: WidthConfig) -> bool:
    expected = _tensors(plain, config)
    try:
        found = _tensors(shared, config)
    except (RuntimeError, ValueError, TypeError):  # shapes that do not fit
        return False
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def _tensors(evaluator: Evaluator, config: WidthConfig) -> list[Tensor]:
    """All tensors that a config returns for the held-out images."""
    outputs = [detached(output) for _, _, output in evaluator._outputs(config, record=False)]
    found = tensors_in(outputs)
    return found or [logits_of(output) for output in outputs]


def _is_cuda(targets: Any) -> bool:
    return isinstance(targets, Tensor) and targets.device.type != "cpu"


def _has_depthwise(model: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in model.modules())
