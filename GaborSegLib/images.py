"""Reading scans, and writing label maps on a scan's own grid.

In memory every image is an array with the axes i, j, k as stored and an affine that takes voxel indices to
right-anterior-superior (RAS) millimetres. nibabel reads and writes NIfTI and MGH; SimpleITK does NRRD, MetaImage and
DICOM, and its left-posterior-superior (LPS) millimetres are turned into RAS here. Both are imported where a file is
read or written: training on a packed data set does without them.
"""

import gzip
import itertools
import os
import secrets
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import ImageError, OutputError

NIBABEL = (".nii", ".nii.gz", ".mgh", ".mgz")
# Files that hold a whole scan each. DICOM is read too, from the folder that a series lies in.
READABLE = (*NIBABEL, ".nrrd", ".seg.nrrd", ".nhdr", ".mha", ".mhd")
WRITABLE = (*NIBABEL, ".nrrd", ".seg.nrrd")
LABELS_SUFFIX = "_labels"  # of the label map of a scan
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

SMALLEST = 16  # voxels along an axis
COARSEST = 3.0  # mm; thicker slices than this hide the smaller structures
# Cosine of the angle between two axes. 1e-3 moves a voxel by a quarter of its size over a 256 voxel scan.
SHEAR = 1e-3
# CT: air is -1000 HU and fills much of a head scan, while MRI has hardly a value like it on any usual scale.
CT_AIR, CT_SHARE = -500, 0.05
BACKGROUND = 0.05  # of the range of intensities; the noise around the head in a T1 scan stays below


@dataclass(frozen=True, eq=False)
class Image:
    """A scan or a label map.

    Args:
        array: (I, J, K), any real type, axes as stored.
        affine: (4, 4) float64, voxel index to right-anterior-superior millimetres.
        path: where it was read from, or None.
        warnings: what was doubtful while it was read, one line each; `check_image` hands them on.
    """

    array: np.ndarray
    affine: np.ndarray
    path: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def spacing(self):
        """Voxel size along i, j, k, mm."""
        return tuple(float(size) for size in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def name(self):
        """What messages call it."""
        return self.path or "the image"


def split_extension(path):
    """(all before the extension, extension in lower case), two strings; .nii.gz and .seg.nrrd are one extension."""
    stem, extension = os.path.splitext(path)
    inner_stem, inner = os.path.splitext(stem)
    if (inner + extension).lower() in (".nii.gz", ".seg.nrrd"):
        return inner_stem, (inner + extension).lower()
    return stem, extension.lower()


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

        with _without_itk_warnings():
            if path.is_dir() or extension == ".dcm":
                return _read_dicom(path)
            return _from_itk(path, sitk.ReadImage(str(path)))
    except (ImageError, ImportError):
        raise
    except Exception as error:  # the libraries raise whatever came up in them: EOFError, RuntimeError, zlib.error, ...
        raise ImageError(
            f"{path}: cannot be read ({_reason(error)}); the file is damaged or incomplete, export or copy it again"
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
    if not files or _has_dicom(path):
        return [path]
    scans = [file for file in files if not _is_label_map(file)]
    if not scans:
        raise ImageError(f"{path}: holds {len(files)} label maps and no scan; name the folder of the scans, or files")
    return scans


def _is_label_map(path):
    stem, extension = split_extension(path)
    return extension == ".seg.nrrd" or stem.endswith(LABELS_SUFFIX)


def _has_dicom(folder):
    import SimpleITK as sitk

    with _without_itk_warnings():
        return bool(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def check_image(image):
    """Check that an image can be segmented.

    Args:
        image: `Image`.

    Returns:
        List of warnings, a line each, for what can be segmented with doubt: thick slices, CT, a background that is
        not 0, and the image's own `warnings`.

    Raises:
        ImageError: the image cannot be segmented.
    """
    _check_kind(image.name, image.array)
    _check_grid(image)
    _check_values(image)
    return [*image.warnings, *(f"{image.name}: {warning}" for warning in _doubts(image))]


def write_label_map(path, labels, affine, structures):
    """Write a label map on its scan's grid, in the format of the path's extension (`WRITABLE`).

    Args:
        path: the file; an older one is replaced once the new one is complete.
        labels: uint8 (I, J, K).
        affine: (4, 4), voxel index to right-anterior-superior millimetres, without shear.
        structures: list of `Structure`; a .seg.nrrd lists all of them as segments, absent ones too.

    Raises:
        OutputError: another extension, or the file cannot be written.
    """
    extension = _known_extension(path, WRITABLE)
    with replacing(path) as temporary:
        if extension in NIBABEL:
            import nibabel

            nibabel.save(_nibabel_image(extension, labels, affine), temporary)
            return
        import SimpleITK as sitk

        image = itk_image(labels, affine)
        if extension == ".seg.nrrd":
            for key, value in _segmentation_fields(labels, affine, structures).items():
                image.SetMetaData(key, value)
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            raise OutputError(f"{path}: cannot be written ({_reason(error)}); check the disk") from error


@contextmanager
def replacing(path):
    """Context that gives a temporary `Path` to write to, which takes the place of `path` at the end.

    It lies in the same folder (made if missing) and has the same extension, in lower case. After an error it is
    removed, and an older file at `path` stays as it was.

    Raises:
        OutputError: the operating system does not allow the folder or the file to be written.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{secrets.token_hex(4)}{split_extension(path)[1]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_output(path, extensions=WRITABLE):
    """Check, before long work, that a file of one of these extensions can be written; leaves nothing behind.

    Raises:
        OutputError: another extension, the path is a folder, or its folder cannot be made or written to.
    """
    _known_extension(path, extensions)
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it")
    try:
        folder = path.absolute().parent
        while not folder.exists():
            folder = folder.parent
        # Tried and not looked up: permissions say little for an administrator and on a read-only or network disk.
        with tempfile.TemporaryDirectory(prefix=".check-", dir=folder):
            pass
    except OSError as error:
        raise _cannot_write(path, error) from error


def _known_extension(path, extensions):
    extension = split_extension(path)[1]
    if extension not in extensions:
        raise OutputError(f"{path}: got the extension '{extension}'; it can be {', '.join(extensions)}")
    return extension


def _cannot_write(path, error):
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); choose a folder with room to write in")


def _reason(error):
    """The line of a library's message that says most: nibabel's first; ITK's last, after places in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    # ITK adds "Reason: No such file or directory" to anything that MetaImage could not read.
    lines = [line for line in lines if line and not line.startswith("Reason:")] or [type(error).__name__]
    return lines[-1].split("): ")[-1] if isinstance(error, RuntimeError) else lines[0]


@contextmanager
def _without_itk_warnings():
    import SimpleITK as sitk

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


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
    _check_kind(path, array)
    warnings = ()
    if isinstance(file, nibabel.Nifti1Image) and not (file.header["sform_code"] or file.header["qform_code"]):
        warnings = (_orientation_unknown(path),)
    return Image(array, np.array(file.affine, dtype=np.float64), str(path), warnings)


def _from_itk(path, image, warnings=()):
    import SimpleITK as sitk

    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise _not_one_volume(path, f"{image.GetNumberOfComponentsPerPixel()} values in each voxel")
    array = sitk.GetArrayFromImage(image).T
    _check_kind(path, array)
    if path.suffix.lower() in (".nrrd", ".nhdr") and not image.HasMetaDataKey("NRRD_space"):
        warnings = (*warnings, _orientation_unknown(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Image(array, LPS_TO_RAS @ affine, str(path), warnings)


def _read_dicom(path):
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
    return _from_itk(path, image, warnings)


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


def _orientation_unknown(path):
    return f"{path}: its header does not say how the head lies; check the result, or convert the scan from DICOM again"


def _not_one_volume(name, got):
    return ImageError(f"{name}: got {got}; wanted one volume with one number in each voxel, save that on its own")


def _check_kind(name, array):
    if array.ndim != 3:
        raise _not_one_volume(name, f"{array.ndim} dimensions ({_times(array.shape)})")
    if array.dtype.kind not in "biuf":
        raise _not_one_volume(name, "colours or complex numbers")


def _check_grid(image):
    if min(image.array.shape) < SMALLEST:
        raise ImageError(
            f"{image.name}: got {_times(image.array.shape)} voxels; wanted {SMALLEST} or more along each axis, "
            "give a scan of the whole head"
        )
    matrix = np.asarray(image.affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ImageError(f"{image.name}: got an affine that is not 4 x 4 numbers; convert the scan from DICOM again")
    if min(image.spacing) <= 0:
        raise ImageError(
            f"{image.name}: got a voxel size of {_times(image.spacing)} mm; wanted more than 0, "
            "convert the scan from DICOM again"
        )
    axes = matrix[:3, :3] / image.spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR:
        raise ImageError(f"{image.name}: got axes that are not at right angles; resample the scan to a straight grid")


def _check_values(image):
    low, high = float(image.array.min()), float(image.array.max())
    # A NaN anywhere makes both NaN. Computation is in float32, so what overflows there is as bad as infinite.
    if not max(abs(low), abs(high)) <= float(np.finfo(np.float32).max):
        raise ImageError(f"{image.name}: got voxels that are NaN or infinite; replace them, for instance by 0")
    if low == high:
        raise ImageError(f"{image.name}: got {low:g} in every voxel; wanted a T1-weighted scan, check the file")


def _doubts(image):
    """Yield what is unusual about an image that passed the checks."""
    if max(image.spacing) > COARSEST:
        yield f"its voxels are {_times(image.spacing)} mm; over {COARSEST:g} mm small structures are not reliable"
    sample = image.array[::2, ::2, ::2].astype(np.float32)
    air = np.mean(sample < CT_AIR)
    low, high = np.percentile(sample, (1, 99))
    background = _background(image.array)
    if air > CT_SHARE:
        yield f"{100 * air:.0f} % of its voxels are below {CT_AIR}, as in CT; the networks are made for T1-weighted MRI"
    elif abs(background) > BACKGROUND * (high - low):
        yield f"its background is {background:.3g}, not about 0; the result may be wrong, shift or mask the intensities"


def _background(array):
    """Median over the volume's eight corners of each one's median: shoulders, or a tight crop, fill a few of them."""
    ends = [(slice(0, n // 8), slice(n - n // 8, n)) for n in array.shape]
    return float(np.median([np.median(array[corner]) for corner in itertools.product(*ends)]))


def _times(numbers):
    return " x ".join(f"{number:.4g}" for number in numbers)


def _nibabel_image(extension, labels, affine):
    import nibabel

    if extension in (".mgh", ".mgz"):
        return nibabel.MGHImage(labels, affine)
    image = nibabel.Nifti1Image(labels, affine)
    # Code 1, scanner coordinates, in both: programs differ in which they look at, and some ignore one without a code.
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return image


def itk_image(array, affine):
    """The SimpleITK image of an array (I, J, K) and its RAS affine (4, 4)."""
    import SimpleITK as sitk

    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def _segmentation_fields(labels, affine, structures):
    """The header fields, a dictionary of strings, by which 3D Slicer knows a segmentation's names and colours."""
    # 3D Slicer crops what it loads to the segments; from this it knows the scan's grid when it edits or exports them.
    grid = [*np.ravel(affine), *itertools.chain.from_iterable((0, size - 1) for size in labels.shape)]
    geometry = "".join(f"{number:.17g};" for number in grid)
    fields = {
        # The documentation names the second; 3D Slicer itself writes the first.
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_SourceRepresentation": "Binary labelmap",
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": f"Reference image geometry|{geometry}|The scan's grid&",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for index, structure in enumerate(structures):
        segment = {
            "ID": f"Segment_{structure.label}",
            "Name": structure.name,
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{value / 255:.6g}" for value in structure.colour),
            "ColorAutoGenerated": "0",
            "LabelValue": str(structure.label),
            "Layer": "0",
            "Extent": _extent(labels == structure.label),
            "Tags": "",
        }
        fields.update({f"Segment{index}_{key}": value for key, value in segment.items()})
    return fields


def _extent(mask):
    """First and last index along each axis of what is true, "0 -1" where nothing is."""
    where = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return " ".join(f"{index[0]} {index[-1]}" if index.size else "0 -1" for index in where)
