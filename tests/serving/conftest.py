"""A small network that is served, in this process and over a socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

import anywidth as aw
from anywidth.batchnorm import share_statistics
from anywidth.serving import ImageReader, Ladder, Limits, Point, Served
from anywidth.serving.app import create_app
from anywidth.serving.http_server import make_server
from anywidth.serving.service import Service
from served_tiny import LIMITS, WIDTHS, make_governor
from zoo import Residual


@pytest.fixture(scope="session")
def served() -> Served:
    """A network of three colours, 8x8 pixels and four classes, at three widths; do not change it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = aw.Supernet(Residual().eval(), torch.randn(1, 3, 8, 8), divisor=4)
    share_statistics(net, WIDTHS)
    return Served(
        name="tiny",
        ladder=Ladder.share(net, WIDTHS),
        points=[Point(width=w, macs=aw.macs(net, w), params=aw.params(net, w), accuracy=90 + w) for w in WIDTHS],
        classes=("a", "b", "c", "d"),
        reader=ImageReader(shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3, pixels=LIMITS.pixels),
    )


@pytest.fixture(scope="session")
def client(served: Served) -> Iterator[TestClient]:
    """Calls the application in this process; what it raises is raised here."""
    with TestClient(create_app(Service(served, make_governor(), LIMITS))) as client:
        yield client


Start = Callable[..., str]


@pytest.fixture(scope="session")
def start() -> Iterator[Start]:
    """Runs an application in a thread and gives its address without http://."""
    running: list[tuple[Any, threading.Thread]] = []

    def run(app: Any, limits: Limits = LIMITS) -> str:
        addresses: list[str] = []
        listens = threading.Event()

        def started(address: str) -> None:
            addresses.append(address)
            listens.set()

        server = make_server(app, host="127.0.0.1", port=0, limits=limits, started=started)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        assert listens.wait(20)
        running.append((server, thread))
        return addresses[0].removeprefix("http://")

    yield run
    for server, thread in running:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def address(served: Served, start: Start) -> str:
    """Where the network is served over a socket."""
    return start(create_app(Service(served, make_governor(), LIMITS)))
