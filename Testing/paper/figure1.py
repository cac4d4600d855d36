"""Fig. 1 of Wong & Moradi 2022: the sinusoidal factor of Eq. (2), and the two losses over a simulated training.

    python Testing/paper/figure1.py            # docs/images/paper-figure1.png and the table of docs/paper.md

The simulation is that of Section 2.2: a cubic image of 100^3 voxels with a cubic object of m^3. Scores of the object
are drawn from N(0.5 + 0.5 t, (0.5 - 0.5 t)^2), those of the background from N(0.5 - 0.5 t, (0.5 - 0.5 t)^2), and
clipped to [0, 1]; t runs from 0, totally random, to 1, perfect. The gradient is dL/dt by autograd, through the drawing.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from scans import markdown

from GaborSegLib.files import replacing
from GaborSegLib.model.losses import DiceLoss, PCCLoss

LENGTH = 100
SIZES = (5, 20, 50, 80)
LOSSES = {"PCC": PCCLoss(), "Dice": DiceLoss()}
# Amplitudes and frequencies (cycles per voxel) of the real and the imaginary part; the phase is 0, as in the paper.
FACTORS = ((1, 1, 0.1, 0.1), (1, 2, 0.1, 0.1), (1, 1, 0.1, 0.2), (1, 2, 0.1, 0.25))
PICTURE = Path(__file__).parents[2] / "docs" / "images" / "paper-figure1.png"


def sinusoidal_factor(x, a_re, a_im, f_re, f_im, psi=0.0):
    """The factor of Eq. (2) beside the Gaussian."""
    turn = 2 * torch.pi * x
    return a_re * torch.cos(f_re * turn + psi) + a_im * torch.sin(f_im * turn + psi)


@dataclass(frozen=True)
class Course:
    """A loss and its gradient over a simulated training; tensors (seeds, steps)."""

    times: torch.Tensor
    losses: torch.Tensor
    gradients: torch.Tensor


def simulate(loss, size, times, seeds, length=LENGTH):
    """The `Course` of a loss for an object of size^3 voxels in length^3.

    Args:
        loss: one of `LOSSES`.
        size: edge of the object, voxels.
        times: where on the way from random (0) to perfect (1), a tensor.
        seeds: numbers; a course is drawn for each.
        length: edge of the image, voxels.
    """
    target = torch.zeros(1, 1, length, length, length)
    target[..., :size, :size, :size] = 1
    values, gradients = [], []
    for seed in seeds:
        noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(seed))
        for time in times:
            time = time.clone().requires_grad_()
            value = loss(scores(time, target, noise), target)
            values.append(value.detach())
            gradients.append(torch.autograd.grad(value, time)[0])
    shape = len(seeds), len(times)
    return Course(times, torch.stack(values).reshape(shape), torch.stack(gradients).reshape(shape))


def scores(time, target, noise):
    """Scores at a time of the simulated training."""
    mean = torch.where(target > 0, 0.5 + 0.5 * time, 0.5 - 0.5 * time)
    return (mean + (0.5 - 0.5 * time) * noise).clamp(0, 1)


def course_times(steps):
    """Times that are closer to each other towards the end, where the Dice loss of a small object falls."""
    return 1 - (1 - torch.linspace(0, 1, steps)) ** 2


def draw(courses, path):
    from matplotlib import colormaps
    from matplotlib.figure import Figure  # and not pyplot, which takes whatever window system is there

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    x = torch.linspace(-10, 10, 400)
    for a_re, a_im, f_re, f_im in FACTORS:
        label = f"$A_{{re}}$ {a_re}, $A_{{im}}$ {a_im}, $f_{{re}}$ {f_re}, $f_{{im}}$ {f_im}"
        axes[0].plot(x, sinusoidal_factor(x, a_re, a_im, f_re, f_im), label=label)
    axes[0].set(title="(a) Sinusoidal factor of Eq. (2)", xlabel="x', voxels", ylim=(-3.2, 5.6))
    colours = colormaps["viridis"](torch.linspace(0, 0.85, len(SIZES)).numpy())
    for (name, size), course in courses.items():
        style = "-" if name == "PCC" else "--"
        colour = colours[SIZES.index(size)]
        for axis, values in zip(axes[1:], (course.losses, course.gradients.abs())):
            axis.plot(course.times, values.mean(dim=0), style, color=colour, label=f"{name}, m = {size}")
            low, high = values.amin(dim=0), values.amax(dim=0)
            axis.fill_between(course.times, low, high, color=colour, alpha=0.3, linewidth=0)
    axes[1].set(title="(b) Loss, random (0) to perfect (1)", xlabel="t")
    axes[2].set(title="Its gradient, |dL/dt|", xlabel="t", yscale="log", ylim=(1e-5, 1e3))
    axes[0].legend(fontsize=7)
    axes[2].legend(*axes[1].get_legend_handles_labels(), fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def table(courses):
    """Start, middle and end of each loss, and where it has fallen by half, as Markdown."""
    rows = []
    for (name, size), course in courses.items():
        mean, spread = course.losses.mean(dim=0), (course.losses.amax(dim=0) - course.losses.amin(dim=0)).max()
        half = course.times[(mean <= mean[0] / 2).nonzero()[0, 0]]
        slopes = course.gradients.abs().mean(dim=0)
        middle = (course.times - 0.5).abs().argmin()
        rows.append(
            [name, size, *(f"{value:.3f}" for value in (mean[0], mean[middle], mean[-1], half)),
             f"{slopes[middle]:.4f}", f"{slopes.max():.3g}", f"{spread:.4f}"]
        )  # fmt: skip
    heads = [
        "Loss",
        "m",
        "t = 0",
        "t = 0.5",
        "t = 1",
        "half at t =",
        "slope at t = 0.5",
        "largest slope",
        "spread of the seeds, at most",
    ]
    return markdown(heads, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=41)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    times, seeds = course_times(options.steps), range(options.seeds)
    courses = {(name, size): simulate(loss, size, times, seeds) for size in SIZES for name, loss in LOSSES.items()}
    draw(courses, options.picture)
    print(table(courses))


if __name__ == "__main__":
    main()
