"""Reads one DICOM series with SimpleITK, in a process of its own: GDCM ends the process on some damaged files.

`python dicom_process.py SERIES FOLDER MIB`: SERIES is a folder of DICOM files, or one file of a series in its folder;
into FOLDER go `voxels` (raw) and `facts.json`; it takes no more than so many MiB. It imports nothing of the library, so
that it starts quickly.
"""

import json
import math
import os
import sys
from contextlib import suppress

POSITION = "0020|0032"  # of the first voxel of a slice, mm
HERE = os.path.dirname(os.path.abspath(__file__))


def main(path, out, mib):
    import SimpleITK as sitk

    _limit_memory(int(mib) << 20)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader, folder = sitk.ImageSeriesReader(), path if os.path.isdir(path) else os.path.dirname(path)
    series = [reader.GetGDCMSeriesFileNames(folder, uid) for uid in reader.GetGDCMSeriesIDs(folder)]
    if folder != path:
        series = [files for files in series if os.path.basename(path) in map(os.path.basename, files)]
    facts = {"series": len(series)}
    if series:
        files = max(series, key=len)
        reader.SetFileNames(files)
        reader.MetaDataDictionaryArrayUpdateOn()
        image = reader.Execute()
        array = sitk.GetArrayViewFromImage(image)
        array.tofile(os.path.join(out, "voxels"))
        facts.update(
            files=[os.path.basename(file) for file in files],
            values=image.GetNumberOfComponentsPerPixel(),
            size=image.GetSize(),
            type=array.dtype.str,
            spacing=image.GetSpacing(),
            origin=image.GetOrigin(),
            direction=image.GetDirection(),
            away=_away(reader, image) if len(files) > 1 else 0.0,
        )
    with open(os.path.join(out, "facts.json"), "w", encoding="utf-8") as file:
        json.dump(facts, file)


def _limit_memory(size):
    """Take no more memory, bytes: GDCM makes room for whatever length a damaged file tells of."""
    try:
        import resource
    except ImportError:  # Windows
        return
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (size, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _away(reader, image):
    """How far, mm, the slices at most lie from where the volume puts them: ITK takes even steps for granted."""
    away = 0.0
    for k in range(image.GetDepth()):
        told = reader.GetMetaData(k, POSITION).split("\\") if reader.HasMetaDataKey(k, POSITION) else (0, 0, 0)
        away = max(away, math.dist(map(float, told), image.TransformIndexToPhysicalPoint((0, 0, k))))
    return away


if __name__ == "__main__":
    # Python puts a script's folder first on its path, where names of this library would be taken for other packages'.
    sys.path = [entry for entry in sys.path if os.path.abspath(entry) != HERE]
    main(*sys.argv[1:])
