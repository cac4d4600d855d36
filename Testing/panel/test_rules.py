"""Rules that hold between the panel, the library and the build files."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "nibabel", "safetensors", "matplotlib", "GaborSegLib"}
SLICERS = {"slicer", "qt", "ctk", "GaborSegPanel"}


def imports(file):
    """Top names of all imports of a file, those in functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("file", sorted((ROOT / "GaborSeg").rglob("*.py")), ids=lambda file: file.name)
def test_panel_never_imports_the_library_or_torch(file):
    assert not imports(file) & HEAVY


@pytest.mark.parametrize("file", sorted((ROOT / "GaborSegLib").rglob("*.py")), ids=lambda file: file.name)
def test_library_never_imports_slicer(file):
    assert not imports(file) & SLICERS


def test_nothing_is_installed_at_import():
    for file in (ROOT / "GaborSeg").rglob("*.py"):
        if file.name != "installation.py":
            assert "pip_install" not in file.read_text(encoding="utf-8"), file


def listed(cmake_file):
    """Paths that a CMakeLists.txt lists, relative to its folder."""
    text = re.sub(r"#.*", "", cmake_file.read_text(encoding="utf-8")).replace("${MODULE_NAME}", "GaborSeg")
    return set(re.findall(r"^\s+([\w./]+\.\w+)$", text, re.MULTILINE))


def files(*folders, below):
    found = (file for folder in folders for file in (below / folder).rglob("*") if file.is_file())
    return {
        file.relative_to(below).as_posix()
        for file in found
        if "__pycache__" not in file.parts and not file.name.startswith(".") and file.name != "CMakeLists.txt"
    }


def test_cmake_lists_every_file_of_the_module():
    assert listed(ROOT / "GaborSeg/CMakeLists.txt") == files(".", below=ROOT / "GaborSeg")


def test_cmake_lists_every_file_of_library_and_resources():
    assert listed(ROOT / "CMakeLists.txt") == files("GaborSegLib", "Resources", below=ROOT)


def test_every_widget_has_a_tooltip():
    from xml.etree import ElementTree

    tree = ElementTree.parse(ROOT / "Resources/UI/GaborSeg.ui")
    used = (
        "QPushButton",
        "QComboBox",
        "QProgressBar",
        "QTableWidget",
        "QPlainTextEdit",
        "qMRMLNodeComboBox",
        "qMRMLSegmentsTableView",
        "qMRMLSegmentationShow3DButton",
    )
    for widget in tree.iter("widget"):
        if widget.get("class") in used:
            tooltip = widget.find("property[@name='toolTip']/string")
            assert tooltip is not None and tooltip.text, widget.get("name")


def test_terminology_knows_every_structure_and_says_where_its_codes_are_from():
    terms = json.loads((ROOT / "Resources/GaborSeg.term.json").read_text(encoding="utf-8"))
    types = terms["SegmentationCodes"]["Category"][0]["Type"]
    lines = (ROOT / "Resources/structures.csv").read_text(encoding="utf-8").splitlines()[1:]
    rows = {name: [int(c) for c in colour] for _, name, *colour in (line.split(",") for line in lines)}
    assert sorted(name for kind in types for name in kind["structures"]) == sorted(rows)
    assert terms["source"]
    for kind in types:
        assert kind["source"]
        assert len(kind["structures"]) == 1 or kind["note"]
        assert kind["recommendedDisplayRGBValue"] in [rows[name] for name in kind["structures"]]
