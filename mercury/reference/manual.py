"""Writes the manual's pages: of each command, from what makes its --help, and of the file of settings.

`python -m mercury.reference.manual FOLDER` writes mercury(8), mercury.toml(5), mercury-client(1), mercury-keys(1) and
mercury-admin(1), and beside them mercury.toml, which a package puts into /etc/mercury. debian/rules runs it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Final

from mercury import __version__
from mercury.cli import admin, keys
from mercury.client.main import DESCRIPTION as CLIENT
from mercury.client.main import parser as client_parser
from mercury.reference import settings as reference
from mercury.settings import flags as options
from mercury.settings.sources import SETTINGS, as_text

HEAD: Final = '.\\" Made by python -m mercury.reference.manual.\n'

SERVER: Final = """\
Mercury is a chat service that you run next to your application. The application's backend calls its REST API. Users'
clients connect by WebSocket. Mercury stores the rooms and the messages, and remembers what each device has received.

`mercury` runs one node in the foreground and logs to standard output. It is the same as
`twistd --nodaemon --pidfile= mercury`, which also takes twistd's own flags. With `--workers=N` it supervises N
processes. Each of them is a node, and together they serve the same ports as one service.
"""

SIGNALS: Final = {
    "SIGTERM, SIGINT": "Stop. Clients are told when to reconnect, writes in progress are finished, and connections "
    "are closed a few at a time, over `drain.seconds`.",
    "SIGHUP": "Read the settings and the certificates again. mercury.toml(5) says which settings can change at a "
    "reload; the others wait for a restart, and the log names them. If anything is wrong, the log says so and nothing "
    "changes.\n"
    "Send either signal to the process that you started; it passes the signal on to its workers.",
}

STATUS: Final = {
    "0": "Mercury was asked to stop, and nothing was lost.",
    "1": "A setting is wrong, a port is in use, or the store cannot be used. One line on standard error says which.",
}

FILES: Final = {
    "/etc/mercury/mercury.toml": "The settings of the packaged service; see mercury.toml(5).",
    "/var/lib/mercury/": "The SQLite store of the packaged service.",
    "./mc.cnf.toml": "The settings file that is read if no other is named.",
    "/usr/share/doc/mercury/": "Documentation: protocols, REST API, stores, encryption, scaling.",
}

FILE: Final = f"""\
The file contains the settings of mercury(8) in sections, as TOML: text in quotes, numbers and `true` or `false`
without. Settings that are not in the file have their defaults. An unknown name or a value that is not allowed is an
error, and Mercury does not start.

A setting can also be given as a flag, by section and name, such as `--server.ws.port=7010`, or as an environment
variable, such as `MERCURY_SERVER_WS_PORT=7010`. Flags override variables, and variables override the file.

A secret can be in a file of its own: use `password-file` instead of `password`, and so on.

YAML and JSON files with the same sections and names work as well; the file's extension says which format it has. Name
the file with `--config` or with `{options.FILE_VARIABLE}`.
"""


def escaped(text: str) -> str:
    """Text as roff takes it; what stands in `backticks` becomes bold."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    return re.sub(r"(?m)^([.'])", r"\\&\1", text)


def paragraphs(text: str) -> str:
    """Paragraphs divided by empty lines. Those that are indented stay as they are."""
    made = []
    for part in text.strip("\n").split("\n\n"):
        if part.startswith("    "):
            lines = "\n".join(line[4:] for line in part.split("\n"))
            made.append(f".IP\n.nf\n{escaped(lines)}\n.fi\n")
        else:
            made.append(f".PP\n{escaped(part.strip())}\n")
    return "".join(made)


def entries(pairs: Iterable[tuple[str, str]]) -> str:
    """Words, each with what it means, line by line."""
    return "".join(
        f".TP\n\\fB{escaped(words)}\\fR\n" + "\n.br\n".join(map(escaped, meaning.split("\n"))) + "\n"
        for words, meaning in pairs
    )


def page(name: str, section: int, purpose: str, synopsis: Iterable[str], parts: Mapping[str, str]) -> str:
    """A whole page. `synopsis` is of the words that follow the name, one a way to call it; `parts` are roff."""
    calls = "".join(f".br\n\\fB{escaped(name)}\\fR {escaped(words)}\n" for words in synopsis)
    made = [
        HEAD,
        f'.TH {escaped(name).upper()} {section} "" "Mercury {__version__}" "Mercury"\n.ad l\n.nh\n',
        f".SH NAME\n{escaped(name)} \\- {escaped(purpose)}\n",
        f".SH SYNOPSIS\n{calls.removeprefix('.br' + chr(10))}" if calls else "",
        *(f".SH {title}\n{body}" for title, body in parts.items()),
    ]
    return "".join(made)


def server_page() -> str:
    """mercury(8)."""
    flags = [entries(options.GENERAL)]
    for section, settings in groupby(SETTINGS.values(), key=lambda setting: setting.section):
        flags.append(f".SS {escaped((section.__doc__ or '').rstrip('.'))}\n")
        flags.append(entries((f"--{setting.path}=", options.help_of(setting)) for setting in settings))
    parts = {
        "DESCRIPTION": paragraphs(SERVER),
        "OPTIONS": "".join(flags),
        "SIGNALS": entries(SIGNALS.items()),
        "EXIT STATUS": entries(STATUS.items()),
        "FILES": entries(FILES.items()),
        "SEE ALSO": "mercury.toml(5), mercury\\-client(1), mercury\\-keys(1), mercury\\-admin(1)\n",
    }
    return page("mercury", 8, "a chat service: rooms over WebSocket, tokens over REST", ["[options]"], parts)


def file_page() -> str:
    """mercury.toml(5)."""
    made = []
    for title, settings in groupby(SETTINGS.values(), key=reference.section_of):
        members = list(settings)
        heading = f"[{title}]" if title else "At the top"
        made.append(f".SS {escaped(heading)}\n{escaped(members[0].section.__doc__ or '')}\n")
        for setting in members:
            default = "empty" if setting.default == "" else as_text(setting.default)
            name = setting.path.rpartition(".")[2]
            reload = " Can change at a reload." if setting.live else ""
            made.append(
                entries([(name, f"{setting.description}\nGive: {setting.allowed}. Default: {default}.{reload}")])
            )
    parts = {
        "DESCRIPTION": paragraphs(FILE),
        "SETTINGS": "".join(made),
        "SEE ALSO": "mercury(8)\n",
    }
    return page("mercury.toml", 5, "the settings of Mercury", [], parts)


def client_page() -> str:
    """mercury-client(1)."""
    flags = []
    for action in client_parser()._actions:  # argparse has no other way to ask what it was told
        words = ", ".join(action.option_strings) + ("" if action.nargs == 0 else f"={action.metavar or 'TEXT'}")
        flags.append((words, (action.help or "") % {"default": action.default}))
    parts = {
        "DESCRIPTION": paragraphs(CLIENT),
        "OPTIONS": entries(flags),
        "SEE ALSO": "mercury(8)\n",
    }
    return page("mercury-client", 1, "chat in a room of a Mercury server", ["--member=NAME [options]"], parts)


def commands_page(name: str, purpose: str, commands: Mapping[str, str], more: str) -> str:
    """A page of section 1 for a command that has commands of its own."""
    parts = {
        "COMMANDS": entries(commands.items()),
        "NOTES": paragraphs(more),
        "SEE ALSO": "mercury(8), mercury.toml(5)\n",
    }
    return page(name, 1, purpose, commands, parts)


def pages() -> dict[str, str]:
    """The pages by the names of their files."""
    return {
        "mercury.8": server_page(),
        "mercury.toml.5": file_page(),
        "mercury-client.1": client_page(),
        "mercury-keys.1": commands_page(
            "mercury-keys", "make keys for a Mercury server, and re-encrypt its store", keys.COMMANDS, keys.MORE
        ),
        "mercury-admin.1": commands_page(
            "mercury-admin", "back up and restore the store of a Mercury server", admin.COMMANDS, admin.MORE
        ),
    }


def main(folder: Path) -> None:
    """Write them all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {**pages(), "mercury.toml": reference.packaged()}.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
