"""The sound inputs that cases are made of by damage: as small as the program takes them, and always the same."""

import shutil

import numpy as np

from GaborSegLib import cli

SHAPE, SPACING = (18, 20, 22), 9.0
STRUCTURES = ("Shell", "Core", "Ball")
TABLE = "label,structure,source_ids\n1,Shell,10\n2,Core,20-22\n3,Ball,30 31\n"
# What a run is made with, and has to be resumed with.
TRAIN = (
    *("--epochs", "2", "--grid-size", "16", "--base-channels", "4", "--gabor-kernel-size", "3", "--variant", "mixed"),
    *("--augmentation", "none", "--validation-share", "0.25", "--device", "cpu", "--threads", "1"),
)


def made_scan(seed):
    """(scan int16, ids int16) of `SHAPE`: a bright ball in a shell, with a core."""
    random = np.random.default_rng(seed)
    place = np.indices(SHAPE) - np.reshape(SHAPE, (3, 1, 1, 1)) / 2 + random.uniform(-1, 1, (3, 1, 1, 1))
    distance = np.linalg.norm(place, axis=0)
    ids = np.select([distance < 3, distance < 5, distance < 8], [31, 20, 10], 0).astype(np.int16)
    bright = np.select([ids == 31, ids == 20, ids == 10], [110, 140, 80], 0)
    return (bright + random.normal(0, 4, SHAPE) * (ids > 0)).astype(np.int16), ids


def make_seeds(folder):
    """Write all of them into a folder; runs in a process of its own, since it computes."""
    import nibabel
    import SimpleITK as sitk

    from GaborSegLib.scans.image import itk_image

    scan, _ = made_scan(0)
    affine = np.diag([-SPACING, SPACING, SPACING, 1])
    image = nibabel.Nifti1Image(scan, affine)
    for name in ("scan.nii", "scan.nii.gz", "scan.img"):
        nibabel.save(image, folder / name)
    nibabel.save(nibabel.Nifti2Image(scan, affine), folder / "scan2.nii")
    for name in ("scan.mgh", "scan.mgz"):
        nibabel.save(nibabel.MGHImage(scan, affine), folder / name)
    sitk.WriteImage(itk_image(scan, affine), str(folder / "scan.nrrd"))
    np.save(folder / "scan.npy", scan)
    _dicom(folder / "dicom", itk_image(scan, affine))
    _weights(folder / "tiny.safetensors")
    _weights(folder / "balls.safetensors", STRUCTURES)
    _data(folder / "data")
    assert cli.main(["pack", str(folder / "data"), "-o", str(folder / "packed.zip"), "--grid-size", "16"]) == 0
    _run(folder)


def _dicom(folder, image):
    import SimpleITK as sitk

    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(image.GetSize()[2]):
        part = image[:, :, k]
        position = image.TransformIndexToPhysicalPoint((0, 0, k))
        tags = {
            "0008|0060": "MR",
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.9.{k}",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.2",
            "0020|0013": str(k),
            "0020|0032": "\\".join(map(str, position)),
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in tags.items():
            part.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{k:02}.dcm"))
        writer.Execute(part)


def _weights(path, structures=None):
    import torch

    from GaborSegLib.model.network import build_network
    from GaborSegLib.model.weights import save_weights
    from GaborSegLib.structures import paper_structures

    names = list(structures or [structure.name for structure in paper_structures()])
    shape = {
        "variant": "mixed",
        "conventional_kernel_size": 3,
        "gabor_kernel_size": 3,
        "in_channels": 1,
        "classes": len(names) + 1,
        "base_channels": 4,
    }
    torch.manual_seed(1)
    save_weights(path, build_network(**shape), {**shape, "structures": names, "grid_size": 16, "field": "cube"})


def _data(folder):
    import nibabel

    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    affine = np.diag([-SPACING, SPACING, SPACING, 1])
    for seed in range(4):
        for name, array in zip(("images", "labels"), made_scan(seed)):
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / name / f"s{seed}.nii.gz")
    (folder / "structures.csv").write_text(TABLE)
    (folder / "subjects.csv").write_text("scan,subject\n" + "".join(f"s{i},{'ABCD'[i]}\n" for i in range(4)))


def _run(folder):
    """A run that was stopped after the first of its two epochs."""
    from GaborSegLib.training import trainer

    save = trainer.Trainer.save

    def save_and_stop(self):
        save(self)
        self.stop()

    trainer.Trainer.save = save_and_stop
    assert cli.main(["train", str(folder / "data"), "-o", str(folder / "run"), *TRAIN]) == 0
    shutil.rmtree(folder / "run" / "cache")
