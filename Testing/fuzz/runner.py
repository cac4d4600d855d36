"""Runs each case in a child process, and says what is wrong with how it ended.

The parent has imported everything and computed nothing, so that a child is there at once by `fork`, and whatever it
does ends with it. Linux only.
"""

import atexit
import csv
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from GaborSegLib.protocol import printable

SECONDS, MIB = 60, 2048  # what a case may take
LONGEST_MESSAGE = 6000  # the longest word that is given, and what is said of it
POLL = 0.01  # seconds
# Control characters that a terminal would obey, or by which a line is not one, and those that turn its direction.
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
UNFINISHED = (".partial-", ".check-")


@dataclass
class Outcome:
    """How a case ended: the wait status's exit code (negative for a signal), what it said and what it took."""

    status: int
    output: str
    errors: str
    seconds: float
    mib: int


def run_case(case, folder, program, seconds=SECONDS, mib=MIB):
    """Run a case in its folder and return (`Outcome`, list of complaints, a line each).

    Args:
        case: a `damage.Case`, whose inputs lie in `folder/given`.
        folder: `Path`; the program works in it, and its temporary files go into `folder/temporary`.
        program: a function from arguments to an exit status.
        seconds, mib: what it may take; it is killed after that.
    """
    for name in ("made", "temporary"):
        (folder / name).mkdir(exist_ok=True)
    before, contents = stock(folder), _contents(folder / case.keeps) if case.keeps else set()
    pid = os.fork()
    if not pid:
        _child(case, folder, program)
    outcome = _wait(pid, folder, seconds, mib)
    complaints = [*_limits(outcome, seconds, mib), *_said(case, outcome), *_files(case, folder, before, outcome.status)]
    complaints += _tables(folder / "made")
    if case.keeps and outcome.status and contents - _contents(folder / case.keeps):
        complaints.append(f"a refusal lost something that was in {case.keeps}")
    if case.refused and outcome.status == 0:
        complaints.append("was accepted, and has to be refused")
    if case.same_as and outcome.status == 0 and "OTHER VOXELS" in outcome.errors:
        complaints.append("damage was read as other voxels")
    return outcome, complaints


def _child(case, folder, program):
    """Become the program; does not return."""
    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, ".output", None), (2, ".errors", None)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if flags is None else flags), number)
        sys.stdout = open(1, "w", encoding="utf-8")
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
        os.environ["TMPDIR"] = str(folder / "temporary")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 30, 4 << 30))
        sys.argv = ["gaborseg", *case.arguments]
        try:
            status = program(case.arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if case.same_as and status == 0:
            _compare(case)
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        import traceback

        status = 1
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _compare(case):
    """Say on standard error if a scan is read otherwise than the whole one."""
    import numpy as np

    from GaborSegLib.scans.reading import read_image

    path = next(word for word in case.arguments[1:] if word.startswith("given"))
    if not np.array_equal(read_image(path).array, read_image(case.same_as).array):
        print("OTHER VOXELS", file=sys.stderr)


def _wait(pid, folder, seconds, mib):
    began, peak = time.monotonic(), 0
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            break
        peak = max(peak, _resident(pid))
        if peak > 1.25 * mib or time.monotonic() - began > seconds:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
        time.sleep(POLL)
    took = time.monotonic() - began
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # whatever it left running
    output, errors = (
        (folder / name).read_bytes().decode("utf-8", "surrogateescape") for name in (".output", ".errors")
    )
    return Outcome(os.waitstatus_to_exitcode(status), output, errors, took, max(peak, usage.ru_maxrss >> 10))


def _resident(pid):
    """MiB that a process and its children have in memory; what they share counts for each."""
    pages = 0
    with suppress(OSError, IndexError, ValueError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() >> 20
        for thread in os.listdir(f"/proc/{pid}/task"):
            pages += sum(map(_resident, Path(f"/proc/{pid}/task/{thread}/children").read_text().split()))
    return pages


def _limits(outcome, seconds, mib):
    if outcome.seconds > seconds:
        yield f"took more than {seconds} s"
    elif outcome.mib > mib:
        yield f"took {outcome.mib} MiB"
    elif outcome.status < 0:
        yield f"died of {signal.Signals(-outcome.status).name}"
    elif outcome.status not in (0, 2):
        yield f"ended with status {outcome.status}"


def _said(case, outcome):
    """What is wrong with what was printed."""
    if outcome.status not in (0, 2):
        return
    output, errors = outcome.output, outcome.errors.replace("OTHER VOXELS\n", "")
    if "Traceback" in errors:
        yield "printed a traceback"
    if CONTROL.search(output + errors):
        yield "printed control characters"
    if "--json" in case.arguments and "usage: gaborseg" not in errors:
        yield from _events(case, outcome, output, errors)
        return
    # The errors of a data set stand in lines of their own under one message.
    errors = errors.replace("\n  ", "\0  ")
    told = [line.replace("\0", "\n") for line in errors.splitlines() if line.startswith("gaborseg")]
    known = ("gaborseg", "warning: ", "epoch ", "usage: ", "  ")
    lines = [line for line in errors.splitlines() if not line.startswith(known)]
    if lines:
        yield f"printed what is neither a warning nor an error: {lines[0][:200]!r}"
    if outcome.status == 2 and not (told or output):
        yield "was refused without a word"
    for line in told:
        yield from _message(case, line)


def _events(case, outcome, output, errors):
    if errors:
        yield f"printed beside --json: {errors.splitlines()[0][:200]!r}"
    try:
        events = [json.loads(line, parse_constant=float) for line in output.splitlines()]
    except ValueError:
        yield "printed a line that is no event"
        return
    kinds = [event["event"] for event in events]
    told = [event["message"] for event in events if event["event"] == "error"]
    if outcome.status == 0 and "result" not in kinds:
        yield "ended well without a result"
    if outcome.status == 2 and not {"error", "result"} & set(kinds):
        yield "was refused without an error"
    for message in told:
        yield from _message(case, message)


def _message(case, message):
    if CONTROL.search(message):
        yield f"has control characters in its message: {message[:200]!r}"
    if re.search("\n(?!  )", message):
        yield f"has a message of several lines: {message[:200]!r}"
    if not any(name in message or printable(name) in message for name in case.names):
        yield f"names none of {case.names}: {message[:300]!r}"
    if len(message) > LONGEST_MESSAGE:
        yield f"has a message of {len(message)} characters: {message[:200]!r}"


def stock(folder):
    """What lies in a folder: dictionary from relative path to what shows that it was changed."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            facts = os.lstat(path)
            same = (
                (facts.st_mode,) if name in folders else (facts.st_mode, facts.st_ino, facts.st_size, facts.st_mtime_ns)
            )
            found[os.path.relpath(path, folder)] = same
    return found


def _files(case, folder, before, status):
    """What is wrong with the files after a case."""
    after = {name: facts for name, facts in stock(folder).items() if name not in (".output", ".errors")}
    own = ("made" + os.sep, *([case.keeps + os.sep] if case.keeps else []))
    for name in sorted(before):
        if after.get(name) != before[name] and not name.startswith(own):
            yield f"changed or removed {name}"
    if status < 0:
        return
    for name in sorted(after.keys() - before.keys()):
        if os.path.basename(name).startswith(UNFINISHED) or not name.startswith(own):
            yield f"left {name}"
        elif status and not case.leaves:
            yield f"left {name} after a refusal"


def _tables(folder):
    """What is wrong with the tables that were written: cells that a spreadsheet would run."""
    for path in folder.rglob("*.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            for cell in (cell for row in csv.reader(file) for cell in row):
                if cell.startswith(("=", "+", "@", "\t", "\r")) or re.match("-(?![0-9.]|inf|nan)", cell):
                    yield f"{path.name} has a cell that a spreadsheet would run: {cell[:50]!r}"
                    return


def _contents(folder):
    """Digests of the regular files in a folder, but for those that come and go."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {hashlib.sha256(path.read_bytes()).digest() for path in files if path.name not in ("run.lock", "stop")}


def keep(folder, target, case, outcome, complaints, repeat):
    """Move a case's folder to where a person can look at it, with its command."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(folder, target)
    lines = [repeat, "arguments: " + json.dumps(case.arguments), f"{outcome}", *complaints]
    (target / "case.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
