"""Fetch the cases of Autobahn|Testsuite and port them to Python 3.

The suite (Apache-2.0) is the yardstick of WebSocket servers, but it is written in Python 2 and no longer installs.
Its source distribution is downloaded at run time, never committed, and its cases are rewritten by the short list of
rules below. The idea of the port: in Python 2 a str is a row of bytes, so the cases' files are read as latin-1, which
makes of each byte one character. Inside the cases payloads stay such text; drive.py turns it into bytes and back at
the socket.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

VERSION: Final = "25.10.1"
SHA256: Final = "b083d6e15330fc16f3e5f0975cce2b15f21bfa0c6db09547316b1852c6dbd6df"
ARCHIVE: Final = f"autobahntestsuite-{VERSION}.tar.gz"
DOWNLOAD_SECONDS: Final = 180

#: The suite's groups: name, and how many cases it holds. A port that loses one is an error, not a shorter run.
GROUPS: Final[dict[int, tuple[str, int]]] = {
    1: ("framing", 16),
    2: ("pings and pongs", 11),
    3: ("reserved bits", 7),
    4: ("opcodes", 10),
    5: ("fragmentation", 20),
    6: ("UTF-8", 145),
    7: ("closing", 37),
    9: ("limits and performance", 54),
    10: ("automatic fragmentation", 1),
    12: ("compression, payloads", 90),
    13: ("compression, parameters", 126),
}

#: A class of the suite, one case each; it has no types of its own.
CaseClass = type[Any]


class ConformanceError(Exception):
    """The conformance run cannot take place; the text says why, and what to do."""


class Rule(NamedTuple):
    """Replace a pattern in the files whose name matches."""

    files: str
    pattern: str
    replacement: str


#: Applied in this order. The archive is pinned, so a rule that changes nothing is a mistake and an error.
RULES: Final = (
    # Not in the suite's list of cases, and it imports what zope.interface no longer has.
    Rule("__init__.py", r"^from case9_9_1 import \*\n", ""),
    # Python 3's syntax and names.
    Rule("*.py", r"^from (case\w*) import", r"from .\1 import"),
    Rule("*.py", r"\(object, Case, \)", "(Case, )"),
    Rule("*.py", r"\bxrange\(", "range("),
    Rule("case6_x_x.py", r"^( *)print\b *(.*)$", r"\1print(\2)"),
    Rule("case10_1_1.py", r"len\(self\.payload\) / ", "len(self.payload) // "),
    # Text where there were bytes. Pickles of equal values may differ in Python 3; the values themselves compare well.
    Rule("case6_x_x.py", r"v\.validate\(vss\[:i\]\)", 'v.validate(vss[:i].encode("latin-1"))'),
    Rule("case7_5_1.py", r"binascii\.b2a_hex\((self\.p\.localCloseReason)\)", r"\1.hex()"),
    Rule("case6_*.py", r"binascii\.b2a_hex\(([\w.\[\]:]+)\)", r'\1.encode("latin-1").hex()'),
    Rule("case.py", r"pickle\.dumps\((\w+)\)", r"\1"),
    # pkg_resources has left setuptools; the data lies beside the cases.
    Rule("case12_x_x.py", r"pkg_resources, ", ""),
    Rule(
        "case12_x_x.py",
        r'pkg_resources\.resource_filename\("autobahntestsuite", "testdata/%s" % (.+)\)$',
        r'os.path.join(os.path.dirname(__file__), "..", "testdata", \1)',
    ),
    # Names that Autobahn has changed since.
    Rule("case12_x_x.py", r"\b(request|accept)NoContextTakeover\b", r"\1_no_context_takeover"),
    Rule("case12_x_x.py", r"\b(request|accept)MaxWindowBits\b", r"\1_max_window_bits"),
)


def cache_folder() -> Path:
    """The folder for what is downloaded and for reports: CONFORMANCE_CACHE, or .cache/conformance in the project."""
    named = os.environ.get("CONFORMANCE_CACHE")
    folder = Path(named) if named else Path(__file__).parents[2] / ".cache" / "conformance"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")
    except OSError as error:
        raise ConformanceError(f"cannot write to {folder} ({error}); name another in CONFORMANCE_CACHE") from error
    return folder


def case_id(case: CaseClass) -> str:
    """The suite's own name of a case: "6.2.1" for the class Case6_2_1."""
    return case.__name__.removeprefix("Case").replace("_", ".")


def group_of(case: str) -> int:
    """The group that a case, named as by case_id, belongs to."""
    return int(case.partition(".")[0])


@contextmanager
def ported_cases(cache: Path) -> Iterator[list[CaseClass]]:
    """Give all cases of the suite, in its order; the files they read are there until the context ends.

    Raises ConformanceError when the suite cannot be had or the port has not all of its cases.
    """
    archive = download(cache)
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        port(archive, Path(folder))
        sys.path.insert(0, folder)
        try:
            cases: list[CaseClass] = importlib.import_module("autobahntestsuite.case").Cases
            check_complete(cases)
            yield cases
        finally:
            sys.path.remove(folder)


def check_complete(cases: Iterable[CaseClass]) -> None:
    """Raise ConformanceError unless these are all the suite's cases: nothing may pass by not being played."""
    counted = Counter(group_of(case_id(case)) for case in cases)
    expected = {group: count for group, (_name, count) in GROUPS.items()}
    if counted != expected:
        raise ConformanceError(f"the port has {dict(counted)} cases by group; the suite has {expected}")


def download(cache: Path) -> Path:
    """Return the suite's source distribution, from the cache or else from the package index; its SHA-256 is checked."""
    archive = cache / ARCHIVE
    if not archive.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            pip(folder)
            # Moved when whole, so that another run never sees half of it.
            (Path(folder) / ARCHIVE).replace(archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ConformanceError(f"{archive} has the SHA-256 {digest}, not {SHA256}; delete it, then run again")
    return archive


def pip(folder: str) -> None:
    """Have pip put the source distribution into a folder."""
    requirement = f"autobahntestsuite=={VERSION}"
    options = ["--no-deps", "--no-binary=autobahntestsuite", "--disable-pip-version-check", "--quiet"]
    try:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, "--dest", folder, requirement],
            check=True, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise ConformanceError(
            f"pip cannot download {requirement}: {str(said).strip().splitlines()[-1]}\n"
            f"Check the network and pip's index, or put {ARCHIVE} into the folder that CONFORMANCE_CACHE names."
        ) from error


def port(archive: Path, folder: Path) -> None:
    """Write the cases, ported to Python 3, and the data they send as the package autobahntestsuite in a folder."""
    package = folder / "autobahntestsuite"
    for name in ("case", "testdata"):
        (package / name).mkdir(parents=True)
    (package / "__init__.py").touch()
    unused = set(RULES)
    with tarfile.open(archive) as tar:
        for entry in tar:
            path = PurePosixPath(entry.name)
            content = tar.extractfile(entry)
            if content is None:
                continue
            if path.match("autobahntestsuite/testdata/*"):
                (package / "testdata" / path.name).write_bytes(content.read())
            elif path.match("autobahntestsuite/case/*.py"):
                text, used = rewritten(path.name, content.read())
                (package / "case" / path.name).write_text(text, "utf-8")
                unused -= used
    if unused:
        raise ConformanceError(f"rules that changed nothing: {sorted(unused)}")


def rewritten(name: str, source: bytes) -> tuple[str, set[Rule]]:
    """Return a file of the suite in Python 3, and the rules that changed it."""
    text = source.decode("latin-1").replace("\r\n", "\n")
    used = set()
    for rule in RULES:
        if fnmatch.fnmatch(name, rule.files):
            text, count = re.subn(rule.pattern, rule.replacement, text, flags=re.MULTILINE)
            if count:
                used.add(rule)
    return text, used
