"""Initial weights from a file, a run or a model library."""

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
"""Prefixes that wrappers, Lightning and run folders add to tensor names."""


def load_initial(model: nn.Module, source: str | Path, *, name: str, input_shape: tuple[int, int, int]) -> list[str]:
    """Load pretrained weights into a model, in place, and return the names of the tensors that were not loaded.

    Tensors are matched by name and shape, so a classifier for other classes keeps its new weights.

    Args:
        model: The model.
        source: A file of named tensors (`.safetensors`, or a `state_dict` saved by PyTorch), a run folder, or `hub` to
            download pretrained weights from timm or torchvision.
        name: Name of the model, as in `build_model`.
        input_shape: `(channels, height, width)` of the images.

    Raises:
        ModelError: the weights are unavailable, not finite, or fit fewer than half of the model's tensors.

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
            f"only {len(fitting)} of the {len(own)} tensors of {name} fit the weights of {source}, which seem to come "
            f"from another model (its tensors are named {', '.join(list(given)[:3])}, ...)"
        )
    bad = [key for key, value in fitting.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        raise ModelError(f"the weights of {source} contain NaN or infinity in {bad[0]}; use weights of another epoch")
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
    except Exception as error:  # a pickle may raise any error, with a message about Python internals
        raise ModelError(
            f"cannot read weights from {file}: it is damaged, or contains more than named tensors, such as a whole "
            "module; save it with torch.save(model.state_dict(), FILE) or safetensors"
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {key: value for key, value in named if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ModelError(f"{file} contains no named tensors; give a state_dict")
    return tensors


def _published(name: str, *, classes: int, input_shape: tuple[int, int, int]) -> dict[str, Any]:
    library, _, rest = name.partition("/")
    try:
        if library == "timm" and rest:
            model = build_timm(rest, num_classes=classes, input_shape=input_shape, pretrained=True)
            # timm creates a new classifier if the number of classes differs from the weights.
            published = getattr(model, "default_cfg", {}).get("num_classes") == classes
            new = set() if published else {f"{part}." for part in _classifiers(model)}
            return {k: v for k, v in model.state_dict().items() if not any(k.startswith(part) for part in new)}
        if library == "torchvision" and rest:
            from torchvision.models import get_model_weights

            return dict(get_model_weights(rest).DEFAULT.get_state_dict(progress=False))  # type: ignore[attr-defined]
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"cannot get the published weights of {name}: {first_line(error)}; give a file instead"
        ) from error
    raise ModelError(f"no published weights of {name}; give a file, or use timm/NAME or torchvision/NAME")


def _classifiers(model: nn.Module) -> list[str]:
    """Names of the classifiers of a timm model."""
    named = getattr(model, "default_cfg", {}).get("classifier", ())
    return [named] if isinstance(named, str) else list(named or ())


def _outputs(model: nn.Module) -> int:
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    return last[0].out_features if last else 1000
