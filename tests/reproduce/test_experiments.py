"""The experiments that come with the package: what is committed, and that each runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anywidth.cli import main
from anywidth.reproduce import PRESETS, Record, experiment_names, experiments_folder, load_experiment
from anywidth.reproduce.page import page

NAMES = experiment_names()
DONE = [name for name in NAMES if (experiments_folder() / name / "result.json").exists()]
WANTED = {
    "switchable-bn", "sandwich", "inplace-distillation", "post-statistics", "naturally-slimmable", "nonuniform",
    "error-bound", "lower-bound", "individual", "beyond", "autoslim", "nested",
}  # fmt: skip


def test_every_claim_of_the_papers_that_small_hardware_can_test_has_an_experiment() -> None:
    assert set(NAMES) >= WANTED
    assert set(DONE) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_settings_and_claims_fit_together(name: str) -> None:
    experiment = load_experiment(name)
    for preset in PRESETS:
        assert experiment.setup(preset).seeds >= 3
    assert experiment.cells
    assert experiment.claims
    assert experiment.paper


@pytest.mark.parametrize("name", DONE)
def test_the_page_says_what_the_result_says(name: str) -> None:
    folder = experiments_folder() / name
    record = Record.from_json(folder / "result.json")
    content = json.loads((folder / "result.json").read_text())
    text = (folder / "README.md").read_text()
    assert page(load_experiment(name), record) in text
    assert len(record.results.seeds) >= 3
    for claim, kept in zip(load_experiment(name).claims, content["claims"], strict=True):
        assert (claim.text, claim.judge(record.results).says) == (kept["text"], kept["says"])
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "picture.png" in text
    # A page has words of its own around the numbers.
    assert len(text) > len(page(load_experiment(name), record)) + 400


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_runs(name: str, tiny_data: Path, tmp_path: Path, capsys) -> None:
    out, pictures = tmp_path / "out", load_experiment(name).pictures
    asked = ["reproduce", name, "--data", f"npz:{tiny_data}", "--epochs", "1", "--seeds", "1", "--jobs", "1"]
    assert main([*asked, "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"result.json", "result.md", "picture.png", *pictures}
    assert "holds" in (text := (out / "result.md").read_text()) or "undecided" in text or "contradicted" in text
    content = json.loads((out / "result.json").read_text())
    assert content["seeds"] == [0]
    assert content["setup"]["epochs"] == 1
    assert "results in" in capsys.readouterr().out
