"""A data set of small made scans, for the tests and pictures of training."""

import numpy as np
import SimpleITK as sitk

SHAPE = (36, 40, 32)


def make_data_set(folder, count=5):
    """A data set of made scans: a shell, a core, and a ball on one side."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    place = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    for seed in range(count):
        random = np.random.default_rng(seed)
        centre = np.array(SHAPE) / 2 + random.uniform(-1.5, 1.5, 3)
        distance = np.linalg.norm((place - centre) / SHAPE, axis=-1)
        labels = (distance < 0.42).astype(np.uint8) + (distance < 0.25)
        labels[np.linalg.norm(place - centre - [-6, 3, 2], axis=-1) < 3.5] = 3
        scan = np.array([0, 80, 140, 110])[labels] + random.normal(0, 4, SHAPE) * (labels > 0)
        for name, array in (("images", scan.astype(np.float32)), ("labels", labels)):
            image = sitk.GetImageFromArray(np.ascontiguousarray(array))
            image.SetSpacing((2.0, 2.0, 2.0))
            sitk.WriteImage(image, str(folder / name / f"s{seed}.nii.gz"))
    (folder / "structures.csv").write_text("label,structure,ids\n0,Background,0\n1,Shell,1\n2,Core,2\n3,Ball,3\n")
    return folder
