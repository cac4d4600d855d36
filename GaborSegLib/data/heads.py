"""Heads built around brain-extracted scans, so that a network learns that the surroundings do not matter.

A head label map (FreeSurfer numbers for the brain, further numbers for the tissues around it, as SynthSeg's are) is
laid over a prepared scan so that the bounding boxes of the two brains agree. What lies outside of the scan's brain gets
a random intensity per tissue each time the scan is shown.
"""

import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from ..errors import DataError, GaborSegError
from ..events import silent
from ..files import load_array, regular_file, replacing, split_extension
from ..scans.grid import Grid
from ..scans.image import READABLE
from ..scans.reading import read_image

# A built head's cube is larger than the scan's by this factor, at the same voxel size: there is more head than brain.
LARGER = 1.5
# Codes in a built head: the scan's own brain, air, fluid; above them the other tissues.
BRAIN, AIR, FLUID, FIRST_TISSUE = 0, 1, 2, 3
# Numbers in a head label map: fluid, the brain stem (which ends where the extraction ended it), the first that is not
# of the brain.
FLUID_ID, BRAIN_STEM_ID, FIRST_TISSUE_ID = 24, 16, 500
# The structure of that name ends where the extraction ended it, so it is left out when brains are laid over each other.
BRAIN_STEM = "Brainstem"
# Distances from the brain are kept up to this many voxels: no `collar_width` of an augmentation reaches as far, and
# packed they take a quarter of the room.
FARTHEST = 15
# What tissues of a head show in a T1 scan, of the mean of the brain: muscle, fat, skull and other bone, by their
# numbers in SynthSeg's label maps.
T1_TISSUES = {507: (0.4, 0.9), 511: (1.0, 2.0), 515: (0.05, 0.35), 516: (0.05, 0.5)}
PREPARATION = 1


def find_heads(folder):
    """The head label maps in a folder, sorted by name; DataError if there are none."""
    folder = Path(folder)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [file for file in files if split_extension(file)[1] in READABLE and not file.name.startswith(".")]
    if not files:
        raise DataError(f"{folder}: no head label maps in it; it must be a folder of images such as SynthSeg's")
    return files


def prepare_heads(stems, files, cache, names=(), each=3, report=silent):
    """Build heads around prepared scans, or find them in the cache.

    Args:
        stems: of prepared scans, see `dataset.prepare`.
        files: head label maps.
        cache: folder to keep the built heads in.
        names: of the structures in the prepared scans. The brain stem, if it is among them, is left out of the
            bounding boxes.
        each: heads built around each scan: the files in turn.
        report: takes events.

    Returns:
        For each scan a list of paths: `.npy`, uint8 (2, S, S, S), S the scan's size times 1.5, axes z, y, x: a code
        (0 the brain, 1 air, 2 fluid, from 3 on other tissues) and the distance from the brain in voxels.
    """
    if not files:
        return []
    built, opened = [], {}
    stem_label = names.index(BRAIN_STEM) + 1 if BRAIN_STEM in names else None
    for number, stem in enumerate(stems):
        report({"event": "progress", "stage": "Building heads", "done": number, "total": len(stems)})
        chosen = [files[(number * each + i) % len(files)] for i in range(min(each, len(files)))]
        paths = []
        for file in chosen:
            content = regular_file(file, DataError).read_bytes()
            digest = hashlib.sha256(repr((PREPARATION, Path(stem).name, stem_label)).encode() + content)
            path = Path(cache) / f"{digest.hexdigest()[:32]}.head.npy"
            if not path.is_file():
                if file not in opened:
                    opened[file] = _read_head(file)
                image, labels = load_array(f"{stem}.image.npy"), load_array(f"{stem}.labels.npy")
                if not np.any((labels > 0) & (labels != stem_label)):
                    raise DataError(
                        f"{stem}.labels.npy: no structure of this prepared scan is left to lay a head around; leave "
                        "the scan out, or take a larger --grid-size"
                    )
                with replacing(path) as temporary:
                    np.save(temporary, build_head(image, labels, opened[file], stem_label))
            paths.append(path)
        built.append(paths)
    return built


def _read_head(file):
    try:
        head = read_image(file)
    except GaborSegError as error:
        raise DataError(str(error)) from error
    brain = (head.array > 0) & (head.array < FIRST_TISSUE_ID) & ~np.isin(head.array, (FLUID_ID, BRAIN_STEM_ID))
    if not brain.any() or not np.isfinite(head.array).all():
        raise DataError(
            f"{file}: holds no brain, numbers from 1 to {FIRST_TISSUE_ID - 1}; wanted a head label map such as "
            "those of SynthSeg"
        )
    array = Grid(head.array.shape, head.affine).turn(head.array).astype(np.int32)
    return np.ascontiguousarray(array.transpose(2, 1, 0))


def build_head(image, labels, head, stem_label=None):
    """Codes and distances (uint8, (2, S, S, S)) of one head laid over one prepared scan; see `prepare_heads`.

    Args:
        image, labels: of the prepared scan, (size, size, size), axes z, y, x.
        head: label map, axes z (superior), y (anterior), x (right).
        stem_label: label of the brain stem in `labels`.
    """
    import SimpleITK

    own = labels > 0 if stem_label is None else (labels > 0) & (labels != stem_label)
    in_head = (head > 0) & (head < FIRST_TISSUE_ID) & (head != FLUID_ID)
    boxes = zip(_bounds(own), _bounds(in_head & (head != BRAIN_STEM_ID)))
    pad = int(image.shape[0] * (LARGER - 1) / 2)
    index = []
    for axis, ((low, high), (head_low, head_high)) in enumerate(boxes):
        places = np.arange(-pad, image.shape[axis] + pad)
        index.append(np.rint(head_low + (places - low) * (head_high - head_low) / (high - low)).astype(int))
    codes = np.where(head >= FIRST_TISSUE_ID, head - FIRST_TISSUE_ID + FIRST_TISSUE, AIR)
    # The head's own brain is not shown: where the scan's is smaller, there is fluid.
    codes[in_head | (head == FLUID_ID)] = FLUID
    built = np.full([len(i) for i in index], AIR, dtype=np.uint8)
    inside = [(i >= 0) & (i < n) for i, n in zip(index, head.shape)]
    built[np.ix_(*inside)] = codes[np.ix_(*[i[part] for i, part in zip(index, inside)])]
    brain = np.pad(_filled(image > 0), pad)
    built[brain] = BRAIN
    distance = SimpleITK.SignedMaurerDistanceMap(
        SimpleITK.GetImageFromArray(brain.astype(np.uint8)), squaredDistance=False, useImageSpacing=False
    )
    distance = SimpleITK.GetArrayFromImage(distance).clip(0, FARTHEST).astype(np.uint8)
    return np.stack([built, distance])


def _bounds(mask):
    """First and last index along each axis."""
    places = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return [(int(p[0]), int(p[-1])) for p in places]


def _filled(mask):
    import SimpleITK

    filled = SimpleITK.BinaryFillhole(SimpleITK.GetImageFromArray(mask.astype(np.uint8)))
    return SimpleITK.GetArrayFromImage(filled).astype(bool)


def add_head(image, head, settings, generator):
    """Show an image with random surroundings: a head, or what is within some voxels of the brain, or none.

    Args:
        image: (D, H, W), the mean of the brain about 1, zero outside of it.
        head: codes and distances, (2, S, S, S), around the same middle.
        settings: an `augmentation.Augmentation`.
        generator: CPU `torch.Generator`.

    Returns:
        The image itself, or (S, S, S).
    """
    chance, width, brightness, grain = torch.rand(4, generator=generator).tolist()
    if chance < settings.bare:
        return image
    codes, distance = head
    tissue = show_tissues(codes, generator, float(torch.rand((), generator=generator)) < settings.t1_tissues)
    # Scans have noise and fine texture, in the brain as elsewhere.
    tissue *= 1 + 0.15 * grain * torch.randn(tissue.shape, generator=generator).to(tissue.device)
    if chance < settings.bare + settings.collar:
        low, high = settings.collar_width
        tissue = tissue * (distance <= low + (high - low) * width)
    pad = (codes.shape[0] - image.shape[0]) // 2
    # What is not background in a head is brighter or darker than in a brain, and the mean of that is made 1.
    return (functional.pad(image, [pad] * 6) + tissue) * math.exp(0.6 * (brightness - 0.5))


def show_tissues(codes, generator, t1=False):
    """An image (D, H, W) of a built head's tissues, each of a random brightness and uneven, blurred at their borders.

    The mean of the brain, which is 0 here, would be about 1. With `t1` the brightness of some is drawn from
    `T1_TISSUES`.
    """
    means = 2 * torch.rand(256, generator=generator)
    for number, (low, high) in T1_TISSUES.items() if t1 else ():
        code = number - FIRST_TISSUE_ID + FIRST_TISSUE
        means[code] = low + (high - low) * means[code] / 2
    means[BRAIN] = 0
    means[AIR] *= 0.02
    means[FLUID] *= 0.3
    texture = torch.randn(1, 1, 6, 6, 6, generator=generator)
    smooth = float(torch.rand((), generator=generator))
    tissue = means.to(codes.device)[codes.long()]
    texture = functional.interpolate(texture, size=codes.shape, mode="trilinear")[0, 0]
    return blur((tissue * (1 + 0.2 * texture.to(codes.device))).clamp(min=0), 0.25 * smooth)


def blur(image, weight):
    """(D, H, W) convolved along each axis with (weight, 1 - 2 weight, weight)."""
    taps = torch.tensor([weight, 1 - 2 * weight, weight], dtype=image.dtype, device=image.device)
    image = image[None, None]
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = 3
        padding = [0, 0, 0]
        padding[axis] = 1
        image = functional.conv3d(image, taps.reshape(shape), padding=padding)
    return image[0, 0]
