"""The loaders of a bundle, for images in memory and for images that are read one by one."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from anywidth.core.errors import DataError, NoEffectWarning
from anywidth.data import (
    BatchOrder,
    DataBundle,
    ItemLoader,
    TensorImages,
    TensorLoader,
    load_data,
    make_loaders,
)
from anywidth.data.augment import random_crop_flip


class NoisyItems(Dataset[tuple[Tensor, int]]):
    """Images whose transform draws from torch's global generator."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((1, 2, 2), float(index)) + torch.rand(1, 2, 2) / 2, index


def bundle(length: int, *, in_memory: bool) -> DataBundle:
    items: Dataset[tuple[Tensor, int]] = NoisyItems(length)
    if in_memory:
        items = TensorImages(
            torch.rand(length, 1, 8, 8), torch.arange(length), augment=partial(random_crop_flip, padding=2)
        )
    return DataBundle(name="mine", train=items, test=items, calibration=items, input_shape=(1, 8, 8), classes=("a",))


def labels(loader: TensorLoader | ItemLoader) -> list[int]:
    return [int(label) for _, targets in loader for label in targets]


def images(loader: TensorLoader | ItemLoader) -> Tensor:
    return torch.cat([inputs for inputs, _ in loader])


both = pytest.mark.parametrize("in_memory", [True, False])


def test_kind_of_loader() -> None:
    assert isinstance(make_loaders(bundle(4, in_memory=True), batch_size=2, seed=0).train, TensorLoader)
    assert isinstance(make_loaders(bundle(4, in_memory=False), batch_size=2, seed=0).train, ItemLoader)


@both
def test_batches(in_memory: bool) -> None:
    loaders = make_loaders(bundle(10, in_memory=in_memory), batch_size=4, seed=0)
    for loader in (loaders.train, loaders.test, loaders.calibration):
        batches = list(loader)
        assert [len(targets) for _, targets in batches] == [4, 4, 2]
        assert len(loader) == 3
        assert all(type(batch) is tuple and batch[1].dtype == torch.int64 for batch in batches)
        assert sorted(labels(loader)) == list(range(10))


@both
def test_test_images_keep_their_order(in_memory: bool) -> None:
    assert labels(make_loaders(bundle(10, in_memory=in_memory), batch_size=3, seed=0).test) == list(range(10))


@both
@pytest.mark.parametrize(
    ("length", "batch_size", "train", "test"), [(9, 4, 8, 9), (10, 4, 10, 10), (1, 4, 1, 1), (3, 1, 3, 3)]
)
def test_single_leftover_is_left_out(in_memory: bool, length: int, batch_size: int, train: int, test: int) -> None:
    loaders = make_loaders(bundle(length, in_memory=in_memory), batch_size=batch_size, seed=0)
    assert [len(labels(part)) for part in (loaders.train, loaders.calibration, loaders.test)] == [
        train,
        train,
        test,
    ]


@both
def test_training_changes_every_epoch_and_repeats_with_the_seed(in_memory: bool) -> None:
    data = bundle(32, in_memory=in_memory)
    first, again = (make_loaders(data, batch_size=8, seed=3).train for _ in range(2))
    epochs = [images(first) for _ in range(2)]
    torch.rand(5)
    assert not torch.equal(epochs[0], epochs[1])
    assert all(torch.equal(images(again), expected) for expected in epochs)
    assert not torch.equal(images(make_loaders(data, batch_size=8, seed=4).train), epochs[0])


@both
def test_training_resumes_at_an_epoch(in_memory: bool) -> None:
    data = bundle(32, in_memory=in_memory)
    unbroken, resumed = (make_loaders(data, batch_size=8, seed=3).train for _ in range(2))
    next(iter(resumed))
    resumed.sampler.set_epoch(1)
    images(unbroken)
    assert torch.equal(images(unbroken), images(resumed))


@both
def test_training_resumes_within_an_epoch(in_memory: bool) -> None:
    data = bundle(32, in_memory=in_memory)
    unbroken, resumed = (make_loaders(data, batch_size=8, seed=3).train for _ in range(2))
    iter(resumed)  # a loop that is not begun skips nothing
    resumed.skip(3)
    assert torch.equal(images(resumed), images(unbroken)[24:])
    assert torch.equal(images(resumed), images(unbroken))


@both
def test_calibration_repeats_in_random_order(in_memory: bool) -> None:
    loaders = make_loaders(bundle(32, in_memory=in_memory), batch_size=8, seed=3)
    first, order = images(loaders.calibration), labels(loaders.calibration)
    images(loaders.train)
    assert torch.equal(images(loaders.calibration), first)
    assert order != sorted(order)


@both
def test_global_generators_are_left_alone(in_memory: bool) -> None:
    loader = make_loaders(bundle(8, in_memory=in_memory), batch_size=4, seed=0).train
    state, others = torch.get_rng_state(), (random.getstate(), str(np.random.get_state()))
    for _ in loader:
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.get_rng_state(), state)
    assert (random.getstate(), str(np.random.get_state())) == others


def test_global_generator_is_put_back_after_an_error() -> None:
    class Broken(NoisyItems):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            torch.rand(3)
            raise RuntimeError("broken")

    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="broken"):
        next(iter(ItemLoader(Broken(4), BatchOrder(4, batch_size=2))))
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_change_no_random_number() -> None:
    without, several = (
        make_loaders(bundle(8, in_memory=False), batch_size=4, seed=0, workers=workers).train for workers in (0, 2)
    )
    assert torch.equal(images(without), images(several))
    several.skip(1)
    assert torch.equal(images(without)[4:], images(several))


def test_processes_share_the_images_and_test_each_once() -> None:
    parts = [
        make_loaders(bundle(9, in_memory=True), batch_size=2, seed=0, rank=rank, world_size=2) for rank in range(2)
    ]
    shares = [labels(part.train) for part in parts]
    assert [len(share) for share in shares] == [4, 4]
    assert not set(shares[0]) & set(shares[1])
    alone = make_loaders(bundle(9, in_memory=True), batch_size=2, seed=0)
    for name, left_out in (("test", 0), ("calibration", 1)):  # a single image has no statistics
        tested = [labels(getattr(part, name)) for part in parts]
        assert [len(share) for share in tested] == [5 - left_out, 4]
        assert sorted(tested[0] + tested[1]) == sorted(labels(getattr(alone, name)))


def test_workers_for_images_in_memory_warn() -> None:
    with pytest.warns(NoEffectWarning, match="workers=2 has no effect for 'digits'"):
        make_loaders(load_data("digits"), batch_size=8, seed=0, workers=2)


@both
@pytest.mark.parametrize(("arguments", "message"), [({"batch_size": 0}, "batch_size"), ({"seed": -1}, "seed")])
def test_refuses(in_memory: bool, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_loaders(bundle(4, in_memory=in_memory), **({"batch_size": 2, "seed": 0} | arguments))


def test_refuses_negative_workers() -> None:
    with pytest.raises(DataError, match="workers is -1"):
        make_loaders(bundle(4, in_memory=False), batch_size=2, seed=0, workers=-1)


@both
# Only the order is tested here; what the trainer warns of (its own deprecations, few workers) is not.
@pytest.mark.filterwarnings("ignore")
def test_trainer_takes_the_loaders_and_sets_the_epoch(in_memory: bool) -> None:
    from lightning.pytorch import LightningModule, Trainer

    class Recorder(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[int] = []

        def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
            self.seen.extend(batch[1].tolist())

        def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
            assert batch[0].shape[0] == 4

        def configure_optimizers(self) -> None:
            return None

    loaders, same = (make_loaders(bundle(8, in_memory=in_memory), batch_size=4, seed=0) for _ in range(2))
    recorder = Recorder()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(recorder, loaders.train, loaders.test)
    assert recorder.seen == labels(same.train) + labels(same.train)
