"""How large each structure is: its volume in millilitres, as a dictionary, a CSV file and a text table."""

import numpy as np

from ..files import write_csv


def structure_volumes(labels, affine, structures):
    """Volume of each structure in mL (1 mL = 1000 mm³), a dictionary from name to float; 0.0 for an absent one.

    `labels` is a map of integers, 0 and up; `affine` (4 x 4) takes its voxel indices to mm, at any angle and even
    with shear, as the determinant is a voxel's volume; `structures` is a list of `Structure`.
    """
    voxel_ml = abs(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3])) / 1000
    counts = np.bincount(np.ravel(labels), minlength=1 + max(structure.label for structure in structures))
    return {structure.name: float(counts[structure.label] * voxel_ml) for structure in structures}


def write_volumes(path, volumes, quality=None):
    """Write a dictionary from `structure_volumes` as CSV: structure, volume_ml, percent (of all of them together).

    `quality`, a dictionary from `quality.structure_quality`, adds the column quality, 0 to 1.

    Raises `OutputError` if the file cannot be written.
    """
    rows = [["structure", "volume_ml", "percent", *(["quality"] if quality else [])]]
    for name, volume, percent in _with_percent(volumes):
        trust = [f"{quality[name]:.4f}"] if quality else []
        rows.append([name, f"{volume:.4f}", f"{percent:.4f}", *trust])
    write_csv(path, rows)


def volumes_table(volumes, quality=None):
    """A dictionary from `structure_volumes` as a text table, one line per structure and one for their total.

    `quality`, a dictionary from `quality.structure_quality`, adds a column.
    """
    width = max(len(name) for name in [*volumes, "Structure"])
    rule = "-" * (width + 24 + 11 * bool(quality))
    head = f"{'Structure':<{width}}  {'Volume (mL)':>12}  {'Percent':>8}" + (f"  {'Quality':>9}" if quality else "")
    lines = [
        f"{name:<{width}}  {volume:>12.2f}  {percent:>8.2f}" + (f"  {quality[name]:>9.2f}" if quality else "")
        for name, volume, percent in _with_percent(volumes)
    ]
    total = f"{'Total':<{width}}  {sum(volumes.values()):>12.2f}"
    return "\n".join([head, rule, *lines, rule, total])


def _with_percent(volumes):
    """(name, mL, percent of the total) of each structure; all the percentages are 0 if nothing was segmented."""
    total = sum(volumes.values()) or 1.0
    return [(name, volume, 100 * volume / total) for name, volume in volumes.items()]
