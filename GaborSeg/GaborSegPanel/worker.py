"""Runs `python .../GaborSegLib ...` beside Slicer, reads its events and ends it when asked.

The process writes into two files that a timer looks at. So nothing has to be read by a thread (in Slicer they hardly
get to run), no pipe can fill up, and what a dying process said last is still there.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from . import PanelError, beside_module, protocol

INTERVAL_MS = 100
PREFIX = f"GaborSeg-{os.getpid()}-"  # of temporary folders; another Slicer has its own
LAST_LINES = 8  # of the log, shown when a worker dies without a word
# By its path: Windows looks for a bare name in the current folder first.
TASKKILL = os.path.join(os.environ.get("SYSTEMROOT", "C:\\Windows"), "System32", "taskkill.exe")
FULL_DISK = 1 << 20  # bytes; with less free, a worker can not even write its last words


class Worker:
    """One command of the library, or another program that writes such events.

    It runs in a folder of its own, so that nothing that lies in Slicer's is taken for a package: paths in its arguments
    are absolute.

    Args:
        interpreter: path of a Python, or "" for Slicer's own.
        arguments: of the program; `--json` is added.
        folder: an existing folder, where it runs and which has its output; the caller removes it.
        on_event: called with each event (a dictionary) but `result` and `error`.
        on_log: called with each line of its log.
        on_end: called once at the end, with (result event, None) or (None, message); not after `stop`.
        program: path of what Python runs; the library by default.
    """

    def __init__(self, interpreter, arguments, folder, on_event, on_log, on_end, program=None):
        self._on_event, self._on_log, self._on_end = on_event, on_log, on_end
        self._folder = Path(folder)
        self._result = self._error = None
        self._last_lines = []
        command = [*python_command(interpreter, program), *map(str, arguments), "--json"]
        files = [self._folder / "events.txt", self._folder / "log.txt"]
        self._process = _start(command, worker_environment(interpreter), self._folder, *files)
        self._readers = [Lines(file) for file in files]
        self._timer = qt.QTimer()
        self._timer.setInterval(INTERVAL_MS)
        self._timer.connect("timeout()", self._poll)
        self._timer.start()

    @property
    def process_id(self):
        return self._process.pid

    def stop(self):
        """End the process and all that it started; safe to call at any time."""
        self._timer.stop()
        _end_tree(self._process)
        self._close()

    def _poll(self):
        ended = self._process.poll() is not None  # asked first, so that nothing written before the end is missed
        for line in self._readers[0].new_lines(ended):
            self._event(line)
            if not self._timer.active:
                return  # stopped by whom the event was told
        ended = ended or self._result is not None  # its files are written; torch takes a while to take itself down
        for line in self._readers[1].new_lines(ended):
            self._log(line)
        if ended and self._timer.active:
            self._timer.stop()
            # Whatever is left of it. The system takes half a second to clear its memory away; nobody waits for that.
            _end_tree(self._process, wait=0)
            self._close()
            self._on_end(*self._outcome())

    def _event(self, line):
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, TypeError, KeyError, RecursionError):
            self._log(line)  # some package printed it
            return
        if kind == protocol.RESULT:
            self._result = event
        elif kind == protocol.ERROR:
            self._error = event
        else:
            self._on_event(event)

    def _log(self, line):
        self._last_lines = [*self._last_lines, line][-LAST_LINES:]
        self._on_log(line)

    def _outcome(self):
        if self._result is not None:
            return self._result, None
        if self._error is not None:
            return None, self._error["message"]
        return None, "\n".join([_how_it_died(self._process.returncode, self._folder), *self._last_lines])

    def _close(self):
        for reader in self._readers:
            reader.close()


class Query:
    """A short command of the library, in a temporary folder that goes when it ends.

    Args: as of `Worker`, without the folder.
    """

    def __init__(self, interpreter, arguments, on_event, on_log, on_end):
        def ended(result, message):
            self.stop()
            on_end(result, message)

        self._folder = make_temporary_folder()
        try:
            self._worker = Worker(interpreter, arguments, self._folder, on_event, on_log, ended)
        except PanelError:
            remove_folder(self._folder)
            raise

    def stop(self):
        """End it without an answer; safe to call at any time."""
        self._worker.stop()
        remove_folder(self._folder)


class Lines:
    """Reads a growing file line by line."""

    def __init__(self, path):
        self.path = path
        self._file = open(path, "rb")  # noqa: SIM115, closed by `close`
        self._rest = b""

    def new_lines(self, ended):
        """The lines completed since the last call; at the end, an incomplete last one too."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        if ended and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        # What drivers and libraries print need not be UTF-8.
        return [line.decode("utf-8", errors="replace").rstrip("\r") for line in lines]

    def close(self):
        self._file.close()


def python_executable(interpreter):
    """Absolute path of the Python to start: the given one, or Slicer's own."""
    if interpreter:
        if not Path(interpreter).is_file():
            raise PanelError(
                _("{path}: there is no such Python; choose another one on the Advanced tab.").format(path=interpreter)
            )
        return os.path.abspath(interpreter)
    # Not in the folder where Slicer was started, where Windows and an empty entry of the PATH would look, too.
    folders = [folder for folder in os.get_exec_path() if os.path.isabs(folder)]
    found = next(filter(None, (shutil.which(os.path.join(folder, "PythonSlicer")) for folder in folders)), None)
    if found is None:
        raise PanelError(_("PythonSlicer was not found beside Slicer; choose another Python on the Advanced tab."))
    return found


def python_command(interpreter, program=None):
    """How a command line begins that runs the library, or another program: by its path, which nothing can hide."""
    return [python_executable(interpreter), str(program or beside_module("GaborSegLib"))]


def worker_environment(interpreter):
    """Environment variables for a worker: its output is UTF-8, and it imports nothing from where it is started.

    Another Python than Slicer's must not see what Slicer's launcher has set (PYTHONHOME, library paths). Slicer's own
    needs them, so that `-I`, which ignores all of them, is no way to start it.
    """
    environment = dict(slicer.util.startupEnvironment() if interpreter else os.environ)
    environment["PYTHONUTF8"] = "1"
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONSAFEPATH"] = "1"  # Python 3.11 and later
    # Python takes an empty entry for the folder where it is started, and a relative one is meant from here.
    entries = [os.path.abspath(entry) for entry in environment.pop("PYTHONPATH", "").split(os.pathsep) if entry]
    if entries:
        environment["PYTHONPATH"] = os.pathsep.join(entries)
    return environment


def make_temporary_folder():
    """A new folder in Slicer's temporary folder."""
    parent = slicer.app.temporaryPath
    os.makedirs(parent, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))


def remove_folder(folder):
    """Remove a temporary folder; an ended process may hold its files for a moment longer on Windows."""
    for _attempt in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(0.1)


def _start(command, environment, folder, output, log):
    options = {"start_new_session": True}
    if sys.platform == "win32":
        options = {"creationflags": subprocess.CREATE_NO_WINDOW}
    with open(output, "wb") as out, open(log, "wb") as err:
        try:
            return subprocess.Popen(
                command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, **options
            )
        except OSError as error:
            raise PanelError(
                _("{path}: cannot be started ({reason}); choose another Python on the Advanced tab.").format(
                    path=command[0], reason=error.strerror
                )
            ) from error


def _end_tree(process, wait=2):
    """End a process and its children: PythonSlicer is a launcher, and the work is done by its child.

    Args:
        wait: seconds to wait for the end.
    """
    if sys.platform == "win32":
        if process.poll() is None:
            subprocess.run(
                [TASKKILL, "/T", "/F", "/PID", str(process.pid)],
                capture_output=True,
                creationflags=subprocess.CREATE_NO_WINDOW,
            )
    else:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session, so the group holds nothing else
    with suppress(subprocess.TimeoutExpired):  # stuck in a driver; it is dead for all that matters here
        process.wait(timeout=wait)


def _how_it_died(status, folder):
    if folder.is_dir() and shutil.disk_usage(folder).free < FULL_DISK:
        return _("{folder}: the disk is full; make room on it and try again.").format(folder=folder.parent)
    if status < 0:
        text = _(
            "The worker was ended from outside (signal {number}), as systems do when memory runs out; close other "
            "programs and try again. Its last lines:"
        )
    else:
        text = _(
            "The worker ended (status {number}) without saying why; the Advanced tab can check its Python. "
            "Its last lines:"
        )
    return text.format(number=abs(status))
