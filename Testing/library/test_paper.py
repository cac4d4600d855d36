"""The paper's experiments, small."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "paper"))

import figure1


def test_with_equal_frequencies_the_factor_is_one_sinusoid():
    """a cos + b sin = sqrt(a^2 + b^2) cos(x - atan2(b, a)); with different frequencies it has no such form."""
    x = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    factor = figure1.sinusoidal_factor(x, 1.0, 2.0, 0.1, 0.1)
    expected = math.sqrt(5) * torch.cos(2 * math.pi * 0.1 * x - math.atan2(2, 1))
    torch.testing.assert_close(factor, expected)
    torch.testing.assert_close(factor[:1001], factor[1000:])  # a period of 10
    mixed = figure1.sinusoidal_factor(x, 1.0, 2.0, 0.1, 0.25)
    assert (mixed[:1001] - mixed[1000:]).abs().max() > 1


@pytest.mark.parametrize("size", [5, 20, 50, 80])
def test_pcc_starts_at_a_half_and_ends_at_0_and_dice_starts_where_the_size_says(size):
    ends = torch.tensor([0.0, 1.0])
    pcc, dice = (figure1.simulate(loss, size, ends, seeds=[0]).losses[0] for loss in figure1.LOSSES.values())
    torch.testing.assert_close(pcc, torch.tensor([0.5, 0.0]), rtol=0, atol=0.02)
    # Clipped N(0.5, 0.5^2) has the mean 0.5, so the sums are 0.5 m^3 and 0.5 * 100^3.
    start = 1 - size**3 / (0.5 * figure1.LENGTH**3 + size**3)
    torch.testing.assert_close(dice, torch.tensor([start, 0.0]), rtol=0, atol=0.003)


def test_for_a_small_object_dice_is_flat_and_then_falls_abruptly():
    times = torch.tensor([0.5, 0.9, 0.99, 0.999])
    pcc, dice = (figure1.simulate(loss, 5, times, seeds=[1]) for loss in figure1.LOSSES.values())
    assert (dice.losses[0, :2] > 0.98).all() and dice.losses[0, 2] > 0.8 and dice.losses[0, 3] < 0.7
    assert pcc.losses[0, 1] < 0.45 and pcc.losses[0, 2] < 0.15
    assert pcc.gradients[0, 0].abs() > 10 * dice.gradients[0, 0].abs()
    assert dice.gradients[0, 3].abs() > 20 * pcc.gradients[0].abs().max()


def test_the_gradient_is_that_of_finite_differences():
    times, loss = torch.tensor([0.4]), figure1.LOSSES["PCC"]
    step = 1e-2
    around = figure1.simulate(loss, 20, torch.tensor([0.4 - step, 0.4 + step]), seeds=[2]).losses[0]
    gradient = figure1.simulate(loss, 20, times, seeds=[2]).gradients[0, 0]
    assert gradient.item() == pytest.approx((around[1] - around[0]).item() / (2 * step), rel=0.02)
