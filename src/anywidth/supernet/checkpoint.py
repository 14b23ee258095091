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
from anywidth.supernet.checkpoint_files import FORMAT, TENSORS, read, write
from anywidth.supernet.plain_data import decode, encode
from anywidth.supernet.supernet import Supernet
from anywidth.widths import WidthConfig

__all__ = ["load", "save"]

_EXTRA = "_extra_state"


def save(net: Supernet, folder: str | Path) -> Path:
    """Write a supernet into a folder as `supernet.safetensors` and `supernet.json`.

    The tensors are the model's own `state_dict` under `model/`, the calibrated statistics under `statistics/` and what
    switches have of their own under `switches/`; settings travel in the header of the tensor file as well, and the JSON
    is for reading. Buffers that are not in the state dict, extra states, the example inputs and what the forward does
    are stored too, so that `load` builds the same network, and the header has a digest of all tensors.

    Raises:
        CheckpointError: the folder cannot be written; an older checkpoint in it is kept.
    """
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
    """Buffers that are not in the state dict; constructors make them again, but not in the order of the channels."""
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
        "average_inputs": net.average_inputs,
        "samples": net.analysis.samples,
        "groups": [
            {"name": g.name, "channels": g.channels, "unit": g.unit, "ratio": g.ratio, "frozen": g.frozen}
            for g in net.groups
        ],
        "statistics": {
            config.key: {"label": net.statistics.labels[config], "channels": dict(config)} for config in current
        },
        "buffers": {config.key: dict(config) for config in net.own_buffers.configs},
    }


def load(folder: str | Path, model: nn.Module | None = None) -> Supernet:
    """The supernet saved in a folder, on a model of the same architecture, whose weights are overwritten.

    Args:
        folder: What `save` or `anywidth train` wrote.
        model: A network built like the saved one; it is changed only if everything fits. It may be left out if
            `anywidth.models.build_model` made the saved one, as in all that `anywidth train` writes.

    Raises:
        CheckpointError: missing, truncated or foreign files, a checkpoint of another model, or of one that cannot be
            built by its name.

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
        if name in buffers  # else one that a forward makes
    }
    problems = [f"{name} is not in the file" for name in wanted if name not in saved]
    problems += [f"{name} is not in the model" for name in saved if name not in wanted]
    problems += [f"the extra state {name} is in one of them only" for name in sorted(extra ^ set(settings["extra"]))]
    pairs = {**{name: (t, saved[name]) for name, t in wanted.items() if name in saved}, **transient}
    problems += [
        f"{name} has shape {tuple(theirs.shape)} in the file and {tuple(ours.shape)} in the model"
        for name, (ours, theirs) in pairs.items()
        if ours.shape != theirs.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more differences" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{path} is a checkpoint of another model (saved from {settings['model']}, loaded into "
            f"{type(model).__name__}): {'; '.join(problems[:3])}{more}. Build the model as it was when it was saved"
        )
    net = _rebuild(model, tensors, settings, path)
    statistics = _statistics(net, tensors, settings, path)
    if net.switches:
        net.load_switch_state(_part(tensors, "switches/"))
    with torch.no_grad():
        for ours, theirs in pairs.values():
            ours.copy_(theirs)
    for name in extra:
        value = decode(settings["extra"][name], tensors)
        model.get_submodule(name.removesuffix(_EXTRA).rstrip(".")).set_extra_state(value)
    for config, (values, label) in statistics.items():
        net.statistics.store(config, values, label)
    for key, channels in settings.get("buffers", {}).items():
        values = {n.removeprefix(f"buffers/{key}/"): t for n, t in tensors.items() if n.startswith(f"buffers/{key}/")}
        if values.keys() == net.own_buffers.names:
            device = model_device(model)
            net.own_buffers.store(net.config(WidthConfig(channels)), {n: t.to(device) for n, t in values.items()})
    return net


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
) -> dict[WidthConfig, tuple[dict[str, Tensor], str]]:
    """Statistics and label of every calibrated config in a file, checked."""
    own = dict(net.model.named_buffers(remove_duplicate=False))
    wanted = {net.analysis.names[name] for name in net.statistics.names}
    found = {}
    for key, entry in settings["statistics"].items():
        prefix = f"statistics/{key}/"
        values = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        try:
            config = net.config(WidthConfig(entry["channels"]))
        except WidthError as error:
            raise CheckpointError(f"{path} has statistics that do not fit its network: {error}") from error
        if values.keys() != wanted or config.key != key:
            raise CheckpointError(f"{path} has damaged statistics for width {entry['label']}; calibrate and save again")
        found[config] = ({name: value.to(own[name]) for name, value in values.items()}, entry["label"])
    return found


def _rebuild(model: nn.Module, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path) -> Supernet:
    given = decode(settings["inputs"], tensors, model_device(model))
    inputs = Inputs(args=given["args"], kwargs=given["kwargs"])
    # With the proof, because it also repairs: it finds what integers of a forward count, and ties channels.
    analysis = analyse(model, inputs, samples=settings.get("samples"))
    same_torch = settings["torch"].split(".")[:2] == torch.__version__.split(".")[:2]
    here = analysis.forward, analysis.plain
    change = difference(unpack(tensors["architecture"]), here, by_lines=same_torch)
    if change is not None:
        raise CheckpointError(
            f"{path} was saved from a network that computes something else: {change}. "
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
    # What was frozen when the supernet was made stays frozen.
    analysis = analysis.freeze({n: g["frozen"] for n, g in saved.items() if g["frozen"] is not None})
    analysis = analysis.with_ratios({name: group["ratio"] for name, group in saved.items()})
    net = Supernet.__new__(Supernet)
    net._set_up(
        model,
        inputs,
        analysis,
        settings["divisor"],
        settings["min_width"],
        settings["frozen"],
        settings["ratios"],
    )
    # Earlier checkpoints have it under the second name.
    net._set_input_rescaling(settings.get("average_inputs", False))
    if settings.get("switches"):
        net._set_switches(settings["switches"], affine=settings["switch_affine"])
    return net
