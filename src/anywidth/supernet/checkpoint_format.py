"""The two files of a checkpoint and their digest: tensors with settings in their header, and readable settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anywidth.core.errors import CheckpointError
from anywidth.core.files import write_atomically

__all__ = ["FORMAT", "TENSORS", "read", "write"]

FORMAT = 2
TENSORS, _SETTINGS = "supernet.safetensors", "supernet.json"
_KEYS = {"model", "divisor", "min_width", "frozen", "ratios", "inputs", "groups", "statistics", "digest"}


def write(folder: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    """Write tensors and settings to a folder; the settings include a digest of all tensors.

    Raises:
        CheckpointError: the folder cannot be written; the previous checkpoint is kept.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    settings = {**settings, "digest": _digest(plain)}
    text = json.dumps(settings)

    def write_tensors(path: Path) -> None:
        try:
            save_file(plain, path, metadata={"format": "pt", "anywidth": text})
        except SafetensorError as error:  # such as a full disk
            raise OSError(str(error)) from error

    write_atomically(folder / TENSORS, write_tensors)
    write_atomically(folder / _SETTINGS, lambda path: path.write_text(json.dumps(settings, indent=2) + "\n"))


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and settings of a checkpoint, complete and unaltered.

    Raises:
        CheckpointError: the files are missing, truncated, foreign, altered or in another format.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / TENSORS
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; give the folder that Supernet.save or a training run wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({error}); restore it or train again"
        ) from error
    if "anywidth" not in metadata:
        raise CheckpointError(
            f"{path} was not written by anywidth: it has no supernet settings. "
            "To start from plain weights, load them into the model and make a Supernet of it"
        )
    try:
        settings = json.loads(metadata["anywidth"])
    except ValueError as error:
        raise CheckpointError(f"{path} has damaged settings ({error}); restore it or train again") from error
    if not isinstance(settings, dict) or (settings.get("format") == FORMAT and not settings.keys() >= _KEYS):
        raise CheckpointError(f"{path} has incomplete settings; restore it or train again")
    if settings.get("format") != FORMAT:
        old = isinstance(settings.get("format"), int) and settings["format"] < FORMAT
        advice = "train again, or load it with the version that wrote it" if old else "update anywidth"
        raise CheckpointError(f"{path} has format {settings.get('format')!r} and this version reads {FORMAT}; {advice}")
    if _digest(tensors) != settings["digest"]:
        raise CheckpointError(
            f"{path} was altered after it was written: its tensors do not have the digest that was saved with them; "
            "restore it or train again"
        )
    copy = folder / _SETTINGS
    if copy.exists():
        try:
            json.loads(copy.read_text())
        except (ValueError, OSError) as error:
            raise CheckpointError(
                f"{copy} is damaged ({error}); delete it, the settings are in {TENSORS} too"
            ) from error
    return tensors, settings


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and values of tensors, all on the CPU and contiguous."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
