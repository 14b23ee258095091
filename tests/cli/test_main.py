"""The entry point: help, start-up, errors and warnings."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

from anywidth.cli import main
from anywidth.cli.main import COMMANDS, Command
from anywidth.cli.messages import log, warnings_in_one_line
from anywidth.runs.options import options_of


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_command(capsys):
    text = help_of(capsys)
    assert "usage: anywidth COMMAND [options]" in text
    for name in COMMANDS:
        assert f"    {name} " in text or f"    {name}\n" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    lines = help_of(capsys, name).splitlines()
    for option in options_of(COMMANDS[name].settings):
        (line,) = [line for line in lines if line.split()[:1] == [option.flag]]
        assert len(line.split("  ")[-1].split()) >= 3, line


def test_no_command_is_an_error(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "train" in capsys.readouterr().err


def test_starting_up_loads_no_heavy_package():
    code = (
        "import sys, anywidth.cli; "
        "print(*{'lightning', 'torchvision', 'timm', 'matplotlib', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_ctrl_c_anywhere_ends_with_130(monkeypatch, capsys):
    def run(_: object) -> int:
        """Stop."""
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "inspect", Command(settings=COMMANDS["inspect"].settings, run=run))
    assert main(["inspect", "--model", "digits"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_warning_is_one_line_and_the_hook_is_put_back(capsys):
    before = warnings.showwarning

    def warn_and_fail() -> None:
        with warnings_in_one_line():
            warnings.simplefilter("always")
            warnings.warn("two\nlines", stacklevel=1)
            raise ValueError

    with pytest.raises(ValueError):
        warn_and_fail()
    assert capsys.readouterr().err == "warning: two lines\n"
    assert warnings.showwarning is before


def test_messages_go_to_the_error_stream(capsys):
    log("error", "a\n  b")
    assert capsys.readouterr() == ("", "error: a b\n")
