"""Sealed texts open at their place, with their key, whole; and nothing else does. What a file of keys may hold."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercury.domain.events import readable
from mercury.domain.model import Entry
from mercury.stores.sealing import (
    MARK,
    NONCE_BYTES,
    OVERHEAD,
    KeyFileError,
    Keys,
    form_of,
    is_sealed,
    parse_keys,
    read_keys,
    warnings_of,
)
from tests.contracts.tools import logged

KEYS = Keys([("k1", bytes(range(32))), ("k2", b"2" * 32)])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
rids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
seqs = st.integers(1, 2**53)
#: The text "hi" in room r at seq 7, as the first release with keys stored it. It must be readable for ever.
OLDEST = bytes.fromhex("ff01026b31000102030405060708090a0b2f6b8746dea249d77170a2c00d7b8b02bba2")


def entry(text: str, kind: str = "message") -> Entry:
    return Entry("r", 7, 9, kind, 0, text=text)  # type: ignore[arg-type]


# Texts


@given(rids, seqs, texts)
def test_a_sealed_text_comes_back_as_it_was(rid: str, seq: int, text: str) -> None:
    sealed = KEYS.seal(rid, seq, text)
    assert KEYS.open(rid, seq, sealed) == (text, "")
    assert is_sealed(sealed)
    assert not is_sealed(text.encode())
    assert len(sealed) <= len(text.encode()) + OVERHEAD


@given(rids, seqs, rids, seqs)
def test_a_text_opens_in_its_own_room_at_its_own_seq_only(rid: str, seq: int, other: str, place: int) -> None:
    sealed = KEYS.seal(rid, seq, "hello")
    assert KEYS.open(other, place, sealed)[1] == ("" if (rid, seq) == (other, place) else "damaged")
    assert KEYS.open(rid + other, seq, sealed)[1] == "damaged"
    assert KEYS.open(rid, seq + 1, sealed)[1] == "damaged"


def test_a_change_of_any_bit_is_noticed() -> None:
    sealed = KEYS.seal("r", 7, "hello")
    for at in range(len(sealed) * 8):
        bad = bytearray(sealed)
        bad[at // 8] ^= 1 << at % 8
        text, lost = KEYS.open("r", 7, bytes(bad))
        assert text == ""
        assert lost


def test_what_is_cut_off_or_longer_is_noticed() -> None:
    sealed = KEYS.seal("r", 7, "hello")
    for bad in (*(sealed[:end] for end in range(len(sealed))), sealed + b"\0", sealed[1:], b"\xff" * 99):
        assert KEYS.open("r", 7, bad) == ("", "damaged")


def test_another_key_of_the_same_name_and_no_key_are_told_apart() -> None:
    sealed = KEYS.seal("r", 7, "hello")
    assert Keys([("k1", b"x" * 32)]).open("r", 7, sealed) == ("", "damaged")
    assert Keys([("k2", bytes(range(32)))]).open("r", 7, sealed) == ("", "no_key")
    assert Keys().open("r", 7, sealed) == ("", "no_key")


def test_the_first_key_seals_and_all_open() -> None:
    turned = Keys([("k2", b"2" * 32), ("k1", bytes(range(32)))])
    for writer in (KEYS, turned):
        for reader in (KEYS, turned):
            assert reader.open("r", 7, writer.seal("r", 7, "hello")) == ("hello", "")
    assert KEYS.seal("r", 7, "").startswith(MARK + b"\x02k1")
    assert turned.seal("r", 7, "").startswith(MARK + b"\x02k2")


def test_no_nonce_comes_twice_and_no_text_shows() -> None:
    sealed = [KEYS.seal("r", 7, "hello hello") for _ in range(1000)]
    start = len(KEYS.header)
    assert len({one[start : start + NONCE_BYTES] for one in sealed}) == 1000
    assert not any(b"hello" in one for one in sealed)


def test_what_was_stored_once_can_be_read_for_ever() -> None:
    assert KEYS.open("r", 7, OLDEST) == ("hi", "")


def test_threads_may_share_keys() -> None:
    wrong: list[object] = []

    def work(n: int) -> None:
        wrong.extend(
            seq
            for seq in range(500)
            if KEYS.open(f"r{n}", seq, KEYS.seal(f"r{n}", seq, f"{n} {seq}"))[0] != f"{n} {seq}"
        )

    threads = [Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Entries


def test_without_keys_texts_stay_as_they_are() -> None:
    assert Keys().stored(entry("hello")) == "hello"
    assert Keys().closed(entry("hello")) == entry("hello")
    assert not Keys()


def test_only_messages_are_sealed() -> None:
    assert KEYS.stored(entry("", "joined")) == ""
    assert KEYS.closed(entry("", "left")) == entry("", "left")
    assert isinstance(KEYS.stored(entry("")), bytes)


def test_an_entry_is_closed_and_opened_again() -> None:
    closed = KEYS.closed(entry("hello"))
    assert (closed.lost, "hello" in closed.text) == ("no_key", False)
    assert KEYS.opened(closed) == entry("hello")
    assert KEYS.opened(entry("hello")) == entry("hello")
    assert KEYS.open("r", 7, form_of(closed)) == ("hello", "")  # type: ignore[arg-type]
    assert KEYS.closed(closed) == closed
    lost = Keys().opened(closed)
    assert (lost.text, lost.lost) == ("", "no_key")


@pytest.mark.parametrize("text", ["", "not base64", "AAAA", "\0", "é"])
def test_an_entry_that_only_claims_to_be_sealed_is_damaged(text: str) -> None:
    found = KEYS.opened(Entry("r", 7, 9, "message", 0, text=text, lost="no_key"))
    assert (found.text, found.lost) == ("", "damaged")


def test_a_lost_text_is_told_in_words_where_nothing_else_can_be() -> None:
    assert readable(entry("hello")) == "hello"
    for lost in ("no_key", "damaged"):
        assert readable(Entry("r", 7, 9, "message", 0, lost=lost)).startswith("[This message cannot be read")


def test_what_is_renewed() -> None:
    turned = Keys([("k2", b"2" * 32), ("k1", bytes(range(32)))])
    old, new = KEYS.seal("r", 7, "hello"), turned.seal("r", 7, "hello")
    for stored in (old, "hello", b"hello"):
        renewed = turned.renewed("r", 7, stored)
        assert isinstance(renewed, bytes)
        assert renewed.startswith(turned.header)
        assert turned.open("r", 7, renewed) == ("hello", "")
    assert turned.renewed("r", 7, new) == ""
    assert turned.renewed("r", 8, old) == "damaged"
    assert Keys([("k3", b"3" * 32)]).renewed("r", 7, old) == "no_key"


def test_the_log_names_each_key_that_fails_once_and_no_text() -> None:
    sealed = KEYS.seal("r", 7, "hello")
    with logged() as events:
        keys = Keys([("k3", b"3" * 32), ("k1", b"x" * 32)])
        for seq in range(1, 9):
            keys.open("r", seq, sealed)
            keys.open("r", seq, KEYS.seal("r", 1, "")[:-1])
            keys.open("r", seq, Keys([("k4", b"4" * 32)]).seal("r", 1, ""))
    lines = [str(event["log_format"]).format(**event) for event in events]
    assert len(lines) == 2
    assert "not what was encrypted there with the key k1" in lines[0]
    assert "key k4, which is not in --crypto.keys" in lines[1]


def test_the_log_has_a_bound_whatever_stands_in_the_store() -> None:
    with logged() as events:
        keys = Keys()
        for n in range(1000):
            keys.open("r", 1, Keys([(f"k{n}", b"4" * 32)]).seal("r", 1, ""))
    assert len(events) == 100


# The file


def line(id: str, key: bytes = b"k" * 32) -> str:
    return f"{id}:{b64encode(key).decode()}"


def test_a_file_has_comments_blank_lines_and_keys_in_order() -> None:
    text = f"# all of them\n\n{line('2026-11')}\r\n  {line('old.key_1', b'o' * 32)}  \n#{line('gone')}\n"
    assert parse_keys(text, "f") == [("2026-11", b"k" * 32), ("old.key_1", b"o" * 32)]
    assert parse_keys("# nothing\n", "f") == []


SECRET = b64encode(b"secret bytes secret bytes secret").decode()


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (SECRET, "id:base64"),
        (f"{SECRET}:k1", "id:base64"),
        (f"k 1:{SECRET}", "id:base64"),
        (f"{'k' * 33}:{SECRET}", "id:base64"),
        (f":{SECRET}", "id:base64"),
        (f"k1:{SECRET[:-2]}", "not base64"),
        (f"k1:*{SECRET}", "not base64"),
        (f"k1:{SECRET} {SECRET}", "not base64"),
        (line("k1", b"secret bytes secret bytes secre"), "31 bytes"),
        (line("k1", b"secret bytes secret bytes secrets"), "33 bytes"),
        (f"k0:{SECRET}", "used in a line above"),
    ],
)
def test_a_wrong_line_is_named_and_no_key_is_shown(bad: str, why: str) -> None:
    with pytest.raises(KeyFileError, match=f"^f, line 3: .*{why}") as caught:
        parse_keys(f"# a comment\n{line('k0')}\n{bad}\n", "f")
    shown = str(caught.value)
    assert "\n" not in shown
    assert "secret" not in shown
    assert SECRET[:6] not in shown


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "cannot be read: No such file"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_text("# none\n"), "contains no key; make one with: mercury-keys new"),
        (lambda path: path.write_bytes(b"\xff"), "is not ASCII"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(make: Callable[[Path], object], why: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    make(path)
    with pytest.raises(KeyFileError, match=why) as caught:
        read_keys(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_file_that_everybody_may_read_makes_a_warning(mode: int, warned: bool, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(line("k1"))
    os.chmod(path, mode)
    keys, warnings = read_keys(path), warnings_of(path)
    assert (keys.ids, repr(keys)) == (["k1"], "Keys(k1)")
    assert [f"mode {mode:o}" in warning for warning in warnings] == [True] * warned
