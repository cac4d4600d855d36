"""How well a network does on labelled scans: on the network's cube, as in the paper, and on the scans' own grids."""

import numpy as np

from ..data.absent import merge_labels
from ..data.dataset import read_case
from ..events import silent
from ..scans.grid import Grid
from .metrics import score_scan


def evaluate(segmenter, cases, table, report=silent):
    """Score a network on cases.

    Args:
        segmenter: a `Segmenter`.
        cases: list of `dataset.Case`.
        table: the data set's `LabelTable`, with the structures of the network.
        report: takes events.

    Returns:
        Two lists of rows (see `metrics.score_scan`): on the cube over the whole scan, the paper's protocol, and on the
        scan's own grid as a user gets it. Distances are in mm on both. Structures that the source of the labels lacks
        count as what it calls them, and have no scores of their own (NaN).
    """
    on_cube, on_scan = [], []
    for done, case in enumerate(cases):
        report({"event": "progress", "stage": "Evaluating", "done": done, "total": len(cases)})
        image, truth = read_case(case, table)
        with segmenter.explaining_memory(image.name):
            grid = Grid(image.array.shape, image.affine, segmenter.card["grid_size"])
            predicted = segmenter.predict(grid.image_to_cube(image.array)).argmax(dim=0).byte().numpy()
            predicted = merge_labels(predicted, table.counts_as)
            expected = grid.labels_to_cube(truth, segmenter.card["classes"]).numpy()
            on_cube += score_scan(case.id, predicted, expected, segmenter.structures, [grid.spacing] * 3)
            labels = merge_labels(segmenter.segment(image).labels, table.counts_as)
            spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
            on_scan += score_scan(case.id, labels, truth, segmenter.structures, spacing)
    report({"event": "progress", "stage": "Evaluating", "done": len(cases), "total": len(cases)})
    return on_cube, on_scan
