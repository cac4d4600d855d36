"""For `pytest`: what is left out when examples in docstrings are looked for, which are in every file of the library."""

import importlib.util

collect_ignore_glob = [
    # No tests and no library: their examples, if there were any, need Slicer, MONAI or a person.
    "Testing/benchmarks/*",
    "Testing/host/*",
    "Testing/slicer/*",
    "Testing/panel/screenshots.py",
]
if importlib.util.find_spec("triton") is None:  # 285 MB, and of use on a GPU alone
    collect_ignore_glob.append("GaborSegLib/model/fast/fused.py")
