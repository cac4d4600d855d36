"""Which structures touch each other: makes Resources/contacts.csv, by which specks are found (inference/specks.py).

From the experts' labels of all scans whose subjects were not held out: in how many small pieces of 10 mm3 or more a
scan each structure is drawn, and of its surface, in faces of voxels, the share that touches each other structure and
background. No face at the border of a scan counts.

    python Testing/benchmarks/contacts.py
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from scans import SCANS, VALIDATION

from GaborSegLib.data.dataset import read_case
from GaborSegLib.data.sources import find_data
from GaborSegLib.files import replacing
from GaborSegLib.inference.specks import small_pieces
from GaborSegLib.structures import resource_path

SMALLEST = 10  # mm3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SCANS, help="labelled scans")
    parser.add_argument("--validation", default=",".join(VALIDATION), metavar="IDS", help="what is held out")
    parser.add_argument("--output", type=Path, default=resource_path("contacts.csv"), metavar="FILE")
    options = parser.parse_args()
    data = find_data(options.data)
    training, _ = data.split(options.validation.split(","))
    names = ["Background", *data.table.names]
    faces, pieces = 0, np.zeros(len(names))
    for case in training:
        image, labels = read_case(case, data.table)
        faces += touching_faces(labels, len(names))
        pieces += count_pieces(labels, len(names), SMALLEST / np.prod(image.spacing))
    with replacing(options.output) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["structure", "pieces", *names])
        for name, count, row in zip(names, pieces / len(training), faces / faces.sum(axis=1, keepdims=True)):
            writer.writerow([name, f"{count:.3f}", *(f"{share:.5f}" for share in row)])
    print(f"wrote {options.output}, from {len(training)} scans")


def count_pieces(labels, classes, smallest):
    """How many small pieces of so many voxels or more each class of a label map has, (classes); 0 for background."""
    ids = [small_pieces(labels, label)[1] for label in range(1, classes)]
    return np.array([0, *(np.count_nonzero(np.bincount(i) >= smallest) for i in ids)])


def touching_faces(labels, classes):
    """How many faces of voxels each two classes of a label map share, (classes, classes), 0 on the diagonal."""
    found = np.zeros((classes, classes), dtype=int)
    for axis in range(3):
        along = np.moveaxis(labels, axis, 0).astype(int)
        pairs = along[:-1] * classes + along[1:]
        found += np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)
    found += found.T
    np.fill_diagonal(found, 0)
    return found


if __name__ == "__main__":
    main()
