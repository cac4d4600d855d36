"""Processes beside Slicer: read whatever they write, ended with all their children."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.fixture
def worker(module_widget):
    from GaborSegPanel import worker

    return worker


@pytest.fixture
def run_python(worker, tmp_path, wait_until):
    """Run a piece of Python as if it were the worker: (events, log, what `on_end` was told)."""

    def run(code, launcher=False):
        workers.append(start(worker, tmp_path, code, launcher))
        return workers[-1]

    workers = []
    yield run
    for started in workers:
        started.worker.stop()


class Started:
    def __init__(self):
        self.events, self.log, self.ends = [], [], []


def start(worker, folder, code, launcher):
    (folder / "code.py").write_text(code)
    interpreter = folder / "python"
    # PythonSlicer is such a launcher: a process that only waits for its child.
    command = f"{sys.executable} {folder}/code.py\n"
    interpreter.write_text(f"#!/bin/sh\n{command}echo left >&2\n" if launcher else f"#!/bin/sh\nexec {command}")
    interpreter.chmod(interpreter.stat().st_mode | stat.S_IXUSR)
    started, output = Started(), folder / "output"
    output.mkdir()
    started.worker = worker.Worker(
        str(interpreter), [], output, started.events.append, started.log.append, lambda *end: started.ends.append(end)
    )
    return started


def is_running(process_id):
    try:
        with open(f"/proc/{process_id}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_events_log_and_result(run_python, wait_until):
    started = run_python(
        "import sys\n"
        'print(\'{"event": "progress", "stage": "A", "done": 1, "total": 2}\')\n'
        "print('chatter of a package')\n"
        "print('[1, 2]')\n"
        "sys.stderr.buffer.write(b'not UTF-8: \\xff\\n')\n"
        'print(\'{"event": "result", "n": 3}\', end=\'\')\n'
    )
    wait_until(lambda: started.ends)
    assert started.events == [{"event": "progress", "stage": "A", "done": 1, "total": 2}]
    assert started.log == ["chatter of a package", "[1, 2]", "not UTF-8: \ufffd"]
    assert started.ends == [({"event": "result", "n": 3}, None)]


def test_a_result_is_taken_at_once(run_python, wait_until):
    """What a process does afterwards, such as taking torch down, is nobody's concern."""
    started = run_python(
        "import sys, time\n"
        "print('about to', file=sys.stderr, flush=True)\n"
        'print(\'{"event": "result", "n": 3}\', flush=True)\n'
        "time.sleep(100)\n"
    )
    wait_until(lambda: started.ends, 10)
    assert started.ends == [({"event": "result", "n": 3}, None)]
    assert started.log == ["about to"]
    wait_until(lambda: not is_running(started.worker.process_id), 2)


def test_an_error_event_is_the_message(run_python, wait_until):
    started = run_python('print(\'{"event": "error", "code": "x", "message": "do this"}\')\nraise SystemExit(2)')
    wait_until(lambda: started.ends)
    assert started.ends == [(None, "do this")]


def test_a_death_without_words_shows_the_last_lines(run_python, wait_until):
    started = run_python(
        "import sys, os\nfor n in range(50): print('line', n, file=sys.stderr, flush=True)\nos._exit(3)"
    )
    wait_until(lambda: started.ends)
    result, message = started.ends[0]
    assert result is None and "status 3" in message
    assert message.endswith("line 48\nline 49") and "line 30" not in message


def test_killed_from_outside(run_python, wait_until):
    started = run_python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    wait_until(lambda: started.ends)
    assert "signal 9" in started.ends[0][1] and "memory" in started.ends[0][1]


def test_stop_ends_the_whole_tree_at_once(run_python, wait_until, tmp_path):
    started = run_python(
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        f"open('{tmp_path}/ids.part', 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        f"os.rename('{tmp_path}/ids.part', '{tmp_path}/ids')\n"
        "time.sleep(100)\n",
        launcher=True,
    )
    wait_until((tmp_path / "ids").exists)
    ids = [started.worker.process_id, *map(int, (tmp_path / "ids").read_text().split())]
    assert len(set(ids)) == 3 and all(is_running(i) for i in ids)
    before = time.monotonic()
    started.worker.stop()
    wait_until(lambda: not any(is_running(i) for i in ids), 2)
    assert time.monotonic() - before < 2
    assert started.ends == []  # who stops it knows
    started.worker.stop()  # and may do so again


def test_a_python_that_is_not_there(worker, tmp_path):
    with pytest.raises(worker.PanelError, match="there is no such Python; choose another"):
        worker.Worker(str(tmp_path / "none"), [], tmp_path, None, None, None)


def test_a_file_that_is_no_python(worker, tmp_path):
    (tmp_path / "text").write_text("text")
    with pytest.raises(worker.PanelError, match="cannot be started"):
        worker.Worker(str(tmp_path / "text"), [], tmp_path, None, None, None)


def test_slicers_own_python_is_found_on_the_path(worker, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(worker.PanelError, match="PythonSlicer"):
        worker.python_executable("")
    launcher = tmp_path / "PythonSlicer"
    launcher.write_text("#!/bin/sh\n")
    launcher.chmod(0o755)
    assert worker.python_executable("") == str(launcher)


def test_another_python_does_not_see_slicers_environment(worker, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "of Slicer")
    assert worker.worker_environment("")["PYTHONHOME"] == "of Slicer"
    other = worker.worker_environment("/usr/bin/python3")
    assert "PYTHONHOME" not in other
    assert other["PYTHONUTF8"] == "1"


@pytest.mark.parametrize("option", ["", "-E", "-P"])
def test_the_library_is_found_by_its_path_whatever_hides_it(worker, tmp_path, option):
    """As a PythonSlicer may that sets a PYTHONPATH of its own, or takes none."""
    for name in ("GaborSegLib", "data"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong one')")
    python, *rest = worker.python_command(sys.executable)
    environment = {**worker.worker_environment(sys.executable), "PYTHONPATH": str(tmp_path)}
    command = [python, *([option] if option else []), *rest, "--version"]
    process = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert process.stdout.startswith("gaborseg ") and not process.stderr


def test_the_library_run_by_its_path_hides_no_other_module(tmp_path):
    """Its folder has names that other packages have, such as data and files."""
    library = Path(__file__).resolve().parents[2] / "GaborSegLib"
    for name in ("data", "files", "events"):
        (tmp_path / f"{name}.py").write_text("mine = True")
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['GaborSegLib', '--version']\nsys.path.insert(0, {str(library)!r})\n"
        f"try: runpy.run_path({str(library)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "import data, files, events\nprint(data.mine and files.mine and events.mine)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert process.stdout.splitlines()[-1:] == ["True"], process.stderr
