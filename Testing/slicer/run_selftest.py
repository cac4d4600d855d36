"""Run the module's self-test inside a full Slicer and leave with its result:

    Slicer --no-main-window --testing --additional-module-paths GaborSeg --python-script Testing/slicer/run_selftest.py

Slicer's Python, or the one that the environment variable GABORSEG_PYTHON names, must have the library's packages.
"""

import unittest

import slicer


def main():
    import GaborSeg

    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite([GaborSeg.GaborSegTest()]))
    slicer.util.exit(slicer.util.EXIT_SUCCESS if result.wasSuccessful() else slicer.util.EXIT_FAILURE)


if __name__ == "__main__":
    main()
