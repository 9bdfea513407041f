"""Settings: every source is read, the later one wins, a mistake is one line that names the place and the way out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mercury.settings.engines import Mysql, Redis, Storage
from mercury.settings.schema import Config, LogSettings, storage_type
from mercury.settings.sources import CONFIG_FILE, SETTINGS, Setting, as_text, load
from mercury.settings.types import ConfigError, Secret, addresses, api_keys, methods, networks, origins

CANARY = "canary-8Qw2"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a directory of its own, without mc.cnf.toml."""
    monkeypatch.chdir(tmp_path)


def config_of(flags: Mapping[str, str] = {}, **environ: str) -> Config:
    return load(flags, environ)[0]


def wrong(flags: Mapping[str, str] = {}, **environ: str) -> str:
    """The error's one line."""
    with pytest.raises(ConfigError) as caught:
        load(flags, environ)
    assert str(caught.value).isprintable()
    return str(caught.value)


def value_of(config: Config, path: str) -> Any:
    found: Any = config
    for name in path.split("."):
        found = getattr(found, name.replace("-", "_"))
    return found


def file_with(text: str, name: str = "my.toml") -> dict[str, str]:
    """A flag that names a file with this text."""
    Path(name).write_text(text, encoding="utf-8")
    return {CONFIG_FILE: name}


# What there is


def test_the_first_mercurys_flags_are_there_with_their_defaults() -> None:
    """All flags of the first Mercury's document."""
    expected = {
        "server.api.address": "127.0.0.1/32",
        "server.ws.address": "0.0.0.0/0",
        "server.api.port": 6009,
        "server.ws.port": 6010,
        "log.format": "json",
        "log.level": "info",
        "mysql.host": "",
        "mysql.port": 3306,
        "mysql.user": "root",
        "mysql.password": "",
        "mysql.database": "mercury",
        "redis.host": "",
        "redis.port": 6379,
        "redis.password": "",
        "redis.db": 0,
    }
    assert {path: SETTINGS[path].default for path in expected} == expected


def test_every_default_is_itself_allowed() -> None:
    flags = {path: as_text(setting.default) for path, setting in SETTINGS.items()}
    assert config_of(flags) == config_of() == Config()


def test_no_two_settings_share_a_variable() -> None:
    assert len({setting.variable for setting in SETTINGS.values()}) == len(SETTINGS)


def test_every_setting_and_section_is_described() -> None:
    for setting in SETTINGS.values():
        assert setting.description.endswith(".")
        assert setting.section.__doc__
        assert setting.section.__doc__.endswith(".")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Config(), "sqlite"),
        (Config(redis=Redis(host="r")), "redis"),
        (Config(redis=Redis(sentinels="s:1")), "redis"),
        (Config(redis=Redis(host="r"), mysql=Mysql(host="m")), "mysql"),
        (Config(redis=Redis(host="r"), storage=Storage(type="memory")), "memory"),
    ],
)
def test_a_host_chooses_the_store_unless_a_type_is_given(config: Config, expected: str) -> None:
    assert storage_type(config) == expected


def test_a_store_that_needs_a_host_asks_for_it() -> None:
    assert wrong({"storage.type": "redis"}) == "storage.type is redis, but redis.host is not set"


# Which source wins


def test_flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults() -> None:
    file = file_with("[server.ws]\nport = 1\n[server.api]\nport = 1\n[redis]\nport = 1\n")
    config = config_of({**file, "server.ws.port": "3"}, MERCURY_SERVER_WS_PORT="2", MERCURY_SERVER_API_PORT="2")
    ports = (config.server.ws.port, config.server.api.port, config.redis.port, config.mysql.port)
    assert ports == (3, 2, 1, 3306)


def test_an_overridden_value_is_checked_too() -> None:
    file = file_with("[server.ws]\nport = 'x'\n")
    assert wrong({**file, "server.ws.port": "3"}).startswith("my.toml: server.ws.port: 'x' is not valid")


def values(setting: Setting) -> st.SearchStrategy[Any]:
    """Values that a setting allows, as the schema declares it."""
    if get_origin(setting.kind) is Literal:
        return st.sampled_from(get_args(setting.kind))
    if setting.kind is bool:
        return st.booleans()
    if setting.kind in (int, float):
        bounds = {name: getattr(get_meta(setting), name) for name in ("ge", "gt", "le")}
        if setting.kind is int:
            return st.integers(bounds["ge"], bounds["le"])
        least = bounds["ge"] if bounds["gt"] is None else bounds["gt"]
        return st.floats(least, bounds["le"], exclude_min=bounds["gt"] is not None)
    if setting.extra.get("check") is networks:
        network = st.ip_addresses() | st.ip_addresses(v=4).map(lambda a: ip_network(f"{a}/20", strict=False))
        return st.lists(network.map(str), min_size=1).map(", ".join)
    if setting.extra.get("check") is origins:
        return st.lists(st.sampled_from(["*", "https://*.example.org", "http://a:1"]), min_size=1).map(",".join)
    if setting.extra.get("check") is methods:
        return st.sampled_from(["ticket", "wampcra", "wampcra, ticket"])
    if setting.extra.get("check") is api_keys:
        return st.lists(st.sampled_from("abc"), unique=True).map(
            lambda names: ", ".join(f"{name}:{'0f' * 32}" for name in names)
        )
    if setting.extra.get("check") is addresses:
        return st.lists(st.sampled_from(["a:1", "10.0.0.1:26379", "[::1]:65535"])).map(", ".join)
    return st.text(st.characters(codec="utf-8"), min_size=1)


def get_meta(setting: Setting) -> Any:
    return next(meta for meta in get_args(setting.declared)[1:] if meta.le is not None)


def as_toml(value: Any) -> str:
    """A value in TOML, which differs from JSON in that one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@given(st.data())
def test_a_value_means_the_same_in_every_source(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """What a flag may be set to, the environment and files of all three formats may, to the same effect."""
    path = data.draw(st.sampled_from([path for path, setting in SETTINGS.items() if not setting.twin]))
    value = data.draw(values(SETTINGS[path]))
    section, _, key = path.rpartition(".")
    folder = tmp_path_factory.getbasetemp()
    needed = {"mysql.host": "m", "redis.host": "r", "gotalk.invite": "i"}  # by some values of others
    if key in ("cert", "key"):
        needed |= {f"{section}.cert": value, f"{section}.key": value}
    nested = value
    for name in reversed(path.split(".")):
        nested = {name: nested}
    (folder / "x.toml").write_text(f"{f'[{section}]' if section else ''}\n{key} = {as_toml(value)}\n", encoding="utf-8")
    (folder / "x.json").write_text(json.dumps(nested), encoding="utf-8")
    (folder / "x.yaml").write_text(yaml.safe_dump(nested), encoding="utf-8")

    configs = [config_of({**needed, path: as_text(value)})]
    environ = {SETTINGS[other].variable: text for other, text in needed.items()}
    configs.append(config_of({}, **{**environ, SETTINGS[path].variable: as_text(value)}))
    others = {other: text for other, text in needed.items() if other != path}
    configs += [config_of({**others, CONFIG_FILE: f"{folder}/x.{ending}"}) for ending in ("toml", "json", "yaml")]
    assert [value_of(config, path) for config in configs] == [_typed(SETTINGS[path], value)] * 5
    assert all(config == configs[0] for config in configs)


def _typed(setting: Setting, value: Any) -> Any:
    return Secret(value) if setting.kind is Secret else value


# Files


def test_the_default_file_is_read_if_it_is_there() -> None:
    assert config_of() == Config()
    Path("mc.cnf.toml").write_text("[log]\nlevel = 'debug'\n")
    assert config_of().log.level == "debug"


def test_the_environment_can_name_the_file() -> None:
    file_with("[log]\nlevel = 'debug'\n", "a.toml")
    assert load({}, {"MERCURY_CONFIG_FILE": "a.toml"}) == (Config(log=LogSettings(level="debug")), [])
    assert config_of(file_with("", "b.toml"), MERCURY_CONFIG_FILE="a.toml") == Config()


def test_a_named_file_must_be_there_and_readable() -> None:
    assert wrong({CONFIG_FILE: "no.toml"}) == "no.toml cannot be read: No such file or directory"
    Path("dir.toml").mkdir()
    assert wrong({CONFIG_FILE: "dir.toml"}) == "dir.toml cannot be read: Is a directory"
    Path("latin.toml").write_bytes(b"# \xe9")
    assert wrong({CONFIG_FILE: "latin.toml"}) == "latin.toml is not UTF-8 text"


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.toml", f"[mysql]\npassword = {CANARY}", "a.toml is not valid TOML: Invalid value (at line 2, column 12)"),
        ("a.json", "{", "a.json is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2"),
        ("a.yaml", f"mysql:\n  password: !{CANARY} x", "a.yaml is not valid YAML: line 2, column 13"),
        ("a.yml", f"mysql:\n  password: *{CANARY}", "a.yml is not valid YML: line 2, column 13"),
        ("a.yaml", f"mysql: [{CANARY}\n", "a.yaml is not valid YAML: line 2, column 1"),
        ("a.json", "[" * 100_000, "a.json is not valid JSON"),
        ("a.ini", "", "a.ini: a settings file must end in .toml, .yaml, .yml or .json"),
        ("a.json", "[]", "a.json: a settings file must hold sections with settings in it, not a single value"),
        ("a.json", '{"log": 1}', "a.json: log must be a section with settings in it, not a single value"),
        ("a.toml", "[server]\nws = 1", "a.toml: server.ws must be a section with settings in it, not a single value"),
    ],
)
def test_a_file_that_cannot_be_understood(name: str, text: str, line: str) -> None:
    """The place is named, the content is not quoted: it may be a secret."""
    error = wrong(file_with(text, name))
    assert error.startswith(line)
    assert CANARY not in error


@pytest.mark.parametrize("text", ["", "mysql:\n", "server:\n  ws:\n"])
def test_an_empty_section_sets_nothing(text: str) -> None:
    assert config_of(file_with(text, "a.yaml")) == Config()


def test_the_first_mercurys_file_is_understood() -> None:
    text = """
        [log]
        level = "debug"
        format = "logfmt"
        [server]
        apiAddress = "10.0.0.0/8"
        wsAddress = "10.1.0.0/16"
        apiPort = 1
        wsPort = 2
        [mysql]
        host = "m"
        port = 3
        user = "u"
        password = "p"
        [redis]
        host = "r"
        port = 4
        password = "q"
        db = 5
        """
    config = config_of(file_with(text))
    assert (config.log.level, config.log.format) == ("debug", "logfmt")
    assert (config.server.api.address, config.server.api.port) == ("10.0.0.0/8", 1)
    assert (config.server.ws.address, config.server.ws.port) == ("10.1.0.0/16", 2)
    assert config.mysql == Mysql(host="m", port=3, user="u", password=Secret("p"))
    assert config.redis == Redis(host="r", port=4, password=Secret("q"), db=5)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        (
            "a.toml",
            "[server]\nwsPort = 1\nws.port = 1",
            "server.ws.port is given twice, as server.wsPort and as server.ws.",
        ),
        (
            "a.json",
            '{"log.level": "info", "log": {"level": "info"}}',
            "log.level is given twice, as log.level and as log",
        ),
        ("a.toml", "[server.ws]\nprot = 1", "unknown setting server.ws.prot; did you mean server.ws.port?"),
        ("a.toml", "[server]\nwsprt = 1", "unknown setting server.wsprt; did you mean server.ws.port?"),
        ("a.toml", "[reids]\npassword = 'x'", "unknown setting reids; did you mean redis?"),
        ("a.yaml", "1: 2", "unknown setting 1"),
        ("a.toml", '"zzz\\nzzz" = 1', "unknown setting zzz\\nzzz"),
        ("a.toml", "[server.ws]\nport = 'x'", "server.ws.port: 'x' is not valid: give a whole number from 0 to 65535"),
        ("a.toml", "[server.ws]\nport = 6010.0", "server.ws.port: 6010.0 is not valid: give a whole number from 0 to"),
        (
            "a.toml",
            "[server]\nwsPort = 65536",
            "server.wsPort: 65536 is not valid: give a whole number from 0 to 65535",
        ),
        ("a.toml", "[server.ws]\ncompression = 1", "server.ws.compression: 1 is not valid: give true or false"),
        ("a.toml", "[mysql]\nuser = 7", "mysql.user: 7 is not valid: give text"),
        (
            "a.toml",
            "[mysql]\npassword = 12345",
            "mysql.password: this value is not valid: give text (put it in quotes)",
        ),
        (
            "a.toml",
            "[limits]\nping-seconds = nan",
            "limits.ping-seconds: nan is not valid: give a number from 0 to 3600",
        ),
        ("a.toml", "[mysql]\nhost = {a = 1}", "mysql.host: this value is not valid: give text"),
    ],
)
def test_a_mistake_in_a_file(name: str, text: str, line: str) -> None:
    assert wrong(file_with(text, name)).startswith(f"{name}: {line}")


# Values


@pytest.mark.parametrize(
    ("path", "text", "line"),
    [
        ("server.ws.port", "x", "'x' is not valid: give a whole number from 0 to 65535"),
        ("server.ws.port", "", "'' is not valid: give a whole number from 0 to 65535"),
        ("mysql.port", "0", "'0' is not valid: give a whole number from 1 to 65535"),
        ("token.ttl", "0", "'0' is not valid: give a whole number from 1 to 3155760000"),
        ("limits.drain-seconds", "0", "'0' is not valid: give a number above 0 and up to 3600"),
        ("limits.messages-per-second", "-1", "'-1' is not valid: give a number from 0 to 1000000"),
        ("log.level", "loud", "'loud' is not valid: give one of debug, info, warn, error"),
        ("storage.type", "oracle", "'oracle' is not valid: give one of \"\" (empty), memory, sqlite, mysql, redis"),
        ("sqlite.path", "", "'' is not valid: give text that is not empty"),
        ("server.ws.compression", "yes", "'yes' is not valid: give true or false"),
        ("log.level", "x" * 1000, f"'{'x' * 75} ... is not valid: give one of debug, info, warn, error"),
        ("log.level", "a\nb", "'a\\nb' is not valid: give one of debug, info, warn, error"),
        (
            "server.api.address",
            "::1, 10.0.0.1/8",
            "'::1, 10.0.0.1/8' is not valid: 10.0.0.1/8 is not a network: "
            "write 10.0.0.0/8 for the whole network, or 10.0.0.1 for one address",
        ),
        (
            "server.ws.address",
            "localhost",
            "'localhost' is not valid: give IPv4 or IPv6 networks separated by commas, such as 10.0.0.0/8,::1/128",
        ),
        (
            "server.ws.origins",
            "*,chat.example",
            "'*,chat.example' is not valid: "
            "give * for any origin, or origins separated by commas, such as https://chat.example",
        ),
        (
            "redis.sentinels",
            "10.0.0.1",
            "'10.0.0.1' is not valid: "
            "give hosts with their ports separated by commas, such as 10.0.0.1:26379,10.0.0.2:26379",
        ),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_flag_or_variable(path: str, text: str, line: str) -> None:
    assert wrong({path: text}) == f"--{path}: {line}"
    assert wrong({}, **{SETTINGS[path].variable: text}) == f"{SETTINGS[path].variable}: {line}"


def test_networks_are_parsed_and_an_address_is_a_network_of_one() -> None:
    assert networks("10.0.0.0/8, ::1") == (ip_network("10.0.0.0/8"), ip_network("::1/128"))
    assert networks("127.0.0.1") == (ip_network("127.0.0.1/32"),)
    with pytest.raises(ValueError, match="give IPv4 or IPv6 networks"):
        networks("")


def test_origins_are_split() -> None:
    assert origins("https://a, https://*.b") == ("https://a", "https://*.b")


def test_addresses_are_split_into_hosts_and_ports() -> None:
    assert addresses("a:1, [::1]:26379") == (("a", 1), ("::1", 26379))
    assert addresses("") == ()
    for wrong_one in ("a", "a:", ":1", "a:0", "a:65536", "a:x"):
        with pytest.raises(ValueError, match="give hosts with their ports"):
            addresses(wrong_one)


# The environment


def test_unknown_variables_are_warnings_since_platforms_add_some() -> None:
    environ = {"MERCURY_SERVICE_HOST": "10.0.0.1", "MERCURY_SERVER_WS_PROT": CANARY, "OTHER": "1"}
    config, warnings = load({}, environ)
    assert config == Config()
    assert warnings == [
        "MERCURY_SERVER_WS_PROT is set in the environment but is not a setting; did you mean MERCURY_SERVER_WS_PORT?",
        "MERCURY_SERVICE_HOST is set in the environment but is not a setting; did you mean MERCURY_REDIS_HOST?",
    ]


# Secrets


def test_a_secret_can_come_from_a_file() -> None:
    """By each source; line ends at its end are not part of it, spaces are."""
    Path("pw").write_text(f" {CANARY} \r\n\n")
    expected = Mysql(password=Secret(f" {CANARY} "))
    assert config_of({"mysql.password-file": "pw"}).mysql == expected
    assert config_of(MERCURY_MYSQL_PASSWORD_FILE="pw").mysql == expected
    assert config_of(file_with("[mysql]\npassword-file = 'pw'\n")).mysql == expected


def test_a_secrets_file_must_be_readable() -> None:
    assert wrong({"redis.password-file": "no"}) == "--redis.password-file: no cannot be read: No such file or directory"
    line = wrong(file_with("[redis]\npassword-file = 'no'"))
    assert line == "my.toml: redis.password-file: no cannot be read: No such file or directory"


def test_a_source_gives_a_secret_or_its_file() -> None:
    line = wrong({"mysql.password": CANARY, "mysql.password-file": "pw"})
    assert line == "--mysql.password-file: mysql.password is given too; keep only one of the two"
    line = wrong(MERCURY_REDIS_PASSWORD=CANARY, MERCURY_REDIS_PASSWORD_FILE="pw")
    assert line == "MERCURY_REDIS_PASSWORD_FILE: redis.password is given too; keep only one of the two"


def test_a_later_source_replaces_a_secret_however_it_was_given() -> None:
    Path("pw").write_text("from the file")
    with_file = file_with("[mysql]\npassword-file = 'missing'\n")
    assert config_of({**with_file, "mysql.password": "flag"}).mysql.password == Secret("flag")
    assert config_of({"mysql.password-file": "pw"}, MERCURY_MYSQL_PASSWORD="x").mysql.password.value == "from the file"
    assert config_of({"mysql.password-file": ""}, MERCURY_MYSQL_PASSWORD="x").mysql.password.value == ""
