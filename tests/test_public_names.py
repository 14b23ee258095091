"""The public names of the package, written down so that a change of them is seen."""

from __future__ import annotations

import anywidth


def test_public_names() -> None:
    assert anywidth.__all__ == [
        "AnywidthError",
        "Supernet",
        "WidthConfig",
        "autoslim",
        "calibrate",
        "errors",
        "evaluate",
        "export",
        "export_ladder",
        "latency",
        "load",
        "macs",
        "nested_step",
        "params",
        "sandwich_step",
        "spectrum",
    ]
    assert all(hasattr(anywidth, name) for name in anywidth.__all__)
