"""Specks: small pieces of a structure, apart from the rest of it, where it cannot be.

They are pieces of what the experts never draw in pieces (cerebral grey below the thalamus, amygdala in the insula), or
they lie among what their structure hardly ever touches (lateral ventricle in a sulcus). Sizes do not tell them: the
occipital horn of a ventricle is often a small piece of its own. Nor does what they touch: such a horn can be so thin
that its border is taken for cerebral grey. What lies some millimetres around them does.

They are looked for in the labels on the scan's grid, which nothing changes any more: a piece there can have been part
of a larger one on the cube.
"""

import csv
import math
from functools import lru_cache

import numpy as np

from ..structures import resource_path

# A piece is small if it has less than this share of its structure's largest. The halves of paired structures have more.
SMALL = 0.1
# A structure that the experts draw in fewer small pieces a scan is drawn in none.
PIECES = 0.2
# Of other structures, a piece is a speck if more than `STRANGE` of what lies within `NEAR` mm of its voxels is of
# classes that hardly ever touch the structure: each has less than this share of the other's surface. In training scans,
# alone and in heads, occipital horns have up to 0.32, pieces of lateral ventricle elsewhere 0.44 and more.
HARDLY_EVER, NEAR, STRANGE = 0.01, 6.0, 0.4
# Looked at are places so many mm apart.
APART = 2.0
# What a speck becomes can be a speck again.
ROUNDS = 3
FACES = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])


@lru_cache(maxsize=1)
def contacts():
    """What the experts' labels of the training scans know of the paper's structures, made by benchmarks/contacts.py.

    Returns:
        Shares of contact, (classes, classes): row i is the surface of class i, by the class that it touches; class 0
        is background; rows sum to 1. And in how many small pieces a scan each class is drawn, (classes).
    """
    with open(resource_path("contacts.csv"), newline="", encoding="utf-8") as file:
        table = np.array([row[1:] for row in list(csv.reader(file))[1:]], dtype=float)
    return table[:, 1:], table[:, 0]


def remove_specks(labels, spacing):
    """A label map in which each speck is of the class, background among them, that touches it with most faces.

    Args:
        labels: of the paper's structures, uint8 (I, J, K), on the scan's grid.
        spacing: of its voxels, mm, (3).

    Returns:
        uint8 (I, J, K).
    """
    if not labels.any():
        return labels
    labels = labels.copy()
    brain = labels[_box(labels > 0, math.ceil(NEAR / min(spacing)))]  # a view: what changes there changes in both
    for _ in range(ROUNDS):
        found = False
        for label in range(1, len(contacts()[1])):  # cerebral grey first: specks of it lie around the horns
            places, ids = small_pieces(brain, label)
            chosen = is_speck(brain, label, places, ids, spacing)[ids]
            if chosen.any():
                found, places, ids = True, places[:, chosen], ids[chosen]
                brain[tuple(places)] = count_around(brain, places, ids, FACES).argmax(axis=1)[ids]
        if not found:
            break
    return labels


def small_pieces(labels, label):
    """Pieces of a structure, connected by faces of voxels, that are much smaller than its largest.

    Args:
        labels: uint8 (I, J, K).
        label: of the structure.

    Returns:
        The indices of all their voxels, (3, n), and for each voxel the number of its piece, from 0, (n).
    """
    import SimpleITK

    mask = labels == label
    none = np.empty((3, 0), dtype=int), np.empty(0, dtype=int)
    if not mask.any():
        return none
    box = _box(mask)
    parts = SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray(mask[box].astype(np.uint8)))
    parts = SimpleITK.GetArrayFromImage(parts)
    sizes = np.bincount(parts.ravel())
    small = sizes < SMALL * sizes[1:].max()
    small[0] = False
    if not small.any():  # as for most structures
        return none
    places = np.array(np.nonzero(small[parts]))
    ids = (np.cumsum(small) - 1)[parts[tuple(places)]]
    return places + [[part.start] for part in box], ids


def is_speck(labels, label, places, ids, spacing):
    """Which of the pieces that `small_pieces` gives are specks, bool (pieces); voxels have such a spacing, mm."""
    shares, pieces = contacts()
    if pieces[label] < PIECES:
        return np.full(ids.max(initial=-1) + 1, True)
    around = count_around(labels, places, ids, steps_within(spacing))
    strange = np.maximum(shares[label], shares[:, label]) < HARDLY_EVER
    # Background is beside most structures, so it tells nothing of where a piece lies.
    familiar = ~strange & (np.arange(len(shares)) > 0)
    strange, familiar = around[:, strange].sum(axis=1), around[:, familiar].sum(axis=1)
    return strange > STRANGE * (strange + familiar)


def steps_within(spacing):
    """Steps (m, 3) in voxels of such a spacing, mm, to places within `NEAR` and about `APART` mm from each other."""
    spacing = np.array(spacing)
    apart = np.maximum(1, np.rint(APART / spacing)).astype(int)
    reach = (NEAR / (spacing * apart)).astype(int)
    steps = (np.indices(2 * reach + 1).reshape(3, -1).T - reach) * apart
    return steps[np.linalg.norm(steps * spacing, axis=1) <= NEAR]


def count_around(labels, places, ids, steps):
    """How many voxels of each class lie at some steps (m, 3) from the voxels of pieces, (pieces, classes).

    A piece's own voxels do not count, nor does what is outside of the array, of which nothing is known.
    """
    classes = len(contacts()[1])
    own = labels[tuple(places)]
    counts = np.zeros((ids.max(initial=-1) + 1) * classes, dtype=int)
    for step in steps:
        there = places + step[:, None]
        inside = ((there >= 0) & (there < np.array(labels.shape)[:, None])).all(axis=0)
        other = labels[tuple(there[:, inside])]
        pairs = (ids[inside] * classes + other)[other != own[inside]]
        counts += np.bincount(pairs, minlength=len(counts))
    return counts.reshape(-1, classes)


def _box(mask, margin=0):
    """The part of an array that holds a mask, bool (I, J, K), and a margin of voxels: three slices."""
    along = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(slice(max(0, places[0] - margin), places[-1] + 1 + margin) for places in along)
