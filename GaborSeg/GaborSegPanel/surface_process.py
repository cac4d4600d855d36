"""Labels into closed surfaces by Slicer's own conversion rule: what Slicer does for Show 3D, beside it.

`PythonSlicer .../surface_process.py FOLDER FIRST,SECOND,...` reads what `surfaces.py` has written into the folder
(`job.json` and label maps) and writes for each of these numbers of segments a file NUMBER.vtp, and an event. Slicer's
segmentation classes are all that it needs of Slicer, and they are there in PythonSlicer, too.
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    # The folder of this file, which Python puts on its path, holds names that other packages may have.
    sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

import numpy as np
import vtk  # before slicer: there, its classes would not be VTK's otherwise
from vtk.util.numpy_support import numpy_to_vtk

import slicer  # isort: skip

LABELMAP, SURFACE = "Binary labelmap", "Closed surface"


def labelmap(labels, affine, first=(0, 0, 0)):
    """The image that a segmentation holds.

    Args:
        labels: array (K, J, I) of integers.
        affine: (4, 4), voxel index (i, j, k) to mm.
        first: index (i, j, k) of the first voxel.
    """
    image = slicer.vtkOrientedImageData()
    ends = [(start, start + size - 1) for start, size in zip(first, labels.shape[::-1])]
    image.SetExtent([end for pair in ends for end in pair])
    image.GetPointData().SetScalars(numpy_to_vtk(labels.ravel(), deep=True))
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.ravel(affine).tolist())
    image.SetImageToWorldMatrix(matrix)
    return image


def surface(image, label, parameters):
    """The closed surface (vtkPolyData) of a label in a `labelmap`.

    Args:
        parameters: dictionary, the conversion parameters of the segmentation.
    """
    rule = slicer.vtkBinaryLabelmapToClosedSurfaceConversionRule()
    for name, value in parameters.items():
        if rule.HasConversionParameter(name):
            rule.SetConversionParameter(name, value)
    segment = slicer.vtkSegment()
    segment.SetLabelValue(label)
    segment.AddRepresentation(LABELMAP, image)
    rule.Convert(segment)
    return segment.GetRepresentation(SURFACE)


def main(folder, numbers):
    folder = Path(folder)
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    layers = {}
    for number in map(int, numbers.split(",")):
        segment = job["segments"][number]
        layer = segment["layer"]
        if layer not in layers:
            facts = job["layers"][layer]
            layers[layer] = labelmap(np.load(folder / facts["file"]), facts["affine"], facts["first"])
        writer = vtk.vtkXMLPolyDataWriter()
        writer.SetFileName(str(folder / f"{number}.vtp"))
        writer.SetDataModeToAppended()
        writer.EncodeAppendedDataOff()
        writer.SetCompressorTypeToNone()
        writer.SetHeaderTypeToUInt64()
        writer.SetInputData(surface(layers[layer], segment["label"], job["parameters"]))
        if not writer.Write():
            sys.exit(f"{folder / f'{number}.vtp'}: cannot be written; make room on the disk")
        print(json.dumps({"event": "surface", "number": number}), flush=True)
    print(json.dumps({"event": "result"}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
