"""Writes inventory.json: the names of the real application that the host and its tests are held against.

usage: make_inventory.py FOLDER        FOLDER holds names.json and kinds.json, read off a running Slicer

Only names are kept (they are facts), and only for what a scripted module with a panel is likely to touch. A class
lists the names it has beyond those of its base, so that the file stays small.
"""

import json
import sys
from pathlib import Path

BASES = {"QObject": "qt.QObject", "QWidget": "qt.QWidget"}
EXTRA_CLASSES = {
    "qt.QObject",
    "qt.QAbstractButton",
    "qt.QAbstractItemView",
    "qt.QTableView",
    "qt.QHeaderView",
    "qt.QApplication",
    "qt.QUiLoader",
    "qt.QDir",
    "qt.QFileInfo",
    "qt.QStyle",
    "qt.QSizePolicy",
    "qt.QEvent",
    "qt.QMainWindow",
    "qt.QTableWidgetItem",
    "qt.QDesktopServices",
    "qt.QClipboard",
    "qt.QSpacerItem",
    "qt.QDialogButtonBox",
    "slicer.qMRMLThreeDView",
    "slicer.qSlicerScriptedLoadableModule",
    "slicer.qSlicerScriptedLoadableModuleWidget",
    "slicer.qSlicerLoadableModule",
    "slicer.qSlicerModuleManager",
    "slicer.qSlicerLayoutManager",
}
INSTANCES = {
    "slicer.app": "slicer.app",
    "slicer.app.layoutManager()": "slicer.qSlicerLayoutManager",
    "mainWindow": "slicer.qSlicerMainWindow",
    "moduleManager": "slicer.qSlicerModuleManager",
    "threeDView": "slicer.qMRMLThreeDView",
    "threeDWidget": "slicer.qMRMLThreeDWidget",
}


def members(name, names):
    """The class's names; those of its base are replaced by the base itself."""
    names = set(names)
    for base in ("QWidget", "QObject"):
        inherited = set(CLASSES[BASES[base]])
        if name != BASES[base] and inherited <= names:
            return [f"<{BASES[base]}>", *sorted(names - inherited)]
    return sorted(names)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    known = json.loads((folder / "names.json").read_text(encoding="utf-8"))
    kinds = json.loads((folder / "kinds.json").read_text(encoding="utf-8"))
    CLASSES = known["classes"]
    wanted = {name: CLASSES[name] for name in EXTRA_CLASSES | set(kinds) if name in CLASSES}
    for instance, name in INSTANCES.items():
        wanted[name] = set(wanted.get(name, ())) | set(known["instances"][instance]["names"])
    inventory = {
        "versions": known["versions"],
        "modules": {name: sorted(names) for name, names in known["modules"].items()},
        "classes": {name: members(name, names) for name, names in sorted(wanted.items())},
        "properties": {name: sorted(kind["property"]) for name, kind in sorted(kinds.items())},
    }
    target = Path(__file__).with_name("inventory.json")
    target.write_text(json.dumps(inventory, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{target.name}: {target.stat().st_size // 1000} kB, {len(inventory['classes'])} classes")
