"""How far a segmentation can be trusted, structure by structure, from the network's own scores."""

import torch


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
