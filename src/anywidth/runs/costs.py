"""Costs by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from anywidth.core.errors import SearchError
from anywidth.cost import LatencyModel, NamedCost, activation_memory, fit_latency, latency, macs, named_cost, params
from anywidth.search import SearchResult
from anywidth.supernet import Supernet

__all__ = ["cost_by_name", "cost_of_result", "latency_model"]

_COUNTED = {"macs": macs, "params": params, "memory": activation_memory}


def cost_by_name(name: str, model: LatencyModel | None = None) -> NamedCost:
    """Cost with the name that the command line uses; a latency needs its model.

    >>> cost_by_name("memory").unit
    'bytes'
    """
    if name not in _COUNTED:
        assert model is not None
        return NamedCost(name=name, unit=model.unit, function=model)
    return named_cost(_COUNTED[name])


def latency_model(
    net: Supernet, name: str, file: Path, *, device: str, progress: Callable[[int, int], object]
) -> LatencyModel:
    """Latency model from a file; a missing file is written after measuring this machine.

    Raises:
        SearchError: the file belongs to another network.
    """
    if file.exists():
        model = LatencyModel.from_json(file)
        model(net)
        return model
    if name == "latency-onnx":
        from anywidth.export import onnx_latency

        measure = partial(onnx_latency, calibrated=False)
    else:
        measure = partial(latency, device=device, compiled=name == "latency-compiled")
    model = fit_latency(net, measure, name=name, progress=progress)
    model.to_json(file)
    return model


def cost_of_result(result: SearchResult) -> NamedCost:
    """Cost that a search used.

    Raises:
        SearchError: the search used a custom cost.
    """
    if result.cost in _COUNTED:
        return cost_by_name(result.cost)
    if "latency_model" in result.about:
        return cost_by_name(result.cost, LatencyModel.from_dict(result.about["latency_model"]))
    raise SearchError(
        f"the search used the cost {result.cost!r}, which is not built in; call `anywidth.search` from Python for it"
    )
