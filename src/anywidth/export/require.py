"""Check for the packages of the extra `onnx`."""

from __future__ import annotations

import importlib

from anywidth.core.extras import from_extra

__all__ = ["require_onnx"]


def require_onnx() -> None:
    """Check that onnx, onnxscript and ONNX Runtime are installed, and silence the runtime's start-up messages.

    Raises:
        MissingExtraError: a package is not installed.
    """
    with from_extra("onnx", "ONNX files need onnx, onnxscript and onnxruntime"):
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
        runtime = importlib.import_module("onnxruntime")
    runtime.set_default_logger_severity(3)
