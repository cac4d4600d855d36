"""What `pip install` would get: the wheel's files against the tree, and a command run from them alone."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

backend = pytest.importorskip("hatchling.build", reason="hatchling builds the wheel; it is in the extra `test`")

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built without a network; an open `ZipFile`."""
    folder, here = tmp_path_factory.mktemp("wheel"), Path.cwd()
    os.chdir(REPOSITORY)
    try:
        name = backend.build_wheel(str(folder))
    finally:
        os.chdir(here)
    with zipfile.ZipFile(folder / name) as file:
        yield file


def tree(folder):
    """Paths of a folder's files, relative to the repository."""
    found = (path for path in (REPOSITORY / folder).rglob("*") if path.is_file())
    return {p.relative_to(REPOSITORY).as_posix() for p in found if p.suffix != ".pyc" and not p.name.startswith(".")}


def test_the_wheel_has_the_library_and_the_resources_and_nothing_else(wheel):
    resources = {f"GaborSegLib/{name}" for name in tree("Resources")}
    assert {"GaborSegLib/Resources/Recipes/paper.json", "GaborSegLib/Resources/Weights/mixed.safetensors"} <= resources
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == tree("GaborSegLib") | resources


def test_it_says_what_it_needs_and_under_which_licences(wheel):
    read = {Path(name).name: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name}
    lines = read["METADATA"].splitlines()
    assert "Name: gaborseg" in lines and "License-Expression: MIT AND CC-BY-NC-4.0" in lines
    needed = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    needed = {line.split(">")[0].lower() for line in needed if "; extra ==" not in line}
    assert needed == {"torch", "numpy", "nibabel", "simpleitk", "safetensors", "tqdm", "matplotlib"}
    assert read["LICENSE.txt"] == (REPOSITORY / "LICENSE.txt").read_text(encoding="utf-8")
    assert "gaborseg = GaborSegLib.cli:main" in read["entry_points.txt"]


@pytest.mark.processes
def test_its_commands_find_their_resources_away_from_the_tree(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    code = "import GaborSegLib, sys; sys.stderr.write(GaborSegLib.__file__); from GaborSegLib.cli import main"
    code += "; sys.exit(main())"
    result = subprocess.run(
        [sys.executable, "-c", code, "info", "mixed"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stderr) == tmp_path / "site" / "GaborSegLib" / "__init__.py"
    assert json.loads(result.stdout)["variant"] == "mixed"
