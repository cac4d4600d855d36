"""The closed surfaces of a segmentation, made beside Slicer and put in all at once.

Slicer's own conversion takes seconds for the cerebral grey alone, and Slicer answers nobody meanwhile. So its rule runs
in processes of their own (`surface_process.py`). All segments get their surfaces in one change: where some have one,
whoever shows the segmentation makes the others at once (`CreateRepresentation` in Slicer's 3D display).
"""

import json
import logging
import os

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from . import MODULE_FOLDER, PanelError
from .surface_process import LABELMAP, SURFACE, surface
from .turns import Turns
from .worker import Worker

PROGRAM = MODULE_FOLDER / "GaborSegPanel" / "surface_process.py"
PROCESSES = 2  # the cerebral grey alone is nearly half of the work


class Surfaces:
    """Makes the surfaces of all segments of a node; ends once, by itself or by `stop`.

    Args:
        node: segmentation node whose segments have label maps; nothing is put in if they are changed meanwhile.
        folder: an existing folder; the caller removes it.
        on_progress: called with (how many segments are done, of how many).
        on_log: called with a line.
        on_end: called with True if the surfaces were put in; not after `stop`.
    """

    def __init__(self, node, folder, on_progress, on_log, on_end):
        self._segmentation, self._node, self._folder = node.GetSegmentation(), node, folder
        self._on_progress, self._on_log, self._on_end = on_progress, on_log, on_end
        self._ids = list(self._segmentation.GetSegmentIDs())
        self._before = self._state()
        self._made = {}  # number of a segment: vtkPolyData
        self._workers, self._turns = [], Turns(self._failed)
        self._turns.add(self._start)

    def stop(self):
        """Leave the segmentation as it is; safe to call at any time."""
        self._turns.stop()
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def _start(self):
        self._parameters = _conversion_parameters(self._segmentation)
        sizes = _write_job(self._segmentation, self._ids, self._parameters, self._folder)
        for number in range(len(self._ids)):
            if not sizes.get(number):
                self._made[number] = vtk.vtkPolyData()
        for i, share in enumerate(_shares(sizes, min(PROCESSES, os.cpu_count() or 1))):
            try:
                self._start_process(share, self._folder / f"process-{i}")
            except PanelError as error:
                self._without_process(share, str(error))
        self._tell()
        self._turns.add(self._put_in)

    def _start_process(self, share, folder):
        def ended(result, message):
            self._workers.remove(worker)
            if message is not None:
                self._without_process(share, message)
            self._turns.add(self._put_in)

        folder.mkdir()
        arguments = [self._folder, ",".join(map(str, share))]
        worker = Worker("", arguments, folder, self._take_event, self._on_log, ended, PROGRAM)
        self._workers.append(worker)

    def _without_process(self, share, reason):
        """What a process left undone is done here; Slicer is held up then."""
        self._on_log(reason)
        for number in share:
            self._turns.add(self._make_here, number)

    def _take_event(self, event):
        self._turns.add(self._read, event["number"])

    def _read(self, number):
        reader = vtk.vtkXMLPolyDataReader()
        reader.SetFileName(str(self._folder / f"{number}.vtp"))
        reader.Update()
        self._made[number] = reader.GetOutput()
        self._tell()

    def _make_here(self, number):
        if number in self._made:
            return
        self._made[number] = None
        if self._state() == self._before:  # else nothing is put in anyway
            segment = self._segmentation.GetSegment(self._ids[number])
            self._made[number] = surface(segment.GetRepresentation(LABELMAP), segment.GetLabelValue(), self._parameters)
        self._tell()

    def _tell(self):
        self._on_progress(len(self._made), len(self._ids))

    def _put_in(self):
        if len(self._made) < len(self._ids):  # the other process brings the rest
            return
        unchanged = self._state() == self._before
        if unchanged:
            modified = self._node.StartModify()
            try:
                for number, segment_id in enumerate(self._ids):
                    self._segmentation.GetSegment(segment_id).AddRepresentation(SURFACE, self._made[number])
                self._segmentation.InvokeEvent(self._segmentation.ContainedRepresentationNamesModified)
            finally:
                self._node.EndModify(modified)
        self._on_end(unchanged)

    def _failed(self, error):
        logging.error("GaborSeg: no surfaces", exc_info=error)
        self.stop()
        self._on_log(str(error))
        self._on_end(False)

    def _state(self):
        """What must be the same when the surfaces are put in: the segments, their voxels, and that none has one."""
        segments = [(name, self._segmentation.GetSegment(name)) for name in self._segmentation.GetSegmentIDs()]
        images = [segment.GetRepresentation(LABELMAP) for name, segment in segments]
        return [
            (name, segment.GetLabelValue(), image, image and image.GetMTime(), segment.GetRepresentation(SURFACE))
            for (name, segment), image in zip(segments, images)
        ]


def _conversion_parameters(segmentation):
    """Dictionary from name to value (texts) of what the user may have set for the conversion into surfaces."""
    rule = slicer.vtkBinaryLabelmapToClosedSurfaceConversionRule
    names = (
        rule.GetSmoothingFactorParameterName(),
        rule.GetDecimationFactorParameterName(),
        rule.GetComputeSurfaceNormalsParameterName(),
        rule.GetJointSmoothingParameterName(),
    )
    # Newer ones than the oldest Slicer that this runs in knows.
    names += tuple(
        getattr(rule, getter)()
        for getter in ("GetConversionMethodParameterName", "GetSurfaceNetInternalSmoothingParameterName")
        if hasattr(rule, getter)
    )
    return {name: segmentation.GetConversionParameter(name) for name in names}


def _write_job(segmentation, ids, parameters, folder):
    """Write what `surface_process.py` reads; returns about how large each segment is, from number to voxels."""
    layers, segments, counts = [], [], []
    for layer in range(segmentation.GetNumberOfLayers(LABELMAP)):
        image = segmentation.GetLayerDataObject(layer, LABELMAP)
        labels, first = _cropped(image)
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        np.save(folder / f"layer-{layer}.npy", labels)
        affine = slicer.util.arrayFromVTKMatrix(matrix).tolist()
        layers.append({"file": f"layer-{layer}.npy", "affine": affine, "first": first})
        values, numbers = np.unique(labels[::2, ::2, ::2], return_counts=True)
        counts.append(dict(zip(values.tolist(), numbers.tolist())))
    for segment_id in ids:
        label = segmentation.GetSegment(segment_id).GetLabelValue()
        segments.append({"layer": segmentation.GetLayerIndex(segment_id, LABELMAP), "label": label})
    job = {"parameters": parameters, "layers": layers, "segments": segments}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    # At least 1: every other voxel is looked at, and a small structure may lie between them.
    return {n: counts[s["layer"]].get(s["label"], 1) for n, s in enumerate(segments) if layers[s["layer"]]["first"]}


def _cropped(image):
    """The part of a label map that holds something, with a margin: array (K, J, I), index (i, j, k) of its first voxel.

    Without anything: an empty array and None.
    """
    scalars = image.GetPointData().GetScalars()
    if scalars is None or not scalars.GetNumberOfTuples():
        return np.zeros((0, 0, 0), np.uint8), None
    labels = vtk_to_numpy(scalars).reshape(image.GetDimensions()[::-1])
    filled = [np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not len(filled[0]):
        return np.zeros((0, 0, 0), np.uint8), None
    box = [(max(0, int(where[0]) - 1), int(where[-1]) + 2) for where in filled]
    start = image.GetExtent()[::2]
    first = [low + int(corner) for (low, _), corner in zip(box[::-1], start)]
    return np.ascontiguousarray(labels[tuple(slice(*ends) for ends in box)]), first


def _shares(sizes, count):
    """Numbers of segments in so many shares of about the same size, small ones first: deep structures."""
    shares, totals = [[] for _ in range(count)], [0] * count
    for number in sorted(sizes, key=sizes.get, reverse=True):
        least = totals.index(min(totals))
        shares[least].insert(0, number)
        totals[least] += sizes[number]
    return [share for share in shares if share]
