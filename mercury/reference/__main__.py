"""Writes every file, or part of one, that is made from the code: `python -m mercury.reference`, in the repository.

The tests fail where a file is not what would be written here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from mercury.reference import metrics, modules, protocol, rest, road, road_picture, settings
from mercury.reference.markers import with_section

#: The pages with generated sections.
PAGES: Final[dict[str, Callable[[], dict[str, str]]]] = {
    "docs/design.md": lambda: {"modules": modules.table(), **road.tables()},
    "docs/configuration.md": lambda: {"settings": settings.tables()},
    "docs/metrics.md": lambda: {"metrics": metrics.tables()},
    "docs/protocol.md": protocol.tables,
    "docs/rest.md": lambda: {"calls": rest.table()},
}

#: The files that are generated as a whole.
FILES: Final[dict[str, Callable[[], str]]] = {
    "docs/road.svg": road_picture.picture,
    "docs/asyncapi.json": lambda: json.dumps(protocol.asyncapi(), indent=2) + "\n",
    "etc/mercury.toml": settings.example,
}


def made(root: Path) -> Iterator[tuple[Path, str]]:
    """The files below the project's root, and what they should hold."""
    for name, sections in PAGES.items():
        text = (root / name).read_text(encoding="utf-8")
        for section, body in sections().items():
            text = with_section(text, section, body)
        yield root / name, text
    for name, make in FILES.items():
        yield root / name, make()


def main() -> None:
    """Write them all."""
    for path, text in made(Path()):
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
