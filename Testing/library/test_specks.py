"""Specks: made label maps of a brain, with what becomes of each piece worked out by hand."""

import csv

import numpy as np
import pytest

from GaborSegLib.inference.specks import contacts, count_around, is_speck, remove_specks, small_pieces, steps_within
from GaborSegLib.structures import paper_structures, resource_path

LABELS = {structure.name: structure.label for structure in paper_structures()}
GREY, WHITE, VENTRICLE = (LABELS[name] for name in ("Cerebral grey", "Cerebral white", "Lateral ventricle"))
AMYGDALA, THALAMUS = LABELS["Amygdala"], LABELS["Thalamus"]
MILLIMETRE = (1.0, 1.0, 1.0)


def brain():
    """White matter in grey matter, with a ventricle in it and an amygdala, uint8 (40, 40, 40)."""
    labels = np.zeros((40, 40, 40), dtype=np.uint8)
    labels[2:38, 2:38, 2:38] = GREY
    labels[4:36, 4:36, 10:36] = WHITE
    labels[16:22, 10:30, 22:26] = VENTRICLE
    labels[24:32, 24:32, 12:18] = AMYGDALA
    return labels


def test_a_piece_of_what_is_drawn_in_none_becomes_what_touches_it_most():
    labels = brain()
    labels[8:11, 8:11, 28:31] = AMYGDALA
    assert np.array_equal(remove_specks(labels, MILLIMETRE), brain())
    # One of three slices lies in grey matter, which has 9 + 12 faces, two in white, which has 2 * 12 + 9.
    labels = brain()
    expected = labels.copy()
    labels[10:13, 10:13, 9:12] = AMYGDALA
    expected[10:13, 10:13, 9:12] = WHITE
    assert np.array_equal(remove_specks(labels, MILLIMETRE), expected)
    # Outside of the brain, at its border.
    labels = brain()
    labels[38:40, 20:22, 20:22] = AMYGDALA
    assert np.array_equal(remove_specks(labels, MILLIMETRE), brain())


def test_an_occipital_horn_stays_even_in_a_sheath_of_grey_and_a_piece_in_the_cortex_goes():
    labels = brain()
    labels[11:14, 11:20, 27:30] = GREY  # joined to the cortex by a bridge
    labels[11:12, 11:12, 27:38] = GREY
    labels[12:13, 12:19, 28:29] = VENTRICLE
    assert np.array_equal(remove_specks(labels, MILLIMETRE), labels)
    speck = labels.copy()
    speck[12:16, 12:16, 5:7] = VENTRICLE
    assert np.array_equal(remove_specks(speck, MILLIMETRE), labels)


def test_large_pieces_and_maps_without_specks_stay_as_they_are():
    labels = brain()
    labels[8:12, 8:12, 28:34] = AMYGDALA  # 96 of 384 voxels: as the other side's, in a scan that is cut off
    before = labels.copy()
    assert np.array_equal(remove_specks(labels, MILLIMETRE), before) and np.array_equal(labels, before)
    nothing = np.zeros((8, 8, 8), dtype=np.uint8)
    assert not remove_specks(nothing, MILLIMETRE).any()


def test_the_mirror_image_has_the_mirrored_result():
    random = np.random.default_rng(0)
    labels = brain()
    places = random.integers(5, 35, (3, 60))
    labels[tuple(places)] = random.choice([GREY, VENTRICLE, AMYGDALA], 60)
    result = remove_specks(labels, MILLIMETRE)
    assert (result != labels).sum() > 20
    for axis in range(3):
        assert np.array_equal(np.flip(remove_specks(np.flip(labels, axis), MILLIMETRE), axis), result)


def test_pieces_and_what_is_around_them():
    labels = np.zeros((12, 5, 5), dtype=np.uint8)
    labels[0:3] = THALAMUS  # 75 voxels
    labels[6, 1:3, 1] = THALAMUS  # two, and one that touches them by an edge only
    labels[7, 3, 1] = THALAMUS
    labels[7, 1, 1] = WHITE
    places, ids = small_pieces(labels, THALAMUS)
    assert sorted(zip(ids.tolist(), *places.tolist())) == [(0, 6, 1, 1), (0, 6, 2, 1), (1, 7, 3, 1)]
    around = count_around(labels, places, ids, np.array([[1, 0, 0], [-1, 0, 0], [0, 0, 2], [0, 0, -2]]))
    # Ahead of the first piece are white matter and background; two steps down is nothing that is known.
    assert around[:, [0, WHITE, THALAMUS]].tolist() == [[5, 1, 0], [3, 0, 0]]
    assert small_pieces(labels, GREY)[1].size == 0


def test_places_within_six_millimetres():
    for spacing in ((1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (1.0, 1.0, 3.0)):
        steps = steps_within(spacing)
        distances = np.linalg.norm(steps * spacing, axis=1)
        assert distances.max() == pytest.approx(6)
        assert {tuple(step) for step in steps} == {tuple(-step) for step in steps}
    # Of the lattice of 2 mm: 1 + 6 + 12 + 8 + 6 + 24 + 24 + 12 + 30 points at squared distances 0 to 9.
    assert len(steps_within((1.0, 1.0, 1.0))) == 123


def test_the_table_is_of_the_papers_structures_and_knows_anatomy():
    with open(resource_path("contacts.csv"), newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    names = ["Background", *LABELS]
    assert head[2:] == names == [row[0] for row in rows]
    shares, pieces = contacts()
    assert shares.sum(axis=1) == pytest.approx(1, abs=2e-4) and not shares.diagonal().any()
    # Two classes share as many faces from either side: i to j, j to k, k to i is i to k, k to j, j to i.
    i, j, k = GREY, WHITE, 0
    assert shares[i, j] * shares[j, k] * shares[k, i] == pytest.approx(
        shares[i, k] * shares[k, j] * shares[j, i], rel=0.01
    )
    assert shares[LABELS["Pallidum"], LABELS["Putamen"]] > 0.2 and shares[VENTRICLE, LABELS["CVL VI-VII"]] == 0
    assert pieces[AMYGDALA] == 0 and pieces[VENTRICLE] > 0.5


def test_background_says_nothing_of_where_a_piece_lies():
    labels = np.zeros((30, 30, 30), dtype=np.uint8)
    labels[:12] = WHITE
    labels[20, 15, 15] = WHITE
    places, ids = small_pieces(labels, WHITE)
    assert is_speck(labels, WHITE, places, ids, (1.0, 1.0, 1.0)).tolist() == [False]
    labels[21, 15, 15] = LABELS["Cerebellar grey"]
    assert is_speck(labels, WHITE, places, ids, (0.9, 0.9, 0.9)).tolist() == [False]
    labels[22, 15, 15] = LABELS["Cerebellar grey"]
    assert is_speck(labels, WHITE, places, ids, (0.9, 0.9, 0.9)).tolist() == [True]
