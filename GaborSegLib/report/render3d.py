"""The 3D views of a segmentation, drawn by VTK where it is installed.

VTK brings down the whole process where the machine has no OpenGL (many containers), so it runs in its own:
`python -m GaborSegLib.report.render3d FOLDER`.
"""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

# Where the 3D views are seen from: (right, anterior, superior).
VIEWS = (("from the left, front, above", (-1.0, 1.1, 0.6)), ("from the right, back, above", (1.0, -1.1, 0.6)))
RENDER_SECONDS = 60


def wraps_others(structure):
    """Whether a structure hides others: the grey and white matter of cerebrum and cerebellum."""
    return any(word in structure.name.lower() for word in ("grey", "gray", "white", "cortex"))


def render_apart(labels, spacing, structures):
    """(the pictures of `render`, "") from another process, or ([], why there are none)."""
    if importlib.util.find_spec("vtk") is None:
        return [], "No 3D views: they need the package vtk."
    try:
        with tempfile.TemporaryDirectory() as folder:
            np.savez(
                Path(folder, "in.npz"),
                labels=labels,
                spacing=spacing,
                numbers=[structure.label for structure in structures],
                colours=[structure.colour for structure in structures],
                wraps=[wraps_others(structure) for structure in structures],
            )
            # The folder above the package is where `-m` finds it, installed or not.
            command = [sys.executable, "-m", "GaborSegLib.report.render3d", folder]
            above = Path(__file__).resolve().parents[2]
            subprocess.run(command, cwd=above, capture_output=True, timeout=RENDER_SECONDS, check=True)
            with np.load(Path(folder, "out.npz")) as file:
                return list(file.values()), ""
    except (OSError, subprocess.SubprocessError):
        return [], "No 3D views: VTK cannot draw on this computer (it needs OpenGL)."


def render(labels, spacing, numbers, colours, wraps):
    """The 3D views, a list of (rows, columns, 3) uint8 pictures on black, cut to what they show.

    The structures that wrap others are drawn apart, and the others are laid over them like organs in a glass body.
    """
    import vtk

    wrapping, inner = [], []
    for number, colour, wrap in zip(numbers, colours, wraps):
        if (labels == number).any():
            (wrapping if wrap else inner).append(_actor(vtk, labels == number, spacing, colour, coarse=wrap))
    renderer = vtk.vtkRenderer()
    vtk.vtkLightKit().AddLightsToRenderer(renderer)
    for actor in wrapping + inner:
        renderer.AddActor(actor)
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(4)
    window.SetSize(1000, 1000)
    window.AddRenderer(renderer)
    views = []
    for _, direction in VIEWS:
        for actor in wrapping + inner:
            actor.VisibilityOn()
        camera = renderer.GetActiveCamera()
        camera.ParallelProjectionOn()
        camera.SetFocalPoint(0, 0, 0)
        camera.SetPosition(direction)
        camera.SetViewUp(0, 0, 1)
        renderer.ResetCamera()  # to all the structures, so that both pictures below show the same place
        glass, organs = (_picture(vtk, window, wrapping + inner, shown) for shown in (wrapping, inner))
        view = np.where(organs.any(axis=2, keepdims=True), 0.8 * organs + 0.2 * glass, 0.55 * glass)
        rows, columns = np.nonzero(view.any(axis=2))
        views.append(view[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(np.uint8))
    return views


def _actor(vtk, mask, spacing, colour, coarse):
    """A structure's smoothed surface in its colour; a coarse one has an eighth of the voxels, as it is drawn faint."""
    from vtk.util.numpy_support import numpy_to_vtk

    ends = [(i.min(), i.max() + 1) for i in np.nonzero(mask)]
    pad = 3
    part = np.pad(mask[tuple(slice(*end) for end in ends)], pad).astype(np.float32)
    image = vtk.vtkImageData()
    image.SetDimensions(part.shape)
    image.SetSpacing(spacing)
    image.SetOrigin([(first - pad) * size for (first, _), size in zip(ends, spacing)])
    image.GetPointData().SetScalars(numpy_to_vtk(part.ravel(order="F"), deep=True))
    smooth = vtk.vtkImageGaussianSmooth()
    smooth.SetInputData(image)
    smooth.SetStandardDeviation(0.8)  # voxels
    shrunk = vtk.vtkImageShrink3D()
    shrunk.SetInputConnection(smooth.GetOutputPort())
    shrunk.SetShrinkFactors(2, 2, 2)
    shrunk.AveragingOff()
    surface = vtk.vtkFlyingEdges3D()
    surface.SetInputConnection((shrunk if coarse else smooth).GetOutputPort())
    surface.SetValue(0, 0.35)  # below a half, so that sheets one voxel thick do not vanish
    mapper = vtk.vtkPolyDataMapper()
    mapper.SetInputConnection(surface.GetOutputPort())
    mapper.ScalarVisibilityOff()
    actor = vtk.vtkActor()
    actor.SetMapper(mapper)
    actor.GetProperty().SetColor([value / 255 for value in colour])
    actor.GetProperty().SetAmbient(0.15)
    actor.GetProperty().SetSpecular(0.2)
    actor.GetProperty().SetSpecularPower(30)
    return actor


def _picture(vtk, window, actors, shown):
    """The window's picture, (rows, columns, 3) floats from 0 to 255, with some of the actors."""
    from vtk.util.numpy_support import vtk_to_numpy

    for actor in actors:
        actor.SetVisibility(actor in shown)
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.ShouldRerenderOff()
    grab.Update()
    columns, rows, _ = grab.GetOutput().GetDimensions()
    pixels = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars()).reshape(rows, columns, -1)
    return pixels[::-1, :, :3].astype(np.float32)


if __name__ == "__main__":
    with np.load(Path(sys.argv[1], "in.npz")) as file:
        np.savez(Path(sys.argv[1], "out.npz"), *render(**file))
