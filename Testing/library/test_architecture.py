"""The order of the house: which file may import which, and how large files may grow.

What is read is the syntax of every import, those inside of functions too. Each rule is a function from a package's
folder to a list of what breaks it, and at the end a made package shows that each of them can be broken.
"""

import ast
import copy
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY, PANEL = ROOT / "GaborSegLib", ROOT / "GaborSeg"
# From the top: a file imports from its own wing and from lower floors. "" are the single files beside the wings.
# Wings of one floor know nothing of each other.
FLOORS = (
    ("cli",),
    ("cohort",),
    ("training",),
    ("evaluation",),
    ("data",),
    ("inference",),
    ("model",),
    ("report", "scans"),
    ("",),
)
# Files that may import upwards, and why.
DOORS = {"__main__.py": "`python -m GaborSegLib` is the command line"}
# Files that may import by a name that is computed, which no rule here can see, and why.
BY_NAME = {"__init__.py": "the public names are looked up when they are first used, because torch takes seconds"}
APPLICATION = {"slicer", "qt", "ctk", "GaborSeg", "GaborSegPanel"}
HEAVY = {"torch", "nibabel", "safetensors", "matplotlib", "GaborSegLib"}
# The one file that draws with VTK, in the functions that draw: segmenting works without it.
DRAWS = "report/render3d.py"
FILE_LINES, CLASS_LINES, FILES_OF_A_WING = 500, 300, 12


@cache
def files_of(package):
    """All Python files of a package's folder: dictionary from the path in it, as text, to the syntax tree."""
    paths = sorted(package.rglob("*.py"))
    return {path.relative_to(package).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def wing(file):
    return file.partition("/")[0] if "/" in file else ""


def floor(file):
    """The number of a file's floor from the top, or None if its wing has none."""
    return next((number for number, wings in enumerate(FLOORS) if wing(file) in wings), None)


def imported(tree):
    """Names of all modules outside of the package that a tree imports, by statement or by a constant name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
        elif is_import_by_name(node) and node.args and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value)


def is_import_by_name(node):
    names = ("import_module", "__import__")
    return isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in names


def top_names(tree):
    return {name.partition(".")[0] for name in imported(tree)}


def outside_functions(tree):
    """The tree without the bodies of functions: what runs when the file is imported."""

    class Remove(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

    return Remove().visit(copy.deepcopy(tree))


def imports(package):
    """For each file of a package the set of the package's files that it imports."""
    files = files_of(package)

    def found(parts):
        """The file that a dotted name in the package stands for: a module, a folder's __init__.py, or a name in one."""
        for end in (parts, parts[:-1]):
            for name in ("/".join(end) + ".py", "/".join([*end, "__init__.py"])):
                if name in files:
                    return name
        raise AssertionError(f"{package.name}: no file for {'.'.join(parts)}")

    def targets(file, tree):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                folder = file.split("/")[: -node.level]
                yield from (
                    found([*folder, *(node.module.split(".") if node.module else []), a.name]) for a in node.names
                )
            elif isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == package.name:
                yield from (found([*node.module.split(".")[1:], alias.name]) for alias in node.names)
            elif isinstance(node, ast.Import):
                own = (alias.name.split(".") for alias in node.names)
                yield from (found(parts[1:]) for parts in own if parts[0] == package.name)

    return {file: set(targets(file, tree)) for file, tree in files.items()}


# The rules


def upward_imports(package):
    """Imports of a higher floor, or of another wing of the same one, and files in no wing that is known here."""
    links = imports(package)
    for file in links:
        if floor(file) is None:
            yield f"{file}: {wing(file)} stands in no floor; add it to FLOORS"
    for file, others in links.items():
        for other in sorted(others):
            here, there = floor(file), floor(other)
            allowed = None in (here, there) or here < there or wing(file) == wing(other)
            if not allowed and file not in DOORS:
                yield f"{file} imports {other}, from above or from beside"


def cycles(package):
    """Groups of files that import each other, straight or through others."""
    links = imports(package)

    def reached(file):
        seen, waiting = set(), list(links[file])
        while waiting:
            other = waiting.pop()
            if other not in seen:
                seen.add(other)
                waiting += links[other]
        return seen

    reach = {file: reached(file) for file in links}
    groups = {tuple(sorted({file} | {o for o in reach[file] if file in reach[o]})) for file in links}
    yield from (" and ".join(group) for group in sorted(groups) if len(group) > 1 or group[0] in reach[group[0]])


def foreign_imports_of_the_protocol(package):
    """Slicer reads protocol.py by its path, before anything is installed."""
    (tree,) = (tree for file, tree in files_of(package).items() if file == "protocol.py")
    yield from sorted(imports(package)["protocol.py"])
    yield from sorted(top_names(tree) - sys.stdlib_module_names)


def imports_of_the_application(package):
    for file, tree in files_of(package).items():
        yield from (f"{file} imports {name}" for name in sorted(top_names(tree) & APPLICATION))


def imports_of_vtk(package):
    for file, tree in files_of(package).items():
        if "vtk" in top_names(tree) and (file != DRAWS or "vtk" in top_names(outside_functions(tree))):
            yield f"{file} imports vtk; {DRAWS} alone may, in a function"


def imports_by_a_computed_name(package):
    for file, tree in files_of(package).items():
        for node in ast.walk(tree):
            if is_import_by_name(node) and file not in BY_NAME and not isinstance(node.args[0], ast.Constant):
                yield f"{file}:{node.lineno}"


def heavy_imports(package):
    """In the panel: Slicer has to start without these, and with whatever versions of them other extensions brought."""
    for file, tree in files_of(package).items():
        yield from (f"{file} imports {name}" for name in sorted(top_names(tree) & HEAVY))


def large_files(package):
    for path in sorted(package.rglob("*.py")):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES:
            yield f"{path.relative_to(package).as_posix()} has {lines} lines; wanted {FILE_LINES} at most"


def large_classes(package):
    for file, tree in files_of(package).items():
        for node in ast.walk(tree):
            lines = node.end_lineno - node.lineno + 1 if isinstance(node, ast.ClassDef) else 0
            if lines > CLASS_LINES:
                yield f"{file}: {node.name} has {lines} lines; wanted {CLASS_LINES} at most"


def crowded_wings(package):
    """Folders by their number of files; an __init__.py is none."""
    counts = Counter(file.rpartition("/")[0] for file in files_of(package) if not file.endswith("__init__.py"))
    for folder, count in sorted(counts.items()):
        if count > FILES_OF_A_WING:
            yield f"{folder or package.name} has {count} files; wanted {FILES_OF_A_WING} at most"


RULES = [
    pytest.param(rule, package, id=f"{rule.__name__} in {package.name}")
    for rule, *packages in (
        (upward_imports, LIBRARY),
        (cycles, LIBRARY, PANEL),
        (foreign_imports_of_the_protocol, LIBRARY),
        (imports_of_the_application, LIBRARY),
        (imports_of_vtk, LIBRARY),
        (imports_by_a_computed_name, LIBRARY),
        (heavy_imports, PANEL),
        (large_files, LIBRARY, PANEL),
        (large_classes, LIBRARY, PANEL),
        (crowded_wings, LIBRARY),
    )
    for package in packages
]


@pytest.mark.parametrize("rule, package", RULES)
def test_holds(rule, package):
    assert list(rule(package)) == []


def test_every_wing_is_there():
    assert {wing(file) for file in files_of(LIBRARY)} == {name for names in FLOORS for name in names}
    assert all((LIBRARY / file).is_file() for file in [*DOORS, *BY_NAME, DRAWS])


# Each rule can fail


def made(folder, **files):
    """A package of these files; names have two underscores for a slash."""
    package = folder / "Made"
    for name, text in {"protocol": "import json\n", **files}.items():
        path = package / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


@pytest.mark.parametrize(
    "rule, files, problems",
    [
        (upward_imports, {"model__a": "from ..scans.b import x", "scans__b": "from .. import e", "e": ""}, 0),
        (upward_imports, {"scans__b": "def f():\n  from ..model.a import y", "model__a": ""}, 1),
        (upward_imports, {"errors": "import Made.model.a as a", "model__a": ""}, 1),
        (upward_imports, {"scans__a": "from ..report import b", "report__b": ""}, 1),
        (upward_imports, {"attic__a": ""}, 1),
        (cycles, {"a": "from .b import x", "b": "from .c import y", "c": ""}, 0),
        (cycles, {"a": "from .b import x", "b": "from .c import y", "c": "def f():\n  from . import a"}, 1),
        (cycles, {"a": "from Made.a import x"}, 1),
        (foreign_imports_of_the_protocol, {}, 0),
        (foreign_imports_of_the_protocol, {"protocol": "def f():\n  import numpy.linalg"}, 1),
        (foreign_imports_of_the_protocol, {"protocol": "from .errors import e", "errors": ""}, 1),
        (imports_of_the_application, {"a": "import sitk, torch"}, 0),
        (imports_of_the_application, {"a": "import qt.x, a\nfrom ctk.b import c\ndef f():\n  import slicer"}, 3),
        (imports_of_the_application, {"a": "import_module('slicer.util')"}, 1),
        (imports_of_vtk, {"report__render3d": "def f():\n  import vtk.util"}, 0),
        (imports_of_vtk, {"report__render3d": "import vtk"}, 1),
        (imports_of_vtk, {"report__overview": "def f():\n  from vtk import x"}, 1),
        (imports_by_a_computed_name, {"a": "importlib.import_module('a')"}, 0),
        (imports_by_a_computed_name, {"a": "__import__(name)"}, 1),
        (heavy_imports, {"a": "import torchio"}, 0),
        (heavy_imports, {"a": "def f():\n  import torch.nn, GaborSegLib.protocol"}, 2),
        (large_files, {"a": "x\n" * 500}, 0),
        (large_files, {"a": "x\n" * 501}, 1),
        (large_classes, {"a": "class A:\n" + "  x = 1\n" * 299}, 0),
        (large_classes, {"a": "if x:\n  class A:\n" + "    x = 1\n" * 300}, 1),
        (crowded_wings, {f"data__a{i}": "" for i in range(12)}, 0),
        (crowded_wings, {f"data__a{i}": "" for i in range(13)}, 1),
    ],
)
def test_can_fail(tmp_path, rule, files, problems):
    assert len(list(rule(made(tmp_path, **files)))) == problems


def test_the_library_itself_is_read():
    """The rules above would hold for an empty folder, too."""
    links = imports(LIBRARY)
    assert len(links) > 30 and sum(map(len, links.values())) > 100
    assert "model/network.py" in links["model/weights.py"]
    assert "vtk" in top_names(files_of(LIBRARY)[DRAWS])
