"""The module's own self-test, the same class that runs in Slicer."""

import sys
import unittest

import pytest


@pytest.mark.processes
def test_selftest(module_widget, monkeypatch):
    import GaborSeg

    monkeypatch.setenv("GABORSEG_PYTHON", sys.executable)
    result = unittest.TestResult()
    GaborSeg.GaborSegTest().run(result)
    assert result.testsRun == 1
    assert not result.errors and not result.failures, "".join(text for _, text in result.errors + result.failures)
