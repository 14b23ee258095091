"""Checkpoints of supernets: safetensors and JSON, never pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.core.errors import CheckpointError, MissingExtraError, ModelError, WidthError
from anywidth.core.inputs import Inputs
from anywidth.core.modules import model_device, named_tensors
from anywidth.groups.analyse import analyse, forward_now
from anywidth.groups.forward import attributes_of
from anywidth.supernet.architecture import difference, pack, unpack
from anywidth.supernet.checkpoint_format import FORMAT, TENSORS, read, write
from anywidth.supernet.plain_data import decode, encode
from anywidth.supernet.replace_norms import described, replaced_norms
from anywidth.supernet.settings import SupernetSettings
from anywidth.supernet.shell_norm import NormKind
from anywidth.supernet.supernet import Supernet
from anywidth.widths import WidthConfig

__all__ = ["load", "save"]

_EXTRA = "_extra_state"


def save(net: Supernet, folder: str | Path) -> Path:
    """Write a supernet to a folder as `supernet.safetensors` and `supernet.json`.

    The tensors are the model's `state_dict` under `model/`, the calibrated statistics under `statistics/` and the
    separate parameters of switches under `switches/`. The header of the tensor file also contains the settings; the
    JSON file is for people. Buffers that are not in the state dict, extra states, the example inputs and a description
    of the forward are also stored, so that `load` builds the same network. The header contains a digest of all tensors.

    Raises:
        CheckpointError: the folder cannot be written; the previous checkpoint is kept.
        ModelChangedError: the network is nested, and weights that read later shells are not zero.
    """
    if net.nested:
        net.shells.check(every=True)
    folder = Path(folder)
    tensors: dict[str, Tensor] = {}
    extra: dict[str, Any] = {}
    canonical = net.analysis.names
    state = net.model.state_dict()
    for name in state:
        first = canonical.get(name, name)
        if not name.endswith(_EXTRA):
            tensors[f"model/{first}"] = state.get(first, state[name])
        else:
            extra[name] = encode(state[name], f"extra/{name}", tensors, f"the extra state {name}")
    for name, buffer in _transient(net.model, state).items():
        tensors[f"transient/{name}"] = buffer
    current = list(net.statistics.current())
    for config in current:
        for name, value in net.statistics[config].items():
            tensors[f"statistics/{config.key}/{name}"] = value
    if net.switches:
        tensors.update({f"switches/{name}": tensor for name, tensor in net.switch_state().items()})
    for config in net.own_buffers.configs:
        for name, value in net.own_buffers.values(config).items():
            tensors[f"buffers/{config.key}/{name}"] = value
    inputs = {"args": net.inputs.args, "kwargs": net.inputs.kwargs}
    described = encode(inputs, "inputs", tensors, "an example input", redraw=True)
    tensors["architecture"] = pack(forward_now(net.model, net.inputs, net.analysis), attributes_of(net.model))
    write(folder, tensors, {**_settings(net, current), "inputs": described, "extra": extra})
    return folder


def _transient(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Buffers that are not in the state dict; constructors build them again, but not in the order of the channels."""
    buffers = dict(model.named_buffers(remove_duplicate=False))
    names: dict[int, str] = {}
    for name, buffer in buffers.items():
        if name not in state:
            names.setdefault(id(buffer), name)
    return {name: buffers[name] for name in names.values()}


def _settings(net: Supernet, current: list[WidthConfig]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": type(net.model).__name__,
        "built_as": getattr(net.model, "built_as", None),
        "torch": torch.__version__,
        "divisor": net.divisor,
        "min_width": net.min_width,
        "frozen": list(net.frozen),
        "ratios": net.ratios,
        "switches": list(net.switches),
        "switch_affine": net.switch_affine,
        "nested": list(net.nested),
        "nested_norms": {path: list(kind) for path, kind in described(net.model).items()},
        "average_inputs": net.average_inputs,
        "samples": net.analysis.samples,
        "groups": [
            {"name": g.name, "channels": g.channels, "block_size": g.block_size, "ratio": g.ratio, "frozen": g.frozen}
            for g in net.groups
        ],
        "statistics": {config.key: {"label": config.label, "channels": dict(config)} for config in current},
        "buffers": {config.key: dict(config) for config in net.own_buffers.configs},
    }


def load(folder: str | Path, model: nn.Module | None = None) -> Supernet:
    """The supernet saved in a folder, loaded into a model of the same architecture.

    Args:
        folder: A folder that `save` or `anywidth train` wrote.
        model: A network built like the saved one. Its weights are overwritten, but only if everything fits. Not needed
            if `anywidth.models.build_model` built the saved one, as in all runs of `anywidth train`.

    Raises:
        CheckpointError: the files are missing, truncated or foreign, belong to a different model, or to one that cannot
            be built by its name.

    >>> def model() -> nn.Module:
    ...     return nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2))
    >>> net = Supernet(model(), torch.randn(1, 4))
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     again = load(net.save(folder), model())
    >>> bool((again.model[0].weight == net.model[0].weight).all())
    True
    """
    tensors, settings = read(Path(folder))
    path = Path(folder) / TENSORS
    if model is None:
        model = _build(settings, path)
    with replaced_norms(model, _norms(model, tensors, settings, path)):
        return _load(model, tensors, settings, path)


def _norms(
    model: nn.Module, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path
) -> dict[str, tuple[NormKind, int, Tensor]]:
    """The norms of the model that are norms per shell in the file."""
    found: dict[str, tuple[NormKind, int, Tensor]] = {}
    modules = dict(model.named_modules())
    for name, (kind, dim) in settings.get("nested_norms", {}).items():
        shells = tensors[f"transient/{name}.shells"]
        weight = getattr(modules.get(name), "weight", None)
        if not isinstance(weight, Tensor) or weight.shape != shells.shape:
            raise CheckpointError(
                f"{path} is a checkpoint of a different model: {name or 'the model'} is a norm of {len(shells)} "
                "channels in the file and not in the model. Build the model as it was when it was saved"
            )
        found[name] = kind, dim, shells
    return found


def _load(model: nn.Module, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path) -> Supernet:
    saved = _part(tensors, "model/")
    own = model.state_dict()
    names: dict[int, str] = {}
    first = {name: names.setdefault(id(tensor), name) for name, tensor in named_tensors(model).items()}
    extra = {name for name in own if name.endswith(_EXTRA)}
    wanted = {first.get(name, name): tensor for name, tensor in own.items() if name not in extra}
    buffers = dict(model.named_buffers(remove_duplicate=False))
    transient = {
        name: (buffers[name], tensor)
        for name, tensor in _part(tensors, "transient/").items()
        if name in buffers  # otherwise one that a forward creates
    }
    problems = [f"{name} is not in the file" for name in wanted if name not in saved]
    problems += [f"{name} is not in the model" for name in saved if name not in wanted]
    problems += [f"the extra state {name} is in only one of them" for name in sorted(extra ^ set(settings["extra"]))]
    pairs = {**{name: (t, saved[name]) for name, t in wanted.items() if name in saved}, **transient}
    problems += [
        f"{name} has shape {tuple(theirs.shape)} in the file and {tuple(ours.shape)} in the model"
        for name, (ours, theirs) in pairs.items()
        if ours.shape != theirs.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more differences" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{path} is a checkpoint of a different model (saved from {settings['model']}, loaded into "
            f"{type(model).__name__}): {'; '.join(problems[:3])}{more}. Build the model as it was when it was saved"
        )
    net = _rebuild(model, tensors, settings, path)
    statistics = _statistics(net, tensors, settings, path)
    if net.nested:
        _check_shells(net, saved, path)
    if net.switches:
        net.load_switch_state(_part(tensors, "switches/"))
    with torch.no_grad():
        for ours, theirs in pairs.values():
            ours.copy_(theirs)
    for name in extra:
        value = decode(settings["extra"][name], tensors)
        model.get_submodule(name.removesuffix(_EXTRA).rstrip(".")).set_extra_state(value)
    for config, values in statistics.items():
        net.statistics.store(config, values)
    for key, channels in settings.get("buffers", {}).items():
        values = {n.removeprefix(f"buffers/{key}/"): t for n, t in tensors.items() if n.startswith(f"buffers/{key}/")}
        if values.keys() == net.own_buffers.names:
            device = model_device(model)
            net.own_buffers.store(net.config(WidthConfig(channels)), {n: t.to(device) for n, t in values.items()})
    return net


def _check_shells(net: Supernet, saved: Mapping[str, Tensor], path: Path) -> None:
    """Raise if the weights in a file are not those of a network with its shells."""
    for name, later in net.shells.nesting.later.items():
        if name in saved and any(bool(part.any()) for part in later.of(saved[name])):
            known = ", ".join(f"{width:g}" for width in net.nested)
            raise CheckpointError(
                f"{path} has weights of other shells: {name} reads later shells of nested=({known}). Build the "
                "supernet with the shells of these weights and save it again, or load the weights with "
                "model.load_state_dict and call net.zero_later_shells(), which drops what later shells contribute"
            )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _build(settings: Mapping[str, Any], path: Path) -> nn.Module:
    from anywidth.models import build_model

    arguments = settings.get("built_as")
    if arguments is None:
        raise CheckpointError(
            f"{path} does not say how to build its {settings['model']}; build it yourself: anywidth.load(folder, model)"
        )
    try:
        return build_model(**{**arguments, "input_shape": tuple(arguments["input_shape"])})
    except (TypeError, KeyError, ModelError, MissingExtraError) as error:
        raise CheckpointError(f"{path}: its {settings['model']} cannot be built from {arguments}: {error}") from error


def _statistics(
    net: Supernet, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path
) -> dict[WidthConfig, dict[str, Tensor]]:
    """Statistics and label of every calibrated config in a file, checked."""
    own = dict(net.model.named_buffers(remove_duplicate=False))
    wanted = {net.analysis.names[name] for name in net.statistics.names}
    found = {}
    for key, entry in settings["statistics"].items():
        prefix = f"statistics/{key}/"
        values = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        try:
            config = net.config(WidthConfig(entry["channels"], entry["label"]))
        except WidthError as error:
            raise CheckpointError(f"{path} has statistics that do not fit its network: {error}") from error
        if values.keys() != wanted or config.key != key:
            raise CheckpointError(f"{path} has damaged statistics for width {entry['label']}; calibrate and save again")
        found[config] = {name: value.to(own[name]) for name, value in values.items()}
    return found


def _rebuild(model: nn.Module, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path) -> Supernet:
    given = decode(settings["inputs"], tensors, model_device(model))
    inputs = Inputs(args=given["args"], kwargs=given["kwargs"])
    # With the proof, because it also corrects the analysis: it finds integers that follow channels, and ties channels.
    analysis = analyse(model, inputs, samples=settings.get("samples"))
    same_torch = settings["torch"].split(".")[:2] == torch.__version__.split(".")[:2]
    here = analysis.forward, analysis.plain
    change = difference(unpack(tensors["architecture"]), here, by_lines=same_torch)
    if change is not None:
        raise CheckpointError(
            f"{path} was saved from a network with a different forward: {change}. "
            "Build the model as it was when it was saved"
        )
    saved = {group["name"]: group for group in settings["groups"]}
    found = {group.name: group for group in analysis.groups}
    strange = [name for name in saved if name not in found or found[name].channels != saved[name]["channels"]]
    strange += [name for name in found if name not in saved or (found[name].frozen and not saved[name]["frozen"])]
    if strange:
        raise CheckpointError(
            f"{path} was saved from a network with other channel groups ({', '.join(strange[:3])}, ...): "
            "the forward of this model differs. Build the model as it was when it was saved"
        )
    # Channels that were frozen when the supernet was built stay frozen.
    analysis = analysis.freeze({n: g["frozen"] for n, g in saved.items() if g["frozen"] is not None})
    analysis = analysis.with_ratios({name: group["ratio"] for name, group in saved.items()})
    return Supernet.from_parts(
        model,
        inputs,
        analysis,
        SupernetSettings(
            divisor=settings["divisor"],
            min_width=settings["min_width"],
            frozen=settings["frozen"],
            ratios=settings["ratios"],
            switches=settings.get("switches") or None,
            switch_affine=settings.get("switch_affine", True),
            nested=settings.get("nested") or None,
            samples=settings.get("samples"),
            average_inputs=settings.get("average_inputs", False),
        ),
    )
