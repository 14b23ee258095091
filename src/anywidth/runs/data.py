"""Dataset and loaders of a run."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.utils.data import Dataset

from anywidth.core.errors import DataError
from anywidth.core.processes import first_of_machine_first, rank_and_count
from anywidth.data import DataBundle, Loaders, hold_out, load_data, make_loaders
from anywidth.runs.settings import TrainSettings

__all__ = ["build_data", "build_held_out", "build_loaders"]


def build_data(settings: TrainSettings) -> DataBundle:
    """Dataset of a run without its held-out images; the split depends on the seed only."""
    return build_held_out(settings)[0] if settings.data.hold_out else _whole(settings)


def build_held_out(settings: TrainSettings) -> tuple[DataBundle, Dataset[Any]]:
    """Dataset of a run without its held-out training images, and the held-out images."""
    return hold_out(_whole(settings), settings.data.hold_out, seed=settings.seed)


def _whole(settings: TrainSettings) -> DataBundle:
    data = settings.data
    load = partial(
        load_data, data.source, root=data.root, seed=settings.seed, image_size=data.image_size,
        augment=data.augment, skip_corrupt=data.skip_corrupt,
    )  # fmt: skip
    on_disk = data.source.partition(":")[0] in ("digits", "npz", "imagefolder", "webdataset")
    bundle = load() if on_disk else first_of_machine_first(load)
    if len(bundle.classes) < 2:
        raise DataError(f"{data.source} has only one class; training needs at least two")
    if data.rand_augment is None:
        return bundle
    from anywidth.data.rand_augment import with_rand_augment

    return with_rand_augment(bundle, magnitude=data.rand_augment)


def build_loaders(settings: TrainSettings, bundle: DataBundle) -> Loaders:
    """New loaders for this process; their batches depend on the seed and the epoch only."""
    rank, count = rank_and_count()
    return make_loaders(
        bundle, batch_size=settings.data.batch_size, seed=settings.seed, workers=settings.data.workers or 0, rank=rank,
        world_size=count, skip_corrupt=settings.data.skip_corrupt,
    )  # fmt: skip
