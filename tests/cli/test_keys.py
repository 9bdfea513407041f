"""The command mercury-keys: what `new` makes of a file, and how `rewrite` says what it did and did not."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest
import pytest_twisted

from mercury.cli.keys import new_key
from mercury.stores.sealing import KeyFileError, Keys, parse_keys, read_keys
from mercury.stores.sqlite.store import SqliteStore
from tests.contracts.sealed import NEW, OLD, resealed, texts_of
from tests.contracts.tools import joined, message, put
from tests.support.child_programs import KEYS, run

pytestmark = pytest.mark.slow


def ids(path: Path) -> list[str]:
    return [id for id, _ in parse_keys(path.read_text(), "it")]


# new


def test_a_new_file_is_its_owners_only_and_holds_one_key(tmp_path: Path) -> None:
    done = run(*KEYS, "new", "keys", cwd=tmp_path)
    path = tmp_path / "keys"
    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (id,) = ids(path)
    assert id in done.stdout
    assert path.read_text().partition(":")[2].strip() not in done.stdout
    assert f"--crypto.keys={path}" in done.stdout
    assert bool(read_keys(path))


def test_a_further_key_comes_first_or_last_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    new_key(path)
    path.write_text(f"# of the first year\n{path.read_text().rstrip()}")  # without an end of line
    before = parse_keys(path.read_text(), "it")
    new_key(path)
    new_key(path, last=True)
    keys = parse_keys(path.read_text(), "it")
    assert keys[1:2] == before
    assert len({key for _, key in keys}) == len({id for id, _ in keys}) == 3
    assert "# of the first year\n" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_mode_and_links_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("")
    os.chmod(tmp_path / "real", 0o640)
    (tmp_path / "link").symlink_to("real")
    new_key(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640
    assert len(ids(tmp_path / "real")) == 1


def test_a_file_that_is_none_of_keys_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    path.write_text("root:x:0:0\n")
    with pytest.raises(KeyFileError, match="passwd, line 1"):
        new_key(path)
    assert path.read_text() == "root:x:0:0\n"
    done = run(*KEYS, "new", path, cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"mercury-keys new: .*passwd, line 1: .*\n", done.stderr)
    assert run(*KEYS, "new", "no/such/folder/keys", cwd=tmp_path).returncode == 1


@pytest.mark.parametrize("words", [(), ("new",), ("old", "keys"), ("rewrite", "--nonsense=1"), ("rewrite", "word")])
def test_a_wrong_call_says_how_it_is_called(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*KEYS, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert "mercury-keys" in done.stderr
    assert "Traceback" not in done.stderr


# rewrite


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ((), "set --crypto.keys"),
        (("--crypto.keys=missing",), "missing cannot be read: No such file"),
        (("--crypto.keys=keys", "--storage.type=memory"), "memory store"),
        (("--crypto.keys=keys", "--sqlite.path=missing.sqlite"), "missing.sqlite does not exist"),
        (("--crypto.keys=keys", "--sqlite.path=keys"), "the database keys cannot be used"),
    ],
)
def test_what_cannot_be_rewritten_is_named(flags: tuple[str, ...], why: str, tmp_path: Path) -> None:
    new_key(tmp_path / "keys")
    done = run(*KEYS, "rewrite", *flags, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "missing.sqlite").exists()


@pytest_twisted.ensureDeferred
async def test_it_tells_what_could_not_be_read_and_rewrites_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "m.sqlite"
    store = SqliteStore(str(path))
    await store.open()
    await put(store, joined("r", "a"), joined("s", "a"), message("s", "a", "clear"))
    for key in (OLD, NEW):
        store.keys = Keys([key])
        await put(store, message("r", "a", f"by {key[0]}"))
    await store.close()
    new_key(tmp_path / "first")
    mine = parse_keys((tmp_path / "first").read_text(), "it")[0]

    def rewrite(*others: tuple[str, bytes]) -> subprocess.CompletedProcess[str]:
        (tmp_path / "keys").write_text("".join(f"{id}:{b64encode(key).decode()}\n" for id, key in (mine, *others)))
        return run(*KEYS, "rewrite", "--crypto.keys=keys", f"--sqlite.path={path}", cwd=tmp_path)

    done = rewrite(NEW)
    assert done.returncode == 1
    assert "rooms: 2 of 2; messages: 3, encrypted: 2, unreadable: 1" in done.stderr
    assert "encrypted with the key old" in done.stderr
    done = rewrite(NEW, OLD)
    assert done.returncode == 0
    assert "messages: 3, encrypted: 1, unreadable: 0" in done.stderr
    store.keys = Keys([mine])
    await store.open()
    assert await texts_of(store, "r") + await texts_of(store, "s") == ["by old", "by new", "clear"]
    assert (await resealed(store, "r")).sealed == 0
    await store.close()
