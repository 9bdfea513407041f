"""Builds the Debian package and lives an operator's life with it: python3 -m tests.package, or make package-test.

Build, install, start, chat, upgrade under way, restart, chat, remove, purge: in a Debian below build/package-test that
has nothing but what the package asks for. It needs root, for chroot. It does not need systemd: unit.py plays its part.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .tree import Tree, run
from .unit import PATIENCE, Unit

ROOT: Final = Path(__file__).resolve().parent.parent.parent
WORK: Final = ROOT / "build/package-test"
SETTINGS: Final = "etc/mercury/mercury.toml"
STORE: Final = "var/lib/mercury/mercury.sqlite"
PORTS: Final = {"server.api": 6009, "server.ws": 6010}
IN_A_NAMESPACE: Final = "MERCURY_PACKAGE_TEST_NAMESPACE"

BEGAN: Final = time.monotonic()


def say(what: str) -> None:
    """One line of progress."""
    print(f"{time.monotonic() - BEGAN:4.0f} s  {what}", flush=True)


def in_a_namespace_of_its_own() -> None:
    """Run this program anew where what it mounts is nobody else's and goes when it ends, however it ends."""
    unshare = ["unshare", "--mount", "--propagation", "private"]
    if IN_A_NAMESPACE in os.environ or subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        return
    os.environ[IN_A_NAMESPACE] = "yes"
    os.execvp("unshare", [*unshare, sys.executable, "-m", "tests.package", *sys.argv[1:]])


# The package


def built(name: str, *change: str) -> Path:
    """The package of this tree, or of a changed copy of it."""
    folder = WORK / name
    run(ROOT / "tools/deb", folder, *change)
    (package,) = folder.glob("*.deb")
    return package


def field(package: Path, name: str) -> str:
    """A field of a package's control file."""
    return run("dpkg-deb", "--field", package, name).strip()


# What is in the tree


def check_files(tree: Tree) -> None:
    """The owners and modes of what is not for everybody, and that all the rest is root's and compiled."""
    user = tree.run("id", "--user", "mercury").strip()
    for path, expected in {
        "etc/mercury": "root:mercury 750",
        SETTINGS: "root:mercury 640",
        "var/lib/mercury": "mercury:mercury 750",
    }.items():
        found = tree.run("stat", "--format=%U:%G %a", f"/{path}").strip()
        assert found == expected, f"/{path} is {found}, not {expected}"
    assert int(user) < 1000, "it is no user of the system"
    foreign = tree.run("find", "/usr/lib/mercury", "!", "-user", "root", "-o", "-perm", "/022", "!", "-type", "l")
    assert not foreign, foreign
    assert list((tree.root / "usr/lib/mercury").rglob("__pycache__/*.pyc")), "nothing was compiled"


def check_commands(tree: Tree, version: str) -> None:
    """They are on the path and work for everybody, and each has a page in the manual that man finds no fault with."""
    commands = sorted(path.name for path in (tree.root / "usr/bin").glob("mercury*"))
    assert {"mercury", "mercury-client", "mercury-keys"} <= set(commands), commands
    assert tree.run("mercury", "--version", user="nobody") == f"Mercury {version}\n"
    for command in commands:
        assert "--" in tree.run(command, "--help", user="nobody"), command
    pages = {path.name: path for path in (tree.root / "usr/share/man").rglob("mercury*.gz")}
    missing = {*commands, "mercury.toml"} - {name.rsplit(".", 2)[0] for name in pages}
    assert not missing, f"without a page in the manual: {', '.join(sorted(missing))}"
    for path in pages.values():
        said = run("man", "--warnings", "--encoding=UTF-8", "--local-file", path, env=tree.environ(MANWIDTH="80"))
        assert "NAME" in said
        assert "warning" not in said, said


def check_plugins(tree: Tree) -> None:
    """Twisted has a list of its plugins that it believes, and need not import each of them to see what it is."""
    script = "import sys, twisted.plugins, twisted.plugin\nprint(sorted(twisted.plugin.getCache(twisted.plugins)))\n"
    script += "print([name for name in sys.modules if name.startswith('twisted.plugins.')])"
    said = tree.run("/usr/lib/mercury/bin/python", "-c", script, user="mercury")
    assert "'mercury_plugin'" in said, said
    assert said.endswith("\n[]\n"), said


def check_units(tree: Tree) -> None:
    """systemd finds no fault with them."""
    units = sorted(path for path in (tree.root / "lib/systemd/system").glob("mercury*"))
    names = [path.name.replace("@.", "@one.") for path in units]
    assert "mercury.service" in names
    said = tree.run("systemd-analyze", "verify", "--man=no", *names)
    assert "mercury" not in said, said


def set_up(tree: Tree, ports: dict[str, int]) -> str:
    """What an administrator does: other ports, for this machine only, and fewer connections, since this test may not be
    allowed to give the server as many files as its unit does. The file's text as it is then.
    """
    path = tree.root / SETTINGS
    text = change(path.read_text(), "limits", "connections", "1000")
    for section, port in ports.items():
        text = change(change(text, section, "address", '"127.0.0.1"'), section, "port", str(port))
    path.write_text(text)
    return text


def change(text: str, section: str, name: str, value: str) -> str:
    """The settings with one of them uncommented and changed."""
    pattern = rf"(?ms)(^\[{re.escape(section)}\]$.*?)^#{name} = .*?$"
    text, count = re.subn(pattern, rf"\g<1>{name} = {value}", text, count=1)
    assert count == 1, f"{SETTINGS} has no {section}.{name}"
    return text


# The server


def client(tree: Tree, ports: dict[str, int], member: str) -> subprocess.Popen[str]:
    """mercury-client in a script, as any user."""
    flags = [f"--member={member}", "--room=tea", f"--api.port={ports['server.api']}", f"--ws.port={ports['server.ws']}"]
    return subprocess.Popen(
        tree.argv("mercury-client", *flags, user="nobody"),
        env=tree.environ(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
    )  # fmt: skip


def chat(tree: Tree, ports: dict[str, int], member: str, *lines: str) -> str:
    """Say some lines, and read all that the room holds."""
    with client(tree, ports, member) as process:
        try:
            out, err = process.communicate("".join(f"{line}\n" for line in lines), timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 0, f"{member}: {out}{err}"
    return out


def wait_until_ready(unit: Unit, port: int) -> None:
    """Until /readyz says yes."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE):
                return
        except OSError:
            time.sleep(0.1)
        assert unit.running, unit.log()
        assert time.monotonic() < until, unit.log()


def check_log(unit: Unit) -> None:
    """Nothing is worth a warning, neither to Mercury nor to Twisted or Python."""
    bad = [
        line for line in unit.log().splitlines() if re.search(r'"level": "(warn|error|crit)|Warning|Traceback', line)
    ]
    assert not bad, "\n".join(bad)


def check_delivery(tree: Tree, ports: dict[str, int]) -> list[str]:
    """What one member says another one hears, who is there already; what was said."""
    with client(tree, ports, "bob") as bob:
        try:
            assert bob.stdin
            bob.stdin.write("Is anybody there?\n")
            bob.stdin.flush()
            hear(bob, "Is anybody there?")
            chat(tree, ports, "ann", "I am.")
            hear(bob, "I am.")
            bob.communicate(timeout=PATIENCE)
            assert bob.returncode == 0
        finally:
            bob.kill()
    return ["Is anybody there?", "I am."]


def hear(process: subprocess.Popen[str], text: str) -> None:
    """Read what a client prints up to this text."""
    assert process.stdout
    while text not in (line := process.stdout.readline()):
        assert line, f"the client ended and did not print {text}"


def history(ports: dict[str, int]) -> list[str]:
    """All that was said, as the REST API has it."""
    url = f"http://127.0.0.1:{ports['server.api']}/api/rooms/tea/messages"
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return [message["text"] for message in json.load(answer)["body"]["messages"]]


@contextmanager
def service(tree: Tree, ports: dict[str, int]) -> Iterator[Unit]:
    """The package's unit, which is ended at the end whatever happens."""
    log = WORK / "mercury.log"
    log.unlink(missing_ok=True)
    unit = Unit(tree, "mercury", {PORTS[section]: port for section, port in ports.items()}, log)
    try:
        yield unit
    finally:
        unit.close()


def free_ports() -> dict[str, int]:
    """Two ports that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return dict(zip(PORTS, (one.getsockname()[1], other.getsockname()[1]), strict=True))


def schema(tree: Tree) -> int:
    """The version of the store's tables."""
    script = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version').fetchone())"
    return int(tree.run("/usr/lib/mercury/bin/python", "-c", script, f"/{STORE}"))


# The story


def install(tree: Tree, package: Path) -> None:
    """Install, and look at what is there."""
    tree.install(package)
    asked = tree.asked_of_systemd()
    assert any("start" in line and "mercury.service" in line for line in asked), asked
    check_files(tree)
    check_commands(tree, field(package, "Version"))
    check_plugins(tree)
    check_units(tree)


def use_and_upgrade(tree: Tree, newer: Path) -> None:
    """Chat, upgrade while the server runs, restart it, and find everything again."""
    ports = free_ports()
    settings = set_up(tree, ports)
    with service(tree, ports) as unit:
        say("start the unit's ExecStart as its user; chat")
        unit.start()
        wait_until_ready(unit, ports["server.api"])
        assert tree.run("stat", "--format=%U %a", f"/{STORE}") == "mercury 600\n"
        said = check_delivery(tree, ports)
        before = schema(tree)

        say(f"upgrade to {newer.name} while it runs")
        tree.install(newer)
        asked = tree.asked_of_systemd()
        restarts = [line for line in asked if "restart" in line]
        assert any("mercury.service" in line and "mercury@*.service" in line for line in restarts), asked
        assert not any("socket" in line for line in restarts), f"who connects meanwhile would be refused: {asked}"
        assert not any("stop" in line.split() for line in asked), asked
        assert (tree.root / SETTINGS).read_text() == settings, "the upgrade has changed the administrator's settings"
        check_files(tree)
        check_commands(tree, field(newer, "Version"))
        said += ["Still the older one?"]  # it runs until it is restarted
        chat(tree, ports, "ann", said[-1])

        say("restart it; what was said is still there, and the store is of the newer version")
        assert unit.stop() == 0, unit.log()
        unit.start()
        wait_until_ready(unit, ports["server.api"])
        assert history(ports) == said
        assert said[-1] in chat(tree, ports, "bob"), "bob, who was away, has missed something"
        assert schema(tree) == before + 1
        said += check_delivery(tree, ports)
        assert history(ports) == said
        assert unit.stop() == 0, unit.log()
        check_log(unit)


def leave(tree: Tree, before: set[str], users: dict[str, str]) -> None:
    """Remove it, which keeps what is the administrator's, and purge it, which leaves nothing."""
    tree.asked_of_systemd()
    tree.apt_get("remove", "mercury")
    asked = tree.asked_of_systemd()
    stops = " ".join(line for line in asked if "stop" in line.split())
    assert {"mercury.service", "mercury@*.service"} <= set(stops.split()), asked
    kept = {path for path in tree.listing() - before if not path.startswith("var/lib/dpkg/info/")}
    assert {SETTINGS, STORE} <= kept, kept
    assert not [path for path in kept if path.startswith("usr/")], kept
    tree.apt_get("purge", "mercury")
    tree.asked_of_systemd()
    after = tree.listing()
    assert after == before, f"left behind: {sorted(after - before)}; missing: {sorted(before - after)}"
    assert tree.users() == users, "the files of users are not as they were"


def main() -> None:
    """Play it all; raises AssertionError at the first thing that is wrong."""
    os.chdir(ROOT)
    if os.geteuid() != 0:
        sys.exit("make package-test needs root, to make a Debian and to chroot into it")
    in_a_namespace_of_its_own()
    say("build the package; lintian")
    older = built("older")
    run("lintian", "--allow-root", "--fail-on", "error,warning", *older.parent.glob("*.changes"))
    say("build a later version of it, whose store is another one")
    newer = built("newer", "python3", "tests/package/newer.py")
    tree = Tree(WORK / "tree", WORK)
    say("make a Debian with what the package depends on")
    try:
        say(tree.make(field(older, "Depends")))
        before, users = tree.listing(), tree.users()
        say(f"install {older.name}; files, commands, manual, units")
        install(tree, older)
        use_and_upgrade(tree, newer)
        say("remove it; purge it")
        leave(tree, before, users)
        say("nothing is left of it")
    finally:
        tree.remove()


if __name__ == "__main__":
    main()
