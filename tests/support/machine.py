"""What a machine can do to its programs: a disk that is full, a clock that is wrong."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"  # Debian's package faketime


class Disk:
    """A small disk of its own (tmpfs) at `folder`. Needs root; remove() it when nobody uses it any more."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "mercury-test", str(folder)], check=True)
        self._folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no room on it."""
        file = os.open(self._ballast, os.O_WRONLY | os.O_CREAT)
        try:
            while True:
                os.write(file, bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        finally:
            os.close(file)

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink()

    def remove(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)


class Clock:
    """The wall clock of a program, which can be set while that runs. `file` is its own."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    def set(self, seconds: float) -> None:
        """Put it off by so much. Timers go by the monotonic clock, which nobody can set."""
        self._file.write_text(f"{seconds:+}\n")

    def before(self, program: Sequence[str]) -> list[str]:
        """The program, with this clock."""
        settings = [f"FAKETIME_TIMESTAMP_FILE={self._file}", "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"]
        return ["env", f"LD_PRELOAD={FAKETIME}", *settings, *program]
