"""`python -m GaborSegLib`, and `python .../GaborSegLib`: by its path it is found whatever PYTHONPATH says."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:
        # Python puts a folder that it runs first on its path, where `data` or `files` would be taken for other
        # packages'. Its parent, in that place, lets this library be found before any other of its name.
        folder = Path(__file__).resolve().parent
        sys.path = [str(folder.parent), *(entry for entry in sys.path if not entry or Path(entry).resolve() != folder)]
    from GaborSegLib.cli.main import main

    sys.exit(main())
