"""The manual's pages tell of all that --help does, in clean roff; the package's file of settings is the example's."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mercury.cli import admin, keys
from mercury.client.main import parser
from mercury.reference import manual, settings
from mercury.settings.engines import Sqlite
from mercury.settings.flags import GENERAL
from mercury.settings.schema import Config
from mercury.settings.sources import SETTINGS, as_text, load
from tests.support.paths import ROOT

PAGES = manual.pages()


def plain(page: str) -> str:
    """A page's text in one line, without what roff makes of it."""
    text = re.sub(r"(?m)^\.(?:br|[A-Z]+)\b ?", "", PAGES[page])
    text = re.sub(r"\\f[BR]|\\&", "", text).replace("\\-", "-").replace("\\(ti", "~").replace("\\e", "\\")
    return " ".join(text.split())


def commands() -> set[str]:
    """The commands that setup.py installs."""
    return set(re.findall(r'"(mercury[a-z-]*) = ', (ROOT / "setup.py").read_text("utf-8")))


def test_every_command_has_a_page() -> None:
    assert commands() >= {"mercury", "mercury-client"}
    assert commands() | {"mercury.toml"} == {name.rpartition(".")[0] for name in PAGES}


def test_the_pages_tell_of_every_flag_and_setting() -> None:
    server, file, client = plain("mercury.8"), plain("mercury.toml.5"), plain("mercury-client.1")
    for flag, meaning in GENERAL:
        assert f"{flag} {meaning}" in server
    for setting in SETTINGS.values():
        meaning = setting.description.replace("`", "")
        assert f"--{setting.path}= {meaning} [" in server
        default = "empty" if setting.default == "" else as_text(setting.default)
        reload = " Can change at a reload." if setting.live else ""
        name = setting.path.rpartition(".")[2]
        assert f"{name} {meaning} Give: {setting.allowed}. Default: {default}.{reload}" in file
    flags = re.findall(r"--[a-z][a-z.]*", parser().format_help())
    assert len(flags) > 5
    assert [flag for flag in flags if flag not in client] == []
    for command in (keys, admin):
        for call, meaning in command.COMMANDS.items():
            assert f"{call} {meaning}" in plain(f"{command.__name__.replace('mercury.cli.', 'mercury-')}.1")


@pytest.mark.parametrize("page", PAGES)
def test_roff_takes_no_text_for_its_own(page: str) -> None:
    for line in PAGES[page].splitlines():
        assert re.match(r"\.(br|nf|fi|ad l|nh|PP|IP|TP|TH .*|S[HS] .*)$|\.\\\" |[^.']", line), line
        assert not re.search(r"(?<!\\)-", line.removeprefix(manual.HEAD.rstrip())), line
        assert not re.search(r"\\(?!f[BR]|[-&e\"]|\(ti|\(ha)", line), line


def test_text_that_looks_like_roff_is_text() -> None:
    assert manual.escaped(".so much\n'tis C:\\x --flag ~ ^ `bold`") == (
        "\\&.so much\n\\&'tis C:\\ex \\-\\-flag \\(ti \\(ha \\fBbold\\fR"
    )
    assert manual.paragraphs("one\n\n    two\n    three\n") == ".PP\none\n.IP\n.nf\ntwo\nthree\n.fi\n"


@pytest.mark.slow
def test_all_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "mercury.reference.manual", tmp_path / "made"], cwd=ROOT, check=True)
    assert {path.name for path in (tmp_path / "made").iterdir()} == {*PAGES, "mercury.toml"}


def test_the_packages_settings_are_the_defaults_but_for_where_things_are(tmp_path: Path) -> None:
    """And every one of them has its default in a comment, which only has to be uncommented."""
    path = tmp_path / "mercury.toml"
    path.write_text(settings.packaged())
    assert load({"config.file": str(path)}, {}) == (Config(sqlite=Sqlite(path=settings.PACKAGED["sqlite.path"])), [])
    text = re.sub(r'(?m)^path = ".*"$', 'path = "var/mercury.sqlite"', path.read_text())
    assert tomllib.loads(re.sub(r"(?m)^#(?=[a-z])", "", text)) == tomllib.loads(settings.example())


def test_the_servers_page_says_what_the_command_is() -> None:
    """As mercury/cli/server.py has it."""
    said = re.search(r"twistd --nodaemon [^,;]*mercury", plain("mercury.8"))
    assert said
    source = (ROOT / "mercury/cli/server.py").read_text("utf-8")
    assert ", ".join(f'"{word}"' for word in shlex.split(said[0])[1:]) in source
