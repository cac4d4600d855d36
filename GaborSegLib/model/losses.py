"""Losses for segmentation into several labels (Wong & Moradi 2022, Section 2.2).

All take scores in [0, 1] after the softmax, and the true labels. Sums run over all voxels of an image, the mean over
labels and images, background included. They compute in float32 at least, under autocast too: two million voxels
overflow the sums of half precision.

Shape:
    scores (B, C, D, H, W), target one-hot of the same shape or label indices (B, D, H, W) -> a number.

Raises:
    ValueError: scores or target have other shapes.
"""

import torch
from torch import nn
from torch.nn import functional

EPSILON = 1e-7


def _prepare(scores, target):
    """Scores and one-hot target as (B, C, N) in float32, or in float64 if the scores are."""
    if scores.dim() != 5:
        raise ValueError(f"scores must have the shape (B, C, D, H, W), got {tuple(scores.shape)}")
    dtype = torch.promote_types(scores.dtype, torch.float32)
    if target.shape == scores.shape:
        one_hot = target
    elif target.shape == scores.shape[:1] + scores.shape[2:]:
        one_hot = functional.one_hot(target.long(), scores.shape[1]).movedim(-1, 1)
    else:
        raise ValueError(
            f"target must be one-hot of the shape {tuple(scores.shape)} or label indices of the shape "
            f"{tuple(scores.shape[:1] + scores.shape[2:])}, got {tuple(target.shape)}"
        )
    return scores.to(dtype).flatten(2), one_hot.to(dtype).flatten(2)


class _Loss(nn.Module):
    def __init__(self, epsilon=EPSILON):
        super().__init__()
        self.epsilon = epsilon

    def forward(self, scores, target):
        with torch.autocast(scores.device.type, enabled=False):
            return self._compute(*_prepare(scores, target))


class PCCLoss(_Loss):
    r"""Pearson's correlation coefficient as a loss, Eq. (4): 0 perfect, 0.5 random, 1 total disagreement.

    .. math::
        L = E[1 - PCC_l], \quad PCC_l = \frac12 \left(
        \frac{\sum_i (p_{li} - \bar p_l)(y_{li} - \bar y_l)}
        {\sqrt{\sum_i (p_{li} - \bar p_l)^2 \sum_i (y_{li} - \bar y_l)^2 + \epsilon}} + 1 \right)

    A label that is absent and predicted absent gives exactly 0.5. See the module for shapes and types.

    Args:
        epsilon: keeps the root of a label's variances from 0.

    Example::

        >>> labels = torch.tensor([0, 0, 1, 2]).reshape(1, 1, 2, 2)
        >>> scores = functional.one_hot(labels, 3).movedim(-1, 1).float()
        >>> f"{PCCLoss()(scores, labels):.2f}"
        '0.00'
        >>> f"{PCCLoss()(torch.full_like(scores, 1 / 3), labels):.2f}"
        '0.50'
    """

    def _compute(self, scores, target):
        scores = scores - scores.mean(dim=2, keepdim=True)
        target = target - target.mean(dim=2, keepdim=True)
        covariance = (scores * target).sum(dim=2)
        variances = scores.square().sum(dim=2) * target.square().sum(dim=2)
        correlation = covariance / torch.sqrt(variances + self.epsilon)
        return (0.5 * (1 - correlation)).mean()


class DiceLoss(_Loss):
    r"""Dice loss, Eq. (5).

    .. math::
        L = E[1 - Dice_l], \quad Dice_l = \frac{2 \sum_i p_{li} y_{li} + \epsilon}{\sum_i (p_{li} + y_{li}) + \epsilon}

    See the module for shapes and types.

    Args:
        epsilon: makes a label that is absent and predicted absent a perfect prediction.

    Example::

        >>> labels = torch.tensor([0, 0, 1, 1]).reshape(1, 1, 2, 2)
        >>> scores = functional.one_hot(labels, 2).movedim(-1, 1).float()
        >>> f"{DiceLoss()(scores, labels):.2f}, {DiceLoss()(scores, 1 - labels):.2f}"
        '0.00, 1.00'
    """

    def _compute(self, scores, target):
        intersection = (scores * target).sum(dim=2)
        total = (scores + target).sum(dim=2)
        return (1 - (2 * intersection + self.epsilon) / (total + self.epsilon)).mean()


class CrossEntropyLoss(_Loss):
    r"""Categorical cross-entropy of the scores: the mean over voxels and images of :math:`-\sum_l y_l \ln p_l`.

    See the module for shapes and types.

    Args:
        epsilon: scores below it count as `epsilon`.

    Example::

        >>> labels = torch.zeros(1, 2, 2, 2, dtype=torch.long)
        >>> f"{CrossEntropyLoss()(torch.full((1, 4, 2, 2, 2), 0.25), labels):.4f}"  # ln 4
        '1.3863'
    """

    def _compute(self, scores, target):
        return -(target * scores.clamp(min=self.epsilon).log()).sum(dim=1).mean()


class PCCCrossEntropyLoss(_Loss):
    """The sum of the two, for training on cubes that need not hold every structure.

    Where a label is absent from a target, its correlation is 0 whatever is predicted, and the PCC loss has no gradient:
    it never says that there is no brain in a neck. The cross-entropy does. See the module for shapes and types.

    Args:
        epsilon: of both.
    """

    def _compute(self, scores, target):
        parts = PCCLoss(self.epsilon), CrossEntropyLoss(self.epsilon)
        return sum(part._compute(scores, target) for part in parts)


# By their names on the command line; `protocol.LOSSES` has the same ones.
LOSSES = {"pcc": PCCLoss, "dice": DiceLoss, "cross-entropy": CrossEntropyLoss, "pcc+cross-entropy": PCCCrossEntropyLoss}
