"""Share of the training time spent waiting for images.

    uv run python benchmarks/data_loading.py [--workers 2] [--device cuda --precision bf16]

It runs one epoch of sandwich steps on images in memory (digits with their augmentation, and color images of 32 pixels)
and on JPEG files of 256 pixels that worker processes read. The wait is the time in which no step runs because its batch
is not ready. The images are random; the models are typical for each image size.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import write_result

import anywidth as aw
from anywidth.data import DataBundle, load_data, make_loaders
from anywidth.models import build_model, channels_last_


def arrays(folder: Path, count: int) -> str:
    """Color images of 32 pixels."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count) % 10
    np.savez(folder / "set.npz", x_train=images, y_train=labels, x_test=images[:100], y_test=labels[:100])
    return f"npz:{folder / 'set.npz'}"


def photographs(folder: Path, count: int) -> str:
    """JPEG files of 256 pixels."""
    random = np.random.default_rng(0)
    for number in range(count):
        for part in ("train", "val") if number < 10 else ("train",):
            path = folder / part / f"class{number % 5}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            smooth = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(smooth).resize((256, 256)).save(path, quality=90)
    return f"imagefolder:{folder}"


def waited(model: str, bundle: DataBundle, *, batch: int, workers: int, device: torch.device, bf16: bool) -> float:
    """The share of an epoch's time in which a step waits for its batch."""
    torch.manual_seed(0)
    network = build_model(model, num_classes=len(bundle.classes), input_shape=bundle.input_shape)
    net = aw.Supernet(network, torch.zeros(2, *bundle.input_shape))
    channels_last_(network, narrowest=net.subnet(net.min_width))
    network.to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    loader = make_loaders(bundle, batch_size=batch, workers=workers).train
    waits = steps = 0.0
    for _ in range(2):  # the first starts the processes and makes the networks
        waits, steps, before = 0.0, 0.0, time.perf_counter()
        for images, labels in loader:
            ready = time.perf_counter()
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                aw.sandwich_step(net, images.to(device), labels.to(device))  # reads the loss, so it ends with the step
            optimizer.step()
            after = time.perf_counter()
            waits, steps, before = waits + ready - before, steps + after - ready, after
    return waits / (waits + steps)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--photos", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    arguments = parser.parse_args()
    device, bf16 = torch.device(arguments.device), arguments.precision == "bf16"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            ("digits in memory", "digits", load_data("digits"), 64, 0),
            ("32 pixels in memory", "resnet20", load_data(arrays(Path(folder), 2048)), 64, 0),
            ("JPEG files", "mobilenet_v2", load_data(photographs(Path(folder, "photos"), arguments.photos)), 32,
             arguments.workers),
        ]  # fmt: skip
        for name, model, bundle, batch, workers in cases:
            share = waited(model, bundle, batch=batch, workers=workers, device=device, bf16=bf16)
            rows.append(
                {"images": name, "model": model, "batch": batch, "workers": workers, "waiting": round(share, 4)}
            )
            print(f"{name:<22}{model:<14} waits {share:.1%} of the time", flush=True)
    print("written to", write_result("data_loading", rows, device=arguments.device))


if __name__ == "__main__":
    main()
