"""Reading scans: nibabel does NIfTI and MGH, SimpleITK the other formats.

Both are imported where a file is read: training on a packed data set does without them.
"""

import gzip
from pathlib import Path

import numpy as np

from ..errors import ImageError
from ..files import split_extension
from .dicom import has_dicom, read_dicom
from .image import (
    LABELS_SUFFIX,
    NIBABEL,
    READABLE,
    Image,
    check_kind,
    from_itk,
    orientation_unknown,
    reason,
    without_itk_warnings,
)


def read_image(path):
    """Read a scan or a label map with all of its voxels; a fourth dimension of length 1 is dropped.

    Args:
        path: a file of a `READABLE` type, a folder with a DICOM series, or one .dcm file of a series. If the folder
            holds several series, the one with the most slices is read.

    Returns:
        `Image`.

    Raises:
        ImageError: there is no such file, it cannot be read, or it is not one volume with one number per voxel.
    """
    path = Path(path)
    extension = split_extension(path)[1]
    if not path.exists():
        raise ImageError(f"{path}: there is no such file or folder; check the name")
    if not path.is_dir() and extension not in (*READABLE, ".dcm"):
        raise ImageError(
            f"{path}: got the extension '{extension}'; wanted one of {', '.join(READABLE)}, or a folder of DICOM files"
        )
    try:
        if path.is_file() and extension in NIBABEL:
            return _read_nibabel(path)
        import SimpleITK as sitk

        with without_itk_warnings():
            if path.is_dir() or extension == ".dcm":
                return read_dicom(path)
            return from_itk(path, sitk.ReadImage(str(path)))
    except (ImageError, ImportError):
        raise
    except Exception as error:  # the libraries raise whatever came up in them: EOFError, RuntimeError, zlib.error, ...
        raise ImageError(
            f"{path}: cannot be read ({reason(error)}); the file is damaged or incomplete, export or copy it again"
        ) from error


def scans_in(path):
    """The scans that a path stands for, a list of `Path`.

    A folder with a DICOM series is one scan. Of another folder they are the files of a `READABLE` type that lie in it
    directly, by name, but for hidden files, .seg.nrrd, and NAME_labels.*: label maps, as they are written beside scans.

    Raises:
        ImageError: the folder cannot be looked into, or holds label maps alone.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    try:
        files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
    except OSError as error:
        raise ImageError(f"{path}: cannot be looked into ({error.strerror}); check the permissions") from error
    files = [file for file in files if split_extension(file)[1] in READABLE]
    if not files or has_dicom(path):
        return [path]
    scans = [file for file in files if not _is_label_map(file)]
    if not scans:
        raise ImageError(f"{path}: holds {len(files)} label maps and no scan; name the folder of the scans, or files")
    return scans


def _is_label_map(path):
    stem, extension = split_extension(path)
    return extension == ".seg.nrrd" or stem.endswith(LABELS_SUFFIX)


def _read_nibabel(path):
    import nibabel

    if path.suffix.lower() in (".gz", ".mgz"):
        # nibabel stops after the last voxel and never compares the checksum behind it.
        with gzip.open(path) as file:
            while file.read(1 << 24):
                pass
    file = nibabel.load(path, mmap=False)
    array = np.asanyarray(file.dataobj)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    check_kind(path, array)
    warnings = ()
    if isinstance(file, nibabel.Nifti1Image) and not (file.header["sform_code"] or file.header["qform_code"]):
        warnings = (orientation_unknown(path),)
    return Image(array, np.array(file.affine, dtype=np.float64), str(path), warnings)
