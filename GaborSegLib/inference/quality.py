"""How far a segmentation can be trusted, structure by structure, from the network's own scores."""

import torch

# The mean over the structures below which a scan is no T1 or badly damaged, of the bundled weights: other contrasts
# and inverted T1 stay below, T1 scans above, see docs/robustness.md.
LEAST_OF_T1 = 0.58


def structure_quality(scores, structures):
    """The overlap with the truth that the scores themselves expect, a dictionary from name to float, 0 to 1.

    With a voxel's score read as the chance p that it belongs to a structure, the structure's Dice coefficient is
    expected to be about 2 Σ p inside of it / (Σ p everywhere + voxels inside). This is 1 where every score is 0 or 1,
    falls with hesitation inside and with scores that are strewn outside, and is 0 for a structure that was not found.
    It ranks segmentations; it is no calibrated Dice coefficient.

    Args:
        scores: tensor (C, D, H, W), sums to 1 over the classes; class 0 is background. A voxel belongs to its best
            class. Where the scores are means over a scan and its mirror image, what the two disagree on is hesitation.
        structures: list of `Structure`.
    """
    best, labels = scores.max(dim=0)
    classes, labels = len(scores), labels.flatten()
    inside = torch.bincount(labels, best.flatten().double(), minlength=classes)
    voxels = torch.bincount(labels, minlength=classes)
    # One class at a time: torch makes a copy in double precision of all that it is given here.
    everywhere = torch.stack([score.sum(dtype=torch.float64) for score in scores])
    quality = 2 * inside / (everywhere + voxels).clamp(min=torch.finfo(torch.float64).tiny)
    return {structure.name: float(quality[structure.label]) for structure in structures}


def mean_quality(quality):
    """The mean over the structures of a dictionary from `structure_quality`, 0 to 1."""
    return sum(quality.values()) / len(quality)


def looks_like_t1(quality):
    """Whether a scan of this quality (a dictionary from `structure_quality`) looks like a T1, for bundled weights."""
    return mean_quality(quality) >= LEAST_OF_T1


def t1_doubt(quality):
    """What to tell of a scan of this quality that does not look like a T1: what was measured, and what to do."""
    return (
        "this does not look like a T1-weighted scan, or it is badly damaged: its quality is "
        f"{mean_quality(quality):.2f} (mean over the structures), that of T1 scans {LEAST_OF_T1:g} or more; do not "
        "use the result, and segment a T1-weighted scan of the whole brain"
    )
