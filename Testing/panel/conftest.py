"""Fixtures for the panel's tests: the application, a fresh scene, and the module loaded as Slicer loads it."""

import importlib.util
import sys
import time
from pathlib import Path

import pytest

TESTING = Path(__file__).parents[1]
MODULE = TESTING.parent / "GaborSeg" / "GaborSeg.py"

# Not through sys.path: there, the folder Testing/slicer would become a part of the package slicer.
_spec = importlib.util.spec_from_file_location("host", TESTING / "host" / "__init__.py")
host = sys.modules["host"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(host)
host.start()  # before the tests are collected: they import qt and slicer at their top


@pytest.fixture(scope="session")
def application():
    return host.start()


@pytest.fixture
def scene(application, failures):
    """The application's scene, empty; with the settings of a first start, no dialogs and nothing to install."""
    import qt
    from host import dialogs, packaging

    qt.QSettings().clear()
    for record in (dialogs.answers, dialogs.shown, dialogs.unanswered, packaging.requested):
        record.clear()
    application.mrmlScene().Clear(False)
    yield application.mrmlScene()
    application.mrmlScene().Clear(False)


@pytest.fixture
def failures(monkeypatch):
    """Errors in slots and observers: Qt and VTK only print them. A test that expects some empties the list."""
    found = []

    def note(kind, error, trace):
        found.append(f"{kind.__name__}: {error}")
        sys.__excepthook__(kind, error, trace)

    monkeypatch.setattr(sys, "excepthook", note)
    yield found
    assert not found, f"errors inside slots or observers: {found}"


@pytest.fixture
def module_widget(application, scene):
    """GaborSegWidget, set up and entered; cleaned up as at the application's end."""
    import slicer
    from host.application import load_module, unload_module

    load_module(MODULE)
    slicer.util.selectModule("GaborSeg")
    slicer.util.mainWindow().show()
    # Entered, it asks its Python what that has; the answer takes two seconds and is of use to few tests.
    slicer.modules.GaborSegWidget.panel.environment.stop_check()
    yield slicer.modules.GaborSegWidget
    unload_module("GaborSeg")


@pytest.fixture
def wait_until(application):
    """wait_until(condition, seconds): runs the event loop until the condition holds, and fails if it never does."""
    import qt

    def wait(condition, timeout=30):
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"not within {timeout} s"
            loop = qt.QEventLoop()
            qt.QTimer.singleShot(5, loop.quit)
            loop.exec()

    return wait
