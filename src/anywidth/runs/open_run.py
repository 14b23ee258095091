"""A finished run, ready for calibration and evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from anywidth.batchnorm import calibrate
from anywidth.core.errors import CheckpointError
from anywidth.data import Loaders
from anywidth.evaluation import Spectrum, spectrum, widths_by_stage
from anywidth.runs.data import build_data, build_loaders
from anywidth.runs.dataset_info import DatasetInfo
from anywidth.runs.device import pick_device
from anywidth.runs.options import with_options
from anywidth.runs.reporter import Reporter
from anywidth.runs.run_folder import RunFolder
from anywidth.runs.settings import TrainSettings
from anywidth.runs.threads import fitting_threads
from anywidth.runs.values import AnyWidths
from anywidth.runs.widths import choose_any_widths
from anywidth.supernet import Supernet, load
from anywidth.widths import Width, WidthConfig

__all__ = ["OpenRun", "open_run"]


@dataclass(frozen=True)
class OpenRun:
    """A supernet and the dataset that it was trained on."""

    folder: RunFolder
    settings: TrainSettings
    net: Supernet
    data: DatasetInfo
    reporter: Reporter

    @cached_property
    def loaders(self) -> Loaders:
        """Loaders of the images, which are read on first use.

        Raises:
            DataError: the images are missing or have changed.
        """
        bundle = build_data(self.settings)
        self.data.check(bundle)
        return build_loaders(self.settings, bundle)

    def evaluate(self, widths: AnyWidths | None = None, *, nonuniform: float | None = None) -> Spectrum:
        """Cost and accuracy on the test images by width. Widths without statistics are calibrated first.

        Args:
            widths: The widths, or a number of them; by default the widths of the run.
            nonuniform: Also narrow each stage alone, by this factor.

        Raises:
            WidthError: a width is out of range, or is not a switch of the network.
            DataError: the images are missing or have changed.
        """
        chosen = choose_any_widths(self.net, self.settings.widths.evaluated if widths is None else widths)
        named: dict[float | str, Width] = {w if isinstance(w, float) else str(self.net.config(w)): w for w in chosen}
        if nonuniform is not None:
            stages = widths_by_stage(self.net, nonuniform)
            named |= {f"{stage} at {nonuniform:g}": width for stage, width in stages.items()}
        with fitting_threads(self.net, self.settings.data.batch_size):
            self.calibrate_missing(named.values())
            return spectrum(self.net, self.loaders.test, named, name=str(self.folder.path))

    def calibrate_missing(self, widths: Iterable[Width]) -> list[Width]:
        """Calibrate the widths that have no current statistics, and return them."""
        statistics, seen = self.net.statistics, set()
        missing: list[Width] = []
        for width in widths:
            config = self.net.config(width)
            if statistics.needed and config != self.net.config(1.0) and config not in seen:
                seen.add(config)
                missing += [] if statistics.is_current(config) else [width]
        if missing:
            names = _described(map(self.net.config, missing))
            self.reporter.info(f"calibrating batch norm at {names} from the training images of {self.data.name}")
            calibrate(self.net, self.loaders.calibration, missing, images=self.settings.widths.calibration_images)
        return missing


def _described(configs: Iterable[WidthConfig]) -> str:
    """The uniform widths, and the number of nonuniform ones, whose labels may contain commas.

    >>> _described([WidthConfig({}, label=0.25), WidthConfig({}, label=0.5), WidthConfig({}, label="a=0.5+*=0.75,0.5")])
    'width 0.25, 0.5 and 1 nonuniform width'
    """
    labels = [config.label for config in configs]
    uniform = [f"{label:g}" for label in labels if isinstance(label, (int, float))]
    others = len(labels) - len(uniform)
    parts = [f"width {', '.join(uniform)}"] if uniform else []
    parts += [f"{others} nonuniform width{'s' if others > 1 else ''}"] if others else []
    return " and ".join(parts)


def open_run(
    path: Path, *, device: str = "auto", data_root: Path | None = None, reporter: Reporter | None = None
) -> OpenRun:
    """Open the run in a folder.

    Args:
        path: The run folder.
        device: auto, cpu or cuda.
        data_root: The folder of downloaded datasets, if it moved after training.
        reporter: Receives progress messages; by default only warnings are shown.

    Raises:
        AnywidthError: the folder does not contain a run, or the run is damaged.
    """
    chosen = pick_device(device)
    folder = RunFolder.open(path)
    settings = folder.settings
    settings = settings if data_root is None else with_options(settings, {"data_root": data_root})
    if not folder.file("supernet.safetensors").exists() and folder.file("checkpoints").exists():
        raise CheckpointError(f"the training of {path} is incomplete; continue with: anywidth train --resume {path}")
    net = load(folder.path)
    net.model.to(chosen)
    return OpenRun(folder, settings, net, folder.data(), reporter or Reporter())
