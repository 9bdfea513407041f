"""docs/glossary.md names what is in the code, each word once, in the order of its sections."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

ROWS = re.findall(
    r"^\| ([^|]+) \| ([^|]+) \| ([^|]*) ?\|$", (ROOT / "docs/glossary.md").read_text("utf-8"), re.MULTILINE
)
WORDS = [(words, meaning, re.findall(r"`([^`]+)`", where)) for words, meaning, where in ROWS if words != "word"]
SOURCES = "\n".join(path.read_text("utf-8") for path in (ROOT / "mercury").rglob("*.py"))


def test_what_the_glossary_names_is_there() -> None:
    assert len(WORDS) > 30
    for name in (name for _, _, names in WORDS for name in names):
        if "/" in name:
            assert (ROOT / "mercury" / name).exists(), name
        else:
            owner, _, attribute = name.partition(".")
            assert re.search(rf"^class {owner}\b", SOURCES, re.MULTILINE), name
            assert re.search(rf"\b{attribute}\b", SOURCES), name


def test_each_word_is_explained_once_and_in_a_sentence() -> None:
    words = [word.strip() for words, _, _ in WORDS for word in words.split(",")]
    assert len(set(words)) == len(words)
    for word, meaning, _ in WORDS:
        assert meaning.rstrip().endswith("."), word
