"""Dice lost to what scanners do to a scan: contrast, bias field, noise, blur, slices, resolution, field of view, ...

Each held-out scan is changed in each way of `degradations.py`, segmented, and compared with its expert labels,
which are resampled or cut as the scan is. Lost is the Dice of the unchanged scan less that of the changed one, a mean
over the structures of which at least half is still in view. Prints a Markdown table.
"""

import argparse
import csv
import math
from collections import defaultdict

import numpy as np
from degradations import DEGRADATIONS, degraded
from scans import Network, Scans, add_options, markdown, saving

from GaborSegLib.files import replacing

KEPT = 0.5  # of a structure's volume must be in view, or its Dice says little
LIMIT = 0.05  # Dice that a change should cost at most
COLUMNS = ("weights", "scan", "degradation", "strength", "structure", "dice", "lost", "quality")
NONE = "None"  # the unchanged scan


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    options = parser.parse_args()
    scans = Scans(options.data)
    networks = [Network(weights, options.device, scans.data) for weights in options.weights]
    rows = []
    for network in networks:
        rows += measure(network, [scans[scan] for scan in options.scans or network.held_out()])
    if options.output:
        write_rows(options.output / "robustness.csv", rows)
    with saving(options.output, "robustness.md") as show:
        show(robustness_table(rows))


def measure(network, scans, degradations=DEGRADATIONS):
    """A list of dictionaries (`COLUMNS`), one for each scan, degradation and structure.

    Dice and quality are 0 for a structure that was not found and where the program failed; then the row has `failure`.
    """
    rows = []
    for scan in scans:
        best = network.segmentation(scan)
        expected = network.dice(best.labels, scan.truth)
        rows += _rows(network, scan, (NONE, ""), expected, expected, best.quality)
        for degradation in degradations:
            image, truth = degraded(degradation, scan.image, scan.truth, scan.id)
            names, failure = (degradation.name, degradation.strength), None
            try:
                found = network.segment(image, f"{scan.id} {' '.join(names)}")
                in_view = _in_view(scan, image, truth, network.labels) >= KEPT
                scores, quality = np.where(in_view, network.dice(found.labels, truth), np.nan), found.quality
            except Exception as error:  # any is a finding, and no reason to lose the other rows
                scores, quality = np.zeros(len(expected)), dict.fromkeys(network.structures, 0.0)
                failure = f"{type(error).__name__}: {error}"
            rows += _rows(network, scan, names, expected, scores, quality, failure)
    return rows


def _rows(network, scan, names, expected, scores, quality, failure=None):
    same = {"weights": network.name, "scan": scan.id, "degradation": names[0], "strength": names[1], "failure": failure}
    return [
        {**same, "structure": name, "dice": float(score), "lost": float(best - score), "quality": quality[name]}
        for name, best, score in zip(network.structures, expected, scores)
        if not math.isnan(best - score)
    ]


def _in_view(scan, image, truth, labels):
    """Share of each structure's volume that is left in the changed label map."""

    def volumes(labels_map, affine):
        counts = np.bincount(labels_map.ravel(), minlength=max(labels) + 1)[list(labels)]
        return counts * abs(np.linalg.det(affine[:3, :3]))

    return volumes(truth, image.affine) / np.maximum(volumes(scan.truth, scan.image.affine), 1e-9)


def robustness_table(rows):
    """Markdown: for each degradation and each weight file the mean Dice lost, the worst scan's and what failed."""
    names = list(dict.fromkeys(row["weights"] for row in rows))
    kinds = list(dict.fromkeys((row["degradation"], row["strength"]) for row in rows if row["degradation"] != NONE))
    head = ["Change", "Strength", *(f"{name}: {what}" for name in names for what in ("lost", "worst scan"))]
    lines, trouble, means = [], [], defaultdict(list)
    for kind in kinds:
        line = list(kind)
        for name in names:
            chosen = [r for r in rows if r["weights"] == name and (r["degradation"], r["strength"]) == kind]
            lost = {scan: _mean(r["lost"] for r in chosen if r["scan"] == scan) for scan in {r["scan"] for r in chosen}}
            worst = max(lost, key=lost.get)
            means[name].append(_mean(lost.values()))
            line += [_three_digits(means[name][-1]), f"{_three_digits(lost[worst])} ({worst})"]
            trouble += [
                f"{name}, {r['scan']}, {' '.join(kind)}: {r['failure'] or r['structure'] + ' was not found'}"
                for r in chosen
                if r["dice"] == 0
            ]
        lines.append(line)
    notes = []
    for name, lost in means.items():
        notes.append(f"{name}: {sum(mean <= LIMIT for mean in lost)} of {len(lost)} lose at most {LIMIT}")
    notes += dict.fromkeys(trouble) if trouble else ["No crash, no refusal, no structure that was not found."]
    return f"{markdown(head, lines)}\n\n" + "\n".join(f"- {note}" for note in notes)


def write_rows(path, rows):
    """Write the rows of `measure` as CSV."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _mean(values):
    return float(np.mean(list(values)))


def _three_digits(value):
    return f"{round(value, 3) + 0:.3f}"  # + 0: no -0.000


if __name__ == "__main__":
    main()
