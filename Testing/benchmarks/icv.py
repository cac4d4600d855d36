"""Intracranial volume, `GaborSegLib.inference.icv`, in heads whose skulls are known.

A built head is a head label map shown with a random intensity for each tissue. Its brain is the map's own, or that of a
brain-extracted scan; either can be made smaller inside of the same skull, as atrophy does, and fluid takes the room.

1. The error in heads and with brains that were never seen in training.
2. Atrophy: how much the volume changes when the brain is made smaller inside of the same skull.
3. How much it changes by what scanners do to a scan (see degradations.py).
4. Other scans, which have no labels: the volume, a picture of its outline, and the processor seconds that it takes.

    python Testing/benchmarks/icv.py --scans head.nii.gz --output results
"""

import argparse
import time
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import torch
from accuracy import UNSEEN_HEADS, read_head, stem_label
from degradations import DEGRADATIONS, degraded
from scans import DATA, SCANS, VALIDATION, Scans, markdown, saving

from GaborSegLib.data.heads import (
    AIR,
    BRAIN,
    BRAIN_STEM_ID,
    FIRST_TISSUE,
    FIRST_TISSUE_ID,
    FLUID,
    FLUID_ID,
    find_heads,
    show_tissues,
)
from GaborSegLib.files import replacing
from GaborSegLib.inference.finder import find_brain, largest_component
from GaborSegLib.inference.icv import inside_of_skull, intracranial_volume
from GaborSegLib.scans.grid import Grid
from GaborSegLib.scans.image import Image
from GaborSegLib.scans.reading import read_image

# Numbers in a head label map: the cerebellum, whose lowest part lies at the foramen magnum; arteries and venous
# sinuses, which lie inside of the skull, and go on outside; the spinal cord; the marrow of bones.
CEREBELLUM_IDS, VESSEL_IDS, CORD_ID, MARROW_ID = (7, 8, 46, 47), (502, 514), 512, 516
# What leaves the skull, its vessels and nerves, is thinner than twice this, mm.
THINNEST = 4
# What the maps' brains show in a T1 scan, of the mean of the brain: ventricles, white matter, cortex; else 1.
VENTRICLES, WHITE, CORTEX = (4, 5, 14, 15, 43, 44, 72), (2, 7, 41, 46), (3, 8, 42, 47)
CORD = 1.1  # of the mean of the brain
# Codes of tissues that show any brightness: dura, which the maps lack, and marrow.
DURA, MARROW = 253, 254
# Of the data set that is made to train on: heads, and the edges of their brains as a share of what fills the skull.
TRAINING, HELD_OUT = 64, 10
SMALLEST, LARGEST = 0.8, 1.03
AROUND = 40  # mm of a head that are kept around the inner skull
# Of a brain's volume, %, that atrophy takes.
ATROPHY = (5, 10, 15)
TABLES = ("heads", "atrophy", "changes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="*", choices=TABLES, default=TABLES, metavar="T", help=", ".join(TABLES))
    parser.add_argument("--changes", nargs="+", metavar="NAME", help="of degradations.py, such as Noise (default: all)")
    parser.add_argument("--scans", nargs="*", default=[], type=Path, metavar="FILE", help="other heads, for a picture")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the tables and pictures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with saving(options.output, "icv.md") as show:
        for name in options.tables:
            more = [options.changes] if name == "changes" else []
            show(globals()[f"{name}_table"](*unseen(), *more))
        if options.scans:
            show(scans_table(options.scans, options.output))


def unseen():
    """The head label maps and the brain-extracted scans that were not trained on: two lists."""
    scans = Scans(SCANS)
    return find_heads(DATA / "head-label-maps")[UNSEEN_HEADS:], [scans[scan] for scan in VALIDATION]


def measured(image):
    """mL, as `Segmenter` measures them; NaN if there is no intracranial volume."""
    ml, _ = intracranial_volume(image.array, find_brain(image.array, image.affine))
    return np.nan if ml is None else ml


def heads_errors(files, scans):
    """Dictionary from (head, brain) to (mL of a built head, error in %): each head with its own brain and two."""
    found = {}
    for place, file in enumerate(files):
        for number in range(3):
            scan = scans[(2 * place + number) % len(scans)] if number else None
            image, inside = build(file, 1000 + 3 * place + number, scan=scan)
            truth = inside.sum() / 1000
            found[name_of(file), "its own" if scan is None else scan.id] = truth, 100 * (measured(image) / truth - 1)
    return found


def name_of(file):
    return file.name.partition(".")[0]


def heads_table(files, scans):
    found = heads_errors(files, scans)
    rows = [[*names, f"{truth:.0f}", f"{error:+.1f}"] for names, (truth, error) in found.items()]
    errors = np.array([error for _, error in found.values()])
    rows.append(["**Median of the absolute values**", "", "", f"**{np.median(abs(errors)):.2f}**"])
    rows.append(["Mean", "", "", f"{errors.mean():+.2f}"])
    table = markdown(["Head", "Brain", "Truth, mL", "Error, %"], rows)
    return f"## Heads and brains that were never seen in training\n\n{table}"


def atrophy_table(files, scans):
    rows = []
    for file, scan in zip(files, [None, *scans]):
        whole, *smaller = (
            measured(build(file, 2000, (1 - share / 100) ** (1 / 3), scan)[0]) for share in (0, *ATROPHY)
        )
        changes = [f"{100 * (ml / whole - 1):+.2f}" for ml in smaller]
        rows.append([name_of(file), scan.id if scan else "its own", f"{whole:.0f}", *changes])
    head = ["Head", "Brain", "mL", *(f"-{share} %" for share in ATROPHY)]
    return f"## Brains made smaller inside of the same skull: change of the volume, %\n\n{markdown(head, rows)}"


def changes_table(files, scans, names=None):
    """What the changes of some names do, by default all."""
    built = [build(files[0], 3000), build(files[1], 3001, scan=scans[0])]
    before = [measured(image) for image, _ in built]
    rows = []
    for change in (change for change in DEGRADATIONS if not names or change.name in names):
        cells = []
        for number, ((image, inside), whole) in enumerate(zip(built, before)):
            changed, _ = degraded(change, image, inside.astype(np.uint8), f"head {number}")
            share = 100 * (measured(changed) / whole - 1)
            cells.append("none" if np.isnan(share) else f"{share:+.1f}")
        rows.append([change.name, change.strength, *cells])
    head = markdown(["Change", "Strength", *(f"{name_of(file)}, %" for file in files[:2])], rows)
    return f"## What scanners do: change of the volume\n\n{head}"


def scans_table(paths, folder):
    """The volumes in other scans, and the processor seconds they take; pictures go into the folder, if there is one."""
    rows = []
    for path in paths:
        image = read_image(path)
        brain = find_brain(image.array, image.affine)
        seconds = []
        for _ in range(3):  # the first opens the network
            start = time.process_time()
            ml, missing = intracranial_volume(image.array, brain)
            seconds.append(time.process_time() - start)
        rows.append([path.name, missing if ml is None else f"{ml:.0f}", f"{min(seconds):.2f}"])
        if folder and ml:
            draw(*inside_of_skull(image.array, brain)[:2], folder / f"{name_of(path)}.png")
    return f"## Other scans\n\n{markdown(['Scan', 'mL', 'Processor seconds'], rows)}"


def draw(scores, cube, path):
    """Write a picture of the outline in three slices of each plane."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 15), layout="constrained")
    inside = scores.numpy() > 0.5
    for axis, row in enumerate(figure.subplots(3, 3)):
        first, last = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))[[0, -1]]
        for axes, share in zip(row, (0.3, 0.5, 0.7)):
            place = round(first + share * (last - first))
            axes.imshow(np.take(cube, place, axis), cmap="gray", origin="lower", vmax=2)
            axes.contour(np.take(scores, place, axis), [0.5], colors="red", linewidths=1)
            axes.set_axis_off()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=60)


@cache
def skull(file):
    """(head label map, bool array of all inside of the inner skull) from a file; axes z, y, x, voxels of 1 mm.

    Both are cropped to the skull and what is near it. The inside ends below at the foramen magnum.
    """
    import SimpleITK

    head = read_head(file)
    inside = (head > 0) & (head < FIRST_TISSUE_ID) | np.isin(head, VESSEL_IDS)
    inside[: np.flatnonzero(np.isin(head, CEREBELLUM_IDS).any(axis=(1, 2)))[0]] = False
    box = _around(inside)
    head, inside = head[box], inside[box]
    opened = SimpleITK.BinaryMorphologicalOpening(SimpleITK.GetImageFromArray(inside.astype(np.uint8)), [THINNEST] * 3)
    return head.astype(np.int16), largest_component(SimpleITK.GetArrayFromImage(opened) > 0)


def _around(mask):
    """The box of a mask with `AROUND` voxels more on each side, as far as there are; three slices."""
    places = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(slice(max(0, p[0] - AROUND), p[-1] + 1 + AROUND) for p in places)


def build(file, seed, size=1.0, scan=None):
    """A head of a label map: (`Image` of 1 mm, bool array of all inside of its inner skull).

    Args:
        file: the head label map.
        seed: of all that is random: tissues' brightness, its unevenness, noise.
        size: of the brain, edges as a share of the map's own brain's.
        scan: a brain-extracted `Scan` whose brain is shown; by default the map's own brain is.
    """
    head, inside = skull(file)
    generator = torch.Generator().manual_seed(seed)
    show = _own_brain if scan is None else _brain_of(scan)
    brain = show(head, size, generator) * torch.from_numpy(inside) + CORD * torch.from_numpy(head == CORD_ID)
    tissue = show_tissues(torch.from_numpy(_codes(head, inside, brain.numpy(), generator)), generator, t1=True)
    noise = 0.05 * torch.rand((), generator=generator) * torch.randn(brain.shape, generator=generator)
    whole = 200 * (brain + tissue + noise).clamp(min=0)
    return Image(np.ascontiguousarray(whole.numpy().T), np.eye(4)), np.ascontiguousarray(inside.T)


def _codes(head, inside, brain, generator):
    """Codes for `show_tissues` (uint8, as the head) of what is not the brain."""
    import SimpleITK

    codes = np.where(head >= FIRST_TISSUE_ID, head - FIRST_TISSUE_ID + FIRST_TISSUE, AIR).astype(np.uint8)
    codes[(head > 0) & (head < FIRST_TISSUE_ID)] = FLUID
    marrow, dura = torch.rand(2, generator=generator).tolist()
    if marrow < 0.6:
        codes[head == MARROW_ID] = MARROW
    if dura < 0.7:
        core = SimpleITK.GetArrayFromImage(SimpleITK.BinaryErode(SimpleITK.GetImageFromArray(inside.astype(np.uint8))))
        codes[inside & (core == 0)] = DURA
    codes[brain > 0] = BRAIN
    return codes


def _own_brain(head, size, generator):
    """The map's own brain, made smaller, with T1 intensities whose mean is about 1."""
    is_brain = (head > 0) & (head < FIRST_TISSUE_ID) & (head != FLUID_ID)
    values = torch.ones(FIRST_TISSUE_ID)
    for ids, low, high in ((VENTRICLES, 0.1, 0.5), (WHITE, 1.05, 1.35), (CORTEX, 0.65, 0.95)):
        values[list(ids)] = low + (high - low) * float(torch.rand((), generator=generator))
    shown = torch.from_numpy(np.where(is_brain, head, 0))
    shown = values[shown.long()] * (shown > 0) * (1 + 0.05 * torch.randn(head.shape, generator=generator))
    low, high = _box(is_brain)
    middle = (low + high) / 2
    return _resampled(shown, head.shape, [(np.arange(n) - m) / size + m for n, m in zip(head.shape, middle)])


def _brain_of(scan):
    """What shows the brain of a scan where the map's own brain lies."""

    def show(head, size, generator):
        own = (scan.truth > 0) & (scan.truth != stem_label())
        is_brain = (head > 0) & (head < FIRST_TISSUE_ID) & (head != FLUID_ID) & (head != BRAIN_STEM_ID)
        low, high = _box(own.T)
        head_low, head_high = _box(is_brain)
        scale = size * (head_high - head_low) / (high - low)
        middles = zip(head.shape, (head_low + head_high) / 2, (low + high) / 2, scale)
        places = [(np.arange(n) - middle) / step + other for n, middle, other, step in middles]
        image = torch.from_numpy(np.ascontiguousarray(scan.image.array.T))
        return _resampled(image / image[image > 0].mean(), head.shape, places)

    return show


def _resampled(image, shape, places):
    """(D, H, W) interpolated linearly at places along each axis, 0 outside; a tensor of a shape."""
    for axis, place in enumerate(places):
        weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(image.shape[axis])))
        weights = torch.from_numpy(weights.astype(np.float32))
        image = torch.tensordot(weights, image, dims=([1], [axis])).movedim(0, axis)
    return image.contiguous()


def _box(mask):
    """First and last index along each axis, two arrays."""
    places = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return np.array([p[0] for p in places]), np.array([p[-1] for p in places])


def close_grid(image, inside, size):
    """A cube of a size over a built head, about as it is laid over a scan: the skull, and an eighth of that around."""
    low, high = _box(inside)
    margin = (high - low) / 8
    return Grid(image.array.shape, image.affine, size, tuple(low - margin), tuple(high + margin))


def made_data(folder, scans, size):
    """Write built heads as a data set to train on, cubes of a size; goes on where it was interrupted.

    Those that are held out have the brains of the scans that are, as their subjects, and heads of their own.

    Args:
        folder: of the data set.
        scans: `Scans`.
        size: edge of the cubes, voxels.

    Returns:
        The folder.
    """
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "structures.csv").write_text("label,structure,ids\n0,Background,0\n1,Inside of the skull,1\n")
    training, held_out = scans.data.split(VALIDATION)
    files = find_heads(DATA / "head-label-maps")
    subjects = {}
    for letter, cases, maps, count in (
        ("t", training, files[:UNSEEN_HEADS], TRAINING),
        ("v", held_out, files[UNSEEN_HEADS:], HELD_OUT),
    ):
        for number in range(count):
            name, case = f"{letter}{number:03}", cases[number // 2 % len(cases)]
            subjects[name] = case.id if case in held_out else name
            if (folder / "labels" / f"{name}.nii.gz").exists():
                continue
            # Every other shows its own brain; most brains about fill the skull, some are much smaller.
            scan = scans[case.id] if number % 2 else None
            share = LARGEST - (LARGEST - SMALLEST) * np.random.default_rng([number, count]).random() ** 2
            image, inside = build(maps[number % len(maps)], number, share, scan)
            grid = close_grid(image, inside, size)
            for kind, cube in (
                ("images", grid.image_to_cube(image.array).numpy().astype(np.int16)),
                ("labels", grid.labels_to_cube(inside, 2).numpy()),
            ):
                with replacing(folder / kind / f"{name}.nii.gz") as temporary:
                    nibabel.save(nibabel.Nifti1Image(cube.T, grid.cube_affine()), temporary)
    lines = [f"{name},{subject}" for name, subject in subjects.items()]
    (folder / "subjects.csv").write_text("\n".join(["scan,subject", *lines]) + "\n")
    return folder


if __name__ == "__main__":
    main()
