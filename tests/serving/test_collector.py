"""Objects that the garbage collector leaves alone while a server runs."""

from __future__ import annotations

import gc
import os
import signal

from anywidth.serving.app import create_app
from anywidth.serving.http_server import serve_until_stopped
from anywidth.serving.service import Service
from served_tiny import LIMITS, make_governor


def test_a_collection_while_a_server_runs_does_not_go_through_the_packages(served):
    before, seen = len(gc.get_objects()), []

    def started(address: str) -> None:
        seen.append((gc.get_freeze_count(), len(gc.get_objects())))
        os.kill(os.getpid(), signal.SIGTERM)

    app = create_app(Service(served, make_governor(), LIMITS))
    serve_until_stopped(app, host="127.0.0.1", port=0, limits=LIMITS, started=started)
    ((frozen, collected),) = seen
    assert frozen > 0.5 * before
    assert collected < 0.1 * before
    assert gc.get_freeze_count() == 0
