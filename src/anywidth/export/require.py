"""The packages of the extra `onnx`, or an error that names it."""

from __future__ import annotations

import importlib

from anywidth.errors import MissingExtraError

__all__ = ["require_onnx"]


def require_onnx() -> None:
    """Make sure that onnx, onnxscript and ONNX Runtime are there, and silence the runtime's start-up messages.

    Raises:
        MissingExtraError: one is not installed.
    """
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError(
            f"ONNX files need onnx, onnxscript and onnxruntime ({error}): pip install 'anywidth[onnx]'"
        ) from error
    runtime.set_default_logger_severity(3)
