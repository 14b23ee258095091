"""Description of the dataset in a run folder, so that the network can be used without the images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anywidth.core.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from anywidth.data import DataBundle

__all__ = ["DatasetInfo"]


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """Content of `data.json`.

    Attributes:
        name: Dataset name, as given by `--data`.
        input_shape: The (channels, height, width) of one image.
        classes: Class names, in the order of the labels.
        images: Number of training images and of test images.
        mean: Mean per channel of pixels from 0 to 1, which is subtracted; None if the pixel range is unknown.
        std: Standard deviation per channel, which is divided by; None if the pixel range is unknown.
        prints: Fingerprints of the training and the test images; None in runs that predate fingerprints.
    """

    name: str
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    images: tuple[int, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    prints: tuple[str, str] | None = None

    @classmethod
    def of(cls, bundle: DataBundle) -> DatasetInfo:
        """Describe a dataset: name, sizes, classes and fingerprints."""
        from anywidth.data.fingerprint import fingerprint

        mean, std = _normalisation(bundle.test)
        return cls(
            name=bundle.name, input_shape=bundle.input_shape, classes=bundle.classes, images=_sizes(bundle), mean=mean,
            std=std, prints=(fingerprint(bundle.train), fingerprint(bundle.test)),
        )  # fmt: skip

    @classmethod
    def read(cls, file: Path) -> DatasetInfo:
        """Read a `data.json`.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        try:
            content = json.loads(file.read_text())
            channels, height, width = map(int, content["input_shape"])
            train, test = int(content["images"]["train"]), int(content["images"]["test"])
            pixels, prints = content["pixels"], content.get("fingerprints")
            mean, std = (None if pixels is None else tuple(map(float, pixels[key])) for key in ("mean", "std"))
            return cls(
                name=str(content["name"]), input_shape=(channels, height, width),
                classes=tuple(map(str, content["classes"])), images=(train, test), mean=mean, std=std,
                prints=None if prints is None else (str(prints["train"]), str(prints["test"])),
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"cannot read {file}: {error}; restore the file") from error

    def json(self) -> str:
        """Text of `data.json`."""
        content = {
            "name": self.name,
            "input_shape": self.input_shape,
            "images": dict(zip(("train", "test"), self.images, strict=True)),
            "fingerprints": None if self.prints is None else dict(zip(("train", "test"), self.prints, strict=True)),
            "pixels": None if self.mean is None else {"from": 0, "to": 1, "mean": self.mean, "std": self.std},
            "classes": self.classes,
        }
        return json.dumps(content, indent=2) + "\n"

    def check(self, bundle: DataBundle, *, taken: int = 0) -> None:
        """Check by fingerprints that a dataset is the one used for training.

        Args:
            bundle: The dataset.
            taken: Number of former training images that are held out now and therefore missing from the training part.

        Raises:
            DataError: images, names or classes differ, so that the test images may include training images.
        """
        from anywidth.data.fingerprint import fingerprint

        train, test = _sizes(bundle)
        train += taken
        if (train, test) != self.images:
            was = f"{self.images[0]:,} training and {self.images[1]:,} test images"
            raise DataError(
                f"{self.name} has changed since training: it had {was}, now {train:,} and {test:,}. Restore it; "
                "otherwise the test images may include training images"
            )
        if bundle.classes != self.classes:
            raise DataError(f"{self.name} has changed since training: its class names differ. Restore it")
        if self.prints is not None:
            # Images held out only now are missing from one part; the other part is unchanged.
            now = self.prints[0] if taken else fingerprint(bundle.train), fingerprint(bundle.test)
            if now != self.prints:
                raise DataError(
                    f"{self.name} has changed since training: images, labels or file names differ. Restore it; "
                    "otherwise the test images may include training images"
                )


def _sizes(bundle: DataBundle) -> tuple[int, int]:
    return len(bundle.train), len(bundle.test)  # type: ignore[arg-type]


def _normalisation(images: Any) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation per channel of images with pixels from 0 to 1; None for other images."""
    import torch

    from anywidth.data import TensorImages
    from anywidth.data.photo_transforms import MEAN, STD

    if not isinstance(images, TensorImages):
        return MEAN, STD
    white = 255.0 if images.images.dtype == torch.uint8 else 1.0
    if white == 1.0 and not (float(images.images.min()) >= 0 and float(images.images.max()) <= 1):
        return None, None
    mean, std = (tuple((values.cpu() / white).flatten().tolist()) for values in (images.mean, images.std))
    return mean, std
