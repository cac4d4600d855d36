"""DICOM: the series in a folder, as one volume whose slices lie where their headers say."""

from pathlib import Path

import numpy as np

from ..errors import ImageError
from .image import from_itk, without_itk_warnings


def read_dicom(path):
    """The series that a .dcm file belongs to, or the longest one in a folder."""
    import SimpleITK as sitk

    reader, folder = sitk.ImageSeriesReader, str(path if path.is_dir() else path.parent)
    series = [reader.GetGDCMSeriesFileNames(folder, uid) for uid in reader.GetGDCMSeriesIDs(folder)]
    if path.is_file():
        series = [files for files in series if path.name in {Path(file).name for file in files}]
    if not series:
        raise ImageError(f"{path}: holds no DICOM image; name the folder that a series' files lie in, or another file")
    files = max(series, key=len)
    image = sitk.ReadImage(files)
    _check_slices(path, files, image)
    warnings = ()
    if len(series) > 1:
        warnings = (
            f"{path}: holds {len(series)} DICOM series; took the one with the most slices ({len(files)}), "
            f"of {Path(files[0]).name}; name a file of another one to take that",
        )
    return from_itk(path, image, warnings)


def has_dicom(folder):
    import SimpleITK as sitk

    with without_itk_warnings():
        return bool(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def _check_slices(path, files, image):
    """Compare where each DICOM slice says that it lies with where the volume puts it: ITK takes even steps for granted.

    A slice that is missing from a series moves others by half a slice or more; rounding moves none by a tenth.
    """
    import SimpleITK as sitk

    if len(files) == 1:
        return
    reader, away = sitk.ImageFileReader(), []
    for k, file in enumerate(files):
        reader.SetFileName(file)
        reader.ReadImageInformation()
        away.append(np.linalg.norm(np.subtract(reader.GetOrigin(), image.TransformIndexToPhysicalPoint((0, 0, k)))))
    if not max(away) < 0.1 * image.GetSpacing()[2]:
        raise ImageError(
            f"{path}: got slices up to {max(away):.1f} mm away from an even, straight stack; some are missing, double "
            "or tilted, export the series again"
        )
