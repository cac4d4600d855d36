"""Reading scans: nibabel does NIfTI and MGH, `headers` and `voxels` do NRRD and MetaImage, `dicom` does DICOM.

nibabel is imported where a file is read: training on a packed data set does without it.
"""

import errno
import gzip
import logging
import math
import os
import warnings
from contextlib import contextmanager, nullcontext
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
    except MemoryError as error:
        raise ImageError(
            f"{path}: does not fit into the memory that is free; close other programs, or resample the scan to larger "
            "voxels"
        ) from error
    except Exception as error:  # the libraries raise whatever came up in them: EOFError, RuntimeError, zlib.error, ...
        # The system's, and no fault of the file, but for a place that none has.
        if getattr(error, "errno", None) not in (None, errno.EINVAL):
            raise ImageError(
                f"{error.filename or path}: cannot be read ({error.strerror}); check the permissions and the disk"
            ) from error
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
        files = [file for file in files if split_extension(file)[1] in READABLE]
        if not files or has_dicom(path):
            return [path]
    except OSError as error:
        raise ImageError(f"{path}: cannot be looked into ({error.strerror}); check the permissions") from error
    scans = [file for file in files if not _is_label_map(file)]
    if not scans:
        raise ImageError(f"{path}: holds {len(files)} label maps and no scan; name the folder of the scans, or files")
    return scans


def _is_label_map(path):
    stem, extension = split_extension(path)
    return extension == ".seg.nrrd" or stem.endswith(LABELS_SUFFIX)


def _read_text_header(path):
    header = read_header(path)
    doubts = () if header.oriented else (orientation_unknown(path),)
    return Image(read_voxels(path, header), header.affine, str(path), doubts)


def _read_nibabel(path):
    extension = split_extension(path)[1]
    packed = extension in (".nii.gz", ".mgz")
    with open(path, "rb") as file:
        with gzip.GzipFile(fileobj=file) if packed else nullcontext(file) as stream:
            kind, shape, size = _nibabel_header(stream.read(NIFTI_HEADER), extension)
        check_size(path, shape, size, file.seek(0, os.SEEK_END), MOST[COMPRESSED if packed else RAW])
        file.seek(0)
        content = inflated(file, size, size + MOST_BESIDE) if packed else None
    with _listening() as told:
        image = kind.from_bytes(content) if packed else kind.from_filename(path, mmap=False)
        array = np.asanyarray(image.dataobj)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    check_kind(path, array)
    doubts = [f"{path}: its header was mended ({', '.join(told)}); check the result, or export it again"] * bool(told)
    if extension in (".nii", ".nii.gz") and not (image.header["sform_code"] or image.header["qform_code"]):
        doubts.append(orientation_unknown(path))
    return Image(array, np.array(image.affine, dtype=np.float64), str(path), tuple(doubts))


@contextmanager
def _listening():
    """Context that gives a list of what nibabel says of a header meanwhile; nothing is printed, and no warning."""
    from nibabel.imageglobals import logger

    told, handler, others = [], logging.Handler(), logger.handlers
    handler.emit = lambda record: told.append(record.getMessage())
    logger.handlers = [handler]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield told
    finally:
        logger.handlers = others


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
