"""Runs a program with the system calls that a unit leaves it, as systemd would: SystemCallFilter= and
RestrictAddressFamilies= (systemd.exec(5)). For tests, where systemd does not run.

    python tests/support/systemd_sandbox.py debian/mercury.service COMMAND ...
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

ALLOW: Final = 0x7FFF0000  # seccomp.h of libseccomp
ERRNO: Final = 0x00050000
EQUAL: Final = 4
UNKNOWN: Final = -1
FAMILIES: Final = 64  # more than there are


class Compared(ctypes.Structure):
    """struct scmp_arg_cmp: an argument of a call, and what it is compared with."""

    _fields_ = (
        ("argument", ctypes.c_uint), ("how", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)
    )  # fmt: skip


def values(unit: str, name: str) -> list[str]:
    """What a unit says of something, one line after the other."""
    return re.findall(rf"(?m)^{name}=(.*)$", unit)


@cache
def calls(group: str) -> frozenset[str]:
    """The system calls of a group, and of those within it."""
    listed = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True)
    words = [line.strip() for line in listed.stdout.splitlines()[1:] if not line.strip().startswith("#")]
    return frozenset(call for word in words if word for call in (calls(word) if word[0] == "@" else {word}))


def allowed(unit: str) -> set[str]:
    """The system calls that a unit allows: lists of what is, and lists (with ~) of what is not any more."""
    found: set[str] = set()
    for line in values(unit, "SystemCallFilter"):
        listed = {call for word in line.lstrip("~").split() for call in (calls(word) if word[0] == "@" else {word})}
        found = found - listed if line.startswith("~") else found | listed
    return found | calls("@default")


def other_families(unit: str) -> set[int]:
    """The address families of which a unit allows no sockets."""
    families = {getattr(socket, name) for line in values(unit, "RestrictAddressFamilies") for name in line.split()}
    return set(range(FAMILIES)) - families


def load(otherwise: int, rules: Iterable[tuple[int, str, Compared | None]]) -> None:
    """Put this process, and all that it becomes, under a filter: an action for each call, and one for all others."""
    seccomp: Any = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(otherwise)))
    for action, name, compared in rules:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number == UNKNOWN:
            continue
        one = (Compared * 1)(*([compared] if compared else []))
        failed = seccomp.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, bool(compared), one)
        if failed and failed != -errno.EDOM:  # which is a call that this architecture has not
            raise OSError(-failed, f"{name}: {os.strerror(-failed)}")
    if failed := seccomp.seccomp_load(context):
        raise OSError(-failed, os.strerror(-failed))


def main(path: str, *command: str) -> None:
    """Become the command, in the sandbox."""
    unit = Path(path).read_text()
    refuse = ERRNO | errno.EPERM
    few = [(ALLOW, call, None) for call in sorted(allowed(unit))]  # before systemd-analyze cannot run any more
    load(ALLOW, [(refuse, "socket", Compared(0, EQUAL, family, 0)) for family in other_families(unit)])
    load(refuse, few)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
