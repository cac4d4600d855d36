"""Conformance: what every loss must do. A new one gets these tests by being registered, and adds its formula here."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from GaborSegLib.model.losses import EPSILON, LOSSES

losses = pytest.mark.parametrize("name, loss", [(name, loss()) for name, loss in LOSSES.items()], ids=list(LOSSES))


def pcc(p, y):
    """Eq. (4) for one label of one image, flat arrays of float64."""
    p, y = p - p.mean(), y - y.mean()
    return 0.5 * (1 - (p @ y) / np.sqrt((p @ p) * (y @ y) + EPSILON))


def dice(p, y):
    """Eq. (5), likewise."""
    return 1 - (2 * (p @ y) + EPSILON) / (p.sum() + y.sum() + EPSILON)


def cross_entropy(p, y):
    return -(y @ np.log(np.maximum(p, EPSILON))) / len(p)


def mean_over_labels(function):
    return lambda scores, target: np.mean(
        [[function(*label) for label in zip(*image)] for image in zip(scores, target)]
    )


def sum_over_labels(function):
    return lambda scores, target: np.mean([sum(map(function, *image)) for image in zip(scores, target)])


# In float64 by NumPy, of scores and one-hot targets (B, C, N), and the largest value.
WORST = -np.log(EPSILON)
FORMULAS = {
    "pcc": (mean_over_labels(pcc), 1),
    "dice": (mean_over_labels(dice), 1),
    "cross-entropy": (sum_over_labels(cross_entropy), WORST),
    "pcc+cross-entropy": (
        lambda *both: mean_over_labels(pcc)(*both) + sum_over_labels(cross_entropy)(*both),
        1 + WORST,
    ),
}


def one_hot(labels, classes):
    return functional.one_hot(labels, classes).movedim(-1, 1).double()


def random_case(images=2, classes=4, size=6, seed=0):
    """Scores that sum to 1 and labels, all of them present."""
    numbers = torch.Generator().manual_seed(seed)
    shape = (images, classes, size, size + 1, size + 2)
    scores = torch.randn(shape, generator=numbers, dtype=torch.float64).mul(2).softmax(dim=1)
    return scores, torch.randint(classes, (images, *shape[2:]), generator=numbers)


def by_formula(name, scores, target):
    return FORMULAS[name][0](scores.double().flatten(2).numpy(), target.double().flatten(2).numpy())


def test_every_loss_has_a_formula():
    assert set(FORMULAS) == set(LOSSES)


@losses
def test_loss_of_a_perfect_prediction_is_0(name, loss):
    labels = random_case()[1]
    assert loss(one_hot(labels, 4), labels).item() == pytest.approx(0, abs=1e-6)


@losses
def test_loss_is_what_its_formula_says(name, loss):
    """In float64 to the tenth digit, for scores of every kind, absent labels too; and it is in its range."""
    scores, labels = random_case()
    zero = torch.zeros_like(labels)
    cases = [(scores, labels), (one_hot((labels + 1) % 4, 4), labels), (scores, zero), (one_hot(zero, 4), zero)]
    cases += [(one_hot(zero + 3, 4), zero), (torch.full_like(scores, 0.25), labels)]
    for scores, labels in cases:
        value = loss(scores, labels).item()
        assert value == pytest.approx(by_formula(name, scores, one_hot(labels, 4)), abs=1e-10)
        assert -1e-12 <= value <= FORMULAS[name][1] + 1e-12
        assert loss(scores.float(), labels).item() == pytest.approx(value, abs=1e-5)


@losses
def test_missing_labels_have_finite_gradients(name, loss):
    """Labels that are in no voxel, with scores of exactly 0 and 1 everywhere, or with any scores."""
    labels = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    for scores in (one_hot(labels, 3), random_case(images=1, classes=3, size=4)[0][..., :4, :4, :4]):
        scores = scores.float().clone().requires_grad_()
        value = loss(scores, labels)
        value.backward()
        assert value.isfinite() and scores.grad.isfinite().all()


@losses
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_loss_in_half_precision_is_that_in_float32(name, loss, dtype):
    """Exactly, although the sums (500,000 voxels) are beyond float16, and with either under autocast."""
    numbers = torch.Generator().manual_seed(0)
    scores = torch.rand(1, 2, 80, 80, 80, generator=numbers).softmax(dim=1).to(dtype)
    target = (torch.rand(scores.shape, generator=numbers) < 0.5).to(dtype)
    expected = loss(scores.float(), target.float())
    assert expected.item() == pytest.approx(by_formula(name, scores, target), rel=1e-4)
    values = [loss(scores, target)]
    for autocast in (torch.float16, torch.bfloat16):
        leaf = scores.clone().requires_grad_()
        with torch.autocast("cpu", autocast):
            values.append(loss(leaf, target))
        values[-1].backward()
        assert leaf.grad.isfinite().all() and leaf.grad.any()
    for value in values:
        assert value.dtype == torch.float32 and value.isfinite()
        assert value.item() == expected.item()


@losses
def test_images_and_kinds_of_targets(name, loss):
    """The mean over images is that of their own losses; label indices of any integer type are as good as one-hot."""
    scores, labels = random_case(images=3)
    value = loss(scores, labels)
    assert value.item() == pytest.approx(np.mean([loss(scores[i : i + 1], labels[i : i + 1]).item() for i in range(3)]))
    for target in (labels.to(torch.uint8), labels.int(), one_hot(labels, 4)):
        assert loss(scores, target).item() == value.item()


@losses
def test_order_of_images_and_labels_does_not_matter_to_a_loss(name, loss):
    scores, labels = random_case(images=3)
    expected = loss(scores, labels).item()
    images, channels = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    assert loss(scores[images], labels[images]).item() == pytest.approx(expected, abs=1e-12)
    assert loss(scores[:, channels], one_hot(labels, 4)[:, channels]).item() == pytest.approx(expected, abs=1e-12)
    assert loss(scores.flip(2), labels.flip(1)).item() == pytest.approx(expected, abs=1e-12)
    assert loss(scores[:, channels], labels).item() != pytest.approx(expected, abs=1e-3)


@losses
def test_loss_checks_its_shapes(name, loss):
    scores, labels = random_case()
    with pytest.raises(ValueError, match=r"scores must have the shape \(B, C, D, H, W\), got \(4, 6, 7, 8\)"):
        loss(scores[0], labels[0])
    for target in (labels[:1], labels[:, 1:], one_hot(labels, 5), labels[0]):
        with pytest.raises(ValueError, match=r"target must be.*\(2, 4, 6, 7, 8\).*got \("):
            loss(scores, target)


@losses
def test_gradient_of_a_loss_is_its_derivative(name, loss):
    scores, labels = random_case(images=2, classes=3, size=2)
    assert gradcheck(lambda s: loss(s, labels), scores.requires_grad_())
