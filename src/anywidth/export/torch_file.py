"""Export of one width as safetensors for the model's own class: weights and module attributes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from anywidth.core.errors import CheckpointError
from anywidth.core.modules import named_tensors

__all__ = ["load_dense", "save_dense"]

FORMAT = 1
_KEY = "anywidth-dense"


def save_dense(dense: nn.Module, full: nn.Module, path: Path) -> None:
    """Write a narrow network as safetensors, with the numeric module attributes that differ from the full network's.

    Tensors have their `state_dict` names; a tensor with several names is stored once. The header contains, as JSON, the
    attributes by module under `attributes` and the other names under `aliases`.
    """
    from safetensors.torch import save_file

    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in named_tensors(dense).items():
        kept = first.setdefault(id(tensor), name)
        if kept == name:
            tensors[name] = tensor.detach().contiguous()
        else:
            aliases[name] = kept
    theirs = dict(full.named_modules())
    attributes = {
        name: changed
        for name, module in dense.named_modules()
        if (changed := {k: v for k, v in _numbers(module).items() if _numbers(theirs[name]).get(k) != v})
    }
    content = {"format": FORMAT, "model": type(full).__name__, "attributes": attributes, "aliases": aliases}
    save_file(tensors, path, metadata={"format": "pt", _KEY: json.dumps(content)})


def load_dense(path: str | Path, model: nn.Module) -> nn.Module:
    """Load a narrow network from a file, into a model of the full architecture, which is changed and returned.

    Args:
        path: A file that `anywidth.export(..., format="torch")` wrote.
        model: A network built like the supernet's, at full width, with any weights.

    Raises:
        CheckpointError: the file is missing, damaged, or from another model; the model is then unchanged.

    >>> import tempfile, torch
    >>> from anywidth.supernet import Supernet
    >>> def model() -> nn.Module:
    ...     return nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2))
    >>> full = model()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_dense(Supernet(full, torch.randn(1, 4)).extract(0.5), full, Path(folder, "half.safetensors"))
    ...     load_dense(Path(folder, "half.safetensors"), model())
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): Linear(in_features=8, out_features=2, bias=True)
    )
    """
    tensors, content = _read(Path(path))
    modules = dict(model.named_modules(remove_duplicate=False))
    own = named_tensors(model)
    given = {**tensors, **{name: tensors[first] for name, first in content["aliases"].items()}}
    strange = sorted(set(own) ^ set(given)) + [name for name in content["attributes"] if name not in modules]
    strange += [name for name in own.keys() & given.keys() if own[name].ndim != given[name].ndim]
    if strange:
        raise CheckpointError(
            f"{path} belongs to another model (written from {content['model']}, loaded into {type(model).__name__}): "
            f"{strange[0]} differs; build the same model as when the file was written"
        )
    made: dict[str, Tensor] = {}
    for name in own:
        first = content["aliases"].get(name, name)
        if first not in made:
            value = tensors[first].to(own[first].device)
            made[first] = (
                nn.Parameter(value, own[first].requires_grad) if isinstance(own[first], nn.Parameter) else value
            )
        owner, _, last = name.rpartition(".")
        module = modules[owner]
        register = module._parameters if last in module._parameters else module._buffers
        register[last] = made[first]  # type: ignore[assignment]
    for name, attributes in content["attributes"].items():
        for attribute, value in attributes.items():
            before = getattr(modules[name], attribute, None)
            modules[name].__dict__[attribute] = type(before)(value) if isinstance(before, (tuple, list)) else value
    return model


def _numbers(module: nn.Module) -> dict[str, Any]:
    """Attributes of a module that are numbers or sequences of numbers."""
    found = {}
    for name, value in vars(module).items():
        parts = value if isinstance(value, (tuple, list)) else [value]
        if name != "training" and parts and all(isinstance(part, (bool, int, float)) for part in parts):
            found[name] = list(value) if isinstance(value, (tuple, list)) else value
    return found


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; write it with anywidth.export(..., format='torch')")
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file ({error}); export it again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} was not written by anywidth.export(..., format='torch'); export it again")
    return tensors, content
