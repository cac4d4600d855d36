"""Reading scans: nibabel does NIfTI and MGH, `headers` and `voxels` do NRRD and MetaImage, `dicom` does DICOM.

nibabel is imported where a file is read: training on a packed data set does without it.
"""

import gzip
import math
import os
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from ..errors import ImageError
from ..files import regular_file, split_extension, utf8_name
from .dicom import has_dicom, read_dicom
from .headers import COMPRESSED, RAW, read_header
from .image import (
    LABELS_SUFFIX,
    NIBABEL,
    READABLE,
    Image,
    check_kind,
    orientation_unknown,
    reason,
)
from .voxels import MOST, check_size, inflated, read_voxels

# Bytes that may stand before the voxels of a NIfTI file (notes of programs) and behind those of an MGH file (tables).
MOST_BESIDE = 16 << 20
NIFTI_HEADER = 540  # bytes; MGH's is shorter


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
    is_folder = os.path.isdir(path)
    (utf8_name if is_folder else regular_file)(path, ImageError)
    if not is_folder and extension not in (*READABLE, ".dcm"):
        raise ImageError(
            f"{path}: got the extension '{extension}'; wanted one of {', '.join(READABLE)}, or a folder of DICOM files"
        )
    try:
        if is_folder or extension == ".dcm":
            return read_dicom(path)
        return _read_nibabel(path) if extension in NIBABEL else _read_text_header(path)
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


def _read_text_header(path):
    header = read_header(path)
    warnings = () if header.oriented else (orientation_unknown(path),)
    return Image(read_voxels(path, header), header.affine, str(path), warnings)


def _read_nibabel(path):
    extension = split_extension(path)[1]
    packed = extension in (".nii.gz", ".mgz")
    with open(path, "rb") as file:
        with gzip.GzipFile(fileobj=file) if packed else nullcontext(file) as stream:
            kind, shape, size = _nibabel_header(stream.read(NIFTI_HEADER), extension)
        check_size(path, shape, size, file.seek(0, os.SEEK_END), MOST[COMPRESSED if packed else RAW])
        file.seek(0)
        content = inflated(file, size, size + MOST_BESIDE) if packed else None
    image = kind.from_bytes(content) if packed else kind.from_filename(path, mmap=False)
    array = np.asanyarray(image.dataobj)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    check_kind(path, array)
    warnings = ()
    if extension in (".nii", ".nii.gz") and not (image.header["sform_code"] or image.header["qform_code"]):
        warnings = (orientation_unknown(path),)
    return Image(array, np.array(image.affine, dtype=np.float64), str(path), warnings)


def _nibabel_header(start, extension):
    """(nibabel's class for a file that starts with these bytes, the shape of its voxels, bytes up to their end)."""
    import nibabel

    kind = nibabel.MGHImage
    if extension in (".nii", ".nii.gz"):
        kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image)
        kind = next((kind for kind in kinds if kind.header_class.may_contain_header(start)), None)
        if kind is None:
            raise ValueError("it does not begin as a NIfTI file")
    header = kind.header_class(start[: kind.header_class.template_dtype.itemsize], check=False)
    shape, begin = header.get_data_shape(), header.get_data_offset()
    if not 0 <= begin <= MOST_BESIDE:
        raise ValueError(f"its header tells of voxels that begin at byte {begin}")
    return kind, shape, begin + header.get_data_dtype().itemsize * math.prod(map(int, shape))
