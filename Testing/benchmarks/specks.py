"""Pieces of structures where they cannot be, before and after they are taken away, and what that costs.

On held-out scans, on the same scans in built heads, on the ICBM152 average brain, and on more scans without labels.
Counted are the specks of more than 10 mm3 in the label map, as `GaborSegLib/inference/specks.py` knows them, and the
processor seconds that its rule takes.

    python Testing/benchmarks/specks.py mixed --more head.nii.gz
"""

import argparse
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
from accuracy import UNSEEN_HEADS, put_in_head, read_head
from scans import DATA, Network, Scans, add_options, markdown, saving

from GaborSegLib.cli.demo import icbm152
from GaborSegLib.data.heads import find_heads
from GaborSegLib.inference import segmenter as module
from GaborSegLib.inference import specks
from GaborSegLib.scans.reading import read_image

SMALLEST = 10  # mm3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--heads", nargs="+", metavar="FILE", help="head label maps (default: those after the 16th)")
    parser.add_argument("--more", nargs="+", type=Path, default=[], metavar="FILE", help="scans without labels")
    options = parser.parse_args()
    scans = Scans(options.data)
    heads = options.heads or find_heads(DATA / "head-label-maps")[UNSEEN_HEADS:]
    with saving(options.output, "specks.md") as show:
        show(f"`python {' '.join(sys.argv)}`")
        for weights in options.weights:
            network = Network(weights, options.device, scans.data)
            labelled = [scans[scan] for scan in options.scans or network.held_out()]
            rows = [row(network, *case) for case in cases(labelled, heads, options.more)]
            show(f"## {network.name}\n\n{table(rows)}")


def cases(scans, heads, more):
    """Yield (name, `Image`, label map or None)."""
    for scan in scans:
        yield scan.id, scan.image, scan.truth
    for number, scan in enumerate(scans):
        yield f"{scan.id} in a head", *put_in_head(scan, read_head(heads[number % len(heads)]), seed=number)
    yield "ICBM152", icbm152(), None
    for path in more:
        yield path.name, read_image(path), None


def row(network, name, image, truth):
    before, after, seconds = before_and_after(network, image, name)
    scores = [np.nanmean(network.dice(labels, truth)) for labels in (before, after)] if truth is not None else []
    return name, [sizes_of_specks(labels, image.spacing) for labels in (before, after)], scores, seconds


def before_and_after(network, image, name):
    """Label maps without and with the rule from one segmentation, and the processor seconds that the rule took."""
    kept = []

    def timed(labels, spacing):
        started = time.process_time()
        after = specks.remove_specks(labels, spacing)
        kept.extend([labels, time.process_time() - started])
        return after

    with mock.patch.object(module, "remove_specks", timed):
        after = network.segment(image, name).labels
    return kept[0], after, kept[1]


def sizes_of_specks(labels, spacing):
    """mm3 of each speck of more than `SMALLEST` in a label map with voxels of such a spacing, mm; an array."""
    sizes = []
    for label in range(1, len(specks.contacts()[1])):
        places, ids = specks.small_pieces(labels, label)
        sizes.extend(np.prod(spacing) * np.bincount(ids)[specks.is_speck(labels, label, places, ids, spacing)])
    return np.array([size for size in sizes if size > SMALLEST])


def table(rows):
    """Markdown; each row of (name, specks before and after, Dice before and after or [], seconds)."""
    lines = []
    for name, sizes, scores, seconds in rows:
        counts = [f"{len(size)} ({size.sum() / 1000:.3f})" for size in sizes]
        dice = [f"{score:.5f}" for score in scores] or ["", ""]
        lines.append([name, *counts, *dice, f"{seconds:.2f}"])
    total = [sum(len(sizes[i]) for _, sizes, _, _ in rows) for i in (0, 1)]
    mean = np.mean([scores for _, _, scores, _ in rows if scores], axis=0)
    slowest = max(seconds for *_, seconds in rows)
    lines.append(["**all**", *total, *(f"{score:.5f}" for score in mean), f"up to {slowest:.2f}"])
    head = ["Scan", "Specks (mL) before", "after", "Dice before", "after", "Seconds"]
    return markdown(head, lines)


if __name__ == "__main__":
    main()
