"""python Testing/host SCRIPT [ARGUMENTS]: runs a Python script in the test host, as `Slicer --python-script` does."""

import importlib.util
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)  # and not this folder, whose packaging.py is not everybody's
    spec = importlib.util.spec_from_file_location("host", Path(__file__).with_name("__init__.py"))
    host = sys.modules["host"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(host)
    host.start()
    runpy.run_path(sys.argv[0], run_name="__main__")
