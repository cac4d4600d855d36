"""The panel of GaborSeg: everything that touches slicer, qt, ctk or vtk. It never imports torch; see `worker`."""

import importlib.util
import os
import sys
from functools import cache
from pathlib import Path

# Slicer's scripted modules stand in one folder: this one in a source tree, the installed one otherwise.
MODULE_FOLDER = Path(__file__).resolve().parent.parent


class PanelError(Exception):
    """An error that the user can do something about; its text says what was got, what was wanted and what to do."""


@cache
def beside_module(name):
    """Path of the library or the resources: in the module's own folder (installed) or in its parent (source tree)."""
    for folder in (MODULE_FOLDER, MODULE_FOLDER.parent):
        if (folder / name).exists():
            return folder / name
    raise PanelError(f"{name}: is not in {MODULE_FOLDER} nor in the folder above; install the extension again")


def resource(name):
    """Path of a file in `Resources`."""
    return beside_module("Resources") / name


def write_text(path, text):
    """Write a small file so that whoever reads it meanwhile finds the old one or the new one, whole."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _load_protocol():
    """The library's `protocol.py`, from its path, as this package's own module `protocol`.

    So nothing is put on sys.path, no other gaborseg that Slicer's Python may have is taken for it, and a reload of the
    module, which forgets this package, reads it again.
    """
    name = f"{__name__}.protocol"
    spec = importlib.util.spec_from_file_location(name, beside_module("GaborSegLib") / "protocol.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


protocol = _load_protocol()
