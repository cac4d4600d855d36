"""How large each structure is: its volume in millilitres, as a dictionary, a CSV file and a text table."""

import numpy as np

from ..files import write_csv

# Of paired structures: mL, mL, and 2 (L - R) / (L + R).
SIDE_COLUMNS = ("left", "right", "asymmetry")
# Of every structure: mL, the same in all rows, and the structure's share.
ICV_COLUMNS = ("icv_ml", "percent_of_icv")


def structure_volumes(labels, affine, structures):
    """Volume of each structure in mL (1 mL = 1000 mm³), a dictionary from name to float; 0.0 for an absent one.

    `labels` is a map of integers, 0 and up; `affine` (4 x 4) takes its voxel indices to mm, at any angle and even
    with shear, as the determinant is a voxel's volume; `structures` is a list of `Structure`.
    """
    voxel_ml = abs(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3])) / 1000
    counts = np.bincount(np.ravel(labels), minlength=1 + max(structure.label for structure in structures))
    return {structure.name: float(counts[structure.label] * voxel_ml) for structure in structures}


def side_volumes(labels, right, affine, structures):
    """How large the halves of paired structures are.

    Args:
        labels, affine: as for `structure_volumes`.
        right: bool array of the shape of `labels`, true on the patient's right.
        structures: list of the paired `Structure`.

    Returns:
        Dictionary from name to a dictionary: left, right (mL), asymmetry, which is 2 (L - R) / (L + R); None for a
        structure that was not found.
    """
    whole = structure_volumes(labels, affine, structures)
    on_right = structure_volumes(labels[right], affine, structures)
    sides = {}
    for name, both in whole.items():
        left = both - on_right[name]
        asymmetry = 2 * (left - on_right[name]) / both if both else None
        sides[name] = {"left": left, "right": on_right[name], "asymmetry": asymmetry}
    return sides


def percent_of_icv(volumes, icv):
    """A dictionary from `structure_volumes` in % of the intracranial volume, mL; empty if that is None."""
    return {name: 100 * volume / icv for name, volume in volumes.items()} if icv else {}


def write_volumes(path, volumes, quality=None, sides=None, icv=None):
    """Write a dictionary from `structure_volumes` as CSV: structure, volume_ml, percent (of all of them together).

    `quality`, a dictionary from `quality.structure_quality`, adds the column quality, 0 to 1. `sides`, from
    `side_volumes`, adds left, right (mL) and asymmetry, empty for what it lacks. `icv`, as `Segmentation.icv`, adds
    icv_ml (intracranial volume) and percent_of_icv, empty if there is none.

    Raises `OutputError` if the file cannot be written.
    """
    more = [*(["quality"] if quality else []), *(SIDE_COLUMNS if sides else []), *(ICV_COLUMNS if icv else [])]
    rows = [["structure", "volume_ml", "percent", *more]]
    for name, volume, percent in _with_percent(volumes):
        trust = [f"{quality[name]:.4f}"] if quality else []
        more = [*trust, *_side_texts(name, sides, 4), *_icv_texts(name, icv, 4)]
        rows.append([name, f"{volume:.4f}", f"{percent:.4f}", *more])
    write_csv(path, rows)


def volumes_table(volumes, quality=None, sides=None, icv=None):
    """A dictionary from `structure_volumes` as a text table, one line per structure and one for their total.

    `quality`, a dictionary from `quality.structure_quality`, adds a column, and `sides`, from `side_volumes`, three.
    `icv`, as `Segmentation.icv`, adds a column and a line; only a line, which says why, if there is none.
    """
    known = icv if icv and icv["ml"] else None
    width = max(len(name) for name in [*volumes, "Structure"])
    head = f"{'Structure':<{width}}  {'Volume (mL)':>12}  {'Percent':>8}" + (f"  {'Quality':>9}" if quality else "")
    head += "".join(f"  {title:>10}" for title in ("Left (mL)", "Right (mL)", "Asymmetry")) if sides else ""
    head += f"  {'% of ICV':>9}" if known else ""
    lines = [
        f"{name:<{width}}  {volume:>12.2f}  {percent:>8.2f}"
        + (f"  {quality[name]:>9.2f}" if quality else "")
        + "".join(f"  {text:>10}" for text in _side_texts(name, sides, 2))
        + "".join(f"  {text:>9}" for text in _icv_texts(name, known, 2)[1:])
        for name, volume, percent in _with_percent(volumes)
    ]
    rule, total = "-" * len(head), f"{'Total':<{width}}  {sum(volumes.values()):>12.2f}"
    if known:
        total += f"\nIntracranial volume (ICV): {known['ml']:.1f} mL"
    elif icv:
        total += f"\nNo intracranial volume (ICV): {icv['missing']}"
    return "\n".join(line.rstrip() for line in [head, rule, *lines, rule, total])


def _side_texts(name, sides, digits):
    """The texts of a structure's `SIDE_COLUMNS`; no texts without sides."""
    found = (sides or {}).get(name, {})
    values = [found.get(column) for column in SIDE_COLUMNS if sides]
    return ["" if value is None else f"{value:.{digits}f}" for value in values]


def _icv_texts(name, icv, digits):
    """The texts of a structure's `ICV_COLUMNS`, empty if there is no intracranial volume; no texts without `icv`."""
    if icv and icv["ml"]:
        return [f"{icv['ml']:.{digits}f}", f"{icv['percent'][name]:.{digits}f}"]
    return [""] * len(ICV_COLUMNS) if icv else []


def _with_percent(volumes):
    """(name, mL, percent of the total) of each structure; all the percentages are 0 if nothing was segmented."""
    total = sum(volumes.values()) or 1.0
    return [(name, volume, 100 * volume / total) for name, volume in volumes.items()]
