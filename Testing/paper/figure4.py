"""Fig. 4 of Wong & Moradi 2022: a scan, the experts and the three variants side by side; axial and 3D views.

    python Testing/paper/figure4.py                  # scan 1002, validation: runs/paper/figure4.png
    python Testing/paper/figure4.py --icbm           # ICBM152, without experts: docs/images/paper-figure4.png

The bundled weights. As in the paper, the 3D views leave out cerebral grey, cerebral white and cerebellar grey. Pictures
of the labelled scans are not for this repository, as the scans are not, so the one in the documents is of the average
brain.
"""

import argparse
from pathlib import Path

import numpy as np
import study
from scans import SCANS, VALIDATION, straight

from GaborSegLib.cli.demo import icbm152
from GaborSegLib.data.dataset import read_case
from GaborSegLib.data.sources import find_data
from GaborSegLib.files import replacing
from GaborSegLib.inference.segmenter import Segmenter
from GaborSegLib.report import overview
from GaborSegLib.report.render3d import render_apart
from GaborSegLib.structures import paper_structures

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "paper-figure4.png"
HIDDEN = ("Cerebral grey", "Cerebral white", "Cerebellar grey")
PIXELS = 420  # of a column


def panels(image, truth):
    """Label maps by name: the experts', if there are any, and those of the three variants."""
    found = {"experts": truth} if truth is not None else {}
    return {**found, **{variant: Segmenter(variant).segment(image).labels for variant in study.VARIANTS}}


def draw(image, maps, path):
    """Draw label maps of an `Image` whose axes point right, anterior, superior; a column each."""
    from matplotlib.figure import Figure  # and not pyplot, which takes whatever window system is there

    structures = paper_structures()
    spacing = np.abs(np.diag(image.affine)[:3])
    first = next(iter(maps.values()))
    crop = overview._region(first, spacing)
    level = overview._best_slices(first)[2]
    grey = overview._grey(image.array, first, crop)
    figure = Figure(figsize=(3 * len(maps), 6.4), layout="constrained", facecolor="black")
    axes = figure.subplots(2, len(maps), squeeze=False)
    for (above, below), (name, labels) in zip(axes.T, maps.items()):
        window = crop[0], crop[1], level
        columns = PIXELS
        rows = PIXELS * spacing[1] * (crop[1].stop - crop[1].start) / (spacing[0] * (crop[0].stop - crop[0].start))
        slices = (array[window][::-1, ::-1].T for array in (grey, labels))
        above.imshow(overview._overlaid(*slices, rows / 2, columns / 2, structures))
        above.set_title(name, color="white")
        views, note = render_apart(without_hidden(labels[crop], structures), spacing, structures)
        if views:
            below.imshow(views[0])
        else:
            below.text(0.5, 0.5, note, color="white", ha="center", wrap=True)
        above.set_axis_off()
        below.set_axis_off()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def without_hidden(labels, structures):
    hidden = [structure.label for structure in structures if structure.name in HIDDEN]
    return np.where(np.isin(labels, hidden), 0, labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SCANS, help="labelled scans")
    parser.add_argument("--scan", default=VALIDATION[0], help="id of one of them")
    parser.add_argument("--icbm", action="store_true", help="the ICBM152 average brain, which has no experts")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    if options.icbm:
        image, truth = icbm152(), None
        image, _ = straight(image, image.array)
    else:
        data = find_data(options.data)
        case = next(case for case in data.cases if case.id == options.scan)
        image, truth = straight(*read_case(case, data.table))
    picture = options.picture or (PICTURE if options.icbm else Path("runs/paper/figure4.png"))
    draw(image, panels(image, truth), picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
