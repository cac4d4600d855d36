"""`gaborseg train --recipe`: options from a file, a bundled one or the user's own."""

import argparse
import re
from pathlib import Path

from ..errors import TrainingError
from ..protocol import read_recipe
from ..structures import resource_path


def bundled_recipes():
    """Names of the recipes in `Resources/Recipes`, a list."""
    return sorted(path.stem for path in resource_path("Recipes").glob("*.json"))


def find_stage(text):
    """One stage of a recipe.

    Args:
        text: name of a bundled recipe, or path of a .json; with `:N` behind it for its N-th stage, from 1.

    Returns:
        (what the card calls it, such as `mixed-cpu:3`; `Path` of the file; `protocol.Stage`).

    Raises:
        TrainingError: there is no such recipe, the file is none, or it is not said which of several stages is meant.
    """
    name, number = re.fullmatch(r"(.*?)(?::(\d+))?", text, re.DOTALL).groups()
    if name not in bundled_recipes() and not name.endswith(".json"):
        known = ", ".join(bundled_recipes())
        raise TrainingError(f"--recipe: got {text!r}; it can be {known}, or the path of a .json file")
    path = Path(name) if name.endswith(".json") else resource_path("Recipes") / f"{name}.json"
    try:
        recipe = read_recipe(path)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read ({error.strerror}); choose another recipe") from error
    except ValueError as error:
        raise TrainingError(f"{path}: {error}") from error
    count = len(recipe.stages)
    if not 1 <= int(number or (count == 1)) <= count:
        stages = ", ".join(f"{name}:{i}" for i in range(1, count + 1))
        raise TrainingError(f"--recipe: got {text!r}; choose one of its stages, {stages}")
    label = f"{recipe.name}:{number}" if count > 1 else recipe.name
    return label, path, recipe.stages[int(number or 1) - 1]


def parse_stage(stage, path, add_arguments):
    """The options of a stage as the command line would parse them, a dictionary of those that it has.

    Args:
        stage: a `protocol.Stage`.
        path: of its file.
        add_arguments: adds the arguments of `gaborseg train` to a parser.

    Raises:
        TrainingError: `gaborseg train` does not take them; names the file.
    """

    class Parser(argparse.ArgumentParser):
        def error(self, message):
            raise TrainingError(f"{path}: {message}; correct the file, see gaborseg train --help")

    parser = Parser(add_help=False)
    add_arguments(parser)
    parsed = vars(parser.parse_args(["DATA", "--output", "DIR", *stage.arguments]))
    return {name: parsed[name] for name in parsed["defaults"] if parsed[name] is not None}
