"""A training run beside Slicer. It belongs to its folder: it is started there, and followed and stopped through files.

So it outlives the panel that started it, and any later one shows it again. In the folder, the panel writes `panel.json`
(how the run was started), `events.jsonl` (its standard output) and `log.txt` (its standard error); the library's own
files are `metrics.csv`, `run.lock`, its snapshots and `best.safetensors`.
"""

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from slicer.i18n import tr as _

from . import PanelError, write_text
from .worker import FULL_DISK, LAST_LINES, Lines, python_executable, worker_environment

RECORD, EVENTS, LOG = "panel.json", "events.jsonl", "log.txt"
METRICS, LOCK, STOP, BEST = "metrics.csv", "run.lock", "stop", "best.safetensors"
SNAPSHOTS = ("last.safetensors", "previous.safetensors")
# Columns of metrics.csv before those of the structures.
FIXED = (
    "epoch",
    "epochs",
    "loss",
    "learning_rate",
    "seconds",
    "images_per_second",
    "memory_mib",
    "seconds_left",
    "dice_mean",
    "best_dice",
    "best_epoch",
)
RUNNING, FINISHED, STOPPED, FAILED, KILLED = "running", "finished", "stopped", "failed", "killed"


class TrainingRun:
    """The run in a folder, as its files tell it; `update` reads what is new.

    Attributes:
        rows: of metrics.csv, dictionaries with numbers (None where there is none).
        step: (stage in the library's words, done, total) of what is done now, or None.
        problems: warnings and the error since the last start, as texts.
        stopping: whether this panel asked it to stop.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.record = _read_json(self.folder / RECORD)
        self.rows, self.step, self.problems = [], None, []
        self.stopping = self._alive = False
        self._result = self._error = self._metrics_seen = self._first_step = None
        self._epoch_seen = False
        self._place = 0, 0.0  # the epoch of the last step, from 1, and how much of it was done then
        self._log = []
        self._lines = [Lines(self.folder / name) for name in (EVENTS, LOG) if (self.folder / name).is_file()]
        self.update()

    def update(self):
        """Read what was written since the last call; whether the run is alive is asked first, so nothing is missed."""
        self._alive = self.owner() is not None
        for lines, take in zip(self._lines, (self._take_event, self._take_log)):
            for line in lines.new_lines(not self._alive):
                take(line)
        self._read_metrics()
        if self.stopping and self._alive:
            self._ask_to_stop()  # again: while a run starts, it takes away a wish that it finds
        elif self.stopping:
            self.stopping = False
            (self.folder / STOP).unlink(missing_ok=True)

    def close(self):
        """Let go of the files; the run goes on."""
        for lines in self._lines:
            lines.close()
        self._lines = []

    def stop(self):
        """Ask the run to save a snapshot and end after its step."""
        self._ask_to_stop()
        self.stopping = True

    def owner(self):
        """Who is at work in the folder, a dictionary with pid, host, started and command, or None."""
        return _owner(self.folder, self.record)

    @property
    def exists(self):
        return bool(self.record or self.rows or has_snapshot(self.folder) or self._alive)

    @property
    def state(self):
        if self._alive:
            return RUNNING
        if self.rows and self.rows[-1]["epoch"] >= self.rows[-1]["epochs"]:
            return FINISHED
        if self._error:
            return FAILED
        return KILLED if self.record and not self._result else STOPPED

    @property
    def can_resume(self):
        """Whether `resume` can go on with it; what was started elsewhere is resumed where its options are known."""
        return self.exists and self.state not in (RUNNING, FINISHED) and bool(self.record) and has_snapshot(self.folder)

    @property
    def weights(self):
        """Path of its best weights so far, or None."""
        path = self.folder / BEST
        return path if path.is_file() else None

    @property
    def structures(self):
        return [name for name in self.rows[-1] if name not in FIXED] if self.rows else []

    @property
    def epochs(self):
        """How many there will be; 0 where that is not known yet."""
        if self.rows:
            return int(self.rows[-1]["epochs"])
        arguments = self.record.get("arguments", [])
        return int(arguments[arguments.index("--epochs") + 1]) if "--epochs" in arguments[:-1] else 0

    @property
    def fraction(self):
        """How much of the run is done, 0 to 1."""
        if not self.epochs:
            return 0.0
        epoch, part = self._place
        return min(1.0, (len(self.rows) + (part if epoch > len(self.rows) else 0)) / self.epochs)

    def seconds_left(self):
        """An estimate, or None where there is nothing to go by yet."""
        if self.rows:
            left = self.rows[-1]["seconds_left"]
            since = time.time() - self._metrics_seen[0] if self._epoch_seen else 0
            return max(0.0, left - since)
        if self._first_step and self.fraction > self._first_step[1]:
            when, then = self._first_step
            return (time.time() - when) / (self.fraction - then) * (1 - self.fraction)
        return None

    def status(self):
        """How the run stands, in words."""
        state = self.state
        if state == RUNNING:
            return self._running()
        epoch = len(self.rows)
        if state == FINISHED:
            return _("Finished after {count} epochs{best}.").format(count=epoch, best=self._best())
        if state == STOPPED:
            text = _("Stopped in epoch {epoch} of {count}{best}.") if self.epochs else _("Stopped before it began.")
            return text.format(epoch=min(epoch + 1, self.epochs), count=self.epochs, best=self._best()) + self._way_on()
        if state == FAILED:
            return self._error
        return self._how_it_died() + self._way_on()

    def _running(self):
        owner = self.owner() or {}
        parts = []
        if owner.get("host") not in (None, socket.gethostname()):
            parts.append(_("On the computer {host}, process {pid}.").format(**owner))
        if self.stopping:
            parts.append(_("Stopping after this step..."))
        elif self.step is None:
            parts.append(_("At work...") if self.rows else _("Starting..."))
        elif self._epoch_under_way():
            parts.append(
                _("Epoch {epoch} of {count}, step {done} of {total}.").format(
                    epoch=self._epoch_under_way(), count=self.epochs, done=self.step[1], total=self.step[2]
                )
            )
        elif self._place[0]:
            parts.append(_("Epoch {epoch} of {count}, validation.").format(epoch=self._place[0], count=self.epochs))
        else:
            parts.append(
                _("{stage}, {done} of {total}...").format(stage=self.step[0], done=self.step[1], total=self.step[2])
            )
        left = None if self.stopping else self.seconds_left()
        if left is not None:
            parts.append(_("About {time} left.").format(time=duration(left)))
        return " ".join(parts)

    def _best(self):
        best = self.rows[-1]["best_dice"] if self.rows else None
        if best is None:
            return ""
        return _("; best validation Dice {dice} in epoch {epoch}").format(
            dice=f"{best:.3f}", epoch=int(self.rows[-1]["best_epoch"])
        )

    def _way_on(self):
        if self.can_resume:
            return " " + _("Resume goes on from its last snapshot.")
        if has_snapshot(self.folder):
            return " " + _("It was started elsewhere; go on with it there, by --resume.")
        return " " + _("Nothing was saved yet; start it again.")

    def _how_it_died(self):
        if self.folder.is_dir() and shutil.disk_usage(self.folder).free < FULL_DISK:
            return _("{folder}: the disk is full, and the training ended; make room on it.").format(folder=self.folder)
        text = _(
            "The training ended without saying why: its process was ended from outside (as systems do when memory runs "
            "out), or the computer was switched off."
        )
        last = "\n".join(self._log[-LAST_LINES:])
        return text + (" " + _("Its last lines:") + f"\n{last}\n" if last else "")

    def _epoch_under_way(self):
        """Its number, from 1, or None where something else is done, such as checking the data."""
        match = re.match(r"Epoch (\d+) of", self.step[0]) if self.step else None
        return int(match[1]) if match else None

    def _ask_to_stop(self):
        try:
            (self.folder / STOP).touch()
        except OSError as error:
            raise PanelError(
                _("{path}: cannot be written ({reason}), so the run cannot be told to stop.").format(
                    path=self.folder / STOP, reason=error.strerror
                )
            ) from error

    def _take_event(self, line):
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, TypeError, KeyError):
            self._take_log(line)
            return
        if kind == "progress":
            self.step = event["stage"], event["done"], event["total"]
            if self._epoch_under_way():
                self._place = self._epoch_under_way(), event["done"] / max(1, event["total"])
            if self._first_step is None and self._epoch_under_way():
                self._first_step = time.time(), self.fraction
        elif kind == "epoch":
            self._epoch_seen = True
        elif kind == "result":
            self._result = event
        elif kind == "error":
            self._error = event["message"]
        if kind in ("warning", "error"):
            self.problems.append(event["message"])

    def _take_log(self, line):
        self._log = [*self._log, line][-100:]

    def _read_metrics(self):
        path = self.folder / METRICS
        try:
            about = path.stat()
            seen = about.st_mtime, about.st_size
            if seen == self._metrics_seen:
                return
            with open(path, newline="", encoding="utf-8") as file:
                rows = [
                    {name: float(text) if text else None for name, text in row.items()} for row in csv.DictReader(file)
                ]
        except (OSError, ValueError, TypeError, csv.Error):
            return  # not there yet, or being replaced just now
        if rows and set(FIXED) <= set(rows[0]):
            self._metrics_seen, self.rows = seen, rows


def has_snapshot(folder):
    """Whether a folder holds a run that was begun."""
    return any((Path(folder) / name).exists() for name in SNAPSHOTS)


def start(folder, interpreter, arguments, resume=False):
    """Start a run in a folder, beside Slicer and independent of it, and return its `TrainingRun`.

    By subprocess and not by QProcess: QProcess ends its process when it is destroyed, and QProcess.startDetached takes
    neither an environment nor files for what is written (a pipe would break when Slicer closes). The run gets a session
    of its own (on Windows a process group), so that neither Ctrl-C in Slicer's terminal nor the end of Slicer reaches
    it; CREATE_NO_WINDOW and not DETACHED_PROCESS, since without a console PythonSlicer's child would open one.

    Args:
        interpreter: path of a Python, or "" for Slicer's own.
        arguments: of `gaborseg train`, without the folder.

    Raises:
        PanelError: another run is at work in the folder, or it cannot be started.
    """
    folder = Path(folder)
    owner = _owner(folder, _read_json(folder / RECORD))
    if owner:
        raise PanelError(
            _(
                "{folder}: another run is at work in this folder: process {pid} on {host}, since {started}. Stop it, "
                "or "
                "choose another folder. If that process is something else, or its computer is gone, delete {lock}."
            ).format(folder=folder, lock=folder / LOCK, **owner)
        )
    arguments = [str(argument) for argument in arguments]
    command = [python_executable(interpreter), "-m", "GaborSegLib", "train", *arguments, "--output", str(folder)]
    command += ["--json", *["--resume"] * resume]
    options = {"start_new_session": True}
    if sys.platform == "win32":
        options = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / EVENTS, "wb") as out, open(folder / LOG, "wb") as err:
            process = subprocess.Popen(
                command,
                env=worker_environment(interpreter),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                **options,
            )
        _wait_until_known(process.pid)
        write_text(
            folder / RECORD,
            json.dumps(
                {
                    "pid": process.pid,
                    "host": socket.gethostname(),
                    "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                    "command": " ".join(command),
                    "arguments": arguments,
                },
                indent=1,
            ),
        )
    except OSError as error:
        raise PanelError(
            _("{path}: cannot be written or started ({reason}); choose another folder, or another Python.").format(
                path=error.filename or folder, reason=error.strerror
            )
        ) from error
    process.returncode = 0  # it is nobody's child from here on: Python must neither wait for it nor warn about it
    return TrainingRun(folder)


def resume(run, interpreter):
    """Go on with a run that can be, with the options it was started with."""
    return start(run.folder, interpreter, run.record["arguments"], resume=True)


def duration(seconds):
    """Seconds as a person says it."""
    if seconds < 60:
        return _("{count} s").format(count=round(seconds))
    hours, minutes = divmod(round(seconds / 60), 60)
    return (
        _("{hours} h {minutes} min").format(hours=hours, minutes=minutes)
        if hours
        else _("{count} min").format(count=minutes)
    )


def _owner(folder, record):
    """Who works in a folder: the process that holds the library's lock, else the one that the panel started.

    A run takes the lock only after it has looked through its data. On another computer a process cannot be asked; what
    its lock says is taken for true, as the library does.
    """
    here = socket.gethostname()
    lock = _read_json(folder / LOCK)
    if lock.get("pid") and (lock.get("host") != here or is_alive(lock["pid"])):
        return {"started": "?", "command": "?", **lock}
    if record.get("host") == here and is_alive(record["pid"]) and _is_ours(record["pid"]):
        return record
    return None


def is_alive(pid):
    """Whether a process of this computer runs; one that has ended counts as dead although nobody waited for it."""
    if sys.platform == "win32":
        return _is_alive_on_windows(pid)
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # if it is this Slicer's own child, and has ended, this lets it go
    try:
        if Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[0] == "Z":
            return False  # somebody else's child
    except (OSError, IndexError):
        pass
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


def _is_ours(pid):
    """False where the system says that the number belongs to another program now, as after a restart."""
    try:
        return b"GaborSegLib" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


def _wait_until_known(pid, seconds=1.0):
    """Popen returns a moment before the system tells the command line by which `_is_ours` knows a started run."""
    end = time.monotonic() + seconds
    while not _is_ours(pid) and is_alive(pid) and time.monotonic() < end:
        time.sleep(0.001)


def _read_json(path):
    """The dictionary in a file, {} if there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
