"""The structures a network segments: label, name and colour.

The paper's nineteen (Table 1a) stand in `Resources/structures.csv`, in the paper's order; label 0 is background.
"""

import colorsys
import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Structure:
    """One segmented structure: its label (1 and up), its name, its colour (red, green, blue; 0 to 255)."""

    label: int
    name: str
    colour: tuple[int, int, int]


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


def named_structures(names):
    """A list of `Structure` for any names: labels count from 1; the paper's keep their colours, others get one."""
    colours = {structure.name: structure.colour for structure in paper_structures()}
    return [Structure(i, name, colours.get(name) or _other_colour(i)) for i, name in enumerate(names, start=1)]


def _other_colour(label):
    """A colour for a label outside the paper's list: hues a golden angle apart stay distinct however many there are."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.65, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
