"""Structures that a source of labels does not have: trained and validated without teaching that they are not there.

FreeSurfer, for one, has no vermis: its voxels are labelled as cerebellar cortex. What the network takes for vermis is
then right where the source says cerebellar cortex, and wrong elsewhere, so that it counts as cerebellar cortex.
Nothing is learned about where the vermis ends: start from weights that know it, and fine-tune them with a low rate.
"""

import numpy as np
import torch


def merge_scores(scores, labels, counts_as):
    """Scores and labels with the structures that the source lacks taken as what the source calls them.

    Which of the merged structures a voxel belongs to makes no difference to a loss of the result, so the gradient for
    moving probability between them is zero, and a loss that is a mean over labels does not count the absent ones.

    Args:
        scores: (B, C, D, H, W) after the softmax.
        labels: (B, D, H, W) label indices, or (B, C, D, H, W) shares; absent structures do not occur.
        counts_as: `LabelTable.counts_as`, C labels.

    Returns:
        (scores (B, C', D, H, W), labels (B, D, H, W) or (B, C', D, H, W)) of the C' labels that the source has, counted
        anew from 0; both as they were if it lacks none.
    """
    kept = sorted(set(counts_as))
    if len(kept) == len(counts_as):
        return scores, labels
    groups = [[label for label, whole in enumerate(counts_as) if whole == other] for other in kept]
    merged = torch.stack([scores[:, group].sum(dim=1) for group in groups], dim=1)
    if labels.dim() == scores.dim():
        return merged, labels[:, kept]
    place = torch.tensor([kept.index(label) for label in counts_as], device=labels.device)
    return merged, place[labels.long()].to(labels.dtype)


def merge_labels(prediction, counts_as):
    """A predicted label map with the structures that the source lacks replaced by what the source calls them.

    Compared with the source's labels, absent structures are then in neither map, and have no Dice (NaN).
    """
    return np.array(counts_as, dtype=prediction.dtype)[prediction]
