"""The bundled networks on real brains: the average brain that nilearn ships, and labelled scans where given.

Each look of a network at a scan takes seconds on all cores. A scan's mirror image is a second look, which is taken
where the default weights segment the average brain.
"""

import os

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch

from GaborSegLib.data.heads import blur
from GaborSegLib.data.sources import find_data
from GaborSegLib.evaluation.evaluation import evaluate
from GaborSegLib.inference.finder import find_brain
from GaborSegLib.inference.segmenter import Segmenter
from GaborSegLib.model.weights import bundled_weights
from GaborSegLib.scans.image import Image

pytestmark = pytest.mark.real

BUNDLED = sorted(bundled_weights())


@pytest.fixture(autouse=True)
def all_threads():
    """These networks are of full size: let them have the machine."""
    torch.set_num_threads(os.cpu_count())
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def average_brain():
    pytest.importorskip("nilearn")
    from GaborSegLib.cli.demo import icbm152

    return icbm152()


@pytest.fixture(scope="module")
def segmented(average_brain):
    return Segmenter("mixed", "cpu").segment(average_brain)


def dice_of_each(first, second):
    labels = [label for label in np.unique(first) if label]
    return [2 * ((first == n) & (second == n)).sum() / ((first == n).sum() + (second == n).sum()) for n in labels]


def test_the_average_brain_has_plausible_volumes(segmented):
    """Wide ranges in mL around what healthy adults have on both sides; the ICBM152 brain is large and blurred."""
    ranges = {
        "Cerebral grey": (450, 1050),
        "Cerebral white": (350, 850),
        "Cerebellar grey": (70, 170),
        "Brainstem": (15, 45),
        "Thalamus": (9, 32),
        "Hippocampus": (4, 13),
        "Putamen": (6, 15),
        "Caudate": (4, 13),
        "Lateral ventricle": (5, 50),
    }
    assert {
        name: segmented.volumes[name]
        for name, (low, high) in ranges.items()
        if not low < segmented.volumes[name] < high
    } == {}
    assert all(volume > 0 for volume in segmented.volumes.values())


def test_left_and_right_of_a_symmetric_brain_agree(average_brain, segmented):
    """The template is symmetric, and so is its grid: mirrored labels lie on labels."""
    assert np.allclose(average_brain.affine[:3, :3], np.eye(3)) and average_brain.affine[0, 3] == -98
    assert np.mean(dice_of_each(segmented.labels, segmented.labels[::-1])) > 0.85


def test_sides_of_a_symmetric_brain_part_at_its_middle(average_brain, segmented):
    """Which is at x = 0 mm; a network that were wrong by two millimetres or took left for right would be seen."""
    x = average_brain.affine[0, 0] * np.arange(len(segmented.labels)) + average_brain.affine[0, 3]
    far = (segmented.labels > 0) & (abs(x) > 2)[:, None, None]
    assert far.sum() > 1_000_000 and (segmented.right == (x > 0)[:, None, None])[far].mean() > 0.999
    assert len(segmented.sides) == 13
    assert abs(np.mean([sides["asymmetry"] for sides in segmented.sides.values()])) < 0.03


def test_the_brain_is_found_in_fluid_skull_and_scalp(average_brain):
    """Shells around the average brain: 2 mm of fluid, 5 mm of bone, 8 mm of fat, with room around."""
    array = np.pad(average_brain.array, 25)
    brain = SimpleITK.BinaryFillhole(SimpleITK.GetImageFromArray((array > 0).astype(np.uint8)))
    distance = SimpleITK.SignedMaurerDistanceMap(brain, squaredDistance=False)
    brain, distance = (SimpleITK.GetArrayFromImage(image) for image in (brain > 0, distance))
    mean = array[brain > 0].mean()
    for near, far, brightness in ((0, 2, 0.25), (2, 7, 0.1), (7, 15, 1.5)):
        array[(distance > near) & (distance <= far)] = brightness * mean
    affine = average_brain.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [25, 25, 25]
    found = find_brain(blur(torch.from_numpy(array), 0.2).numpy(), affine)
    expected = found.grid.image_to_cube(brain.astype(np.float32)).numpy() > 0.5
    mask = found.mask.numpy() > 0
    assert not found.is_extracted
    assert 2 * (mask & expected).sum() / (mask.sum() + expected.sum()) > 0.95


@pytest.fixture(scope="module")
def smallest():
    """A segmenter with the trained network that is the fastest, without the mirror image."""
    return Segmenter("conventional", "cpu", mirror=False)


@pytest.fixture(scope="module")
def segmented_as_stored(smallest, average_brain):
    return smallest.segment(average_brain)


@pytest.mark.parametrize("codes", ["LPI", "PSR", "ILA"])
def test_axis_orders_and_flips_of_the_average_brain(codes, average_brain, smallest, segmented_as_stored):
    """Every order and flip is tried on a small scan in test_segmenter.py; here some with a trained network."""
    orientation = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
    )
    array = nibabel.apply_orientation(average_brain.array, orientation)
    affine = average_brain.affine @ nibabel.orientations.inv_ornt_aff(orientation, average_brain.array.shape)
    result = smallest.segment(Image(array, affine))
    back = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt(codes), nibabel.orientations.axcodes2ornt("RAS")
    )
    assert min(dice_of_each(segmented_as_stored.labels, nibabel.apply_orientation(result.labels, back))) > 0.98


@pytest.mark.parametrize("variant", BUNDLED)
def test_a_validation_scan_scores_what_the_card_says(variant, real_data):
    segmenter = Segmenter(variant, "cpu", mirror=False)
    data = find_data(real_data)
    scan = segmenter.card["scores"]["validation"]["scans"][0]
    on_cube, on_scan = evaluate(segmenter, data.select([scan])[:1], data.table)
    for rows, key in ((on_cube, "dice_mean"), (on_scan, "dice_mean_scan_grid")):
        mean = np.mean([row["dice"] for row in rows])
        assert mean == pytest.approx(segmenter.card["scores"]["validation"][key], abs=0.05)
