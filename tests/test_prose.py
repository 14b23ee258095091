"""Docstrings, messages and documentation are free of phrases that make readers stop and translate."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/*.md", "experiments/**/*.md", "benchmarks/**/*.md", "src/**/*.md")


class Habit(NamedTuple):
    """A phrase to avoid.

    Attributes:
        pattern: What it looks like.
        instead: What to write instead.
        bad: A sentence that it must find.
        good: A sentence that it must leave alone.
    """

    pattern: str
    instead: str
    bad: str
    good: str


COMPARED = (
    "longer|more|less|fewer|better|worse|faster|slower|larger|smaller|wider|narrower|greater|later|earlier|different"
)
HABITS = {
    "is no X": Habit(
        rf"(?<!there )\b(?:is|are|was|were) no (?!(?:{COMPARED})\b)\w+",
        "is not a X",
        "'x' is no number of widths",
        "there is no file, and it is no longer than the others",
    ),
    "is none of": Habit(
        r"(?<!there )\b(?:is|are) (?-i:none)\b", "is not one of", "the width is none of those", "if it is None"
    ),
    "has none": Habit(
        r"\bhas none\b",
        "name the thing again",
        "a warm-up of epochs has none",
        "some have none",
    ),
    "the like": Habit(r"\bthe like\b", "name the things", "dropout and the like", "the likelihood of it"),
    "are others": Habit(
        r"\b(?:is|are|was|were) (?:others|another one)\b",
        "differ, have changed",
        "the weights are others",
        "there is another width, and some are other types",
    ),
    "which is said": Habit(
        r"\b(?:is|are) (?:said|told) (?:so|in one|after|at the end)\b|\bwhich (?:is|are) (?:said|told)\b",
        "is reported, a message says so",
        "they start from new weights, which is said",
        "which it said before",
    ),
    "Within it": Habit(
        r"(?:^|[.:] )Within it\b",
        "Context manager that ...",
        "Within it, memory stays with the process.",
        "A tree and the nodes within it.",
    ),
    "what came out": Habit(
        r"\bwhat (?:came|comes|has come) out\b", "the results", "the folder holds what came out", "it came out first"
    ),
    "what it takes": Habit(
        r"\bwhat (?:it|they) takes?\b", "its requirements, cost or inputs", "how, and what it takes", "what it took"
    ),
    "what a person": Habit(
        r"\bwhat a person\b", "name the thing", "tables are what a person reads", "what a personal token allows"
    ),
    "of one's own": Habit(r"\bof one's own\b", "your own", "a loop of one's own", "a folder of its own"),
    "anew": Habit(r"\banew\b", "again, from scratch", "such tensors start anew", "a new head"),
    "some 50": Habit(r"\bsome \d[\d,.]*\b", "about 50", "the median of some 50 images", "some of 50 images"),
    "lies there": Habit(
        r"\blies? (?:there|elsewhere|beside)\b", "is", "tensors that lie elsewhere", "the root lies between 0 and 1"
    ),
    "to go on with": Habit(
        r"\b(?:none|nothing|how|command) to go on(?: with)?\b",
        "continue, resume",
        "the checkpoint that is kept and how to go on",
        "it is asked to go on a little",
    ),
    "bears the name": Habit(
        r"\bbears? (?:its|the) name\b", "is named after", "the file bears its name", "bear with it"
    ),
    "lest": Habit(r"\blest\b", "so that ... not", "disturbed, lest zeros hide a difference", "the smallest"),
    "is told": Habit(r"\b(?:is|are) told\b", "receives, reads", "what the client is told", "even if told not to"),
    "the very": Habit(
        r"\b(?:the|this) very (?!first|last|end|least)\w+", "the same, this", "this very width", "at the very end"
    ),
    "so much per": Habit(r"\bso much per\b", "a cost per", "a constant and so much per MAC", "so much for the rest"),
    "those which": Habit(
        r"\b(?:those|that) which\b", "that", "an error that names those which are", "a case in which those are"
    ),
}
HEADING = Habit(
    r"^#+ (?:What|When|Where|How|Who|Why|If)\b(?!.*\?$)",
    "a noun phrase or an imperative",
    "## When it fails",
    "## Limits",
)
FOUND = {name: re.compile(habit.pattern, re.IGNORECASE | re.MULTILINE) for name, habit in HABITS.items()}


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """The strings of a module with their lines; values within an f-string are left out."""
    tree = ast.parse(path.read_text())
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            constants = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield node.lineno, "".join(str(constant) for constant in constants)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            yield node.lineno, node.value


def prose_of(page: Path) -> Iterator[tuple[int, str]]:
    """The paragraphs of a page with their lines, without code."""
    text = re.sub(r"```.*?```", lambda code: "\n" * code[0].count("\n"), page.read_text(), flags=re.DOTALL)
    line = 1
    for paragraph in re.split(r"(\n\n+)", text):
        yield line, paragraph
        line += paragraph.count("\n")


def habits_in(text: str) -> Iterator[str]:
    """Each phrase to avoid in a text, with what to write instead."""
    words = re.sub(r"[^\S\n]*\n[^\S\n]*(?=\S)", " ", text)  # a phrase may go over the end of a line
    for name, pattern in FOUND.items():
        for match in pattern.finditer(words):
            yield f"{match[0]!r}: write {HABITS[name].instead}"


@pytest.mark.parametrize("name", HABITS)
def test_a_phrase_is_caught(name: str) -> None:
    habit = HABITS[name]
    assert list(habits_in(habit.bad))
    assert FOUND[name].search(habit.bad)
    assert not FOUND[name].search(habit.good)


def test_a_phrase_over_two_lines_is_caught(tmp_path: Path) -> None:
    module, page = tmp_path / "module.py", tmp_path / "page.md"
    module.write_text('"""Weights that are\n    others."""\nerror = f"{error} is no\\nnumber"\n')
    page.write_text("# A\n\n```\nis no code\n```\n\nA width is\nnone of those.\n")
    assert [(line, *habits_in(text)) for line, text in texts_of(module) if [*habits_in(text)]] == [
        (1, "'are others': write differ, have changed"),
        (3, "'is no number': write is not a X"),
    ]
    assert [(line, *habits_in(text)) for line, text in prose_of(page) if [*habits_in(text)]] == [
        (7, "'is none': write is not one of")
    ]


def test_a_heading_is_caught() -> None:
    assert re.search(HEADING.pattern, HEADING.bad)
    assert not re.search(HEADING.pattern, HEADING.good)


def test_docstrings_and_messages_are_plain() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {habit}"
        for path in sorted((ROOT / "src").glob("**/*.py"))
        for line, text in texts_of(path)
        for habit in habits_in(text)
    ]
    assert not found, "\n".join(found)


def test_pages_are_plain() -> None:
    found = []
    for page in sorted({page for pattern in PAGES for page in ROOT.glob(pattern)}):
        for line, text in prose_of(page):
            found += [f"{page.relative_to(ROOT)}:{line}: {habit}" for habit in habits_in(text)]
            for heading in re.findall(HEADING.pattern + ".*", text, re.MULTILINE):
                found.append(f"{page.relative_to(ROOT)}:{line}: {heading!r}: write {HEADING.instead}")
    assert not found, "\n".join(found)
