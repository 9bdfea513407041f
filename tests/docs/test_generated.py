"""What is made from the code is what the code says today: tables in docs/, the AsyncAPI file, the example settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from mercury.reference.__main__ import FILES, PAGES, made
from mercury.reference.markers import END, with_section
from tests.support.paths import ROOT


@pytest.mark.parametrize("name", [*PAGES, *FILES])
def test_a_generated_file_is_up_to_date(name: str) -> None:
    files: dict[Path, str] = dict(made(ROOT))
    assert (ROOT / name).read_text("utf-8") == files[ROOT / name], "run python -m mercury.reference"


def test_a_page_that_has_lost_its_marks_is_not_overwritten() -> None:
    with pytest.raises(ValueError, match="markers of the generated section calls not found"):
        with_section(f"# A page\n{END}", "calls", "| a table |\n")
