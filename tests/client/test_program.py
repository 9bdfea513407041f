"""mercury-client as a program: in scripts, with pipes and files, and in a terminal with a real pty."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_twisted

from tests.support.chatting_person import ROOM, until
from tests.support.child_programs import CLIENT, SERVER, Program
from tests.support.fake_server import FakeServer

pytestmark = pytest.mark.slow

TERMINAL = (60, 16)


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[FakeServer]:
    """A server that listens."""
    fake = FakeServer()
    fake.listen()
    yield fake
    await fake.close()


@pytest_twisted.async_yield_fixture
async def start() -> AsyncIterator[Callable[..., Program]]:
    """Starts programs, and sees to it that all have ended."""
    programs: list[Program] = []

    def start(argv: list[str], terminal: tuple[int, int] | None = None) -> Program:
        programs.append(Program(argv, terminal))
        return programs[-1]

    yield start
    for program in programs:
        program.signal("KILL")
        await program.ended


def client(api_port: int, ws_port: int, member: int = 1) -> list[str]:
    """The command line of a member's client."""
    return [*CLIENT, f"--member={member}", f"--api.port={api_port}", f"--ws.port={ws_port}"]


def lines(output: bytes) -> list[str]:
    """The lines without the time of day, which the time zone changes."""
    return [line[6:] for line in output.decode().splitlines()]


@pytest_twisted.ensureDeferred
async def test_a_pipe_is_sent_line_by_line_and_what_is_said_is_printed(
    server: FakeServer, start: Callable[..., Program]
) -> None:
    """It ends when all is acknowledged and printed; hostile text does nothing to the terminal that reads it."""
    server.say(ROOM, "2\x1b[2J", "\x1b]0;mine\x07 first\nsecond")
    program = start(client(server.api_port, server.ws_port))
    program.type("hello\n\nwithout a line's end")
    program.end_of_input()
    assert await program.ended == 0
    assert program.err == b""
    assert lines(program.out) == [
        r"<2\x1b[2J> \x1b]0;mine\x07 first",
        "           second",
        "<1> hello",
        "<1> without a line's end",
    ]


@pytest_twisted.ensureDeferred
async def test_a_file_can_be_its_input(server: FakeServer, start: Callable[..., Program], tmp_path: Path) -> None:
    """More lines than are read ahead; epoll takes no files, so this is another road than a pipe's."""
    said = [f"line {number}" for number in range(300)]
    (tmp_path / "said").write_text("\n".join(said))
    command = shlex.join(client(server.api_port, server.ws_port))
    program = start(["/bin/sh", "-c", f"{command} < {shlex.quote(str(tmp_path / 'said'))}"])
    assert await program.ended == 0
    assert server.texts() == said
    assert lines(program.out) == [f"<1> {text}" for text in said]


@pytest_twisted.ensureDeferred
async def test_nobody_reads_its_output(server: FakeServer, start: Callable[..., Program]) -> None:
    """`mercury-client | head -1` ends without a complaint."""
    for number in range(3):
        server.say(ROOM, "2", str(number))
    command = shlex.join(client(server.api_port, server.ws_port))
    program = start(["/bin/sh", "-c", f"{command} | head -1"])
    await until(lambda: program.out)
    server.say(ROOM, "2", "to nobody")
    assert await program.ended == 0
    assert (lines(program.out), program.err) == (["<2> 0"], b"")


@pytest_twisted.ensureDeferred
async def test_a_refused_line_makes_a_script_fail(server: FakeServer, start: Callable[..., Program]) -> None:
    """The reason stands on stderr, and the exit code is 1."""

    def refuse(session: object, frame: dict[str, object]) -> bool:
        if frame["type"] == "send":
            server.sessions[0].tell(type="error", ref=frame["ref"], code="forbidden", reason="not a member of 2333")
        return frame["type"] == "send"

    server.sabotage = refuse
    program = start(client(server.api_port, server.ws_port))
    program.type("hello\n")
    program.end_of_input()
    assert await program.ended == 1
    assert (program.out, program.err) == (b"", b"mercury-client: not sent: not a member of 2333\n")


@pytest_twisted.ensureDeferred
async def test_a_script_is_told_once_that_nobody_is_there(
    free_port: Callable[[], int], start: Callable[..., Program]
) -> None:
    """It goes on trying; stopped by a signal it says what it could not send."""
    api_port = free_port()
    program = start(client(api_port, free_port()))
    program.type("hello\n")
    await until(lambda: program.err)
    program.signal("TERM")
    assert await program.ended == 1
    assert program.err.decode().splitlines() == [
        f"mercury-client: cannot reach http://127.0.0.1:{api_port}: Connection refused; reconnecting",
        "mercury-client: stopped; 1 lines are not acknowledged",
    ]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ([], "the following arguments are required: --member"),
        (["--member="], "argument --member: the member's name is empty"),
        (["--member=1", "--room=a\tb"], "argument --room: the room's name contains a control character"),
        (["--member=1", "--ws.port=70000"], "argument --ws.port: '70000' is not a port; a port is a number from 1 to"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_wrong_flag_is_named(flags: list[str], complaint: str, start: Callable[..., Program]) -> None:
    """On one line, after the usage; the exit code is 2."""
    program = start([*CLIENT, *flags])
    assert await program.ended == 2
    assert complaint in program.err.decode().splitlines()[-1]


@pytest_twisted.ensureDeferred
async def test_what_is_typed_while_offline_stands_above_the_prompt_until_it_is_sent(
    server: FakeServer, start: Callable[..., Program]
) -> None:
    """And what others say scrolls by above a line that is half typed."""
    program = start(client(server.api_port, server.ws_port), TERMINAL)
    await until(lambda: "-- connected as 1, room 2333" in program.screen())
    program.type("half ty")
    await until(lambda: program.screen()[-1] == "send> half ty")
    server.say(ROOM, "2", "\x1b[2Jhostile\r\nlines")
    await until(lambda: program.screen()[-1] == "send> half ty" and "lines" in program.screen()[-2])
    assert [line[6:] for line in program.screen()[-3:-1]] == [r"<2> \x1b[2Jhostile", "    lines"]
    await server.close()
    await sees(program, "-- the connection was lost")
    program.type("ped\r")
    await until(lambda: program.screen()[-2].startswith("   ... half typed") and program.screen()[-1] == "send>")
    assert program.screen()[-2].endswith("offline")
    server.listen()
    await until(lambda: "<1> half typed" in program.screen()[-2])
    assert program.screen()[-1] == "send>"
    assert server.texts()[1:] == ["half typed"]
    program.type("\x04")
    assert await program.ended == 0


@pytest.mark.parametrize("end", ["\x03", "\x04", "TERM", "INT"])
@pytest_twisted.ensureDeferred
async def test_it_ends_cleanly(end: str, server: FakeServer, start: Callable[..., Program]) -> None:
    """Ctrl-C, Ctrl-D or a signal: the terminal is as it was, the server knows what was received, the code is 0."""
    command = shlex.join(client(server.api_port, server.ws_port))
    program = start(["/bin/sh", "-c", f"stty -g; trap : INT TERM; {command}; echo code=$?; stty -g"], TERMINAL)
    await sees(program, "-- connected")
    server.say(ROOM, "2", "hello")
    await sees(program, "<2> hello")
    if len(end) == 1:
        program.type(end)
    else:
        program.signal(end)
    assert await program.ended == 0
    before, *_, code, after = program.out.decode().split()
    assert code.endswith("code=0")
    assert before == after
    assert server.sent("ack") == [{"type": "ack", "ref": None, "rid": ROOM, "seq": 1}]


@pytest_twisted.ensureDeferred
async def test_it_ends_when_its_terminal_is_gone(server: FakeServer, start: Callable[..., Program]) -> None:
    """Also where nobody tells it by a SIGHUP; the server knows what was received."""
    command = shlex.join(client(server.api_port, server.ws_port))
    program = start(["/bin/sh", "-c", f"trap '' HUP; exec {command}"], TERMINAL)
    await sees(program, "-- connected")
    server.say(ROOM, "2", "hello")
    await sees(program, "<2> hello")
    program.hang_up()
    assert await program.ended == 0
    assert server.sent("ack") == [{"type": "ack", "ref": None, "rid": ROOM, "seq": 1}]


@pytest_twisted.ensureDeferred
async def test_it_ends_after_a_fault_of_its_own(server: FakeServer, start: Callable[..., Program]) -> None:
    """And says what it was."""
    broken = "from mercury.client import terminal; terminal.Terminal.run = None; "
    python, flag, main, *flags = client(server.api_port, server.ws_port)
    program = start([python, flag, broken + main, *flags], TERMINAL)
    assert await program.ended == 1
    assert b"TypeError" in program.out


@pytest_twisted.ensureDeferred
async def test_two_terminals_chat_on_through_a_killed_server(
    start: Callable[..., Program], free_port: Callable[[], int], tmp_path: Path
) -> None:
    """The real server, killed meanwhile: both come back by themselves, and neither misses or repeats a line."""
    api_port, ws_port = free_port(), free_port()
    serve = [
        *SERVER,
        "--storage.type=sqlite",
        f"--sqlite.path={tmp_path / 'mercury.db'}",
        "--server.ws.address=127.0.0.1/32",
        f"--server.api.port={api_port}",
        f"--server.ws.port={ws_port}",
    ]
    server = start(serve)
    people = [start(client(api_port, ws_port, member), TERMINAL) for member in (1, 2)]

    def all_see(line: str) -> bool:
        return all(said(person)[-1:] == [line] for person in people)

    for person in people:
        await sees(person, "-- connected")
    people[0].type("hello, two\r")
    await until(lambda: all_see("<1> hello, two"))
    people[1].type("hello, one\r")
    await until(lambda: all_see("<2> hello, one"))
    server.signal("KILL")
    await server.ended
    for number, person in enumerate(people, 1):
        await sees(person, "-- the connection was lost")
        person.type(f"typed by {number} meanwhile\r")
    server = start(serve)
    await until(lambda: all(len(said(person)) == 4 for person in people))
    people[0].type("on we go\r")
    await until(lambda: all_see("<1> on we go"))
    shown = said(people[0])
    assert shown == said(people[1])
    assert sorted(shown[2:4]) == ["<1> typed by 1 meanwhile", "<2> typed by 2 meanwhile"]
    assert len(shown) == 5


async def sees(person: Program, text: str) -> None:
    """Wait until a terminal shows the text."""
    await until(lambda: text in "".join(person.screen()))


def said(person: Program) -> list[str]:
    """The messages on a terminal's screen, without the time."""
    return [line[6:] for line in person.screen() if line[6:7] == "<"]
