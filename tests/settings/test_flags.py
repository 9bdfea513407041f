"""The flags of `mercury`, their help, and the files that are made from the settings' schema."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs
from twisted.python import usage

from mercury.settings.flags import Flags
from mercury.settings.schema import Config
from mercury.settings.sources import PREFIX, SETTINGS, as_text
from mercury.settings.types import ConfigError
from mercury.tap import Options
from tests.support.paths import ROOT

CANARY = "canary-8Qw2"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a directory of its own without mc.cnf.toml, and an environment without our variables."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def file_with(text: str) -> None:
    Path("my.toml").write_text(text, encoding="utf-8")


def parsed(*flags: str) -> Config:
    options = Flags()
    options.parseOptions(list(flags))
    return options.config


def mistake(*flags: str) -> str:
    """The error's one line."""
    with pytest.raises(usage.UsageError) as caught:
        Flags().parseOptions(flags)
    return str(caught.value)


def test_flags_are_read_in_all_their_spellings() -> None:
    assert parsed() == Config()
    assert parsed("--server.ws.port=7010", "--limits.frame-bytes", "512").server.ws.port == 7010
    assert parsed("--limits.frame-bytes", "512").limits.frame_bytes == 512
    assert parsed("--log.level=warn", "--log.level=error").log.level == "error"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--server.ws.compression"], True),
        (["--server.ws.compression", "--log.level=info"], True),
        (["--server.ws.compression=true"], True),
        (["--server.ws.compression=false"], False),
    ],
)
def test_a_switch_may_stand_alone(flags: list[str], expected: bool) -> None:
    assert parsed(*flags).server.ws.compression is expected


@pytest.mark.parametrize(
    "flags", [["--config", "my.toml"], ["--config=my.toml"], ["--config.file=my.toml"], ["-c", "my.toml"]]
)
def test_the_file_is_named_by_either_flag(flags: list[str]) -> None:
    file_with("[log]\nlevel = 'warn'\n")
    assert parsed(*flags).log.level == "warn"


def test_warnings_are_kept_for_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERCURY_PORT_9", "tcp://10.0.0.1:9")
    options = Flags()
    options.parseOptions([])
    assert [line for line in options.warnings if line.startswith("MERCURY_PORT_9 is set in the environment")]


MISTAKES = [
    (["--reids.password=x"], "unknown flag --reids.password; did you mean --redis.password?"),
    (["--limits.framebytes=1"], "unknown flag --limits.framebytes; did you mean --limits.frame-bytes?"),
    (["--zzzzzz"], "unknown flag --zzzzzz"),
    (["-x"], "unknown flag -x"),
    (["--server.ws.port"], "option --server.ws.port requires argument"),
    (["--server.ws.port=x"], "--server.ws.port: 'x' is not valid: give a whole number from 0 to 65535"),
    (
        ["--server.ws.compression", "false"],
        "unexpected argument: write flags as --name=value",
    ),
    (["--config=no.toml"], "no.toml cannot be read: No such file or directory"),
]


@pytest.mark.parametrize(("flags", "line"), MISTAKES)
def test_a_mistake_is_a_usage_error_of_one_line(flags: list[str], line: str) -> None:
    assert mistake(*flags) == line


@pytest.mark.parametrize(("flags", "line"), MISTAKES)
def test_under_twistd_a_mistake_ends_the_process_with_that_line_alone(flags: list[str], line: str) -> None:
    class Twistd(usage.Options):
        subCommands = [["mercury", None, Options, "as twistd has it"]]  # noqa: N815, RUF012 - twistd's way

    with pytest.raises(SystemExit) as caught:
        Twistd().parseOptions(["mercury", *flags])  # type: ignore[no-untyped-call]
    assert caught.value.code == f"mercury: {line}"


def test_help_shows_every_flag_with_its_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Flags().parseOptions(["--help"])
    assert not caught.value.code
    shown = " ".join(capsys.readouterr().out.split())
    for setting in SETTINGS.values():
        default = "" if setting.default == "" else f"; default: {as_text(setting.default)}"
        assert f"--{setting.path}= {setting.description} [{setting.allowed}{default}]" in shown
    assert "-c, --config=, --config.file=" in shown


def test_help_fits_the_terminal() -> None:
    assert max(map(len, Flags().getUsage(60).splitlines())) <= 70  # flags are not broken
    assert all(len(line) <= 100 for line in Flags().getUsage(100).splitlines())


@pytest.mark.slow
def test_importing_the_options_installs_no_reactor() -> None:
    """Twistd imports them before it has chosen one."""
    code = "import sys, mercury.settings.flags; sys.exit('twisted.internet.reactor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# What is made from the schema


def test_the_example_file_is_the_defaults_all_of_them() -> None:
    example = ROOT / "etc/mercury.toml"
    assert parsed(f"--config={example}") == Config()
    text = example.read_text(encoding="utf-8")
    assert sum(" = " in line and not line.startswith("#") for line in text.splitlines()) == len(SETTINGS)


def test_the_document_has_a_row_for_each_setting() -> None:
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert all(f"| `{path}` | " in text for path in SETTINGS)


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the settings' repr, nor in help, nor in errors of any kind."""
    for name in ("MERCURY_MYSQL_PASSWORD", "MERCURY_REDIS_PASSWORD"):
        monkeypatch.setenv(name, CANARY)
    options = Flags()
    options.parseOptions([])
    assert options.config.mysql.password.value == CANARY
    shown = [repr(options.config), str(options.config), f"{options.config.redis.password}", str(options)]
    file_with(f"[mysql]\npassword = ['{CANARY}']")
    shown += [str(structs.asdict(options.config.mysql)), mistake("--config=my.toml")]
    for flags in (["--mysql.pasword", CANARY], [f"--mysql.pasword={CANARY}"], ["--log.level=info", CANARY]):
        shown.append(mistake(*flags))
    assert [text for text in shown if CANARY in text] == []


def test_settings_are_read_again_from_the_same_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from another directory, since daemons change theirs; and a file that is gone is not the same as none."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mc.cnf.toml"
    file.write_text("[limits]\nburst = 3\n")
    monkeypatch.setenv("MERCURY_LIMITS_TEXT_BYTES", "7")
    options = Flags()
    options.parseOptions(["--server.ws.port=7001"])
    assert options.read_again() == options.config
    file.write_text("[limits]\nburst = 4\ntext-bytes = 8\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = options.read_again()
    assert (again.limits.burst, again.limits.text_bytes, again.server.ws.port) == (4, 7, 7001)
    assert options.config.limits.burst == 3
    file.unlink()
    with pytest.raises(ConfigError, match=f"{file} cannot be read"):
        options.read_again()
