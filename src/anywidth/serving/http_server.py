"""Run an application with uvicorn, with a time limit for the head of a request."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from anywidth.core.errors import ExportError
from anywidth.serving.collector import frozen_objects
from anywidth.serving.infer_response import to_json
from anywidth.serving.limits import Limits

__all__ = ["make_server", "serve_until_stopped"]


def make_server(
    app: Any, *, host: str, port: int, limits: Limits, started: Callable[[str], None] = lambda address: None
) -> uvicorn.Server:
    """A server to start with `run()`; on SIGINT and SIGTERM it answers accepted requests and ends.

    Args:
        app: An ASGI application.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        limits: Limits of connections and time.
        started: Called with the address once the server listens.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_protocol(limits.receive),
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=max(1, int(limits.receive)),
        timeout_graceful_shutdown=max(1, int(limits.receive + limits.answer)),
    )
    return _Server(config, started)


def serve_until_stopped(
    app: Any, *, host: str, port: int, limits: Limits, started: Callable[[str], None] = lambda address: None
) -> None:
    """Run a server in this thread, the main one, until SIGINT or SIGTERM; see `make_server`.

    Raises:
        ExportError: the server cannot listen on this address.
    """
    server = make_server(app, host=host, port=port, limits=limits, started=started)
    # When uvicorn has ended, it raises the signal that stopped it again.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with frozen_objects():
            server.run()
    except SystemExit as error:
        raise ExportError(f"cannot listen on {host}, port {port}; choose another one") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[str], None]) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._tell(f"http://{f'[{host}]' if ':' in host else host}:{port}")


def _protocol(seconds: float) -> type[asyncio.Protocol]:
    """An HTTP/1.1 protocol that closes a connection if the head of a request takes too long."""

    class TimedProtocol(H11Protocol):
        _alarm: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._set_alarm()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._set_alarm()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._alarm is not None:
                self._alarm.cancel()

        @property
        def _expects_head(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _set_alarm(self) -> None:
            """Run a timer from the first byte of a head to the last."""
            if self._expects_head and self._alarm is None:
                self._alarm = self.loop.call_later(seconds, self._late)
            elif not self._expects_head and self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None

        def _late(self) -> None:
            self._alarm = None
            if self._expects_head and not self.transport.is_closing():
                content = to_json({"error": f"the request did not arrive within {seconds:g} s"})
                self.transport.write(
                    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
                    + f"Content-Length: {len(content)}\r\n\r\n".encode()
                    + content
                )
                self.transport.close()

    return TimedProtocol
