"""A training run beside Slicer. It belongs to its folder: it is started there, and followed and stopped through files.

So it outlives the panel that started it, and any later one shows it again. In the folder, the panel writes `panel.json`
(how the run was started), `events.jsonl` (its standard output) and `log.txt` (its standard error); the library's own
files are `metrics.csv`, `run.lock`, its snapshots and `best.safetensors`.
"""

import csv
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from slicer.i18n import tr as _

from . import PanelError, protocol, write_text
from .worker import FULL_DISK, Lines, python_command, worker_environment

RECORD, EVENTS, LOG = "panel.json", "events.jsonl", "log.txt"
# What a run writes over in its folder.
WRITTEN = (protocol.BEST, protocol.METRICS, protocol.CURVES, RECORD, EVENTS, LOG)
NUMBERED = ("epoch", "epochs")  # columns of metrics.csv without which a row says nothing
LOG_LINES = 100
RUNNING, FINISHED, STOPPED, FAILED, KILLED = "running", "finished", "stopped", "failed", "killed"


class TrainingRun:
    """The run in a folder, as its files told it at the last `update`; nothing else here reads them.

    Attributes:
        record: how the panel started it, a dictionary; {} if it was started elsewhere.
        owner: who is at work in the folder, a dictionary with pid, host, started and command, or None.
        rows: of metrics.csv, dictionaries with numbers (None where there is none).
        step: (stage in the library's words, done, total) of what is done now, or None.
        epoch: of the last step, from 1; 0 before the first.
        problems: warnings and the error since the last start, as texts.
        error: what it ended with, in the library's words, or None.
        log: its last lines.
        weights: path of its best weights so far, or None.
        has_snapshot: whether there is something to go on from.
        disk_is_full: whether the folder's disk is.
        stopping: whether this panel asked it to stop.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.record = _read_record(self.folder)
        self.rows, self.step, self.problems, self.log = [], None, [], []
        self.stopping = False
        self.owner = self.error = self.weights = None
        self.epoch, self._part = 0, 0.0  # of the last step, and how much of its epoch was done then
        self._result = self._metrics_seen = self._first_step = None
        self._epoch_seen = False
        self._lines = [Lines(self.folder / name) for name in (EVENTS, LOG) if (self.folder / name).is_file()]
        self.update()

    def update(self):
        """Read what was written since the last call; whether the run is alive is asked first, so nothing is missed."""
        self.owner = _owner(self.folder, self.record)
        for lines, take in zip(self._lines, (self._take_line, self._take_log)):
            for line in lines.new_lines(self.owner is None):
                take(line)
        self._read_metrics()
        self.has_snapshot = protocol.has_snapshot(self.folder)
        best = self.folder / protocol.BEST
        self.weights = best if best.is_file() else None
        self.disk_is_full = self.folder.is_dir() and shutil.disk_usage(self.folder).free < FULL_DISK
        if self.stopping and self.owner:
            self._ask_to_stop()  # again: while a run starts, it takes away a wish that it finds
        elif self.stopping:
            self.stopping = False
            (self.folder / protocol.STOP).unlink(missing_ok=True)

    def close(self):
        """Let go of the files; the run goes on."""
        for lines in self._lines:
            lines.close()
        self._lines = []

    def stop(self):
        """Ask the run to save a snapshot and end after its step."""
        self._ask_to_stop()
        self.stopping = True

    @property
    def exists(self):
        return bool(self.record or self.rows or self.has_snapshot or self.owner)

    @property
    def state(self):
        if self.owner:
            return RUNNING
        if self.rows and self.rows[-1]["epoch"] >= self.rows[-1]["epochs"]:
            return FINISHED
        if self.error:
            return FAILED
        return KILLED if self.record and not self._result else STOPPED

    @property
    def can_resume(self):
        """Whether `resume` can go on with it; what was started elsewhere is resumed where its options are known."""
        return self.exists and self.state not in (RUNNING, FINISHED) and bool(self.record) and self.has_snapshot

    @property
    def structures(self):
        return [name for name in self.rows[-1] if name not in protocol.METRIC_COLUMNS] if self.rows else []

    @property
    def epochs(self):
        """How many there will be; 0 where that is not known yet."""
        if self.rows:
            return int(self.rows[-1]["epochs"])
        arguments = self.record.get("arguments", [])
        text = arguments[arguments.index("--epochs") + 1] if "--epochs" in arguments[:-1] else ""
        return int(text) if text.isdecimal() else 0

    @property
    def epoch_under_way(self):
        """Its number, from 1, or None where something else is done, such as checking the data."""
        return protocol.epoch_of(self.step[0]) if self.step else None

    @property
    def fraction(self):
        """How much of the run is done, 0 to 1."""
        if not self.epochs:
            return 0.0
        return min(1.0, (len(self.rows) + (self._part if self.epoch > len(self.rows) else 0)) / self.epochs)

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

    def _ask_to_stop(self):
        path = self.folder / protocol.STOP
        try:
            path.touch()
        except OSError as error:
            raise PanelError(
                _("{path}: cannot be written ({reason}), so the run cannot be told to stop.").format(
                    path=path, reason=error.strerror
                )
            ) from error

    def _take_line(self, line):
        try:
            self._take_event(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError):
            self._take_log(line)  # of some package, or of nobody that is known here

    def _take_event(self, event):
        kind = event["event"]
        if kind == protocol.PROGRESS:
            self.step = event["stage"], event["done"], event["total"]
            if self.epoch_under_way:
                self.epoch, self._part = self.epoch_under_way, event["done"] / max(1, event["total"])
            if self._first_step is None and self.epoch_under_way:
                self._first_step = time.time(), self.fraction
        elif kind == protocol.EPOCH:
            self._epoch_seen = True
        elif kind == protocol.RESULT:
            self._result = event
        elif kind == protocol.ERROR:
            self.error = event["message"]
        if kind in (protocol.WARNING, protocol.ERROR):
            self.problems.append(event["message"])

    def _take_log(self, line):
        self.log = [*self.log, line][-LOG_LINES:]

    def _read_metrics(self):
        path = self.folder / protocol.METRICS
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
        numbers = [row[name] for row in rows for name in NUMBERED if name in row]
        if rows and set(protocol.METRIC_COLUMNS) <= set(rows[0]) and all(n and math.isfinite(n) for n in numbers):
            self._metrics_seen, self.rows = seen, rows


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
    folder = Path(folder).absolute()
    owner = _owner(folder, _read_record(folder))
    if owner:
        raise PanelError(
            _(
                "{folder}: another run is at work in this folder: process {pid} on {host}, since {started}. Stop it, "
                "or choose another folder. If that process is something else, or its computer is gone, delete {lock}."
            ).format(folder=folder, lock=folder / protocol.LOCK, **owner)
        )
    arguments = [str(argument) for argument in arguments]
    command = [*python_command(interpreter), "train", *arguments, "--output", str(folder)]
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


def _read_record(folder):
    """How the panel started the run in a folder, a dictionary; {} if it did not, or the file is not its own."""
    record = protocol.read_json(folder / RECORD)
    arguments = record.get("arguments")
    is_ours = isinstance(record.get("pid"), int) and isinstance(arguments, list)
    return record if is_ours and all(isinstance(argument, str) for argument in arguments) else {}


def _owner(folder, record):
    """Who works in a folder: the process that holds the library's lock, else the one that the panel started.

    A run takes the lock only after it has looked through its data. On another computer a process cannot be asked; there
    its lock counts until it is overdue, as for the library.
    """
    here = socket.gethostname()
    lock = protocol.read_lock(folder)
    if lock and (is_alive(lock["pid"]) if lock["host"] == here else not protocol.is_overdue(folder, lock)):
        return lock
    if record.get("host") == here and is_alive(record["pid"]) and _is_ours(record["pid"]):
        return record
    return None


def is_alive(pid):
    """Whether a process of this computer runs; one that has ended counts as dead although nobody waited for it."""
    if sys.platform != "win32":
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # if it is this Slicer's own child, and has ended, this lets it go
    return protocol.is_alive(pid)


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
