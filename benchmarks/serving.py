"""A server that narrows under load, against one that always runs the full width.

One network is trained on the digits for half a minute. Two servers of this package serve it in separate processes: one
may use any of eight widths, the other only the full width. Both refuse requests that cannot be answered in time. This
process sends requests of 128 images over loopback, in a Poisson process of 0.2 to 3 times the load that the full width
can handle. The time of a request counts from the moment at which it should have been sent.

A request has many images, so that most of its time is spent in the network and not in HTTP.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serving_load import Reply, Work, capacity, offer
from serving_picture import draw

import anywidth as aw
from anywidth.data import load_data, make_loaders
from anywidth.evaluation import Spectrum
from anywidth.models.digits_net import DigitsNet

WIDTHS = (0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
IMAGES = 128
"""In a request."""
LOADS = (0.2, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 3.0)
MULTIPLE = 6.0
"""The target is this many times what the full width takes for a request."""


def network() -> DigitsNet:
    """A network 16 times as wide as `digits`, so that arithmetic takes longer than operator calls."""
    return DigitsNet(width=16.0)


def train(folder: Path, epochs: int) -> Spectrum:
    """Train and calibrate a supernet, save it to a folder, and return its spectrum."""
    torch.manual_seed(0)
    loaders = make_loaders(load_data("digits"), batch_size=64)
    model = network()
    net = aw.Supernet(model, torch.randn(1, 1, 8, 8), divisor=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * len(loaders.train))
    for _ in range(epochs):
        for images, labels in loaders.train:
            optimizer.zero_grad()
            aw.sandwich_step(net, images, labels)
            optimizer.step()
            schedule.step()
    aw.calibrate(net, loaders.calibration, widths=WIDTHS)
    net.save(folder)
    return aw.spectrum(net, loaders.test, WIDTHS)


def requests(name: str) -> list[Work]:
    """Requests of `IMAGES` test images, which cycle through all images."""
    images, labels = (part.numpy() for part in load_data("digits").test.tensors)  # type: ignore[attr-defined]
    places = np.arange(len(images) * IMAGES).reshape(-1, IMAGES) % len(images)
    return [Work.of(images[row], labels[row], name) for row in places]


def serve(folder: Path, fixed: bool, target: float) -> None:
    """Run a server; the first printed line contains its address and target."""
    from anywidth.serving import Governor, GovernorSettings, Ladder, Limits, Point, Served, kept_memory, measure_ladder
    from anywidth.serving.app import create_app
    from anywidth.serving.http_server import serve_until_stopped
    from anywidth.serving.service import Service

    torch.set_num_threads(1)
    with kept_memory():
        widths = (1.0,) if fixed else WIDTHS
        net = aw.load(folder, network())
        points = [Point(width=width, macs=aw.macs(net, width), params=aw.params(net, width)) for width in widths]
        served = Served(name="digits", ladder=Ladder.share(net, widths), points=points)
        times = measure_ladder(served.ladder, rows=4 * IMAGES)
        target = target or MULTIPLE * times.seconds(1.0, IMAGES)
        governor = Governor(times, GovernorSettings(target=target, max_rows=4 * IMAGES))
        limits = Limits(rows=IMAGES)

        def started(address: str) -> None:
            facts = {
                "address": address, "target": target, "input": served.ladder.inputs[0].name,
                "ms": {width: round(1e3 * times.seconds(width, IMAGES), 2) for width in widths},
            }  # fmt: skip
            print(json.dumps(facts), flush=True)

        app = create_app(Service(served, governor, limits))
        serve_until_stopped(app, host="127.0.0.1", port=0, limits=limits, started=started)


@contextlib.contextmanager
def server(folder: Path, *arguments: str) -> Iterator[dict[str, Any]]:
    """A server in a separate process."""
    command = [sys.executable, __file__, "--serve", str(folder), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def summary(replies: list[Reply], curve: Spectrum, target: float) -> dict[str, Any]:
    """One row of the result."""
    answered = [reply for reply in replies if reply.kind == "answered"]
    times = np.array([reply.seconds for reply in answered] or [np.nan])
    predicted = {row.width: row.score for row in curve}
    images = max(1, sum(reply.images for reply in answered))
    return {
        "sent": len(replies),
        "in_time_percent": round(100 * sum(r.seconds <= target for r in answered) / len(replies), 2),
        "refused_percent": round(100 * sum(r.kind == "refused" for r in replies) / len(replies), 2),
        "failed": sum(r.kind not in ("answered", "refused") for r in replies),
        "p50_ms": round(1e3 * float(np.percentile(times, 50)), 1),
        "p99_ms": round(1e3 * float(np.percentile(times, 99)), 1),
        "mean_width": round(float(np.mean([r.width for r in answered] or [np.nan])), 3),
        "accuracy": round(100 * sum(r.right for r in answered) / images, 2),
        "predicted_accuracy": round(float(np.mean([predicted[r.width] for r in answered] or [np.nan])), 2),
    }


def compare(folder: Path, curve: Spectrum, loads: Sequence[float], seconds: float, run: int) -> list[dict[str, Any]]:
    """Run all loads on both servers in turns; each run has new servers and new arrival times."""
    rows: list[dict[str, Any]] = []
    with server(folder, "--fixed") as fixed, server(folder, "--target", str(fixed["target"])) as slim:
        works, target = requests(fixed["input"]), fixed["target"]
        # The most of three, and what one request's time allows: a disturbance would make twice the capacity too easy.
        full = max(1e3 / fixed["ms"]["1.0"], *(capacity(fixed["address"], works, 2.0) for _ in range(3)))
        print(f"target {1e3 * target:.0f} ms; the full width holds {full:.1f} requests/s; ms by width {slim['ms']}")
        for number, load in enumerate(loads):
            for name, facts in (("full width", fixed), ("any width", slim)):
                replies = offer(facts["address"], works, load * full, seconds, seed=100 * run + number)
                row = {
                    "run": run, "server": name, "load": load, "requests_per_s": round(load * full, 1),
                    "target_ms": round(1e3 * target, 1), **summary(replies, curve, target),
                }  # fmt: skip
                rows.append(row)
                print(row, flush=True)
                time.sleep(1)
    return rows


def main() -> None:
    """Train, compare, and write the table and the picture."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=6.0, help="per load and server")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--loads", help="some of them, to look at: nothing is written then")
    parser.add_argument("--picture", type=Path, help="write the picture here as well")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--fixed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--target", type=float, default=0.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.fixed, arguments.target)
        return
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        curve = train(Path(folder), arguments.epochs)
        print(curve.csv(), f"trained in {time.perf_counter() - start:.0f} s", sep="", flush=True)
        loads = LOADS if arguments.loads is None else [float(load) for load in arguments.loads.split(",")]
        rows = [
            row for run in range(arguments.runs) for row in compare(Path(folder), curve, loads, arguments.seconds, run)
        ]
    for row in (row for row in rows if row["load"] == 2.0):
        print(
            f"run {row['run']}, twice the capacity, {row['server']}: {row['in_time_percent']} % in time, "
            f"accuracy {row['accuracy']} % (the spectrum says {row['predicted_accuracy']} %)"
        )
    if arguments.loads is None:
        path = Path(__file__).parent / "results" / f"serving_cpu1_{time.strftime('%Y-%m-%d')}.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        for picture in (path.with_suffix(".png"), arguments.picture):
            if picture is not None:
                draw(rows, picture)
        print("written to", path)
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
