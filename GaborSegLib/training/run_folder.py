"""The folder of a training run: who owns it, the wish to stop from outside, and its snapshots.

A snapshot is two files, so that each is small enough to be carried about: `last.safetensors` holds the weights and the
place in the run and names `optimiser-<sha256>.safetensors`, which holds the optimiser's state. The second is written
first and under a name of its own, so that renaming the first makes the pair good at one moment. The pair before stays
as `previous.safetensors` until the next is good. Everything is checked by SHA-256 when it is read.
"""

import hashlib
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

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import OutputError, TrainingError
from ..events import silent
from ..files import replacing
from ..model.weights import checksum

SNAPSHOT = "last.safetensors"
PREVIOUS = "previous.safetensors"
DAMAGED = "damaged.safetensors"
OPTIMISER = "optimiser-{}.safetensors"
LOCK = "run.lock"
STOP = "stop"


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
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return {**owner, "pid": int(owner["pid"]), "host": str(owner["host"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


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


def is_alive(pid):
    """Whether a process of this computer runs (a dead one that nobody has asked about yet does not)."""
    if os.name == "nt":
        return _is_alive_on_windows(pid)
    with suppress(OSError, IndexError):
        if Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[0] == "Z":
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _is_alive_on_windows(pid):
    import ctypes

    query_limited_information, still_active = 0x1000, 259
    kernel, code = ctypes.windll.kernel32, ctypes.c_ulong()
    handle = kernel.OpenProcess(query_limited_information, False, pid)
    if not handle:
        return False
    known = kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return bool(known) and code.value == still_active


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


def has_snapshot(folder):
    """Whether a folder holds a run that was begun."""
    return any((Path(folder) / name).exists() for name in (SNAPSHOT, PREVIOUS))


def save_snapshot(folder, network, optimiser, facts):
    """Write a snapshot, so that at every moment a good one is there.

    Args:
        folder: of the run.
        network, optimiser: dictionaries of tensors.
        facts: dictionary that can be written as JSON.

    Raises:
        OutputError: the disk is full or the folder cannot be written to; the snapshot before is kept.
    """
    folder = Path(folder)
    state = save(optimiser)
    digest = hashlib.sha256(state).hexdigest()
    facts = {"optimiser": digest, **facts}
    metadata = {"facts": json.dumps(facts), "sha256": _checksum(network, facts)}
    _write(folder / OPTIMISER.format(digest[:12]), state)
    with replacing(folder / SNAPSHOT) as temporary:
        _write_through(temporary, save(network, metadata))
        with suppress(FileNotFoundError):
            os.replace(folder / SNAPSHOT, folder / PREVIOUS)
    _remove_unused(folder, digest)


def load_snapshot(folder, report=silent):
    """Read the last good snapshot of a run.

    Where the last is damaged, a warning is reported, it is put aside, and the one before is read.

    Returns:
        (network, optimiser, facts), see `save_snapshot`.

    Raises:
        TrainingError: none is good.
    """
    folder = Path(folder)
    problems = []
    for name in (SNAPSHOT, PREVIOUS):
        try:
            snapshot = _read(folder / name)
        except FileNotFoundError as error:
            problems.append(f"{error.filename}: is missing")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            problems.append(f"{folder / name}: is damaged, or is no snapshot of this program: {error}")
        else:
            for problem in problems:
                report({"event": "warning", "message": f"{problem}; going on from {PREVIOUS}, the snapshot before it"})
            if problems:
                # Else the next snapshot would take its place as the one before, and the good one would go.
                with suppress(OSError):
                    os.replace(folder / SNAPSHOT, folder / DAMAGED)
            return snapshot
    raise TrainingError(
        f"{'; '.join(problems)}. Copy the run's folder from a backup, or start anew in another folder (with --init "
        f"{folder / 'best.safetensors'}, if that is there)"
    )


def _read(path):
    if not path.exists():
        raise FileNotFoundError(2, "No such file", str(path))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        # Copied, because what is read may be mapped to the file, which the next snapshot replaces.
        network = {name: file.get_tensor(name).clone() for name in file.keys()}
    facts = json.loads(metadata["facts"])
    if _checksum(network, facts) != metadata["sha256"]:
        raise ValueError("it does not have its checksum")
    second = path.with_name(OPTIMISER.format(facts["optimiser"][:12]))
    if hashlib.sha256(second.read_bytes()).hexdigest() != facts["optimiser"]:
        raise ValueError(f"{second} does not have its checksum")
    with safe_open(second, framework="pt") as file:
        return network, {name: file.get_tensor(name).clone() for name in file.keys()}, facts


def _checksum(tensors, facts):
    return hashlib.sha256(f"{checksum(tensors)} {json.dumps(facts, sort_keys=True)}".encode()).hexdigest()


def _write(path, data):
    with replacing(path) as temporary:
        _write_through(temporary, data)


def _write_through(path, data):
    """Write a file to the disk itself: a rename may get there before what was written does."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _remove_unused(folder, digest):
    """Remove the optimisers' states that belong to neither of the two snapshots."""
    used = {OPTIMISER.format(digest[:12])}
    with (
        suppress(SafetensorError, OSError, KeyError, TypeError, ValueError),
        safe_open(folder / PREVIOUS, framework="pt") as file,
    ):
        used.add(OPTIMISER.format(json.loads(file.metadata()["facts"])["optimiser"][:12]))
    for path in folder.glob(OPTIMISER.format("*")):
        if path.name not in used:
            with suppress(OSError):
                path.unlink()
