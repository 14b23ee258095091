"""The model card says what the file is."""

from __future__ import annotations

from pathlib import Path

import yaml

from anywidth.export import CardFacts, Exported, model_card, write_card

FACTS = {"model": "DigitsNet", "data": "digits", "inputs": (1, 8, 8), "classes": "0123456789"}


def written(path: Path, widths: tuple[str, ...]) -> Exported:
    numbers = tuple(1000 * (number + 1) for number in range(len(widths)))
    return Exported(path=path, format="onnx", widths=widths, macs=numbers, params=numbers, size=4321, difference=2e-7)


def test_a_card_has_a_header_for_hubs_and_the_facts():
    text = model_card(written(Path("a/small.onnx"), ("0.35",)), CardFacts(**FACTS, license="mit", accuracy=[97.25]))
    _, header, body = text.split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "mit"
    for fact in ("DigitsNet on digits, width 0.35", "`small.onnx`, 4,321 bytes", "1 x 8 x 8", "10 classes", "| license | mit |",
                 "| 0.35 | 97.25 % | 1,000 | 1,000 |"):  # fmt: skip
        assert fact in body
    assert "input `width`" not in body


def test_a_ladder_lists_its_widths_and_what_is_not_known_is_said():
    text = model_card(written(Path("l.onnx"), ("0.25", "1")), CardFacts(**FACTS, accuracy=[90.0, None]))
    assert "| 0.25 | 90.00 % |" in text
    assert "| 1 | not measured | 2,000 |" in text
    assert "license | unknown: ask" in text
    assert "input `width`" in text


def test_a_card_lies_beside_its_file(tmp_path):
    path = write_card(written(tmp_path / "small.onnx", ("0.5",)), CardFacts(**FACTS))
    assert path == tmp_path / "small.onnx.md"
    assert path.read_text().startswith("---\nlicense: unknown\n")


def test_a_card_says_what_goes_in_and_what_comes_out():
    facts = CardFacts(
        model="M", data="d", inputs=(3, 32, 32), classes=("cat", "a|b"), mean=(0.5, 0.25, 0.1), std=(1, 2, 3)
    )
    text = model_card(written(Path("m.onnx"), ("1",)), facts)
    assert "batches of 3 x 32 x 32: pixels from 0 to 1, minus 0.5, 0.25, 0.1, divided by 1, 2, 3 by channel" in text
    assert "2 classes, in this order: cat, a\\|b" in text
    assert "values are not pixels from 0 to 1" in model_card(written(Path("m.onnx"), ("1",)), CardFacts(**FACTS))
