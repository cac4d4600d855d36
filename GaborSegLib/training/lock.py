"""Whose a run's folder is, and the wish from outside that the run ends."""

import json
import os
import secrets
import shlex
import socket
import sys
import time
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from ..errors import OutputError, TrainingError
from ..protocol import LOCK, STOP, is_alive, read_lock


@contextmanager
def locked(folder, pid=None):
    """Context in which a run's folder belongs to a process; others are refused. The folder is made if missing.

    Args:
        folder: of the run.
        pid: of the process that was started, and whose end frees the folder; this one by default.

    Raises:
        TrainingError: another process that is alive, or is on another computer, owns the folder.
        OutputError: the folder cannot be written to.
    """
    path = Path(folder) / LOCK
    owner = {
        "pid": pid or os.getpid(),
        "host": socket.gethostname(),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
    }
    _take(path, owner)
    try:
        yield
    finally:
        if _owner(path) == owner:
            with suppress(OSError):
                path.unlink()


def _take(path, owner):
    other = _owner(path)
    if other is None and path.exists():
        time.sleep(1)  # its owner may be writing it just now
        other = _owner(path)
    if other and not _is_over(other, owner):
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


def _is_over(other, owner):
    same_host = other["host"] == owner["host"]
    # The same number is this run's own: a launcher's worker that was started again, or a restarted container.
    return same_host and (other["pid"] == owner["pid"] or not is_alive(other["pid"]))


def _refusal(path, other):
    who = f"process {other.get('pid')} on {other.get('host')}, since {other.get('started')} ({other.get('command')})"
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
