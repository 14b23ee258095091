"""Files are written completely or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from anywidth.core.files import write_atomically


def test_atomic_write_is_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    assert write_atomically(path, lambda temporary: temporary.write_text("old")) == path

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
