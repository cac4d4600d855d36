"""Between a scan and the cube that the network sees.

The paper (Section 3.1): isotropic resampling, zero padding, resizing to 128^3. Here one resampling does all three, and
one object holds the way there and the way back. The cube's axes are the scan's own, in the order and direction nearest
to right, anterior, superior, so that resampling is one small matrix per axis, no stored axis order or flip can change
the result, and an obliquely acquired slab is seen as it was planned.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional

SIZE = 128
# What is brighter than this share of the mean of tissue is not background.
CONTENT_LEVEL = 0.1
# What is interpolated at a time, so that its indices and scores stay in a CPU's cache.
VOXELS_AT_A_TIME = 2**12
# Scores below this are as good as none: their logarithm has to end somewhere.
SMALLEST_SCORE = 1e-4


@dataclass(frozen=True, eq=False)
class Grid:
    """A cube of `size`^3 voxels laid over a scan.

    Args:
        shape: the scan's (I, J, K).
        affine: the scan's (4, 4), voxel index to right-anterior-superior millimetres.
        size: voxels along each edge of the cube.
        low, high: corners, in voxel indices of the scan turned to its nearest right-anterior-superior axes, of the
            part of the scan that the cube is fitted to; all of the scan by default. The cube is centred on that part,
            its edge is the part's longest side in millimetres, and outside of the scan it is zero.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    size: int = SIZE
    low: tuple[float, float, float] | None = None
    high: tuple[float, float, float] | None = None

    @cached_property
    def orientation(self):
        """nibabel's orientation array of the scan: per stored axis the anatomical axis and its direction."""
        import nibabel

        return nibabel.io_orientation(self.affine)

    @property
    def turned_shape(self):
        """The scan's shape along right, anterior, superior."""
        return tuple(self.shape[axis] for axis in self._stored_axes())

    @property
    def turned_spacing(self):
        """The scan's spacing in mm along right, anterior, superior."""
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        return spacing[self._stored_axes()]

    @property
    def spacing(self):
        """The cube's voxel size, mm."""
        low, high = self._part()
        return float(((high - low) * self.turned_spacing).max() / self.size)

    def turn(self, array):
        """A scan's array (I, J, K) with its axes turned to right, anterior, superior."""
        import nibabel

        return nibabel.apply_orientation(array, self.orientation)

    def turn_back(self, array):
        """The inverse of `turn`."""
        import nibabel

        orientation = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), self.orientation)
        return nibabel.apply_orientation(array, orientation)

    def image_to_cube(self, array):
        """Resample a scan's array (I, J, K) linearly to the cube, a float32 tensor (D, H, W), axes z, y, x.

        Where the cube is coarser than the scan, each cube voxel averages what it covers, so that fine scans do not
        alias.
        """
        turned = torch.from_numpy(np.ascontiguousarray(self.turn(array), dtype=np.float32))
        for axis in range(3):
            turned = _along(self._to_cube(axis), turned, axis)
        return turned.permute(2, 1, 0).contiguous()

    def labels_to_cube(self, labels, classes):
        """Resample a label map (I, J, K) with values 0 to `classes` - 1 to the cube, a uint8 tensor (D, H, W).

        Each label is resampled as an image, and the strongest one wins.
        """
        best = torch.full([self.size] * 3, -1.0)
        result = torch.zeros([self.size] * 3, dtype=torch.uint8)
        for label in range(classes):
            weight = self.image_to_cube(labels == label)
            if label == 0:
                weight += 1 - self.image_to_cube(np.ones(self.shape, dtype=np.float32))  # outside of the scan
            result[weight > best] = label
            best = torch.maximum(best, weight)
        return result

    def shares_to_cube(self, labels, classes):
        """Resample a label map (I, J, K) with values 0 to `classes` - 1 to the cube, keeping borders soft.

        Each label is resampled as an image, which gives its share of a voxel.

        Returns:
            uint8 tensor (2, 3, D, H, W): the three labels with the largest shares, and these shares in 255ths.
        """
        shares = torch.stack([self.image_to_cube(labels == label) for label in range(classes)])
        shares[0] += 1 - self.image_to_cube(np.ones(self.shape, dtype=np.float32))  # outside of the scan
        largest, which = shares.topk(3, dim=0)
        return torch.stack([which.byte(), (255 * largest / largest.sum(dim=0)).round().byte()])

    def scores_to_labels(self, scores):
        """Labels on the scan's own grid from class scores on the cube.

        The scores' logarithms are interpolated by cubic convolution (Keys 1981), and the highest wins. (Not the labels,
        which would give stairs. Logarithms, because they run straight across a border where scores have a step.) What
        is best in all eight neighbours of a voxel is taken for best in it, so only the voxels whose neighbours disagree
        are interpolated: about a tenth of a scan.

        Args:
            scores: (C, D, H, W), 0 to 1, axes z, y, x, of up to 256 classes.

        Returns:
            uint8 array (I, J, K). Voxels outside of the cube are background, 0.
        """
        scores = scores.detach().float().cpu()
        inside = tuple(self._inside_cube(axis) for axis in (2, 1, 0))
        places = [self._neighbours(axis, part) for axis, part in zip((2, 1, 0), inside)]
        first = np.ix_(*[first for first, _ in places])
        low, high = _extremes(scores.max(dim=0).indices.to(torch.uint8).numpy())  # argmax would take four times as long
        labels, several = low[first], (low != high)[first]
        labels[several] = _interpolated(scores, places, np.flatnonzero(several), labels.shape)
        result = np.zeros(self.turned_shape[::-1], dtype=np.uint8)
        result[inside] = labels
        return np.ascontiguousarray(self.turn_back(result.transpose(2, 1, 0)))

    def cube_to_image(self, cube):
        """Interpolate a cube (D, H, W) linearly to the scan's grid, float32 (I, J, K); its border goes on outside."""
        for dimension, axis in enumerate((2, 1, 0)):
            first, share = self._neighbours(axis, slice(None))
            weights = np.zeros((len(first), self.size), dtype=np.float32)
            weights[np.arange(len(first)), first], weights[np.arange(len(first)), first + 1] = 1 - share, share
            cube = _along(torch.from_numpy(weights), cube, dimension)
        return self.turn_back(cube.permute(2, 1, 0).numpy())

    def cube_from(self, cube, other):
        """A cube (D, H, W) of another `Grid` over the same scan, interpolated linearly to this one; 0 outside."""
        for dimension, axis in enumerate((2, 1, 0)):
            first, second = other._positions(axis)[:2]
            index = (self._positions(axis) - first) / (second - first)
            weights = np.maximum(0, 1 - np.abs(index[:, None] - np.arange(other.size)))
            cube = _along(torch.from_numpy(weights.astype(np.float32)), cube, dimension)
        return cube

    def cube_to_turned(self, index):
        """Cube index (x, y, z) to voxel index of the turned scan, as `low` and `high` are given; a tuple of 3."""
        ends = [self._positions(axis)[[0, 1]] for axis in range(3)]
        return tuple(float(first + i * (second - first)) for i, (first, second) in zip(index, ends))

    def cube_affine(self):
        """(4, 4), cube index (x, y, z) to right-anterior-superior millimetres."""
        import nibabel

        turned = self.affine @ nibabel.orientations.inv_ornt_aff(self.orientation, self.shape)
        step = self.spacing / self.turned_spacing
        scale = np.diag([*step, 1.0])
        scale[:3, 3] = [self._positions(axis)[0] for axis in range(3)]
        return turned @ scale

    def _stored_axes(self):
        return list(np.argsort(self.orientation[:, 0]))

    def _part(self):
        """Corners of the part of the scan that the cube is fitted to: voxel edges, so that n voxels are n long."""
        low = np.full(3, -0.5) if self.low is None else np.asarray(self.low, dtype=float) - 0.5
        high = np.array(self.turned_shape) - 0.5 if self.high is None else np.asarray(self.high, dtype=float) + 0.5
        return low, high

    def _positions(self, axis):
        """Where the cube's voxels lie along an axis, in the turned scan's voxel indices."""
        low, high = self._part()
        centre = (low[axis] + high[axis]) / 2
        offsets = np.arange(self.size) - (self.size - 1) / 2
        return centre + offsets * self.spacing / self.turned_spacing[axis]

    def _to_cube(self, axis):
        """(size, n) weights: a triangle as wide as the larger of the two voxel sizes."""
        n = self.turned_shape[axis]
        width = max(1.0, self.spacing / self.turned_spacing[axis])
        distance = np.abs(self._positions(axis)[:, None] - np.arange(n))
        weights = np.maximum(0, 1 - distance / width)
        # The full triangle's sum, which voxels outside of the scan (zero) still count for.
        reach = int(np.ceil(width)) + 1
        whole = np.floor(self._positions(axis))[:, None] + np.arange(-reach, reach + 2)
        total = np.maximum(0, 1 - np.abs(self._positions(axis)[:, None] - whole) / width).sum(axis=1, keepdims=True)
        return torch.from_numpy((weights / total).astype(np.float32))

    def _neighbours(self, axis, part):
        """For interpolation along an axis: the first of the two cube indices around a voxel, and its distance from it.

        Two arrays for a slice of the turned scan; the cube's border voxels reach half a voxel beyond themselves.
        """
        positions = self._positions(axis)
        index = (np.arange(self.turned_shape[axis])[part] - positions[0]) / (positions[1] - positions[0])
        index = index.clip(0, self.size - 1)
        first = np.minimum(index.astype(np.int32), self.size - 2)
        return first, (index - first).astype(np.float32)

    def _inside_cube(self, axis):
        """The part of an axis of the turned scan that lies in the cube, a slice."""
        positions = self._positions(axis)
        half = (positions[1] - positions[0]) / 2
        index = np.arange(self.turned_shape[axis])
        inside = index[(index >= positions[0] - half) & (index <= positions[-1] + half)]
        return slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0)


def _along(matrix, array, axis):
    """Multiply `matrix` (m, n) onto one axis (of n) of a tensor."""
    return torch.tensordot(matrix, array, dims=([1], [axis])).movedim(0, axis)


def _extremes(labels):
    """Smallest and largest of each 2^3 neighbours in a label map (D, H, W); two arrays (D - 1, H - 1, W - 1)."""
    low = high = labels
    for axis in range(3):
        first, second = (tuple([slice(None)] * axis + [part]) for part in (slice(0, -1), slice(1, None)))
        low, high = np.minimum(low[first], low[second]), np.maximum(high[first], high[second])
    return low, high


@torch.inference_mode()
def _interpolated(scores, places, where, shape):
    """The labels of the voxels `where` (flat indices in `shape`) by interpolating scores (C, D, H, W).

    `places` has for each axis what `Grid._neighbours` gives. With the scores of a cube voxel together in memory, the
    weighted sum of 4^3 such rows is what torch has for bags of words.
    """
    _, depth, height, width = scores.shape
    rows = scores.flatten(1).T.clamp(min=SMALLEST_SCORE).log_().contiguous()
    taps = [
        (first[:, None] + np.arange(-1, 3, dtype=np.int32)).clip(0, size - 1)
        for (first, _), size in zip(places, (depth, height, width))
    ]
    weights = [_cubic(share) for _, share in places]
    labels = np.empty(len(where), dtype=np.uint8)
    for start in range(0, len(where), VOXELS_AT_A_TIME):
        part = slice(start, start + VOXELS_AT_A_TIME)
        z, y, x = np.unravel_index(where[part], shape)
        rows_of = (taps[0][z][:, :, None] * height + taps[1][y][:, None]) * width
        rows_of = (rows_of[:, :, :, None] + taps[2][x][:, None, None]).reshape(-1, 64)
        share = (weights[0][z][:, :, None] * weights[1][y][:, None])[:, :, :, None] * weights[2][x][:, None, None]
        means = functional.embedding_bag(
            torch.from_numpy(rows_of), rows, mode="sum", per_sample_weights=torch.from_numpy(share.reshape(-1, 64))
        )
        labels[part] = means.max(dim=1).indices.numpy()
    return labels


def _cubic(s):
    """Weights (n, 4) of four neighbours in a row at distances s (n) from the second (Keys 1981, with a = -1/2)."""
    return np.stack(
        [
            ((1 - 0.5 * s) * s - 0.5) * s,
            (1.5 * s - 2.5) * s * s + 1,
            ((2 - 1.5 * s) * s + 0.5) * s,
            (0.5 * s - 0.5) * s * s,
        ],
        axis=1,
    )


def content(cube):
    """The part of a cube from `normalise` that is not background, three slices along z, y, x, with a voxel around it.

    All of the cube if there is nothing in it.
    """
    found = (cube > CONTENT_LEVEL).nonzero()
    if not len(found):
        return tuple(slice(0, size) for size in cube.shape)
    low, high = (found.min(dim=0).values - 1).clamp(min=0), found.max(dim=0).values + 2
    return tuple(slice(int(first), min(int(last), size)) for first, last, size in zip(low, high, cube.shape))


def normalise(cube):
    """Scale intensities so that the mean of what is not background is 1; background stays at 0.

    What exceeds a tenth of the 99th percentile counts as not background; values end at 0 and 10, so that single bright
    voxels (vessels, spikes) do not matter.
    """
    cube = cube.float().clamp(min=0)
    threshold = 0.1 * np.percentile(cube.cpu().numpy(), 99)
    foreground = cube[cube > threshold]
    return (cube / foreground.mean()).clamp(max=10) if foreground.numel() else cube
