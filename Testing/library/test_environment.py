"""What is installed, and what of it is good enough."""

import json
import sys

import pytest

from GaborSegLib import environment
from GaborSegLib.cli import main
from GaborSegLib.errors import GaborSegError

VERSIONS = {"torch": "2.6.0+cu124", "numpy": "1.26.4", "nibabel": "5.3.2", "SimpleITK": "2.5.0", "safetensors": "0.4.5"}


@pytest.fixture
def installed(monkeypatch):
    """What is said to be installed, a dictionary."""
    found = dict(VERSIONS)
    monkeypatch.setattr(environment, "_version", found.get)
    monkeypatch.setattr(environment, "_gpus", lambda version: [])
    return found


def test_a_package_that_is_too_old_is_missing_and_nothing_of_it_is_imported(installed, monkeypatch, capsys):
    assert environment.environment()["missing"] == []
    monkeypatch.setattr(environment, "_gpus", lambda version: pytest.fail("torch was imported"))
    installed.update(torch="1.13.1+cu117", nibabel=None)
    found = environment.environment()
    assert found["missing"] == ["torch", "nibabel"] and found["versions"]["torch"] == "1.13.1+cu117"
    assert main(["environment"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  torch        1.13.1+cu117, 2.5 or later is needed" in lines
    assert "  nibabel      not installed, 5 or later is needed" in lines
    assert "  numpy        1.26.4" in lines


@pytest.mark.parametrize("error", [ImportError("DLL load failed\nmore"), OSError("[WinError 1114] c10.dll")])
def test_a_torch_that_cannot_be_loaded_is_said_with_a_remedy(monkeypatch, capsys, error):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise error

    monkeypatch.setattr(environment, "_version", VERSIONS.get)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(GaborSegError) as refused:
        environment.environment()
    reason = str(error).splitlines()[0]
    assert f"torch 2.6.0+cu124: is installed and cannot be loaded ({reason}); install another version" in str(
        refused.value
    )
    assert main(["environment", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["event"] == "error"
