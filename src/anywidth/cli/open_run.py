"""A finished run, ready to be calibrated and evaluated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rich.console import Console

from anywidth.batchnorm import calibrate
from anywidth.cli.build import build_data, build_loaders
from anywidth.cli.dataset_info import DatasetInfo
from anywidth.cli.device import pick_device
from anywidth.cli.run_folder import RunFolder
from anywidth.cli.train_settings import TrainSettings
from anywidth.core.errors import CheckpointError
from anywidth.data import Loaders
from anywidth.supernet import Supernet, load
from anywidth.widths import Width

__all__ = ["OpenRun", "open_run"]


@dataclass(frozen=True)
class OpenRun:
    """A supernet with the data that it was trained on."""

    folder: RunFolder
    settings: TrainSettings
    net: Supernet
    data: DatasetInfo

    @cached_property
    def loaders(self) -> Loaders:
        """Its images, which are not read before somebody asks.

        Raises:
            DataError: they are not there any more, or have changed.
        """
        bundle = build_data(self.settings)
        self.data.check(bundle)
        return build_loaders(self.settings, bundle)

    def calibrate_missing(self, widths: Iterable[Width], console: Console) -> list[Width]:
        """Calibrate the widths that have no statistics yet, and say so; returns them."""
        statistics, seen = self.net.statistics, set()
        missing: list[Width] = []
        for width in widths:
            config = self.net.config(width)
            if statistics.needed and config != self.net.config(1.0) and config not in seen:
                seen.add(config)
                missing += [] if statistics.is_current(config) else [width]
        if missing:
            names = ", ".join(self.net.label(width) for width in missing)
            console.print(f"calibrating batch norm at width {names} from the training images of {self.data.name}")
            calibrate(self.net, self.loaders.calibration, missing, images=self.settings.calibration_images)
        return missing


def open_run(path: Path, *, device: str, data_root: Path | None = None) -> OpenRun:
    """The supernet of a run folder.

    Raises:
        AnywidthError: the folder holds no run, or it is damaged.
    """
    chosen = pick_device(device)
    folder = RunFolder.open(path)
    settings = folder.settings
    settings = settings if data_root is None else replace(settings, data_root=data_root)
    if not folder.file("supernet.safetensors").exists() and folder.file("checkpoints").exists():
        raise CheckpointError(f"the training of {path} is not finished; go on with: anywidth train --resume {path}")
    net = load(folder.path)
    net.model.to(chosen)
    return OpenRun(folder, settings, net, folder.data())
