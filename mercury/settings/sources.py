"""Read the settings that mercury/settings/schema.py declares: defaults < file < environment < flags.

A setting is named by its path, `server.ws.port`. That is the key in a file, the flag is `--server.ws.port` and the
variable `MERCURY_SERVER_WS_PORT`. Every value that is given is checked, also one that another source overrides.
Each Secret can come from a file instead: `mysql.password` has the twin `mysql.password-file`.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
import yaml
from msgspec import Meta, Struct, structs

from mercury.settings.schema import Config, check
from mercury.settings.types import ConfigError, Secret

PREFIX = "MERCURY_"
CONFIG_FILE = "config.file"  # the one flag and variable that is not a setting: it names the file
DEFAULT_FILE = "mc.cnf.toml"

#: How the first Mercury's file spelt four of its keys; the rest is as today.
OLD_KEYS = {
    "server.apiAddress": "server.api.address",
    "server.apiPort": "server.api.port",
    "server.wsAddress": "server.ws.address",
    "server.wsPort": "server.ws.port",
}

PARSERS: dict[str, Callable[[str], Any]] = {
    ".toml": tomllib.loads,
    ".yaml": yaml.safe_load,
    ".yml": yaml.safe_load,
    ".json": json.loads,
}

SectionT = TypeVar("SectionT", bound=Struct)
Given = dict[str, tuple[Any, str]]  # path -> (checked value, where it stood)


@dataclass(frozen=True)
class Setting:
    """One setting as the schema declares it.

    `kind` is its type without the range, `declared` with it; `default` is as it would stand in a file.
    """

    path: str
    section: type[Struct]
    kind: Any
    declared: Any
    default: Any
    twin: str | None = None  # of a `password-file`: the secret that it stands for

    @property
    def extra(self) -> dict[str, Any]:
        """What the schema knows of it beside type, range and description: `check`, `allowed` and `live`."""
        metas = (meta for meta in get_args(self.declared)[1:] if isinstance(meta, Meta))
        return {name: value for meta in metas for name, value in (meta.extra or {}).items()}

    @property
    def live(self) -> bool:
        """Whether a reload changes it while Mercury runs."""
        return SETTINGS[self.twin].live if self.twin else bool(self.extra.get("live"))

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return variable(self.path)

    @property
    def description(self) -> str:
        """What it means, in a sentence or two."""
        if self.twin:
            return f"A file that holds {self.twin}, to keep it out of the settings file and the process list."
        return str(_constraint(self.declared, "description"))

    @property
    def allowed(self) -> str:
        """What may be given, in words that follow "give"."""
        if "allowed" in self.extra:
            return str(self.extra["allowed"])
        if get_origin(self.kind) is Literal:
            return "one of " + ", ".join(value or '"" (empty)' for value in get_args(self.kind))
        if self.kind in (int, float):
            return ("a whole number" if self.kind is int else "a number") + _span(self.declared)
        if self.kind is bool:
            return "true or false"
        return "text that is not empty" if _constraint(self.declared, "min_length") else "text"


def _constraint(declared: Any, name: str) -> Any:
    """The value of ge, gt, le, description ... of an Annotated type, or None."""
    metas = (meta for meta in get_args(declared)[1:] if isinstance(meta, Meta))
    return next((found for meta in metas if (found := getattr(meta, name)) is not None), None)


def _span(declared: Any) -> str:
    above, least, most = (_constraint(declared, name) for name in ("gt", "ge", "le"))
    return f" above {above} and up to {most}" if above is not None else f" from {least} to {most}"


def variable(path: str) -> str:
    """The environment variable of a path: server.ws.port -> MERCURY_SERVER_WS_PORT."""
    return PREFIX + path.upper().replace(".", "_").replace("-", "_")


def _walk(section: type[Struct], prefix: str) -> Iterator[Setting]:
    """The settings of a section and of those within it, in the order of their declaration."""
    for field in structs.fields(section):
        path = prefix + field.encode_name
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            yield from _walk(field.type, path + ".")
            continue
        kind = get_args(field.type)[0]
        yield Setting(path, section, kind, field.type, _plain(field.default))
        if kind is Secret:
            yield Setting(path + "-file", section, str, str, "", twin=path)


def _plain(default: Any) -> Any:
    """A default as it would stand in a file: no Secret, and 5 for 5.0."""
    if isinstance(default, Secret):
        return default.value
    return int(default) if isinstance(default, float) and default.is_integer() else default


def as_text(value: Any) -> str:
    """A default as a flag or variable would give it."""
    return value if isinstance(value, str) else json.dumps(value)


SETTINGS = {setting.path: setting for setting in _walk(Config, "")}
SECTIONS = {"server", *(path.rpartition(".")[0] for path in SETTINGS if "." in path)}


def load(flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Config, list[str]]:
    """The settings, and warnings for the log. ConfigError, in one line, at the first thing that is wrong.

    `flags` maps paths (and `config.file`) to what was given for them. The file is the one named by the flag or by
    MERCURY_CONFIG_FILE and must be there, else ./mc.cnf.toml, which need not.
    """
    file = settings_file(flags, environ)
    from_environ, warnings = _from_environ(environ)
    given: Given = {}
    for source in (_from_file(file) if file else {}, from_environ, _from_flags(flags)):
        _one_of_twins(source, given)
        given.update(source)
    for setting in SETTINGS.values():
        if setting.twin and setting.path in given:
            path, where = given.pop(setting.path)
            if path:
                given[setting.twin] = Secret(_read(Path(path), f"{where}: ").rstrip("\r\n")), where
    config = _build(Config, "", given)
    check(config)
    return config, warnings


def settings_file(flags: Mapping[str, str], environ: Mapping[str, str]) -> Path | None:
    """The file to read: one that is named has to be there, the default one is read if it is."""
    if named := flags.get(CONFIG_FILE) or environ.get(variable(CONFIG_FILE)):
        return Path(named)
    default = Path(DEFAULT_FILE)
    return default if default.exists() else None


def _from_flags(flags: Mapping[str, str]) -> Given:
    return {
        path: (_checked(SETTINGS[path], text, f"--{path}", strict=False), f"--{path}")
        for path, text in flags.items()
        if path != CONFIG_FILE
    }


def _from_environ(environ: Mapping[str, str]) -> tuple[Given, list[str]]:
    """What the environment sets. Variables with our prefix that are no settings are not ours to refuse: platforms
    add such (MERCURY_SERVICE_HOST, for a service called mercury); each makes a warning."""
    known = {setting.variable: setting for setting in SETTINGS.values()}
    ours = sorted(name for name in environ if name.startswith(PREFIX) and name != variable(CONFIG_FILE))
    given = {
        known[name].path: (_checked(known[name], environ[name], name, strict=False), name)
        for name in ours
        if name in known
    }
    unknown = (name for name in ours if name not in known)
    return given, [f"{name} is set in the environment but is not a setting{nearest(name, known)}" for name in unknown]


def _from_file(file: Path) -> Given:
    """What a file sets."""
    given: Given = {}
    keys: dict[str, str] = {}  # path -> how the file spells it
    for key, value in _flat(_parse(file), "", file):
        path = OLD_KEYS.get(key, key)
        if path not in SETTINGS:
            raise ConfigError(f"{file}: unknown setting {key}{nearest(key, [*SETTINGS, *SECTIONS])}")
        if path in given:
            raise ConfigError(f"{file}: {path} is given twice, as {keys[path]} and as {key}; keep only one")
        keys[path] = key
        given[path] = (_checked(SETTINGS[path], value, f"{file}: {key}", strict=True), f"{file}: {key}")
    return given


def _parse(file: Path) -> Any:
    """A file's content, by its ending."""
    if file.suffix not in PARSERS:
        raise ConfigError(f"{file}: a settings file must end in .toml, .yaml, .yml or .json")
    text = _read(file)
    try:
        return PARSERS[file.suffix](text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        # PyYAML's messages, unlike the others, may quote the file, and with it a secret: the place has to do.
        mark = getattr(error, "problem_mark", None)
        place = f": line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        detail = f": {error}" if isinstance(error, tomllib.TOMLDecodeError | json.JSONDecodeError) else place
        raise ConfigError(f"{file} is not valid {file.suffix[1:].upper()}{detail}") from None


def _flat(table: Any, prefix: str, file: Path) -> Iterator[tuple[str, Any]]:
    """Keys as paths, with their values. A section with nothing in it, which YAML makes null, is an empty one."""
    if table is None:
        return
    if not isinstance(table, dict):
        what = f"{prefix[:-1]} must be a section" if prefix else "a settings file must hold sections"
        raise ConfigError(f"{file}: {what} with settings in it, not a single value")
    for key, value in table.items():
        path = f"{prefix}{key}"
        if path in SECTIONS:
            yield from _flat(value, path + ".", file)
        else:
            yield path, value


def _checked(setting: Setting, raw: Any, where: str, *, strict: bool) -> Any:
    """The value of a setting, if it is allowed. Not strict: `raw` is text that may stand for a number or truth."""
    declared = str if setting.kind is Secret else setting.declared
    try:
        value = msgspec.convert(raw, declared, strict=strict)
    except msgspec.ValidationError:
        quotes = " (put it in quotes)" if declared is str else ""
        raise ConfigError(f"{where}: {_shown(setting, raw)} is not valid: give {setting.allowed}{quotes}") from None
    try:
        setting.extra.get("check", str)(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {_shown(setting, raw)} is not valid: {error}") from None
    return Secret(value) if setting.kind is Secret else value


def _shown(setting: Setting, raw: Any) -> str:
    """A wrong value, in one line of bounded length; never a secret."""
    if setting.kind is Secret or not isinstance(raw, str | int | float):
        return "this value"
    text = repr(raw)
    return text if len(text) <= 80 else text[:76] + " ..."


def _one_of_twins(source: Given, given: Given) -> None:
    """A source gives a secret itself or the name of its file, not both; `given` loses what is replaced by it."""
    for setting in SETTINGS.values():
        if setting.twin is None or not {setting.twin, setting.path} & source.keys():
            continue
        if source.get(setting.path, ("", ""))[0] and source.get(setting.twin, (Secret(""), ""))[0].value:
            raise ConfigError(f"{source[setting.path][1]}: {setting.twin} is given too; keep only one of the two")
        given.pop(setting.twin, None)
        given.pop(setting.path, None)


def _read(file: Path, where: str = "") -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{where}{file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{where}{file} is not UTF-8 text") from None


def _build(section: type[SectionT], prefix: str, given: Given) -> SectionT:
    """A section with what was given, and the defaults for the rest."""
    values = {}
    for field in structs.fields(section):
        path = prefix + field.encode_name
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            values[field.name] = _build(field.type, path + ".", given)
        elif path in given:
            values[field.name] = given[path][0]
    return section(**values)


def differences(old: Struct, new: Struct, prefix: str = "") -> Iterator[tuple[str, Struct, str, Any]]:
    """Where two Configs differ: the path, the section of the old one and the field in it, and the new value."""
    for field in structs.fields(old):
        path, before, after = prefix + field.encode_name, getattr(old, field.name), getattr(new, field.name)
        if isinstance(before, Struct):
            yield from differences(before, after, path + ".")
        elif before != after:
            yield path, old, field.name, after


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A hint that ends an error about an unknown name: the known one that looks most like it, if any does."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {prefix}{found[0]}?" if found else ""
