"""The structures a network segments: label, name and colour.

The paper's nineteen (Table 1a) stand in `Resources/structures.csv`, in the paper's order; label 0 is background. Which
of them have a left and a right half, and what FreeSurfer calls them, stands in `Resources/sides.csv`.
"""

import colorsys
import csv
from dataclasses import dataclass
from pathlib import Path

from .errors import GaborSegError
from .protocol import OWN_NAMES, SIDES, half_name, terminology_tags

# A half's label is its structure's, and as many hundreds (thousands, where there are more than 99 structures): no half
# can be taken for a structure, and each still tells whose half it is.
HUNDREDS = {"left": 1, "right": 2}
# The colour of a right half is its structure's, a little darker.
DARKER = {"left": 1.0, "right": 0.8}


@dataclass(frozen=True)
class Structure:
    """One segmented structure, or half of one.

    Args:
        label: 1 and up.
        name: for people.
        colour: red, green, blue; 0 to 255.
        term: by which 3D Slicer knows what it is, see `protocol.terminology_tags`; or "".
    """

    label: int
    name: str
    colour: tuple[int, int, int]
    term: str = ""


def resource_path(name):
    """Path of a file in `Resources`, which stands inside an installed package and beside it in a source tree."""
    package = Path(__file__).resolve().parent
    inside = package / "Resources"
    return (inside if inside.is_dir() else package.parent / "Resources") / name


def paper_structures():
    """The paper's nineteen structures (Table 1a), a list of `Structure` in the paper's order."""
    with open(resource_path("structures.csv"), newline="", encoding="utf-8") as file:
        return [
            Structure(int(row["label"]), row["structure"], (int(row["red"]), int(row["green"]), int(row["blue"])))
            for row in csv.DictReader(file)
        ]


def paired_structures():
    """Names of the paper's structures that have a left and a right half, in the paper's order."""
    return list(dict.fromkeys(row["structure"] for row in _side_rows() if row["side"]))


def _side_rows():
    with open(resource_path("sides.csv"), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def named_structures(names):
    """A list of `Structure` for any names: labels count from 1; the paper's keep their colours, others get one."""
    colours = {structure.name: structure.colour for structure in paper_structures()}
    return [Structure(i, name, colours.get(name) or _other_colour(i)) for i, name in enumerate(names, start=1)]


def sided_structures(structures, paired, names=OWN_NAMES):
    """Structures, with the halves of those that are paired in their place.

    Args:
        structures: list of `Structure`.
        paired: names of those that have a left and a right half.
        names: `gaborseg`: "Left hippocampus", labels by `HUNDREDS`; `freesurfer`: names and labels of
            FreeSurferColorLUT, where it has them.

    Returns:
        Dictionary from (label of the structure, side), the side "left", "right" or "", to `Structure`.

    Raises:
        GaborSegError: FreeSurfer has no name for one of them.
    """
    called = {(row["structure"], row["side"]): row for row in _side_rows()}
    terms = {side: terminology_tags(resource_path("GaborSeg.term.json"), side) for side in (*SIDES, "")}
    hundred = 100 if len(structures) < 100 else 1000
    parts = {}
    for whole in structures:
        for side in SIDES if whole.name in paired else ("",):
            label = whole.label + hundred * HUNDREDS.get(side, 0)
            name = half_name(whole.name, side) if side else whole.name
            if names != OWN_NAMES:
                row = called.get((whole.name, side))
                if row is None:
                    raise GaborSegError(f"{whole.name}: FreeSurfer has no name for it; use --names {OWN_NAMES}")
                label, name = int(row["freesurfer_id"]), row["freesurfer_name"]
            colour = tuple(round(DARKER.get(side, 1.0) * value) for value in whole.colour)
            parts[whole.label, side] = Structure(label, name, colour, terms[side].get(whole.name, ""))
    return parts


def _other_colour(label):
    """A colour for a label outside the paper's list: hues a golden angle apart stay distinct however many there are."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.65, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
