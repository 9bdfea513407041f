"""Makes the copy of the sources in which it is run a later version, whose store is another one: what is upgraded to.

The file of settings says something else in it as well, as it may in any version. Run by tools/deb.
"""

from __future__ import annotations

import re
from pathlib import Path

MIGRATION = '    ("CREATE TABLE later (key INTEGER PRIMARY KEY)",),\n'


def change(path: str, pattern: str, new: str) -> None:
    """Replace what the pattern finds, which has to be there once."""
    text, count = re.subn(pattern, new, Path(path).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    if count != 1:
        raise ValueError(f"{path} does not have {pattern} once, but {count} times")
    Path(path).write_text(text, "utf-8")


def make_newer() -> None:
    """Version x.y.z becomes x.y.(z + 1), and the SQLite store's schema has one more migration."""
    path = Path("mercury/__init__.py")
    match = re.search(r'"(\d+\.\d+\.)(\d+)"', path.read_text("utf-8"))
    assert match, f"{path} names no version"
    later = f"{match[1]}{int(match[2]) + 1}"
    change(str(path), r'^__version__ = ".*?"$', f'__version__ = "{later}"')
    change("debian/changelog", r"\A(mercury \()[^)]*", rf"\g<1>{later}")
    change("mercury/stores/sqlite/schema.py", r"^MIGRATIONS: .*?^\]$", rf"\g<0>\nMIGRATIONS += [\n{MIGRATION}]")
    change("mercury/reference/settings.py", r"^(# The settings of the service mercury\.)", r"\1 (Of a later version.)")


if __name__ == "__main__":
    make_newer()
