"""What an experiment is run with: data, model, recipe and seeds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from anywidth.core.errors import AnywidthError
from anywidth.runs.settings import DataSettings, ModelSettings, OptimizationSettings, TrainSettings, WidthSettings

__all__ = ["PRESETS", "Setup"]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The settings that all arms of an experiment share.

    Attributes:
        data: As in `anywidth.data.load_data`.
        image_size: Height and width in pixels; None keeps the images' own.
        train_images: Training images to use; None takes all.
        test_images: Test images to use; None takes all.
        model: As in `anywidth.models.build_model`.
        epochs: Passes over the training images, of every arm.
        batch_size: Images per step.
        lr: Peak learning rate.
        weight_decay: Of convolution and linear weights.
        warmup_epochs: Epochs in which the learning rate climbs.
        samples: Widths per sandwich step.
        widths: Evenly spaced widths that spectra are evaluated at.
        seeds: Runs of every arm, with the seeds 0, 1, ...: of weights, widths, batches and split.
        precision: 32 or bf16 bits in training.
    """

    data: str = "digits"
    image_size: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    model: str = "digits"
    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.1
    weight_decay: float = 1e-2
    warmup_epochs: float = 1.0
    samples: int = 4
    widths: int = 7
    seeds: int = 3
    precision: Literal["32", "bf16", "16"] = "32"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "samples", "widths", "seeds"):
            if getattr(self, name) < 1:
                raise AnywidthError(f"{name} is {getattr(self, name)}; give at least 1")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise AnywidthError(f"{self.warmup_epochs:g} epochs of warm-up do not fit into {self.epochs} epochs")

    def changed(self, **changes: Any) -> Setup:
        """The same with some settings changed; what is None stays.

        Raises:
            AnywidthError: a setting is unknown, or makes no sense.

        >>> Setup().changed(epochs=2, model=None).epochs
        2
        """
        known = {field.name for field in fields(self)}
        strange = sorted(set(changes) - known)
        if strange:
            raise AnywidthError(f"an experiment has no setting {strange[0]!r}; it has {', '.join(sorted(known))}")
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def train_settings(self, seed: int, *, data_root: Path) -> TrainSettings:
        """The settings of a run of one seed; the weights are not averaged.

        Args:
            seed: Of weights, widths, batches and split.
            data_root: The folder of downloaded data sets.
        """
        return TrainSettings(
            data=DataSettings(
                source=self.data, root=data_root, image_size=self.image_size, batch_size=self.batch_size
            ),
            model=ModelSettings(name=self.model),
            optimization=OptimizationSettings(
                epochs=self.epochs, lr=self.lr, weight_decay=self.weight_decay, warmup_epochs=self.warmup_epochs,
                average=0.0, precision=self.precision,
            ),
            widths=WidthSettings(evaluated=self.widths),
            seed=seed,
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON values; files are named without the folders above them."""
        kind, colon, path = self.data.partition(":")
        return asdict(replace(self, data=f"{kind}{colon}{Path(path).name}" if colon else self.data))


PRESETS = {
    "digits": Setup(),
    "fashion-mnist": Setup(
        data="fashion-mnist", image_size=14, train_images=3000, test_images=2000, epochs=8, weight_decay=1e-3
    ),
    "full": Setup(
        data="cifar100", model="resnet18", epochs=100, batch_size=256, lr=0.2, weight_decay=5e-4, warmup_epochs=5,
        widths=16, precision="bf16",
    ),
}  # fmt: skip
"""The defaults by data set, and those of `--full`, for one GPU. Any other data set starts from
those of Fashion-MNIST."""
