"""Resolved settings, as stored in `config.yaml`."""

from __future__ import annotations

import os
from pathlib import Path

from anywidth.data import DataBundle, TensorImages
from anywidth.runs.options import with_options
from anywidth.runs.processes import Processes
from anywidth.runs.settings import TrainSettings
from anywidth.supernet import Supernet

__all__ = ["resolve"]


def resolve(settings: TrainSettings, net: Supernet, bundle: DataBundle, processes: Processes) -> TrainSettings:
    """Settings in which defaults that depend on the model, the data or the machine are filled in."""
    in_memory = all(isinstance(part, TensorImages) for part in (bundle.train, bundle.test, bundle.calibration))
    source, root, init, asked = settings.data.source, settings.data.root, settings.model.init, settings.data.workers
    kind, _, place = source.partition(":")
    workers = 0 if in_memory else min(4, max(1, (os.cpu_count() or 1) // processes.per_machine))
    return with_options(
        settings,
        {
            # A run folder may be read from another working directory.
            "data": f"{kind}:{Path(place).expanduser().resolve()}" if _is_path(kind, place) else source,
            "init": init if init in (None, "hub") else str(Path(init).expanduser().resolve()),
            "data_root": root if place or kind == "digits" else root.expanduser().resolve(),
            "weight_decay": settings.weight_decay,
            "average": settings.average,
            "width_grid": settings.width_grid or None,
            "min_width": net.min_width,
            "divisor": net.divisor,
            "workers": workers if asked is None else asked,
        },
    )


def _is_path(kind: str, place: str) -> bool:
    """Whether the data is given by a path; a Hugging Face dataset may be given by its name on the hub."""
    return bool(place) and (kind != "hf" or Path(place).expanduser().exists())
