"""The list of structures, and which packages may be imported where."""

import ast
from pathlib import Path

import pytest

from GaborSegLib.structures import named_structures, paper_structures

ROOT = Path(__file__).resolve().parents[2]
TABLE_1A = """Cerebral grey, 3rd ventricle, 4th ventricle, Brainstem, CVL I-V, CVL VI-VII, CVL VIII-X, Accumbens,
    Amygdala, Caudate, Cerebellar grey, Cerebellar white, Cerebral white, Hippocampus, Inf. lateral vent.,
    Lateral ventricle, Pallidum, Putamen, Thalamus"""


def test_the_papers_structures():
    structures = paper_structures()
    assert [structure.name for structure in structures] == [name.strip() for name in TABLE_1A.split(",")]
    assert [structure.label for structure in structures] == list(range(1, 20))


def test_colours():
    """Of a legend with every structure of the paper and twenty others: all different, and none is black."""
    paper = paper_structures()
    structures = named_structures([structure.name for structure in paper] + [f"Other {i}" for i in range(20)])
    assert structures[:19] == paper
    assert [structure.label for structure in structures] == list(range(1, 40))
    assert len({structure.colour for structure in named_structures([f"Other {i}" for i in range(255)])}) == 255
    colours = {structure.colour for structure in structures}
    assert len(colours) == 39
    assert all(0 <= value <= 255 and isinstance(value, int) for colour in colours for value in colour)
    assert all(max(colour) > 100 for colour in colours)


def test_labels_follow_the_order_of_the_names():
    first, second = named_structures(["Thalamus", "Cerebral grey"])
    assert (first.label, first.name, first.colour) == (1, "Thalamus", paper_structures()[18].colour)
    assert (second.label, second.name, second.colour) == (2, "Cerebral grey", paper_structures()[0].colour)


def imported(tree):
    """Top-level packages of a piece of syntax tree's absolute imports, by statement or by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            yield from (str(a.value).split(".")[0] for a in node.args[:1] if isinstance(a, ast.Constant))


def outside_functions(tree):
    """The tree without the bodies of functions: what runs when the module is imported."""

    class Remove(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

    return Remove().visit(tree)


def modules(folder):
    return [pytest.param(path, id=path.name) for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", modules("GaborSegLib"))
def test_library_runs_without_slicer(path):
    """VTK alone may be used, when a picture is drawn."""
    text = path.read_text(encoding="utf-8")
    everywhere = set(imported(ast.parse(text)))
    assert not everywhere & {"slicer", "qt", "ctk", "GaborSeg"}
    assert "vtk" not in set(imported(outside_functions(ast.parse(text))))
    assert "vtk" not in everywhere or path.name == "render3d.py"


@pytest.mark.parametrize("path", modules("GaborSeg"))
def test_slicer_module_does_not_import_torch(path):
    """Slicer has to start without it, and with whatever version of it other extensions brought."""
    assert "torch" not in set(imported(ast.parse(path.read_text(encoding="utf-8"))))


def test_imports_are_found():
    """The two tests above can fail."""
    tree = "import qt.x, a\nfrom ctk.b import c\nfrom . import slicer\ndef f():\n  import vtk\n  import_module('torch')"
    assert set(imported(ast.parse(tree))) == {"qt", "a", "ctk", "vtk", "torch"}
    assert set(imported(outside_functions(ast.parse(tree)))) == {"qt", "a", "ctk"}
    assert len(modules("GaborSegLib")) > 10
