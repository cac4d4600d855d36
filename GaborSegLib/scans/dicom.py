"""DICOM: the series in a folder, as one volume whose slices lie where their headers say."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from ..errors import ImageError
from ..files import regular_file, utf8_name
from . import dicom_process
from .elements import look_at
from .image import LPS_TO_RAS, Image, check_kind, check_memory, not_one_volume, reason

# A slice that is missing from a series moves others by half a slice or more; rounding moves none by a tenth.
OUT_OF_PLACE = 0.1
LONGEST_READING = 600  # seconds, for thousands of slices on a slow disk
# What reading may take beside voxels, and for each of them: the file's, GDCM's and ITK's, as float64 at most.
BASE_MIB, BYTES_PER_VOXEL = 1024, 32
ONE_THREAD = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each takes memory, too
AGAIN = "export the series again"


def read_dicom(path):
    """The series that a .dcm file belongs to, or the longest one in a folder: an `Image`.

    GDCM reads it, in a process of its own.

    Raises:
        ImageError: there is none, a slice of it is damaged, or they are no even, straight stack.
    """
    folder = path if path.is_dir() else path.parent
    for name in os.listdir(folder):
        if not (os.path.isfile(folder / name) or os.path.isdir(folder / name)):
            regular_file(folder / name, ImageError)  # which it is not; GDCM leaves out files beside it
    slices = _slices(folder)
    sizes = Counter()
    for one in slices.values():
        sizes[one.series] += one.voxels
    voxels = max(sizes.values(), default=0)
    check_memory(path, [voxels])
    with tempfile.TemporaryDirectory() as out:
        facts = _read_apart(path, out, BASE_MIB + (BYTES_PER_VOXEL * voxels >> 20))
        _check_slices(path, folder, slices, facts)
        return _image(path, facts, np.fromfile(Path(out, "voxels"), facts["type"]))


def has_dicom(folder):
    """Whether one of the files in a folder is a DICOM image."""
    return any(one.voxels for one in _slices(Path(folder)).values())


def _slices(folder):
    """The `Slice` of every file in a folder that says that it is DICOM: dictionary from name."""
    names = [name for name in sorted(os.listdir(folder)) if not name.startswith(".")]
    found = {name: look_at(folder / name) for name in names if os.path.isfile(folder / name)}
    found = {name: one for name, one in found.items() if one is not None}
    for name in found:
        utf8_name(folder / name, ImageError)
    return found


def _read_apart(path, out, mib):
    """What `dicom_process` tells of a series, a dictionary; its voxels are in a file in the folder `out`.

    If the process failed, also because it took more than so many MiB, it is {"failed": why}.
    """
    command = [sys.executable, dicom_process.__file__, os.path.abspath(path), out, str(mib)]
    own = {"cwd": out, "env": {**os.environ, **ONE_THREAD}, "stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run(command, **own, capture_output=True, timeout=LONGEST_READING)
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"{path}: takes more than {LONGEST_READING} s to read; copy it to a faster disk") from error
    if done.returncode == 1:  # Python's own, after an exception
        return {"failed": reason(RuntimeError(done.stderr.decode(errors="replace")))}
    if done.returncode:
        return {"failed": f"GDCM, which reads DICOM, ended with status {done.returncode}"}
    return json.loads(Path(out, "facts.json").read_text(encoding="utf-8"))


def _check_slices(path, folder, slices, facts):
    """Refuse a series of which slices are damaged, missing or out of place."""
    read = set(facts.get("files", ()))
    series = {slices[name].series for name in read & slices.keys()}
    kinds = {slices[name].kind for name in read & slices.keys()} - {""}
    if not read and path != folder:
        slices = {name: one for name, one in slices.items() if name == path.name}
    for name, one in slices.items():
        left_out = name not in read and one.series in {"", *series} and (one.unclear or one.voxels or one.kind in kinds)
        if (left_out if read else one.unclear) or (one.missing and (name in read or "failed" in facts)):
            why = one.missing or one.unclear or "its header is damaged"
            raise ImageError(f"{folder / name}: is no DICOM image, or a damaged one ({why}); {AGAIN}")
    if "failed" in facts:
        raise ImageError(f"{path}: cannot be read ({facts['failed']}); {AGAIN}")
    if not read:
        raise ImageError(f"{path}: holds no DICOM image; name the folder that a series' files lie in, or another file")
    if not facts["away"] < OUT_OF_PLACE * facts["spacing"][2]:
        raise ImageError(
            f"{path}: got slices up to {facts['away']:.1f} mm away from an even, straight stack; some are missing, "
            f"double or tilted, {AGAIN}"
        )


def _image(path, facts, voxels):
    if facts["values"] > 1:
        raise not_one_volume(path, f"{facts['values']} values in each voxel")
    array = voxels.reshape(facts["size"], order="F")
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    check_kind(path, array)
    dimension, affine, warnings = len(facts["size"]), np.eye(4), ()
    affine[:3, :3] = (np.reshape(facts["direction"], (dimension, dimension)) * facts["spacing"])[:3, :3]
    affine[:3, 3] = facts["origin"][:3]
    if facts["series"] > 1:
        warnings = (
            f"{path}: holds {facts['series']} DICOM series; took the one with the most slices ({len(facts['files'])}), "
            f"of {facts['files'][0]}; name a file of another one to take that",
        )
    return Image(array, LPS_TO_RAS @ affine, str(path), warnings)
