"""Run the conformance cases and judge Mercury by them: python -m tests.conformance, or make conformance."""

from __future__ import annotations

import argparse
import fnmatch
import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Final

from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.task import react

from .drive import COMPRESSION_GROUPS, Verdict, play_all
from .prepare import GROUPS, VERSION, CaseClass, ConformanceError, cache_folder, case_id, group_of, ported_cases
from .server import running_echo

#: Messages that a case of groups 9, 12 and 13 exchanges in a quick run; the suite's own number is 1000.
QUICK_MESSAGES: Final = 10

#: The report has all; more lines than these tell nobody more.
FAILURES_SHOWN: Final = 20

#: The echo's options by group, where they are not Mercury's own: these cases send messages of up to 16 MiB, and
#: compressed ones.
LARGE: Final = ("--frame-bytes=16777216", "--compression")
LARGE_GROUPS: Final = frozenset((9, *COMPRESSION_GROUPS))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("cases", nargs="*", default=["*"], help="cases to play, such as 6.2.1 or '7.*'; all if none")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_MESSAGES} messages in cases that send 1000 alike")
    parser.add_argument("--url", help="a server that runs already, such as ws://127.0.0.1:9001, in Mercury's stead")
    parser.add_argument("--report", type=Path, help="where the report goes; default: report.json in the cache folder")
    return parser.parse_args(arguments)


def chosen(cases: Sequence[CaseClass], patterns: Sequence[str]) -> list[CaseClass]:
    """Return the cases that match any pattern. A pattern that matches none is misspelt: an error, not a short run."""
    for pattern in patterns:
        if not any(fnmatch.fnmatch(case_id(case), pattern) for case in cases):
            raise ConformanceError(f"no case matches {pattern}; the groups are {', '.join(map(str, GROUPS))}")
    return [case for case in cases if any(fnmatch.fnmatch(case_id(case), pattern) for pattern in patterns)]


def shorten(cases: Sequence[CaseClass]) -> None:
    """Let the cases that repeat themselves do so less often: what takes minutes is their number, not their kind."""
    for case in cases:
        if hasattr(case, "COUNT"):
            case.COUNT = QUICK_MESSAGES


async def run(reactor: PosixReactorBase, cases: Sequence[CaseClass], url: str | None) -> list[Verdict]:
    """Play the cases against the server at the URL, or else against echoes of Mercury's own; print a line per group."""
    verdicts = []
    for options, groups in (((), GROUPS.keys() - LARGE_GROUPS), (LARGE, LARGE_GROUPS)):
        by_group = {group: [case for case in cases if group_of(case_id(case)) == group] for group in sorted(groups)}
        if not any(by_group.values()):
            continue
        async with running_echo(reactor, options) if url is None else nullcontext(url) as echo_url:
            for group, some in by_group.items():
                if some:
                    played = await play_all(some, echo_url, reactor)
                    print(group_line(group, played), flush=True)
                    verdicts += played
    return verdicts


def group_line(group: int, played: Sequence[Verdict]) -> str:
    """How a group did, in one line."""
    name, count = GROUPS[group]
    passed = sum(verdict.passed for verdict in played)
    kinds = Counter(verdict.behavior for verdict in played)
    told = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    part = "" if len(played) == count else f" (of {count})"
    return f"{group:>3} {name:<24} {passed:>3} of {len(played)}{part} passed: {told}"


def failure_lines(failed: Sequence[Verdict]) -> list[str]:
    """What the suite says of the first cases that failed."""
    lines = [
        f"FAILED {verdict.case}: {verdict.behavior}: {verdict.result} "
        f"CloseReason: {verdict.behavior_close}, code {verdict.close_code}: {verdict.result_close}"
        for verdict in failed[:FAILURES_SHOWN]
    ]
    if len(failed) > FAILURES_SHOWN:
        lines.append(f"... and {len(failed) - FAILURES_SHOWN} more: see the report")
    return lines


def write_report(path: Path, verdicts: Sequence[Verdict], seconds: float) -> None:
    report = {
        "suite": f"autobahntestsuite {VERSION}",
        "autobahn": version("autobahn"),
        "python": platform.python_version(),
        "seconds": round(seconds, 1),
        "cases": [{**asdict(verdict), "passed": verdict.passed} for verdict in verdicts],
    }
    path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


async def main(reactor: PosixReactorBase, *arguments: str) -> None:
    """Exit with 0 if every case chosen was played and passed, 1 if one failed, 2 if they could not be played."""
    options = parse(arguments)
    started = time.monotonic()
    try:
        cache = cache_folder()
        with ported_cases(cache) as all_cases:
            cases = chosen(all_cases, options.cases)
            if options.quick:
                shorten(cases)
            verdicts = await run(reactor, cases, options.url)
    except ConformanceError as error:
        print(f"conformance: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    seconds = time.monotonic() - started
    path = options.report or cache / "report.json"
    write_report(path, verdicts, seconds)
    failed = [verdict for verdict in verdicts if not verdict.passed]
    for line in failure_lines(failed):
        print(line)
    print(f"{len(verdicts)} cases in {seconds:.0f} s, {len(failed)} failed; report: {path}")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    react(main, sys.argv[1:])
