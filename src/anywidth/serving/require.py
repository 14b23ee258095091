"""The packages of the extra `serve`, or an error that names it."""

from __future__ import annotations

import importlib

from anywidth.errors import MissingExtraError

__all__ = ["require_serve"]


def require_serve() -> None:
    """Make sure that FastAPI, uvicorn and the Prometheus client are there.

    Raises:
        MissingExtraError: one is not installed.
    """
    try:
        for name in ("fastapi", "uvicorn", "prometheus_client"):
            importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"serving needs fastapi, uvicorn and prometheus-client ({error}): pip install 'anywidth[serve]'"
        ) from error
