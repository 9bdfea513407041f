"""Writes what people read about the settings, from the schema: etc/mercury.toml and the table in docs/configuration.md.
For mercury/reference/manual.py it makes the file of settings that a package installs, too.

`python -m mercury.reference` writes both.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from itertools import groupby

from mercury.settings.sources import SETTINGS, Setting, as_text

EXAMPLE_HEAD = """\
# All of Mercury's settings with their defaults. Delete what you do not change. See docs/configuration.md.
# Use this file with `mercury --config FILE`, or as ./mc.cnf.toml, which is read if it exists.
# Made from mercury/settings/schema.py by `python -m mercury.reference`.
"""

PACKAGED_HEAD = """\
# The settings of the service mercury. A line that starts with # shows a default: remove the # to change it.
# See mercury.toml(5). After a change: systemctl reload mercury, or restart it where mercury.toml(5) names no reload.
"""

#: What is not the default where Mercury is a service of the system.
PACKAGED = {"sqlite.path": "/var/lib/mercury/mercury.sqlite"}


def example() -> str:
    """The settings as TOML with their defaults, each with a comment that says what it means and what it may be."""
    return _toml(EXAMPLE_HEAD, lambda setting: json.dumps(setting.default))


def packaged() -> str:
    """The same with all in comments but what a package sets: so later versions can have better defaults."""
    return _toml(
        PACKAGED_HEAD, lambda setting: json.dumps(PACKAGED[setting.path]) if setting.path in PACKAGED else None
    )


def _toml(head: str, value: Callable[[Setting], str | None]) -> str:
    """A file with all settings; `value` gives a setting's, or None to have its default in a comment."""
    parts = [head]
    for section, settings in groupby(SETTINGS.values(), key=section_of):
        members = list(settings)
        parts.append(f"\n# {members[0].section.__doc__}\n" + (f"[{section}]\n" if section else ""))
        for setting in members:
            words = f"{setting.description} [{setting.allowed}]"
            parts += [f"\n# {line}" for line in textwrap.wrap(words, 110)]
            name, given = setting.path.rpartition(".")[2], value(setting)
            parts.append(f"\n#{name} = {json.dumps(setting.default)}\n" if given is None else f"\n{name} = {given}\n")
    return "".join(parts)


def tables() -> str:
    """The settings as Markdown, one table a section."""
    parts = []
    for section, settings in groupby(SETTINGS.values(), key=section_of):
        members = list(settings)
        parts.append(f"\n### {section or 'At the top'}\n\n{members[0].section.__doc__}\n\n")
        parts.append("| setting | default | give | changes at | meaning |\n|---|---|---|---|---|\n")
        for setting in members:
            default = f"`{as_text(setting.default)}`" if setting.default != "" else "empty"
            when, words = "reload" if setting.live else "start", _escaped(setting.description)
            parts.append(f"| `{setting.path}` | {default} | {setting.allowed} | {when} | {words} |\n")
    return "".join(parts) + "\n"


def section_of(setting: Setting) -> str:
    """The section that it stands in, such as server.ws; empty at the top, before all sections."""
    return setting.path.rpartition(".")[0]


def _escaped(words: str) -> str:
    """Markdown takes * and | for its own."""
    return words.replace("*", r"\*").replace("|", r"\|")
