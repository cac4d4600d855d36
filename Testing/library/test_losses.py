"""Losses: against closed forms, scikit-learn, NumPy and Fig. 1(b).

What all of them have in common is in conformance/test_every_loss.py.
"""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef
from torch.nn import functional

from GaborSegLib.model.losses import CrossEntropyLoss, DiceLoss, PCCLoss


def one_hot(labels, classes):
    return functional.one_hot(labels, classes).movedim(-1, 1).double()


def random_case(images=2, classes=4, size=6, seed=0):
    """Scores that sum to 1 and labels, all of them present."""
    generator = torch.Generator().manual_seed(seed)
    shape = (images, classes, size, size + 1, size + 2)
    scores = torch.randn(shape, generator=generator, dtype=torch.float64).mul(2).softmax(dim=1)
    return scores, torch.randint(classes, (images, *shape[2:]), generator=generator)


@pytest.mark.parametrize("loss", [PCCLoss(), DiceLoss()])
def test_total_disagreement(loss):
    labels = random_case(classes=2)[1]
    assert loss(one_hot(1 - labels, 2), labels).item() == pytest.approx(1, abs=1e-6)


def test_absent_label():
    """Absent and predicted absent: for PCC exactly 0.5, for Dice a perfect prediction."""
    nothing = torch.zeros(1, 1, 5, 5, 5)
    assert PCCLoss()(nothing, nothing).item() == 0.5
    assert DiceLoss()(nothing, nothing).item() == 0
    labels = random_case()[1]  # 0 to 3 of five
    assert PCCLoss()(one_hot(labels, 5), labels).item() == pytest.approx(0.5 / 5, abs=1e-6)


def test_binary_scores():
    """PCC is the Matthews correlation coefficient then, and Dice the F1 score."""
    labels, predicted = random_case(images=1, seed=1)[1], random_case(images=1, seed=2)[1]
    predicted = torch.where(random_case(images=1)[0][:, 0] < 0.3, labels, predicted)
    scores = one_hot(predicted, 4)
    truth = [(labels == label).flatten().numpy() for label in range(4)]
    found = [(predicted == label).flatten().numpy() for label in range(4)]
    matthews = np.mean([0.5 * (1 - matthews_corrcoef(t, f)) for t, f in zip(truth, found)])
    assert PCCLoss()(scores, labels).item() == pytest.approx(matthews, abs=1e-8)
    f1 = np.mean([1 - f1_score(t, f) for t, f in zip(truth, found)])
    assert DiceLoss()(scores, labels).item() == pytest.approx(f1, abs=1e-8)


def test_real_scores():
    scores, labels = random_case(images=1)
    target = one_hot(labels, 4)
    pairs = [(scores[0, label].flatten().numpy(), target[0, label].flatten().numpy()) for label in range(4)]
    correlation = np.mean([0.5 * (1 - np.corrcoef(p, y)[0, 1]) for p, y in pairs])
    assert PCCLoss()(scores, labels).item() == pytest.approx(correlation, abs=1e-8)
    dice = np.mean([1 - 2 * (p @ y) / (p.sum() + y.sum()) for p, y in pairs])
    assert DiceLoss()(scores, labels).item() == pytest.approx(dice, abs=1e-8)
    expected = functional.nll_loss(scores.log(), labels)
    torch.testing.assert_close(CrossEntropyLoss()(scores, labels), expected)


def test_simulated_training():
    """Fig. 1(b): PCC starts at 0.5 and ends at 0 whatever the object's size; where Dice starts depends on it.

    One label, the object, as in the figure: with the background's scores as a second one (1 - p, the same PCC) the
    background's Dice would hide the object's. The scores' mean at the start is 0.5, so that Dice starts at
    1 - 2 (m^3 / 2) / (100^3 / 2 + m^3).
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, 100, 100, 100, generator=generator)
    for m in (5, 20, 50):
        target = torch.zeros_like(noise)
        target[..., 30 : 30 + m, 30 : 30 + m, 30 : 30 + m] = 1
        # Means from 0.5 to the target, standard deviation from 0.5 to 0.
        drawn = [(0.5 + t * (target - 0.5) + 0.5 * (1 - t) * noise).clamp(0, 1) for t in (0, 0.5, 1)]
        pcc = [PCCLoss()(scores, target).item() for scores in drawn]
        # The correlation of a million independent pairs has a standard deviation of 0.001.
        assert pcc[0] == pytest.approx(0.5, abs=0.003)
        assert 0.05 < pcc[1] < pcc[0] - 0.005
        assert pcc[2] == pytest.approx(0, abs=1e-5)
        start = 1 - m**3 / (100**3 / 2 + m**3)
        # Here it is 2 * 0.36 m^1.5 / (5e5 + m^3) at most, 0.36 being the standard deviation of a clipped score.
        assert DiceLoss()(drawn[0], target).item() == pytest.approx(start, abs=0.002)
        assert DiceLoss()(drawn[2], target).item() == pytest.approx(0, abs=1e-6)
