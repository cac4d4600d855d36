"""Whether what lies on the left is called left: `GaborSegLib.inference.sides` against the experts' labels.

Of every voxel in a paired structure it is known on which side it lies, as the released ids tell the sides apart.

1. The share of each structure's voxels on the right side, in the held-out scans, and in heads built around them.
2. The same after each change of `degradations.py`, the lowest of all structures and scans: is there ever a swap?
3. Half a brain: the other half is cut away, or set to 0.
4. A mirrored scan, and the 48 orders that its axes can be stored in: voxels that are not on the side that they were.
5. Dice of the structures with their sides, beside that of the structures alone.

    python Testing/benchmarks/sides.py --output results
"""

import argparse
import itertools
from dataclasses import replace

import nibabel
import numpy as np
from accuracy import UNSEEN_HEADS, put_in_head, read_head
from degradations import DEGRADATIONS, degraded
from scans import DATA, SCANS, VALIDATION, Scan, markdown, saving, straight

from GaborSegLib.data.heads import find_heads
from GaborSegLib.data.sources import find_data
from GaborSegLib.evaluation.metrics import dice
from GaborSegLib.inference.finder import find_brain
from GaborSegLib.inference.segmenter import Segmenter
from GaborSegLib.inference.sides import find_right
from GaborSegLib.scans.grid import SIZE, Grid
from GaborSegLib.scans.image import Image
from GaborSegLib.scans.reading import read_image
from GaborSegLib.structures import paired_structures, paper_structures

# The released ids that are on the right; the other ids of the paired structures are on the left.
RIGHT_IDS = [23, 31, 36, 38, 40, 44, 47, 49, 51, 55, 57, 59, *range(100, 208, 2)]
PAIRED = [structure for structure in paper_structures() if structure.name in paired_structures()]
TABLES = ("shares", "limit", "heads", "changes", "halves", "mirror", "orders", "dice")
SMOOTHING = (1.0, 2.0, 3.0)  # mm, standard deviation
# Added to a structure's label, on the right.
RIGHT = 100


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, metavar="T", help=", ".join(TABLES))
    parser.add_argument("--scans", nargs="+", default=VALIDATION, metavar="ID", help="default: those held out")
    parser.add_argument("--output", metavar="DIR", help="folder for the tables")
    options = parser.parse_args()
    data = find_data(SCANS)
    scans = [read(case, data.table) for case in data.cases if case.id in options.scans]
    with saving(options.output, "sides.md") as show:
        for name in options.tables:
            show(globals()[f"{name}_table"](scans))


def read(case, table):
    """A `Scan` whose truth is the label of a voxel's structure, with `RIGHT` added on the right."""
    ids = read_image(case.labels).array.astype(int)
    truth = table.apply(ids) + RIGHT * np.isin(ids, RIGHT_IDS).astype(np.uint8)
    return Scan(case.id, case.subject, *straight(read_image(case.image), truth))


def on_side(truth):
    """Where the truth is on the left, and where on the right, two bool arrays."""
    return np.isin(truth, [structure.label for structure in PAIRED]), truth > RIGHT


def nearer_right(scan):
    """Where what is surely right is nearer than what is surely left, bool."""
    import SimpleITK

    def distance(mask):
        image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
        return SimpleITK.GetArrayFromImage(SimpleITK.SignedMaurerDistanceMap(image, squaredDistance=False))

    left, right = map(distance, on_side(scan.truth))
    return right < left


def middle(scan):
    """The index along the first axis halfway between the middles of the left and of the right."""
    return round(float(np.mean([np.nonzero(side)[0].mean() for side in on_side(scan.truth)])))


def halves(scan, middle):
    """The left and the right of an index along the first axis, two `Scan`."""
    return cut(scan, "l", slice(0, middle)), cut(scan, "r", slice(middle, None))


def cut(scan, name, part):
    """A `Scan` of a part of another along its first axis."""
    affine = scan.image.affine @ nibabel.affines.from_matvec(np.eye(3), [part.start, 0, 0])
    image = replace(scan.image, array=scan.image.array[part], affine=affine)
    return Scan(f"{scan.id}{name}", scan.subject, image, scan.truth[part])


def right_of(image):
    """What `Segmenter` does for the sides: bool array."""
    brain = find_brain(image.array, image.affine)
    grid = brain.grid_for(SIZE) if brain else Grid(image.array.shape, image.affine, SIZE)
    return find_right(image.array, grid, brain)


def shares(image, truth):
    """Share of each paired structure's voxels that is on the experts' side, and of all of them; NaN for none."""
    agrees, label = right_of(image) == (truth > RIGHT), truth % RIGHT
    count = [np.bincount(values.ravel(), minlength=RIGHT) for values in (label, label[agrees])]
    voxels, right = (values[[structure.label for structure in PAIRED]] for values in count)
    with np.errstate(invalid="ignore"):
        return np.append(right / voxels, right.sum() / voxels.sum())


def percent(value):
    return f"{100 * value:.2f}"


def by_structure(title, columns):
    """A table of shares, a row a structure; `columns` is a dictionary from title to an array of `shares`."""
    rows = zip(
        [*(structure.name for structure in PAIRED), "**All**"],
        *([percent(value) for value in column] for column in columns.values()),
    )
    return f"## {title}\n\n{markdown(['Structure', *columns], rows)}"


def shares_table(scans):
    found = np.array([shares(scan.image, scan.truth) for scan in scans])
    columns = {"mean": found.mean(axis=0), "lowest": found.min(axis=0)}
    columns.update((scan.id, column) for scan, column in zip(scans, found))
    return by_structure("On the right side, % of voxels", columns)


def limit_table(scans):
    """How far a smooth border between the sides can agree with the experts': their own one, smoothed."""
    import SimpleITK

    def smoothed(scan, width):
        left, right = on_side(scan.truth)
        image = SimpleITK.GetImageFromArray(right.astype(np.float32) - left)
        smooth = SimpleITK.GetArrayFromImage(SimpleITK.SmoothingRecursiveGaussian(image, width))
        return percent(((smooth > 0) == right)[left | right].mean())

    rows = [[scan.id, *(smoothed(scan, width) for width in SMOOTHING)] for scan in scans]
    table = markdown(["Scan", *(f"{width} mm" for width in SMOOTHING)], rows)
    return f"## The experts' own sides, smoothed by a Gaussian, % of voxels on the side that they were\n\n{table}"


def heads_table(scans):
    heads = [read_head(file) for file in find_heads(DATA / "head-label-maps")[UNSEEN_HEADS:]]
    found = []
    for number, scan in enumerate(scans):
        found.append(shares(*put_in_head(scan, heads[number % len(heads)], seed=number)))
    columns = {"mean": np.nanmean(found, axis=0), "lowest": np.nanmin(found, axis=0)}
    return by_structure("In built heads, % of voxels on the right side", columns)


def changes_table(scans):
    rows = []
    for change in DEGRADATIONS:
        found = np.array([shares(*degraded(change, scan.image, scan.truth, scan.id)) for scan in scans])
        scan, structure = np.unravel_index(np.nanargmin(found), found.shape)
        lowest = f"{percent(found[scan, structure])} ({PAIRED[structure].name}, {scans[scan].id})"
        rows.append([change.name, change.strength, percent(found[:, -1].mean()), lowest])
    head = markdown(["Change", "Strength", "All, mean", "Lowest"], rows)
    return f"## After what scanners do, % of voxels on the right side\n\n{head}"


def halves_table(scans):
    """Of what is of the half by the experts' labels: a cut is plane, and leaves a little of the other half."""
    rows = []
    for scan in scans:
        place = middle(scan)
        parts = zip(halves(scan, place), on_side(scan.truth), (slice(place, None), slice(0, place)), (0, 1))
        for half, own, gone, side in parts:
            array, truth = scan.image.array.copy(), scan.truth * own
            array[gone], truth[gone] = 0, 0
            found = (
                shares(half.image, half.truth * on_side(half.truth)[side]),
                shares(replace(scan.image, array=array), truth),
            )
            rows.append([half.id, *(percent(column[-1]) for column in found), percent(np.nanmin(found))])
    table = markdown(["Half", "Cut away", "Set to 0", "Lowest structure of both"], rows)
    return f"## Half a brain, % of voxels on the right side\n\n{table}"


def mirror_table(scans):
    rows = []
    for scan in scans:
        mirrored = replace(scan.image, array=np.ascontiguousarray(scan.image.array[::-1]))
        rows.append([scan.id, *same_side(scan, [right_of(mirrored)[::-1]])])
    table = markdown(["Scan", "Voxels of paired structures", "On the same side in the mirrored scan"], rows)
    return f"## A mirrored scan\n\n{table}"


def same_side(scan, others):
    """The voxels of paired structures, and the most of them that are on the scan's own side in one of other maps."""
    inside, right = np.logical_or(*on_side(scan.truth)), right_of(scan.image)
    return np.sum(inside), max(np.sum((other == right)[inside]) for other in others)


def orders_table(scans):
    rows = []
    for scan in scans:
        stored = (~nibabel.apply_orientation(right_of(image), back) for image, back in orders(scan.image))
        rows.append([scan.id, *same_side(scan, stored)])
    table = markdown(["Scan", "Voxels of paired structures", "On another side in the worst of 48 orders"], rows)
    return f"## Stored in other orders of the axes\n\n{table}"


def orders(image):
    """The image stored in each of the 48 orders and directions of its axes, and the orientation that leads back."""
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product([1, -1], repeat=3):
            turn = np.column_stack([axes, signs]).astype(float)
            affine = image.affine @ nibabel.orientations.inv_ornt_aff(turn, image.array.shape)
            array = np.ascontiguousarray(nibabel.apply_orientation(image.array, turn))
            first = np.argsort(axes)
            back = np.column_stack([first, np.array(signs)[first]])
            yield Image(array, affine), back


def dice_table(scans):
    """Dice of the paired structures, and the mean of those of their halves."""
    segmenter, rows = Segmenter("mixed", "cpu"), []
    labels = np.array([structure.label for structure in PAIRED])
    for scan in scans:
        found = segmenter.segment(scan.image)
        whole = dice(found.labels, scan.truth % RIGHT, labels)
        parts = dice(found.labels + RIGHT * found.right.astype(np.uint8), scan.truth, [*labels, *(labels + RIGHT)])
        rows.append([whole, parts.reshape(2, -1).mean(axis=0)])
    whole, parts = np.mean(rows, axis=0)
    lost = np.transpose([whole, parts, whole - parts])
    names = [*(structure.name for structure in PAIRED), "**Mean**"]
    texts = [[f"{value:.4f}" for value in row] for row in [*lost, lost.mean(axis=0)]]
    table = markdown(["Structure", "Alone", "Mean of its halves", "Lost"], [[n, *t] for n, t in zip(names, texts)])
    return f"## Dice with sides, mixed weights\n\n{table}"


if __name__ == "__main__":
    main()
