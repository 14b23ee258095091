"""torchvision's sets in their real formats, with few images of noise."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

random = np.random.default_rng(0)
CLASSES = [f"class {index}" for index in range(100)]


def write_pickle(file: Path, content: dict[str, Any]) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(content, protocol=2))
    return hashlib.md5(file.read_bytes()).hexdigest()


def write_cifar(kind: type[CIFAR10], root: Path, patch: pytest.MonkeyPatch, labels: list[int]) -> np.ndarray[Any, Any]:
    """Writes a CIFAR set of small batches, and makes their sums the expected ones; the training pixels."""
    key = "fine_labels" if kind is CIFAR100 else "labels"
    written = []
    for attribute in ("train_list", "test_list"):
        sums = []
        for name, _ in getattr(kind, attribute):
            pixels = random.integers(0, 256, (len(labels), 3 * 32 * 32), np.uint8)
            sums.append([name, write_pickle(root / kind.base_folder / name, {"data": pixels, key: labels})])
            written.append(pixels)
        patch.setattr(kind, attribute, sums)
    meta = {kind.meta["key"]: CLASSES[: 100 if kind is CIFAR100 else 10]}
    md5 = write_pickle(root / kind.base_folder / kind.meta["filename"], meta)
    patch.setattr(kind, "meta", kind.meta | {"md5": md5})
    return np.concatenate(written[:-1]).reshape(-1, 3, 32, 32)


def write_fashion(root: Path, images: int = 6, labels: int = 6) -> np.ndarray[Any, Any]:
    """Writes a Fashion-MNIST set in the idx format; the training pixels."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    written = []
    for part in ("train", "t10k"):
        pixels = random.integers(0, 256, (images, 28, 28), np.uint8)
        written.append(pixels)
        header = struct.pack(">IIII", 0x00000803, *pixels.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = struct.pack(">II", 0x00000801, labels)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(index % 10 for index in range(labels)))
    return written[0]
