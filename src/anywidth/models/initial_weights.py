"""Weights that a model starts from instead of new ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from anywidth.core.errors import ModelError, first_line
from anywidth.models.timm_models import build_timm

__all__ = ["load_initial"]

_LEAST = 0.5
_PREFIX = re.compile(r"^(module\.|model\.|model/)+")
"""What wrappers, Lightning and run folders put before the names."""


def load_initial(model: nn.Module, source: str | Path, *, name: str, input_shape: tuple[int, int, int]) -> list[str]:
    """Put pretrained weights into a model, in place, and return the names of the tensors that stay as they are.

    Tensors are taken by name where shapes agree, so that a classifier of other classes starts anew.

    Args:
        model: The model.
        source: A file of tensors by name (`.safetensors`, or a `state_dict` that PyTorch saved), the folder of a run,
            or `hub` for what timm or torchvision publish of the model, which is downloaded.
        name: The model's, as in `build_model`.
        input_shape: The `(channels, height, width)` of its images.

    Raises:
        ModelError: the weights cannot be had, are not finite, or fit less than half of the model's tensors.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "weights.safetensors")
    ...     _ = save_file({"0.weight": torch.ones(4, 2), "0.bias": torch.ones(4), "1.bias": torch.ones(9)}, file)
    ...     model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3))
    ...     load_initial(model, file, name="mine", input_shape=(1, 1, 2))
    ['1.bias', '1.weight']
    """
    if source == "hub":
        given = _published(name, classes=_outputs(model), input_shape=input_shape)
    else:
        given = _read(Path(source).expanduser())
    own = model.state_dict()
    given = {_PREFIX.sub("", key): value for key, value in given.items()}
    fitting = {key: value for key, value in given.items() if key in own and value.shape == own[key].shape}
    if len(fitting) < _LEAST * len(own):
        raise ModelError(
            f"the weights of {source} fit {len(fitting)} of the {len(own)} tensors of {name}; "
            f"they seem to be of another model (theirs are named {', '.join(list(given)[:3])}, ...)"
        )
    bad = [key for key, value in fitting.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        raise ModelError(f"the weights of {source} hold NaN or infinity in {bad[0]}; take those of another epoch")
    model.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


def _read(file: Path) -> dict[str, Tensor]:
    if file.is_dir():
        file = file / "supernet.safetensors"
    content: Any
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read weights from {file}: {first_line(error)}") from error
    except Exception as error:  # a pickle may raise anything, and what it says is about Python
        raise ModelError(
            f"cannot read weights from {file}: it is damaged, or holds more than tensors by name, such as a whole "
            "module; write torch.save(model.state_dict(), FILE) or safetensors"
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {key: value for key, value in named if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ModelError(f"{file} has no tensors by name; give a state_dict")
    return tensors


def _published(name: str, *, classes: int, input_shape: tuple[int, int, int]) -> dict[str, Any]:
    library, _, rest = name.partition("/")
    try:
        if library == "timm" and rest:
            model = build_timm(rest, num_classes=classes, input_shape=input_shape, pretrained=True)
            # timm makes a classifier anew for another number of classes than the weights have.
            published = getattr(model, "default_cfg", {}).get("num_classes") == classes
            new = set() if published else {f"{part}." for part in _classifiers(model)}
            return {k: v for k, v in model.state_dict().items() if not any(k.startswith(part) for part in new)}
        if library == "torchvision" and rest:
            from torchvision.models import get_model_weights

            return dict(get_model_weights(rest).DEFAULT.get_state_dict(progress=False))  # type: ignore[attr-defined]
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"the published weights of {name} cannot be had: {first_line(error)}; give a file instead"
        ) from error
    raise ModelError(f"there are no published weights of {name}; give a file, or take timm/NAME or torchvision/NAME")


def _classifiers(model: nn.Module) -> list[str]:
    """The names of the classifiers of a timm model."""
    named = getattr(model, "default_cfg", {}).get("classifier", ())
    return [named] if isinstance(named, str) else list(named or ())


def _outputs(model: nn.Module) -> int:
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    return last[0].out_features if last else 1000
