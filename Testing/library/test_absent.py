"""Structures that a source lacks: what of the loss and the Dice they touch, against closed forms."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch.nn import functional

from GaborSegLib.data.absent import merge_labels, merge_scores
from GaborSegLib.data.tables import open_table
from GaborSegLib.evaluation.metrics import dice
from GaborSegLib.model.losses import LOSSES

# Background, grey, vermis (labelled as grey), white, another (labelled as background).
COUNTS_AS = (0, 1, 1, 3, 0)
ALL = pytest.mark.parametrize("loss", [loss() for loss in LOSSES.values()], ids=list(LOSSES))


def random_case(seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 5, 4, 5, 6, generator=generator, dtype=torch.float64).softmax(dim=1)
    labels = torch.tensor([0, 1, 3])[torch.randint(3, (2, 4, 5, 6), generator=generator)]
    return scores, labels.to(torch.uint8)


def test_scores_are_added_and_labels_counted_anew():
    scores, labels = random_case()
    merged, counted = merge_scores(scores, labels, COUNTS_AS)
    assert merged.shape == (2, 3, 4, 5, 6) and counted.dtype == torch.uint8
    torch.testing.assert_close(merged.sum(dim=1), torch.ones(2, 4, 5, 6, dtype=torch.float64))
    torch.testing.assert_close(merged[:, 0], scores[:, 0] + scores[:, 4])
    torch.testing.assert_close(merged[:, 1], scores[:, 1] + scores[:, 2])
    assert torch.equal(merged[:, 2], scores[:, 3])
    assert [counted[labels == old].unique().tolist() for old in (0, 1, 3)] == [[0], [1], [2]]


@ALL
def test_soft_labels_without_shares_are_the_labels(loss):
    scores, labels = random_case()
    soft = functional.one_hot(labels.long(), 5).movedim(-1, 1).double()
    expected = loss(*merge_scores(scores, labels, COUNTS_AS))
    torch.testing.assert_close(loss(*merge_scores(scores, soft, COUNTS_AS)), expected)


def test_nothing_absent_changes_nothing():
    scores, labels = random_case()
    merged, counted = merge_scores(scores, labels, (0, 1, 2, 3, 4))
    assert merged is scores and counted is labels


@ALL
def test_moving_between_merged_structures_costs_nothing(loss):
    """The loss is a function of the sums, so its gradients for the parts of a sum are the same in every voxel."""
    scores, labels = random_case()
    scores.requires_grad_()
    gradient = torch.autograd.grad(loss(*merge_scores(scores, labels, COUNTS_AS)), scores)[0]
    torch.testing.assert_close(gradient[:, 1], gradient[:, 2], rtol=0, atol=0)
    torch.testing.assert_close(gradient[:, 0], gradient[:, 4], rtol=0, atol=0)
    assert (gradient[:, 1] - gradient[:, 3]).abs().max() > 1e-6  # between grey and white it does
    plain = torch.autograd.grad(loss(scores, labels), scores)[0]
    assert (plain[:, 1] - plain[:, 2]).abs().max() > 1e-6  # and without merging


def test_cross_entropy_in_closed_form():
    scores, labels = random_case()
    merged = LOSSES["cross-entropy"]()(*merge_scores(scores, labels, COUNTS_AS)).item()
    p = scores.numpy()
    right = np.select([labels == 0, labels == 1, labels == 3], [p[:, 0] + p[:, 4], p[:, 1] + p[:, 2], p[:, 3]])
    assert merged == pytest.approx(-np.log(right).mean(), abs=1e-12)


@ALL
def test_all_of_the_vermis_taken_for_vermis_is_perfect(loss):
    """Such a prediction costs nothing, where an unmerged loss would count every voxel of it as wrong."""
    labels = random_case()[1]
    predicted = labels.long()
    predicted[:, :2][predicted[:, :2] == 1] = 2
    scores = functional.one_hot(predicted, 5).movedim(-1, 1).double()
    assert loss(*merge_scores(scores, labels, COUNTS_AS)).item() == pytest.approx(0, abs=1e-6)
    assert loss(scores, labels).item() > 0.05


def test_training_keeps_what_the_network_knows_of_the_vermis():
    """Gradient descent on merged scores raises grey and vermis together; their ratio in a voxel that was vermis stays.

    For a softmax, d/dz of the log of a sum over grey and vermis is p_i / sum - p_i for both: where vermis is nearly
    all of the sum, nearly all of the gradient goes to it.
    """
    logits = torch.tensor([0.0, -3.0, 3.0, 2.5, -3.0], dtype=torch.float64).reshape(1, 5, 1, 1, 1).requires_grad_()
    labels = torch.ones(1, 1, 1, 1, dtype=torch.uint8)
    for _ in range(200):
        loss = LOSSES["cross-entropy"]()(*merge_scores(logits.softmax(dim=1), labels, COUNTS_AS))
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - 0.5 * gradient).detach().requires_grad_()
    scores = logits.softmax(dim=1).flatten()
    assert scores[2] > 0.95 and scores[1] / scores[2] < np.exp(-6)


def test_dice_of_merged_labels():
    random = np.random.default_rng(0)
    truth = np.array([0, 1, 3], np.uint8)[random.integers(3, size=(6, 7, 8))]
    prediction = random.integers(5, size=truth.shape).astype(np.uint8)
    merged = merge_labels(prediction, COUNTS_AS)
    assert merged.dtype == np.uint8
    scores = dice(merged, truth, [1, 2, 3, 4])
    grey = f1_score((truth == 1).ravel(), np.isin(prediction, (1, 2)).ravel())
    assert scores[[0, 2]] == pytest.approx([grey, f1_score((truth == 3).ravel(), (prediction == 3).ravel())])
    assert np.isnan(scores[[1, 3]]).all()
    assert np.array_equal(merge_labels(prediction, range(5)), prediction)


def test_freesurfers_vermis():
    table = open_table("freesurfer")
    scores = torch.rand(1, 20, 2, 2, 2, dtype=torch.float64)
    merged, _ = merge_scores(scores, torch.zeros(1, 2, 2, 2, dtype=torch.uint8), table.counts_as)
    assert merged.shape[1] == 17
    torch.testing.assert_close(merged[:, 8], scores[:, [5, 6, 7, 11]].sum(dim=1))  # Cerebellar grey
