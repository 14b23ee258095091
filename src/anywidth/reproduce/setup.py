"""Settings of an experiment: data, model, recipe and seeds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from anywidth.core.errors import AnywidthError
from anywidth.data.load import Augment
from anywidth.runs.settings import DataSettings, ModelSettings, OptimizationSettings, TrainSettings, WidthSettings

__all__ = ["PRESETS", "Setup"]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The settings that all arms of an experiment share.

    Attributes:
        scale: The size of the experiment: digits (minutes), cifar (hours) or full (a GPU).
        data: As in `anywidth.data.load_data`.
        image_size: Height and width in pixels; None keeps the size of the images.
        augment: As in `anywidth.data.load_data`.
        train_images: Number of training images to use; None uses all.
        test_images: Number of test images to use; None uses all.
        model: As in `anywidth.models.build_model`.
        epochs: Passes over the training images, of every arm.
        batch_size: Images per step.
        lr: Peak learning rate.
        weight_decay: Weight decay of convolution and linear weights.
        warmup_epochs: Epochs of learning-rate warm-up.
        widths_per_step: Widths per sandwich step.
        widths: Number of evenly spaced widths in a spectrum.
        seeds: Number of runs of every arm, with seeds 0, 1, ... for weights, widths, batches and split.
        precision: Training precision, 32 or bf16.
        graphs: Whether to run the widths of a sandwich step as CUDA graphs, on a GPU.
        width_grid: Number of evenly spaced widths from which random ones are drawn; None draws any width.
    """

    scale: Literal["digits", "cifar", "full"] = "digits"
    data: str = "digits"
    image_size: int | None = None
    augment: Augment = "auto"
    train_images: int | None = None
    test_images: int | None = None
    model: str = "digits"
    epochs: int = 15
    batch_size: int = 64
    lr: float = 0.1
    weight_decay: float = 1e-2
    warmup_epochs: float = 1.0
    widths_per_step: int = 4
    widths: int = 7
    seeds: int = 3
    precision: Literal["32", "bf16", "16"] = "32"
    graphs: bool = False
    width_grid: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "widths_per_step", "widths", "seeds"):
            if getattr(self, name) < 1:
                raise AnywidthError(f"{name} is {getattr(self, name)}; give at least 1")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise AnywidthError(f"{self.warmup_epochs:g} epochs of warm-up do not fit into {self.epochs} epochs")

    def changed(self, **changes: Any) -> Setup:
        """A copy with some settings changed; values of None keep theirs.

        Raises:
            AnywidthError: a setting is unknown or invalid.

        >>> Setup().changed(epochs=2, model=None).epochs
        2
        """
        known = {field.name for field in fields(self)}
        strange = sorted(set(changes) - known)
        if strange:
            raise AnywidthError(f"an experiment has no setting {strange[0]!r}; it has {', '.join(sorted(known))}")
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def train_settings(self, seed: int, *, data_root: Path) -> TrainSettings:
        """The settings of a run with one seed, without averaging of weights.

        Args:
            seed: Random seed of weights, widths, batches and split.
            data_root: Folder of downloaded datasets.
        """
        return TrainSettings(
            data=DataSettings(
                source=self.data, root=data_root, image_size=self.image_size, augment=self.augment,
                batch_size=self.batch_size,
            ),
            model=ModelSettings(name=self.model),
            optimization=OptimizationSettings(
                epochs=self.epochs, lr=self.lr, weight_decay=self.weight_decay, warmup_epochs=self.warmup_epochs,
                average=0.0, precision=self.precision,
            ),
            widths=WidthSettings(evaluated=self.widths, width_grid=self.width_grid),
            seed=seed,
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON values; file paths are reduced to their names."""
        kind, colon, path = self.data.partition(":")
        return asdict(replace(self, data=f"{kind}{colon}{Path(path).name}" if colon else self.data))


PRESETS = {
    "digits": Setup(),
    "fashion-mnist": Setup(
        data="fashion-mnist", image_size=14, train_images=3000, test_images=2000, epochs=8, weight_decay=1e-3
    ),
    "cifar": Setup(
        scale="cifar", data="cifar100", image_size=16, augment="crop-flip", model="resnet8", epochs=30, batch_size=128,
        weight_decay=5e-4, widths=16,
    ),
    "full": Setup(
        scale="full", data="cifar100", augment="crop-flip", model="resnet18", epochs=100, batch_size=256, lr=0.2,
        weight_decay=5e-4, warmup_epochs=5, widths=16, precision="bf16", graphs=True, width_grid=16,
    ),
}  # fmt: skip
"""The defaults of `--scale digits`, `cifar` (two cores) and `full` (a GPU), and of other datasets: Fashion-MNIST's."""
