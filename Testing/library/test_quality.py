"""Quality: against the expected Dice worked out by hand."""

import pytest
import torch

from GaborSegLib.inference.quality import LEAST_OF_T1, looks_like_t1, structure_quality, t1_doubt
from GaborSegLib.structures import named_structures

STRUCTURES = named_structures(["First", "Second"])


def test_certain_scores_are_1_and_what_was_not_found_is_0():
    labels = torch.zeros(4, 4, 4, dtype=torch.uint8)
    labels[1:3] = 1
    scores = torch.nn.functional.one_hot(labels.long(), 3).movedim(-1, 0).float()
    assert structure_quality(scores, STRUCTURES) == {"First": 1.0, "Second": 0.0}


def test_it_is_the_dice_that_the_scores_expect():
    # Ten voxels: two of the first structure at 0.8 and 0.6, two of the second at 0.5, background elsewhere.
    scores = torch.zeros(3, 1, 1, 10)
    scores[0] = 1
    scores[:, 0, 0, 0] = torch.tensor([0.1, 0.8, 0.1])
    scores[:, 0, 0, 1] = torch.tensor([0.2, 0.6, 0.2])
    scores[:, 0, 0, 2:4] = torch.tensor([0.2, 0.3, 0.5])[:, None]
    quality = structure_quality(scores, STRUCTURES)
    assert quality["First"] == pytest.approx(2 * 1.4 / (0.8 + 0.6 + 2 * 0.3 + 2))
    assert quality["Second"] == pytest.approx(2 * 1.0 / (0.1 + 0.2 + 2 * 0.5 + 2))


def test_a_mirror_image_that_disagrees_lowers_it():
    one = torch.zeros(3, 2, 2, 8)
    one[0] = 1
    one[:2, ..., 1:4] = torch.tensor([0.0, 1.0])[:, None, None, None]
    other = one.roll(1, dims=-1)  # the same structure, a voxel away
    # The structure is where the two agree, as a tie goes to the background: 2 * 2 / (2 + 2 * 0.5 + 2).
    assert structure_quality(one, STRUCTURES)["First"] == 1
    assert structure_quality((one + other) / 2, STRUCTURES)["First"] == pytest.approx(4 / 5)


def test_what_looks_like_t1_is_decided_by_the_mean_over_the_structures():
    half = {"First": 1.0, "Second": 2 * LEAST_OF_T1 - 0.99}
    assert looks_like_t1(half)
    assert not looks_like_t1({**half, "Second": half["Second"] - 0.02})
    assert "its quality is 0.25 " in t1_doubt({"First": 0.5, "Second": 0.0})
