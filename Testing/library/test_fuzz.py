"""A hundred cases of the fuzzer hold, and it sees what it is there to see. See Testing/fuzz/README.md."""

import json
import os
import subprocess
import sys

import pytest
from made import REPOSITORY

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="the fuzzer forks, and reads /proc"),
]
# Each is a program, what a complaint about it says, and the case's part that lets it be seen.
FAULTS = {
    "os.kill(os.getpid(), 11)": "died of SIGSEGV",
    "time.sleep(9)": "took more than 0.5 s",
    "x = bytearray(200 << 20); time.sleep(0.1)": "MiB",
    "raise ValueError": "ended with status 1",
    "open('given/scan', 'a').write('x'); return 0": "changed or removed given/scan",
    "os.remove('given/scan'); return 0": "changed or removed given/scan",
    "open('given/more', 'w'); return 0": "left given/more",
    "open(tempfile.mkstemp()[1], 'w'); return 0": "left temporary/",
    "open('made/.partial-1', 'w'); return 0": "left made/.partial-1",
    "open('made/x', 'w'); return tell('scan: bad')": "left made/x after a refusal",
    "open('made/x.csv', 'w').write('a,=1'); print('done'); return 0": "a spreadsheet would run",
    "return tell('something is bad')": "names none of",
    "return tell('scan: \\x1b[31mbad')": "control characters",
    "print('scan: bad', file=sys.stderr); return 2": "neither a warning nor an error",
    "return 2": "without a word",
    "return tell('scan: bad')": None,
    "open('made/x', 'w'); print('done'); return 0": None,
}
CODE = """
import json, os, sys, tempfile, time
from pathlib import Path
from Testing.fuzz.damage import Case
from Testing.fuzz.runner import run_case

def tell(message):
    print("gaborseg:", message, file=sys.stderr)
    return 2

found = []
for number, body in enumerate(json.loads(sys.argv[1])):
    folder = Path(sys.argv[2]) / str(number)
    (folder / "given").mkdir(parents=True)
    (folder / "given" / "scan").write_text("sound")
    names = {}
    exec("def program(arguments):\\n    " + body, globals(), names)
    found.append(run_case(Case(["x"], ("scan",)), folder, names["program"], seconds=0.5, mib=100)[1])
print(json.dumps(found))
"""


def test_it_sees_every_fault(tmp_path):
    command = [sys.executable, "-c", CODE, json.dumps(list(FAULTS)), str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for complaints, (body, expected) in zip(json.loads(done.stdout), FAULTS.items()):
        assert any(expected in text for text in complaints) if expected else not complaints, (body, complaints)


@pytest.mark.slow  # a hundred commands
def test_a_hundred_cases_hold(tmp_path):
    command = [sys.executable, "-m", "Testing.fuzz", "--seed", "0", "-n", "100", "--keep", str(tmp_path)]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
