"""`python -m GaborSegLib`, and `python .../GaborSegLib`: by its path it is found whatever PYTHONPATH says."""

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:
        # Python puts a folder that it runs first on its path, where `data` or `files` would be taken for other
        # packages'. Its parent, in that place, lets this library be found before any other of its name.
        folder = Path(__file__).resolve().parent
        sys.path = [str(folder.parent), *(entry for entry in sys.path if not entry or Path(entry).resolve() != folder)]
    from GaborSegLib.protocol import ERROR, OLDEST_PYTHON, REFUSED

    if sys.version_info < OLDEST_PYTHON:  # before anything is imported that such a Python cannot even read
        here, wanted = (".".join(map(str, version[:2])) for version in (sys.version_info, OLDEST_PYTHON))
        message = f"{sys.executable}: is Python {here}, and GaborSeg needs {wanted} or later; choose a newer Python"
        if "--json" in sys.argv:
            print(json.dumps({"event": ERROR, "code": "python", "message": message}))
        else:
            print(f"gaborseg: {message}", file=sys.stderr)
        sys.exit(REFUSED)
    from GaborSegLib.cli.main import main

    sys.exit(main())
