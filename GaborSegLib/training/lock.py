"""Whose a run's folder is, and the wish from outside that the run ends."""

import json
import os
import secrets
import shlex
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from ..errors import OutputError, TrainingError
from ..events import silent
from ..protocol import (
    BEAT,
    LOCK,
    OVERDUE,
    REFUSED,
    STOP,
    WARNING,
    has_snapshot,
    is_alive,
    lock_age,
    printable,
    read_lock,
)

# Seconds between two looks at what another computer writes.
POLL = 1.0
LONGEST_PART = 500  # letters that a message has of what a lock says, whoever wrote it
# Seconds that a file on a shared disk may take until another computer sees it.
SEEN_WITHIN = 3.0


@contextmanager
def locked(folder, pid=None, report=silent):
    """Context in which a run's folder belongs to a process; others are refused. The folder is made if missing.

    Every `BEAT` seconds the lock is touched. That of another computer, which cannot be asked for its processes, is
    taken over when that was `OVERDUE` seconds ago; a younger one is watched until it is touched or as old.

    Args:
        folder: of the run.
        pid: of the process that was started, and whose end frees the folder; this one by default.
        report: takes events.

    Yields:
        What the lock says, a dictionary, see `protocol.read_lock`.

    Raises:
        TrainingError: another process that is alive owns the folder.
        OutputError: the folder cannot be written to.
    """
    path = Path(folder) / LOCK
    owner = {
        "pid": pid or os.getpid(),
        "host": socket.gethostname(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "beat": BEAT,
    }
    _take(path, owner, report)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, owner, ended, report), daemon=True)
    beating.start()
    try:
        yield owner
    finally:
        ended.set()
        beating.join()
        if _owner(path) == owner:
            with suppress(OSError):
                path.unlink()


def _beat(path, owner, ended, report):
    """Touch the lock until `ended` is set."""
    while not ended.wait(BEAT):
        with suppress(OSError):
            other = _owner(path)
            if other == owner:
                with open(path, "r+b") as file:
                    file.write(b"{")  # as it is; what is written gets the time of the disk's own clock
            elif other:  # this computer slept, or did not reach the disk, until another took the folder over
                report({"event": WARNING, "message": f"{_refusal(path, other)}. This one ends without saving"})
                os._exit(REFUSED)


def _take(path, owner, report):
    other = _owner(path)
    if other is None and path.exists():
        time.sleep(1)  # its owner may be writing it just now
        other = _owner(path)
    if other and not _is_over(path, other, owner, report):
        raise TrainingError(_refusal(path, other))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            # Moved aside and looked at again: of two runs that find the same lock stale, the slower must not take the
            # fresh lock of the faster.
            aside = path.with_name(f".{LOCK}-{secrets.token_hex(4)}")
            os.replace(path, aside)
            if _owner(aside) != other:
                os.replace(aside, path)
                raise TrainingError(_refusal(path, _owner(path) or {}))
            aside.unlink()
        with open(path, "x", encoding="utf-8") as file:
            file.write(json.dumps(owner) + "\n")
        for partial in path.parent.glob(".partial-*"):  # what a killed run was writing
            partial.unlink(missing_ok=True)
    except FileExistsError as error:
        raise TrainingError(_refusal(path, _owner(path) or {})) from error
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); free some room, allow writing, or choose another folder"
        ) from error


def _owner(path):
    """What a lock says, or None if there is none or it cannot be understood."""
    return read_lock(path.parent, path.name)


def _is_over(path, other, owner, report):
    if other["host"] != owner["host"]:
        return "beat" in other and _is_silent(path, other, report)
    # The same number is this run's own: a launcher's worker that was started again, or a restarted container.
    return other["pid"] == owner["pid"] or not is_alive(other["pid"])


def _is_silent(path, other, report):
    """Watch the lock of another computer until it is touched, or has not been for so long that its run must be over."""
    run = f"{path.parent}: the run of process {other['pid']} on {printable(other['host'])[:LONGEST_PART]}"
    age, before = lock_age(path.parent), None
    while age is not None and age <= OVERDUE:
        if before is None:
            message = f"{run} may have died; waiting up to {OVERDUE - age:.0f} s for a sign of life of it"
            report({"event": WARNING, "message": message})
        elif age < before:
            return False
        time.sleep(POLL)
        age, before = lock_age(path.parent), age
    if age is None:
        return not path.exists()
    report({"event": WARNING, "message": f"{run} gave no sign of life for {age:.0f} s; this run takes its place"})
    return True


def _refusal(path, other):
    host, started, command = (printable(other.get(key))[:LONGEST_PART] for key in ("host", "started", "command"))
    who = f"process {other.get('pid')} on {host}, since {started} ({command})"
    return (
        f"{path.parent}: another run is at work in this folder: {who}. Wait for it, stop it by a file named {STOP} in "
        f"the folder, or choose another folder. If that process is something else, or its computer is gone, delete "
        f"{path}"
    )


def request_stop(folder):
    """Ask the run in a folder to save a snapshot and end after its step, on this or another computer."""
    (Path(folder) / STOP).touch()


def stop_requested(folder):
    """Whether that was asked for; the request is taken away."""
    path = Path(folder) / STOP
    if not path.exists():
        return False
    with suppress(OSError):
        path.unlink()
    return True


def check_shared(folder, owner, team, restart, report=silent):
    """Refuse to start where the run may be on another machine, whose folder the first process does not see.

    Args:
        folder: of the run, as this process names it.
        owner: what the lock says that the first process has just taken, see `locked`.
        team: the `Team`.
        restart: how often the run was started before.
        report: takes events.

    Raises:
        TrainingError: the machines do not share the folder, and the first process finds no run in its own, although
            there is one.
    """
    if team.size == team.local_size:
        return
    end = time.monotonic() + SEEN_WITHIN
    while _owner(Path(folder) / LOCK) != owner and time.monotonic() < end:
        time.sleep(0.1)
    sees = _owner(Path(folder) / LOCK) == owner
    answers = team.gather((sees, has_snapshot(folder), socket.gethostname()))
    others = ", ".join(dict.fromkeys(host for sees, _, host in answers if not sees))
    if not others:
        return
    message = f"{folder}: is on {owner['host']}, where the first process is, and not seen from {others}"
    remedy = "put it where all machines see it, or keep that machine first: torchrun --rdzv-backend static --node-rank"
    if not answers[0][1] and (restart or any(has_run for _, has_run, _ in answers)):
        team.fail(TrainingError(f"{message}; the run was begun on another machine. {remedy[0].upper()}{remedy[1:]}"))
    if team.rank == 0:
        report({"event": WARNING, "message": f"{message}. To be able to go on with this run, {remedy}"})
