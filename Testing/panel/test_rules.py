"""Rules that hold between the panel, the library and the build files.

Which file may import what is in Testing/library/test_architecture.py.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = ROOT / "GaborSegLib" / "protocol.py"  # all of the library that the panel reads, and by its path


def test_protocol_works_alone():
    """Without site-packages, and without its own package."""
    code = f"""if True:
        import importlib.util, json, sys
        spec = importlib.util.spec_from_file_location("anything", {str(PROTOCOL)!r})
        module = sys.modules["anything"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        card = module.read_card({str(ROOT / "Resources/Weights/mixed.safetensors")!r})
        print(json.dumps([card["variant"], module.read_recipe({str(ROOT / "Resources/Recipes/paper.json")!r}).name]))
        """
    out = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == ["mixed", "paper"]


def test_panel_reads_the_protocol_beside_it_and_again_when_it_is_reloaded(module_widget):
    import slicer

    path, name = list(sys.path), "GaborSegPanel.protocol"
    before = sys.modules[name]
    assert Path(before.__file__) == PROTOCOL and sys.modules["GaborSegPanel"].protocol is before
    slicer.util.reloadScriptedModule("GaborSeg")
    slicer.modules.GaborSegWidget.panel.environment.stop_check()
    assert sys.modules[name] is not before and Path(sys.modules[name].__file__) == PROTOCOL
    assert sys.path == path


def test_nothing_is_installed_at_import():
    for file in (ROOT / "GaborSeg").rglob("*.py"):
        if file.name != "installation.py":
            assert "pip_install" not in file.read_text(encoding="utf-8"), file


def listed(cmake_file):
    """Paths that a CMakeLists.txt lists, relative to its folder."""
    text = re.sub(r"#.*", "", cmake_file.read_text(encoding="utf-8")).replace("${MODULE_NAME}", "GaborSeg")
    return set(re.findall(r"^\s+([\w./-]+\.\w+)$", text, re.MULTILINE))


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
