"""A Debian in a folder: made by debootstrap, kept as an archive for the next time, entered by chroot.

It has systemd, which does not run, and what the package depends on. It has nothing more, so that what the package
itself leaves behind can be told.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

#: The tools that maintainer scripts call are these, whatever the caller's PATH is.
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: What apt and dpkg write for themselves.
NOT_COMPARED: Final = ("dev", "proc", "run", "tmp", "var/cache", "var/lib/apt", "var/log", "var/lib/dpkg/lock")

#: In the place of systemctl: has units enabled, and writes down what it is asked to do.
SYSTEMCTL: Final = """\
#!/bin/sh
echo "$*" >>/tmp/systemctl
case $* in *is-enabled*) echo enabled ;; esac
"""


def run(*command: object, env: dict[str, str] | None = None, cwd: str | None = None) -> str:
    """What a command prints. If it fails, so does the test, with all that it said."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, env=env, cwd=cwd, text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}"
    return done.stdout


class Tree:
    """A Debian of this machine's release, in `root`. Archives of it are kept in `kept`."""

    def __init__(self, root: Path, kept: Path) -> None:
        self.root = root
        self._kept = kept
        self._sources = _sources()

    def make(self, depends: str) -> str:
        """Make it anew with what `depends` names, as a package's Depends; how it was made."""
        self.remove()
        key = hashlib.sha256(f"{self._sources} {depends}".encode()).hexdigest()[:16]
        archive = self._kept / f"base-{key}.tar"
        if archive.exists():
            self.root.mkdir(parents=True)
            run("tar", "--extract", "--numeric-owner", "--file", archive, "--directory", self.root)
            how = f"unpacked from {archive}"
        else:
            self._bootstrap(depends)
            for old in self._kept.glob("base-*.tar"):
                old.unlink()
            part = archive.with_suffix(".part")
            run(
                "tar", "--create", "--numeric-owner", "--one-file-system", "--file", part, "--directory", self.root, "."
            )
            part.rename(archive)
            how = "made by debootstrap"
        # Only in a namespace of our own, which ends with us. Debian's tools and Mercury can do without.
        mounted = subprocess.run(["mount", "-t", "proc", "proc", self.root / "proc"], check=False, capture_output=True)
        (self.root / "run/systemd/system").mkdir(parents=True, exist_ok=True)
        (self.root / "bin/systemctl").write_text(SYSTEMCTL)  # apt lets scripts find nothing in /usr/local
        return how + (", with /proc" if mounted.returncode == 0 else "")

    def remove(self) -> None:
        """Have it no more. What cannot be unmounted is not entered, and goes with the namespace."""
        subprocess.run(["umount", self.root / "proc"], check=False, capture_output=True)
        run("rm", "--recursive", "--force", "--one-file-system", self.root)

    def _bootstrap(self, depends: str) -> None:
        (mirror, release, _), *_ = self._sources
        self.root.mkdir(parents=True)
        self._kept.mkdir(parents=True, exist_ok=True)
        environ = dict(os.environ)
        if proxy := run("apt-config", "shell", "proxy", "Acquire::http::Proxy").partition("=")[2].strip().strip("'"):
            environ.setdefault("http_proxy", proxy)
        include = "systemd" + ",ca-certificates" * any(uri.startswith("https:") for uri, *_ in self._sources)
        run("debootstrap", "--variant=minbase", f"--include={include}", release, self.root, mirror, env=environ)
        apt = self.root / "etc/apt"
        (apt / "sources.list").write_text("".join(f"deb {' '.join(source)}\n" for source in self._sources))
        (apt / "apt.conf.d/00host").write_text(run("apt-config", "dump", "Acquire"))
        for path in Path("/etc/apt").glob("auth.conf*"):
            run("cp", "--archive", path, apt)
        for name in ("hosts", "resolv.conf"):
            shutil.copy(Path("/etc", name), self.root / "etc" / name)
        self.run("apt-get", "update")
        self.run("apt-get", "satisfy", "--yes", "--no-install-recommends", depends)

    def argv(self, *command: object, user: str = "root") -> list[str]:
        """The words that run a command in it."""
        group = user if user != "nobody" else "nogroup"
        return ["chroot", f"--userspec={user}:{group}", str(self.root), *(str(word) for word in command)]

    def environ(self, **more: str) -> dict[str, str]:
        """A clean environment for it."""
        return {"PATH": PATH, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"} | more

    def run(self, *command: object, user: str = "root") -> str:
        """What a command prints there; it must not fail."""
        return run(*self.argv(*command, user=user), env=self.environ(), cwd="/")

    def apt_get(self, *words: object) -> None:
        """apt-get, keeping changed settings; what it does is in the log that it leaves there."""
        self.run("apt-get", "--yes", "--no-install-recommends", "-o", "DPkg::Options::=--force-confold", *words)

    def install(self, package: Path) -> None:
        """`apt install ./package.deb`, and nothing else: what it needs is there."""
        shutil.copy(package, self.root / "tmp")
        before = self.packages()
        self.apt_get("install", f"/tmp/{package.name}")
        assert self.packages() == before | {"mercury"}, f"{self.packages() - before} had to be installed as well"

    def packages(self) -> set[str]:
        """The names of what is installed."""
        return set(self.run("dpkg-query", "--show", "--showformat=${Package}\\n").split())

    def asked_of_systemd(self) -> list[str]:
        """What maintainer scripts have asked of systemctl since the last time."""
        log = self.root / "tmp/systemctl"
        asked = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return asked

    def listing(self) -> set[str]:
        """Every file and folder, but for what apt and dpkg write for themselves."""
        found = set()
        for folder, folders, files in os.walk(self.root):
            where = Path(folder).relative_to(self.root)
            folders[:] = [name for name in folders if str(where / name) not in NOT_COMPARED]
            found |= {str(where / name) for name in (*folders, *files)}
        return {name for name in found if not name.startswith(NOT_COMPARED)}

    def users(self) -> dict[str, str]:
        """Who there is, as the files say."""
        return {name: (self.root / "etc" / name).read_text() for name in ("passwd", "group", "shadow", "gshadow")}


def _sources() -> list[tuple[str, str, str]]:
    """Where this machine's apt gets its Debian from: address, release and component; the main one first."""
    fields = run(
        "apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"
    )
    name = run("sh", "-c", '. /etc/os-release && echo "$VERSION_CODENAME"').strip()
    rows = [line.split(" ") for line in fields.splitlines()]
    found = [
        (row[1], row[2], row[3]) for row in rows if len(row) == 4 and row[0] == "Debian" and row[2].startswith(name)
    ]
    assert found, f"apt on this machine knows no Debian {name}: run apt-get update, on Debian"
    return sorted(found, key=lambda source: (source[1] != name, source[2] != "main"))
