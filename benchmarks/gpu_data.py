"""The dataset of the queue in `gpu.sh`: one archive, several archives to join, CIFAR-100, or a few random images."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anywidth.core.files import write_atomically

__all__ = ["DataMissingError", "join", "options", "random_archive"]

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


class DataMissingError(Exception):
    """The dataset cannot be used; the message says why and how to fix it."""


def options(data: str, *, root: Path, out: Path) -> list[str]:
    """The options of `anywidth reproduce` for a dataset, after it was downloaded or joined where necessary.

    Args:
        data: `npz:FILE`, `npz:FOLDER` with several archives to join, or a dataset of `anywidth train`.
        root: Folder of downloaded datasets.
        out: Folder for the joined archive.

    Raises:
        DataMissingError: the dataset is missing, incomplete or cannot be downloaded.
    """
    kind, _, path = data.partition(":")
    if kind == "npz":
        file = Path(path).expanduser().absolute()
        if file.is_dir():
            file = join(sorted(file.glob("*.npz")), out / "data.npz", folder=file)
        if not file.is_file():
            raise DataMissingError(f"{file} does not exist; give --data npz:FILE or npz:FOLDER")
        return ["--data", f"npz:{file}"]
    if data == "cifar100" and not (root / "cifar-100-python" / "train").is_file():
        _download(root)
    return ["--data", data, "--data-root", str(root)]


def join(parts: Sequence[Path], target: Path, *, folder: Path) -> Path:
    """Concatenate the arrays of several archives along the first axis, in order of file names, and return the file.

    A part may contain only some of the arrays, such as those of the test images. The joined archive is written again
    only if a part is newer.

    Raises:
        DataMissingError: the list is empty, or all parts lack an array.
    """
    if not parts:
        raise DataMissingError(f"{folder} contains no .npz files")
    if target.is_file() and target.stat().st_mtime > max(part.stat().st_mtime for part in parts):
        return target
    try:
        import numpy as np
    except ImportError as error:
        raise DataMissingError("joining archives needs numpy, which is not installed") from error
    found: dict[str, list[np.ndarray]] = {}
    for part in parts:
        with np.load(part, allow_pickle=False) as archive:
            for name in archive.files:
                found.setdefault(name, []).append(archive[name])
    missing = [name for name in ARRAYS if name not in found]
    if missing:
        raise DataMissingError(f"no file in {folder} contains {' or '.join(missing)}")
    arrays = {name: found[name][0] if name == "classes" else np.concatenate(found[name]) for name in found}
    for images, labels in (ARRAYS[:2], ARRAYS[2:]):
        if len(arrays[images]) != len(arrays[labels]):
            raise DataMissingError(
                f"{folder} contains {len(arrays[images])} images in {images} but {len(arrays[labels])} labels in "
                f"{labels}; a part is missing or there twice"
            )
    return _save(target, arrays)


def random_archive(target: Path) -> Path:
    """Write 100 random images of 8x8 pixels to train on and 40 to test on, otherwise in the format of CIFAR-100."""
    import numpy as np

    if not target.is_file():
        random = np.random.default_rng(0)
        x = random.integers(0, 256, (140, 8, 8, 3), dtype=np.uint8)
        y = np.arange(140) % 10
        _save(target, dict(zip(ARRAYS, (x[:100], y[:100], x[100:], y[100:]), strict=True)))
    return target


def _save(target: Path, arrays: Mapping[str, Any]) -> Path:
    import numpy as np

    def write(path: Path) -> None:
        with path.open("wb") as file:  # np.savez appends an ending to a path
            np.savez(file, allow_pickle=False, **arrays)

    return write_atomically(target, write)


def _download(root: Path) -> None:
    code = f"from torchvision.datasets import CIFAR100; CIFAR100({str(root)!r}, download=True)"
    problem = ""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
        if done.returncode:
            problem = (done.stderr.strip().splitlines() or ["no output"])[-1]
    except subprocess.TimeoutExpired:
        problem = "it took longer than 240 seconds"
    if problem:
        raise DataMissingError(
            f"CIFAR-100 is not in {root} and cannot be downloaded ({problem}); give --data npz:FILE with x_train, "
            "y_train, x_test and y_test, or put cifar-100-python.tar.gz there"
        )
