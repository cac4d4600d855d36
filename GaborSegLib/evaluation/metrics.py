"""How well a segmentation agrees with the truth: Dice, Hausdorff distance, mean surface distance, and their table."""

import numpy as np

from ..files import write_csv

SCORES = ("dice", "hd95_mm", "msd_mm")


def dice(prediction, truth, labels):
    """Dice coefficient 2|A∩B| / (|A| + |B|) of each of `labels`, a float array; NaN for a label that is in neither map.

    `prediction` and `truth` are label maps of one shape, of integers from 0 up; `labels` is a sequence of them.
    Raises ValueError for two shapes.
    """
    _check_shapes(prediction, truth)
    labels = np.asarray(labels)

    def count(values):
        return np.bincount(values, minlength=labels.max() + 1)[labels]

    both = count(prediction[prediction == truth])
    either = count(prediction.ravel()) + count(truth.ravel())
    return np.divide(2 * both, either, out=np.full(len(labels), np.nan), where=either > 0)


def surface_distances(prediction, truth, label, spacing):
    """(95th percentile Hausdorff distance, mean surface distance) of one label in mm; both NaN if a map lacks it.

    A surface is the voxels of the label that share a face with another label or with the outside of the map. From
    each voxel of one surface, the distance to the nearest of the other is taken, both ways. The first result is the
    larger of the two ways' 95th percentiles (as MONAI's `compute_hausdorff_distance(percentile=95)`), the second the
    mean of the distances of both ways together (its `compute_average_surface_distance(symmetric=True)`).

    The maps are 3D, of one shape, else ValueError; `spacing` is the voxel size along their three axes in mm.
    """
    _check_shapes(prediction, truth)
    masks = np.stack([prediction == label, truth == label])
    if not masks.any(axis=(1, 2, 3)).all():
        return np.nan, np.nan
    crop = _bounding_box(masks.any(axis=0))
    surfaces = [_surface(mask[crop], spacing) for mask in masks]
    forth, back = _distances(surfaces[0], surfaces[1]), _distances(surfaces[1], surfaces[0])
    hausdorff = max(np.percentile(forth, 95), np.percentile(back, 95))
    return float(hausdorff), float(np.concatenate([forth, back]).mean())


def score_scan(scan, prediction, truth, structures, spacing):
    """The rows for `score_table` and `write_scores` of one scan: a dictionary for each of a list of `Structure`."""
    rows = []
    for structure, overlap in zip(structures, dice(prediction, truth, [s.label for s in structures])):
        hausdorff, mean = surface_distances(prediction, truth, structure.label, spacing)
        scores = zip(SCORES, (float(overlap), hausdorff, mean))
        rows.append({"scan": scan, "structure": structure.name, **dict(scores)})
    return rows


def score_table(rows):
    """Text table of each structure's mean ± standard deviation over the scans, and of the means over the structures.

    `rows` are dictionaries with scan, structure, dice, hd95_mm and msd_mm. A NaN (a structure that is missing) is left
    out of mean and deviation; the deviation divides by the number of scans, so it is 0 for one.
    """
    names = list(dict.fromkeys(row["structure"] for row in rows))
    width = max(len(name) for name in [*names, "Mean of structures"])
    lines, means = [], []
    for name in names:
        scores = np.array([[row[key] for key in SCORES] for row in rows if row["structure"] == name], dtype=float)
        pairs = [_mean_and_deviation(column) for column in scores.T]
        means.append([mean for mean, _ in pairs])
        lines.append(f"{name:<{width}}" + "".join(f"  {mean:>8.3f} ± {std:<6.3f}" for mean, std in pairs))
    overall = [_mean_and_deviation(column)[0] for column in np.transpose(means)]
    last = f"{'Mean of structures':<{width}}" + "".join(f"  {mean:>8.3f}         " for mean in overall)
    head = f"{'Structure':<{width}}" + "".join(f"  {title:^17}" for title in ("Dice", "HD95 (mm)", "MSD (mm)"))
    rule = "-" * len(head)
    return "\n".join(line.rstrip() for line in [head, rule, *lines, rule, last])


def write_scores(path, rows):
    """Write the rows of `score_table` as CSV, one line per scan and structure; a NaN leaves its field empty.

    Raises `OutputError` if the file cannot be written.
    """
    lines = [["scan", "structure", *SCORES]]
    for row in rows:
        scores = ["" if np.isnan(row[key]) else f"{row[key]:.5f}" for key in SCORES]
        lines.append([row["scan"], row["structure"], *scores])
    write_csv(path, lines)


def _check_shapes(prediction, truth):
    if prediction.shape != truth.shape:
        raise ValueError(f"the prediction has shape {prediction.shape}, the truth {truth.shape}; they must be the same")


def _bounding_box(mask):
    """The slices of the smallest box that holds a mask's voxels."""
    axes = range(mask.ndim)
    ends = [np.flatnonzero(mask.any(axis=tuple(a for a in axes if a != axis)))[[0, -1]] for axis in axes]
    return tuple(slice(first, last + 1) for first, last in ends)


def _surface(mask, spacing):
    """The surface of a mask, a SimpleITK image; the margin makes voxels at the edge of the array surface too."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
    image.SetSpacing([float(size) for size in reversed(spacing)])  # SimpleITK names the array's last axis first
    return SimpleITK.LabelContour(image)


def _distances(surface, other):
    """From each voxel of a surface, the distance to the nearest voxel of the other, in mm."""
    import SimpleITK

    distance = SimpleITK.SignedMaurerDistanceMap(other, squaredDistance=False, useImageSpacing=True)
    values = SimpleITK.GetArrayViewFromImage(distance)[SimpleITK.GetArrayViewFromImage(surface) > 0]
    return np.maximum(values, 0)  # the map is negative inside a surface where that is several voxels thick


def _mean_and_deviation(values):
    values = values[~np.isnan(values)]
    return (values.mean(), values.std()) if len(values) else (np.nan, np.nan)
