"""One picture of a segmentation: three slices with the structures over the scan, two 3D views and a legend.

matplotlib and torch draw the slices and the legend; `render3d` draws the 3D views.
"""

import textwrap

import nibabel
import numpy as np

from ..files import replacing
from ..protocol import printable
from .render3d import VIEWS, render_apart, wraps_others

WIDTH, HEIGHT, DPI = 1800, 1200, 150  # pixels of the picture, and pixels per inch, for the sizes of letters
MARGIN_MM = 7  # shown around the segmented region
TEXT, FAINT = "#f2f2f2", "#9a9a9a"
# Axis that a plane lies across, its name, what it shows at its left, right, top and bottom, and its coordinate's signs.
PLANES = (
    (2, "Axial", "RLAP", "IS"),
    (1, "Coronal", "RLSI", "PA"),
    (0, "Sagittal", "APSI", "LR"),
)


def write_overview(path, scan_array, labels, affine, structures, title, caption, volumes=None):
    """Write one PNG of 1800 x 1200 pixels that shows a segmentation; takes some seconds.

    `scan_array` and `labels` (integers, 0 and up) are 3D arrays of one shape, `affine` (4 x 4) takes their voxel
    indices to mm, right-anterior-superior; any axis order, handedness and voxel size. The slices are the scan's own,
    at no new angle, in the radiological convention: the patient's right is at the left of the picture, and letters
    say so.
    `structures` is a list of `Structure`; `title` and `caption` are text; `volumes`, a dictionary from name to mL, adds
    the volumes to the legend. Without VTK, or where it cannot draw, a note stands in the place of the 3D views.
    Raises ValueError for arrays that are not 3D or not of one shape, `OutputError` if the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if scan_array.shape != labels.shape or labels.ndim != 3:
        raise ValueError(f"the scan has shape {scan_array.shape}, the labels {labels.shape}; they must be one 3D shape")
    scan, labels, affine = _canonical(scan_array, labels, affine)
    spacing = nibabel.affines.voxel_sizes(affine)
    crop = _region(labels, spacing)
    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="black")
    canvas = FigureCanvasAgg(figure)  # draws without a window system
    _fitted_text(figure, 40, 48, title, 15, WIDTH - 80, weight="bold")
    _draw_slices(figure, scan, labels, affine, crop, structures)
    _draw_views(figure, labels[crop], spacing, structures)
    _draw_legend(figure, labels, structures, volumes)
    for i, line in enumerate(textwrap.wrap(caption, 170)[:2]):
        _text(figure, 40, HEIGHT - 46 + 22 * i, line, 7, color=FAINT)
    with replacing(path) as temporary:
        canvas.print_png(str(temporary))


def write_thumbnail(path, scan_array, labels, affine, structures, edge=160):
    """Write a small PNG of (3 edge x edge) pixels: the middle axial, coronal and sagittal slice, with the structures.

    Arguments as for `write_overview`; raises `OutputError` if the file cannot be written.
    """
    from matplotlib.image import imsave

    scan, labels, affine = _canonical(scan_array, labels, affine)
    spacing = nibabel.affines.voxel_sizes(affine)
    crop = _region(labels, spacing)
    grey = _grey(scan, labels, crop)
    scale = edge / max(size * (part.stop - part.start) for size, part in zip(spacing, crop))
    canvas = np.zeros((edge, 3 * edge, 3), dtype=np.float32)
    for place, (axis, *_) in enumerate(PLANES):
        window = tuple((part.start + part.stop) // 2 if a == axis else part for a, part in enumerate(crop))
        columns, rows = (scale * spacing[a] * (crop[a].stop - crop[a].start) for a in range(3) if a != axis)
        picture = _overlaid(grey[window][::-1, ::-1].T, labels[window][::-1, ::-1].T, rows / 2, columns / 2, structures)
        height, width = min(picture.shape[0], edge), min(picture.shape[1], edge)
        top, left = (edge - height) // 2, place * edge + (edge - width) // 2
        canvas[top : top + height, left : left + width] = picture[:height, :width].clip(0, 1)
    with replacing(path) as temporary:
        imsave(temporary, canvas, format="png")


# Slices


def _canonical(scan, labels, affine):
    """Scan, labels and affine with the axes swapped and turned so that they point right, anterior, superior."""
    turn = nibabel.io_orientation(affine)
    to_old = nibabel.orientations.inv_ornt_aff(turn, labels.shape)
    return nibabel.apply_orientation(scan, turn), nibabel.apply_orientation(labels, turn), affine @ to_old


def _region(labels, spacing):
    """The slices of the box that holds all the structures and a margin; of everything if nothing was segmented."""
    where = np.nonzero(labels)
    if not len(where[0]):
        return tuple(slice(0, size) for size in labels.shape)
    margins = [round(MARGIN_MM / size) for size in spacing]
    return tuple(slice(max(0, i.min() - m), i.max() + 1 + m) for i, m in zip(where, margins))


def _best_slices(labels):
    """For each axis the index of a slice; together the three show as many structures as possible.

    A slice shows a structure as well as its area there compares to its area in the best slice. What two planes show
    counts little for the third; some rounds over the planes settle that.
    """
    count, shares = int(labels.max()) + 1, []
    for axis, size in enumerate(labels.shape):
        slices = np.moveaxis(labels, axis, 0).reshape(size, -1)
        areas = np.stack([np.bincount(values, minlength=count)[1:] for values in slices])
        shares.append(areas / np.maximum(areas.max(axis=0, initial=0), 1))
    best = [size // 2 for size in labels.shape]
    for axis in [0, 1, 2] * 3 if labels.any() else []:
        others = [shares[a][best[a]] for a in range(3) if a != axis]
        best[axis] = int((shares[axis] @ (0.05 + (1 - others[0]) * (1 - others[1]))).argmax())
    return best


def _draw_slices(figure, scan, labels, affine, crop, structures):
    from matplotlib.patheffects import withStroke

    spacing = nibabel.affines.voxel_sizes(affine)
    indices = _best_slices(labels)
    grey = _grey(scan, labels, crop)
    right, anterior, superior = (size * (part.stop - part.start) for size, part in zip(spacing, crop))
    gap, tallest = 36, 530
    scale = min((1340 - 2 * gap) / (2 * right + anterior), tallest / max(anterior, superior))  # pixels per mm, of all
    left = 40 + (1340 - 2 * gap - scale * (2 * right + anterior)) / 2
    for axis, name, letters, signs in PLANES:
        window = tuple(indices[axis] if a == axis else part for a, part in enumerate(crop))
        columns, rows = (scale * spacing[a] * (crop[a].stop - crop[a].start) for a in range(3) if a != axis)
        # Columns run to the patient's left or back and rows downwards, so both run against the axes.
        picture = _overlaid(grey[window][::-1, ::-1].T, labels[window][::-1, ::-1].T, rows, columns, structures)
        top = 100 + (tallest - rows) / 2
        axes = _axes(figure, left, top, columns, rows)
        axes.imshow(picture, aspect="auto", interpolation="antialiased")
        middle = [(part.start + part.stop - 1) / 2 for part in crop]
        middle[axis] = indices[axis]
        position = nibabel.affines.apply_affine(affine, middle)[axis]
        heading = f"{name}, {signs[int(position > 0)]} {abs(position):.0f} mm"
        _text(figure, left + columns / 2, 86, heading, 9, ha="center")
        for letter, x, y in zip(letters, (0.02, 0.98, 0.5, 0.5), (0.5, 0.5, 0.97, 0.03)):
            drawn = axes.text(x, y, letter, color=TEXT, fontsize=9, weight="bold", ha="center", va="center")
            drawn.set(transform=axes.transAxes, path_effects=[withStroke(linewidth=2, foreground="black")])
        left += columns + gap


def _grey(scan, labels, crop):
    """The scan as floats from 0 to 1: black at its darkest percentile, white just above the brightest structures."""
    scan = np.nan_to_num(scan.astype(np.float32))
    inside = scan[labels > 0] if labels.any() else scan
    low, high = np.percentile(scan[crop], 1), np.percentile(inside, 99.5)
    return np.clip((scan - low) / max(high - low, 1e-6), 0, 1)


def _overlaid(grey, labels, rows, columns, structures):
    """A slice with the structures over it, (height, width, 3) floats from 0 to 1, at twice the size it is shown at.

    The borders between labels are smoothed as they are enlarged; the structures are tinted and outlined.
    """
    from torch import from_numpy
    from torch.nn.functional import interpolate

    def enlarge(stack):
        stack = from_numpy(np.ascontiguousarray(stack, dtype=np.float32))
        return interpolate(stack[None], size=(round(2 * rows), round(2 * columns)), mode="bicubic")[0].numpy()

    present = np.unique(labels)
    large = present[enlarge(np.stack([labels == label for label in present])).argmax(axis=0)]
    count = int(labels.max()) + 1
    colours, tints = np.zeros((count, 3)), np.zeros(count)
    for structure in structures:
        if structure.label < count:
            colours[structure.label] = np.array(structure.colour) / 255
            tints[structure.label] = 0.25 if wraps_others(structure) else 0.6
    edge = np.zeros(large.shape, bool)
    for axis in (0, 1):
        for step in (-2, -1, 1, 2):
            edge |= large != np.roll(large, step, axis)
    tint = np.where(edge & (tints[large] > 0), 0.9, tints[large])[..., None]
    return np.clip((1 - tint) * enlarge(grey[None])[0][..., None] + tint * colours[large], 0, 1)


# Legend and letters


def _draw_legend(figure, labels, structures, volumes):
    from matplotlib.patches import FancyBboxPatch

    left, right, top = 1430, 1760, 150
    step = min(48, (HEIGHT - top - 70) / len(structures))
    size = min(9.5, step / 4)
    axes = _axes(figure, 0, 0, WIDTH, HEIGHT)
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    _text(figure, left, top - 50, "Structures", 9, color=FAINT)
    if volumes:
        _text(figure, right, top - 50, "mL", 9, color=FAINT, ha="right")
    present = set(np.unique(labels).tolist())
    for i, structure in enumerate(structures):
        y = top + step * i
        shown = structure.label in present
        side = 0.5 * step
        swatch = FancyBboxPatch((left, y - side / 2), side, side, boxstyle=f"round,pad=0,rounding_size={side / 5}")
        swatch.set(facecolor=np.array(structure.colour) / 255, edgecolor="none", alpha=1 if shown else 0.3)
        axes.add_patch(swatch)
        colour = TEXT if shown else FAINT
        _fitted_text(figure, left + 0.85 * step, y, structure.name, size, right - left - step - 80, color=colour)
        if volumes:
            _text(figure, right, y, f"{volumes.get(structure.name, 0):.1f}", size, color=colour, ha="right")
    _text(figure, left, HEIGHT - 46, "R and L: the patient's right and left", 7, color=FAINT)


def _axes(figure, left, top, width, height):
    """Empty axes in a rectangle in pixels, from the picture's top left."""
    axes = figure.add_axes((left / WIDTH, 1 - (top + height) / HEIGHT, width / WIDTH, height / HEIGHT))
    axes.set_axis_off()
    return axes


def _text(figure, x, y, text, size, color=TEXT, **options):
    """Text at a place in pixels from the picture's top left; a $ in a file's name is a $, no formula."""
    options = dict(fontsize=size, color=color, va="center", parse_math=False, **options)
    return figure.text(x / WIDTH, 1 - y / HEIGHT, printable(text), **options)


def _fitted_text(figure, x, y, text, size, width, **options):
    """Text that is made smaller where it would be wider than so many pixels."""
    drawn = _text(figure, x, y, text, size, **options)
    drawn.set_fontsize(size * min(1, width / max(1, drawn.get_window_extent().width)))


# 3D views


def _draw_views(figure, labels, spacing, structures):
    note = "Nothing was segmented."
    views = []
    if labels.any():
        views, note = render_apart(labels, spacing, structures)
    for i, (view, (name, _)) in enumerate(zip(views, VIEWS)):
        axes = _axes(figure, 40 + 680 * i, 660, 660, 450)
        axes.imshow(view, interpolation="antialiased")
        _text(figure, 40 + 680 * i + 330, 1125, f"3D, {name}", 9, ha="center")
    if not views:
        _text(figure, 40 + 670, 885, note, 9, color=FAINT, ha="center")
