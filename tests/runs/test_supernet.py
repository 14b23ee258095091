"""The supernet of a run has what its settings say."""

from __future__ import annotations

import pytest
import torch

from anywidth.core.errors import AnalysisError, SettingsError
from anywidth.runs import supernet
from anywidth.runs.settings import ModelSettings, WidthSettings
from anywidth.supernet.replace_norms import described
from supernet.test_shell_norm import convolutions


def test_norms_per_shell_of_a_nested_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernet, "build_model", lambda *_, **__: convolutions())
    build = {"input_shape": (3, 8, 8), "classes": 5, "example": torch.randn(1, 3, 8, 8)}
    with pytest.raises(AnalysisError, match="nested_norm"):
        supernet.build_supernet(ModelSettings(name="mine"), WidthSettings(nested=(0.5, 1.0)), **build)
    widths = WidthSettings(nested=(0.5, 1.0), nested_norm="shell")
    net = supernet.build_supernet(ModelSettings(name="mine"), widths, **build)
    assert net.nested == (0.5, 1.0)
    assert set(described(net.model)) == {"2", "6"}
    with pytest.raises(SettingsError, match="--nested-norm applies to nested networks"):
        WidthSettings(nested_norm="shell")
