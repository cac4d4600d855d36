"""Other Pythons and packages: what is too old is refused in one line, before anything is asked or installed."""

import ast
import re
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a Python that is too old has to read, to say so.
FIRST = (
    "GaborSeg/GaborSeg.py",
    "GaborSeg/GaborSegPanel/__init__.py",
    "GaborSegLib/__init__.py",
    "GaborSegLib/__main__.py",
    "GaborSegLib/protocol.py",
)
# Slicer, as far as the module file needs it.
OLD_SLICER = """
import sys, types, unittest

def module(name, **items):
    made = sys.modules[name] = types.ModuleType(name)
    vars(made).update(items)
    return made

class Layout(list):
    addWidget = list.append

class Label:
    wordWrap = False
    def __init__(self, text):
        self.text = text

class Base:
    def __init__(self, parent=None):
        self.parent, self.layout = parent, Layout()
    def setup(self):
        pass
    def removeObservers(self):
        pass

app = types.SimpleNamespace(applicationVersion="5.8.1")
module("qt", QIcon=str, QLabel=Label)
module("vtk", calldata_type=lambda kind: lambda function: function, VTK_OBJECT="object")
module("slicer", app=app)
module("slicer.i18n", tr=lambda text: text, translate=lambda context, text: text)
names = ("ScriptedLoadableModule", "ScriptedLoadableModuleLogic", "ScriptedLoadableModuleWidget")
module("slicer.ScriptedLoadableModule", ScriptedLoadableModuleTest=unittest.TestCase, **{n: Base for n in names})
module("slicer.util", VTKObservationMixin=type("VTKObservationMixin", (), {}))
sys.path.insert(0, sys.argv[1])
if sys.version_info >= (3, 10):
    sys.version_info, sys.version = (3, 9, 10), "3.9.10 (as if)"
import GaborSeg

GaborSeg.GaborSeg(types.SimpleNamespace())
widget = GaborSeg.GaborSegWidget()
widget.setup()
widget.enter()
widget.cleanup()
(label,) = widget.layout
print(label.text)
try:
    GaborSeg.GaborSegTest().runTest()
except unittest.SkipTest as skipped:
    print(skipped)
print(sorted(name for name in sys.modules if name.startswith("GaborSeg")))
"""


def python39():
    """A Python 3.9, as Slicer 5.6 and 5.8 have it."""
    found = shutil.which("python3.9") or pytest.skip("there is no python3.9 on the PATH")
    if subprocess.run([found, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"{found} starts nothing")
    return found


@pytest.fixture(params=["old", "this"])
def python(request):
    """An old Python; and this one, which takes itself for such a one."""
    return python39() if request.param == "old" else sys.executable


def test_an_old_slicer_is_refused_in_one_line_before_anything_else(python):
    command = [python, "-S", "-c", OLD_SLICER, str(ROOT / "GaborSeg")]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    shown, skipped, modules = process.stdout.splitlines()
    assert shown == skipped
    assert re.fullmatch(
        r"GaborSeg needs 3D Slicer 5\.10 or later; this is 5\.8\.1, with Python 3\.9\.\d+\. Install .*", shown
    )
    assert modules == "['GaborSeg', 'GaborSegPanel', 'GaborSegPanel.protocol']"


@pytest.mark.parametrize("way", [["-m", "GaborSegLib"], [str(ROOT / "GaborSegLib")]], ids=["-m", "path"])
@pytest.mark.parametrize("json", [False, True])
def test_the_library_refuses_an_old_python_in_one_line(way, json):
    command = [python39(), "-S", *way, "segment", "scan.nii", *["--json"] * json]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    said, other = (process.stdout, process.stderr)[:: 1 if json else -1]
    assert other == "" and said.count("\n") == 1
    assert re.search(r"is Python 3\.9, and GaborSeg needs 3\.10 or later; choose a newer Python", said)
    assert said.startswith('{"event": "error"') == json


@pytest.mark.parametrize("name", FIRST)
def test_what_refuses_an_old_python_can_be_read_by_it(name):
    """By the grammar; and by what the grammar allows and Python 3.9 cannot evaluate."""
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"), feature_version=(3, 9))
    annotations = [getattr(node, key, None) for node in ast.walk(tree) for key in ("annotation", "returns")]
    unions = [a for a in annotations if a and any(isinstance(part, ast.BitOr) for part in ast.walk(a))]
    late = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    assert late or not unions
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "zip"]
    assert not [call for call in calls if call.keywords]  # strict


def test_the_grammar_of_python_39_is_what_is_asked_for():
    text = "match 1:\n    case 1: pass"
    ast.parse(text)
    with pytest.raises(SyntaxError):
        ast.parse(text, feature_version=(3, 9))


def test_versions_stand_in_pyproject_as_in_the_protocol(module_widget):
    from GaborSegPanel import protocol

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest = ".".join(map(str, protocol.OLDEST_PYTHON))
    assert f'requires-python = ">={oldest}"' in text
    for name, version in protocol.REQUIREMENTS.items():
        assert f'  "{name}>={version}",' in text
    assert f"Python {oldest} to" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "version, oldest, enough",
    [
        ("2.5.0", "2.5", True),
        ("2.13.0+cpu", "2.5", True),
        ("1.13.1+cu117", "2.5", False),
        ("2.4.99", "2.5", False),
        ("2.10", "2.5", True),
        ("5.0.0", "5", True),
        ("4.9", "5", False),
        (None, "5", False),
    ],
)
def test_versions_are_compared_as_numbers(module_widget, version, oldest, enough):
    from GaborSegPanel import protocol

    assert protocol.is_enough(version, oldest) is enough


def test_the_selftest_is_skipped_with_a_reason_where_packages_are_missing(module_widget, monkeypatch, tmp_path):
    """As on the machines that build extensions and run their tests."""
    import GaborSeg

    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("GABORSEG_PYTHON", str(python))
    result = unittest.TestResult()
    GaborSeg.GaborSegTest().run(result)
    assert result.wasSuccessful() and result.testsRun == 1
    ((_, reason),) = result.skipped
    assert reason.startswith(f"{python}: Not installed, or too old: torch, ")
