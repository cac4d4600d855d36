"""Every name of Slicer that the module uses, and every one that the test host offers, is one that a real Slicer has."""

import ast
from pathlib import Path
from xml.etree import ElementTree

import ctk
import pytest
import qt
import slicer
from host import pythonqt
from PySide6.QtCore import Property

ROOT = Path(__file__).resolve().parents[2]
MODULES = {name: set(names) for name, names in pythonqt.INVENTORY["modules"].items()}
# Python packages of Slicer, which the inventory of Slicer's compiled names does not look into.
PACKAGES = {"i18n", "packaging", "parameterNodeWrapper", "ScriptedLoadableModule", "util"}
HOST_CLASSES = [
    c
    for module in (ctk, slicer)
    for c in vars(module).values()
    if isinstance(c, type) and c.__module__.startswith("host")
]
QT_CLASSES = [name.split(".")[1] for name in pythonqt.INVENTORY["properties"] if name.startswith("qt.Q")]
GONE_IN_QT6 = {
    "autoCompletion",
    "autoCompletionCaseSensitivity",
    "confirmOverwrite",
    "nameFilterDetailsVisible",
    "readOnly",
    "resolveSymlinks",
    "margin",
    "tabStopWidth",
}


def dotted(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return [node.id, *parts] if isinstance(node, ast.Name) else []


def used_names(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and dotted(node)[:1] in (["qt"], ["ctk"], ["slicer"]):
            yield dotted(node)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield from ([*node.module.split("."), alias.name] for alias in node.names)


def is_known(parts):
    top, name, *rest = parts
    if top == "slicer" and name == "util":
        return not rest or rest[0] in MODULES["slicer.util"]
    if top == "slicer" and name in PACKAGES | {"modules", "mrmlScene"}:
        return True
    if name not in MODULES[top]:
        return False
    members = pythonqt.known_members(f"{top}.{name}")
    return not rest or members is None or rest[0] in members


def own_members(cls):
    """What the host itself gives a class; not what Qt asks every widget for."""
    asked_by_qt = {
        "sizeHint",
        "minimumSizeHint",
        "paintEvent",
        "showEvent",
        "childEvent",
        "hitButton",
        "staticMetaObject",
    }
    bases = [base for base in cls.__mro__ if base.__module__.startswith("host")]
    return {
        n: item
        for base in bases
        for n, item in vars(base).items()
        if n[0] not in "_ABCDEFGHIJKLMNOPQRSTUVWXYZ" and n not in asked_by_qt
    }


def real_name(cls):
    return f"{'ctk' if cls.__name__.startswith('ctk') else 'slicer'}.{cls.__name__}"


@pytest.mark.parametrize("file", sorted((ROOT / "GaborSeg").rglob("*.py")), ids=lambda file: file.name)
def test_module_uses_only_names_of_slicer(file):
    assert not [".".join(parts) for parts in used_names(file) if not is_known(parts)]


def test_check_finds_a_wrong_name():
    assert not is_known(["qt", "QPushButtn"]) and not is_known(["slicer", "util", "loadUi"])
    assert not is_known(["qt", "QProcess", "startCommand"])  # Qt 6 only
    assert is_known(["slicer", "app", "processEvents"]) and not is_known(["slicer", "app", "processEvent"])


@pytest.mark.parametrize("file", sorted((ROOT / "Resources").rglob("*.ui")), ids=lambda file: file.name)
def test_ui_file_uses_only_names_of_slicer(file):
    tree = ElementTree.parse(file)
    classes = {w.get("name"): w.get("class") for w in tree.iter("widget")}
    unknown = []
    for widget in tree.iter("widget"):
        module = {"ctk": "ctk", "qMR": "slicer"}.get(widget.get("class")[:3], "qt")
        members = pythonqt.known_members(f"{module}.{widget.get('class')}") or set()
        used = [p.get("name") for p in widget.findall("property") if p.get("stdset") != "0"]
        unknown += [(widget.get("name"), name) for name in used if name not in members]
        if widget.get("class") not in MODULES[module]:
            unknown.append(widget.get("class"))
    for connection in tree.iter("connection"):
        for end, name in (("sender", "signal"), ("receiver", "slot")):
            kind = classes[connection.findtext(end)]
            module = {"ctk": "ctk", "qMR": "slicer"}.get(kind[:3], "qt")
            if connection.findtext(name).split("(")[0] not in pythonqt.known_members(f"{module}.{kind}"):
                unknown.append((kind, connection.findtext(name)))
    assert not unknown


def test_host_modules_offer_only_names_of_slicer():
    for module in (qt, ctk):
        assert not {name for name in vars(module) if not name.startswith("_")} - MODULES[module.__name__]
    assert not {name for name in vars(slicer) if not name.startswith("_")} - MODULES["slicer"] - PACKAGES


@pytest.mark.parametrize("cls", [*HOST_CLASSES, type(slicer.app)], ids=lambda cls: cls.__name__)
def test_host_classes_have_only_members_of_slicers(cls):
    name = "slicer.app" if cls is type(slicer.app) else real_name(cls)
    assert not set(own_members(cls)) - pythonqt.known_members(name)


@pytest.mark.parametrize("name", QT_CLASSES)
def test_qt_properties_are_attributes_and_methods_are_not(name):
    properties = set(pythonqt.INVENTORY["properties"][f"qt.{name}"]) - GONE_IN_QT6
    cls = getattr(qt, name)
    assert not [p for p in properties if not isinstance(getattr(cls, p, None), property)]
    own = {m for m in vars(cls) if m in pythonqt.known_members(f"qt.{name}")} - properties - pythonqt.PROPERTIES
    assert not [m for m in own if isinstance(getattr(cls, m), property)]


@pytest.mark.parametrize("cls", HOST_CLASSES, ids=lambda cls: cls.__name__)
def test_host_properties_are_attributes_and_methods_are_not(cls):
    properties = pythonqt.INVENTORY["properties"].get(real_name(cls))
    kinds = {name: isinstance(item, (Property, property)) for name, item in own_members(cls).items()}
    if properties is not None:
        assert not [name for name, is_property in kinds.items() if is_property != (name in properties)]
