"""Scans in, label maps out: the same place in millimetres however the scan is stored."""

import itertools

import nibabel
import numpy as np
import pytest
import torch
from made import made_scan

from GaborSegLib.errors import GaborSegError, ImageError, WeightsError
from GaborSegLib.inference import segmenter as module
from GaborSegLib.inference.finder import BRAIN_SHARE, Brain
from GaborSegLib.inference.segmenter import Segmenter
from GaborSegLib.model.weights import bundled_weights, is_bundled, load_weights, save_weights
from GaborSegLib.protocol import NOT_T1
from GaborSegLib.scans.grid import Grid
from GaborSegLib.scans.image import Image
from GaborSegLib.scans.reading import read_image
from GaborSegLib.structures import paper_structures

AXIS_ORDERS_AND_FLIPS = [
    [[axis, flip] for axis, flip in zip(axes, flips)]
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


def made_image(affine=None):
    scan, _ = made_scan(0, (40, 44, 36))
    return Image(scan, np.diag([1.5, 2.0, 2.5, 1.0]) if affine is None else affine)


def stored(image, orientation):
    """The same scan with other axes: an `Image` of the same millimetres."""
    orientation = np.array(orientation)
    turned = nibabel.apply_orientation(image.array, orientation)
    affine = image.affine @ nibabel.orientations.inv_ornt_aff(orientation, image.array.shape)
    return Image(np.ascontiguousarray(turned), affine)


def at_millimetres(segmentation, points):
    """Labels at points (N, 3) in millimetres that are voxel centres."""
    index = nibabel.affines.apply_affine(np.linalg.inv(segmentation.affine), points)
    assert np.allclose(index, index.round(), atol=1e-4)
    return segmentation.labels[tuple(index.round().astype(int).T)]


def voxel_centres(image):
    index = np.stack(np.meshgrid(*[np.arange(n) for n in image.array.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    return nibabel.affines.apply_affine(image.affine, index)


def rotation(degrees, axis):
    """4x4 rotation about an axis through the origin (Rodrigues)."""
    axis = np.array(axis) / np.linalg.norm(axis)
    cross = np.cross(np.eye(3), axis)
    angle = np.deg2rad(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) - np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return matrix


@pytest.mark.slow  # 49 segmentations
def test_every_axis_order_and_flip_gives_the_same_place(tiny_weights):
    """No interpolation is left: the cube is centred on the scan, so a flip maps its voxels onto each other."""
    segmenter = Segmenter(tiny_weights, "cpu")
    image = made_image()
    points = voxel_centres(image)
    expected = at_millimetres(segmenter.segment(image), points)
    assert len(np.unique(expected)) > 3
    for orientation in AXIS_ORDERS_AND_FLIPS:
        result = segmenter.segment(stored(image, orientation))
        assert (at_millimetres(result, points) == expected).mean() > 0.999


def test_an_oblique_affine_turns_the_segmentation_with_it(tiny_weights):
    segmenter = Segmenter(tiny_weights, "cpu")
    image = made_image()
    expected = segmenter.segment(image)
    for degrees, axis in ((20, (1, 0.2, 0)), (30, (0.3, -1, 0.5)), (12, (1, 1, 1))):
        turn = rotation(degrees, axis)
        oblique = Image(image.array, turn @ image.affine)
        result = segmenter.segment(oblique)
        assert np.allclose(result.affine, turn @ image.affine)
        points = voxel_centres(image)[::7]
        turned = nibabel.affines.apply_affine(turn, points)
        assert (at_millimetres(result, turned) == at_millimetres(expected, points)).mean() > 0.999


def test_a_mirrored_scan_has_the_mirrored_segmentation(tiny_weights):
    image = made_image()
    mirrored = Image(np.ascontiguousarray(image.array[::-1]), image.affine)
    agreement = {}
    for mirror in (True, False):
        segmenter = Segmenter(tiny_weights, "cpu", mirror)
        agreement[mirror] = (segmenter.segment(mirrored).labels[::-1] == segmenter.segment(image).labels).mean()
    assert agreement[True] > 0.9999 > agreement[False]


def test_labels_affine_volumes_and_provenance(tiny_weights):
    image = made_image()
    result = Segmenter(tiny_weights, "cpu").segment(image)
    assert result.labels.shape == image.array.shape and result.labels.dtype == np.uint8
    assert np.array_equal(result.affine, image.affine)
    for structure in result.structures:
        count = np.count_nonzero(result.labels == structure.label)
        assert result.volumes[structure.name] == pytest.approx(count * 1.5 * 2.0 * 2.5 / 1000)
    card = load_weights(tiny_weights).card
    assert result.provenance["weights_sha256"] == card["sha256"]
    assert result.provenance["variant"] == "mixed" and result.provenance["device"] == "cpu"


def test_reads_what_it_segments_from_a_file(tiny_weights, tmp_path):
    image = made_image()
    nibabel.save(nibabel.Nifti1Image(image.array, image.affine), tmp_path / "scan.nii.gz")
    segmenter = Segmenter(tiny_weights, "cpu")
    result = segmenter.segment(tmp_path / "scan.nii.gz")
    assert np.array_equal(result.labels, segmenter.segment(image).labels)
    result.save(tmp_path / "labels.nii.gz")
    back = read_image(tmp_path / "labels.nii.gz")
    assert np.array_equal(back.array, result.labels) and np.allclose(back.affine, image.affine)


def test_refusals_and_warnings(tiny_weights):
    segmenter = Segmenter(tiny_weights, "cpu")
    with pytest.raises(ImageError):
        segmenter.segment(Image(np.zeros((20, 20, 20)), np.eye(4)))
    events = []
    segmenter.segment(made_image(np.diag([4.0, 4.0, 4.0, 1.0])), report=events.append)
    assert any(event["event"] == "warning" and "mm" in event["message"] for event in events)
    with pytest.raises(GaborSegError, match="no device"):
        Segmenter(tiny_weights, "gpu!")
    with pytest.raises(GaborSegError, match="CUDA devices"):
        Segmenter(tiny_weights, "cuda:99")
    with pytest.raises(WeightsError, match="nothing.safetensors"):
        Segmenter("nothing.safetensors")


def bright_scan():
    """Two bright boxes, the smaller one away from the other."""
    scan = np.zeros((120, 100, 110), dtype=np.float32)
    scan[70:106, 20:50, 60:96] = 100
    scan[5:11, 20:26, 60:66] = 100
    return scan


def finds_what_is_bright(segmenter, monkeypatch, cubes):
    def bright(cube, report):
        cubes.append(cube)
        found = (cube > 50).float()
        return torch.stack([1 - found, found] + [torch.zeros_like(found)] * 18)

    monkeypatch.setattr(segmenter, "predict", bright)


def test_the_cube_lies_over_the_brain_that_was_found(tiny_weights, tmp_path, monkeypatch):
    opened = load_weights(tiny_weights)
    save_weights(tmp_path / "extracted.safetensors", opened.network, {**opened.card, "find_brain": True})
    segmenter = Segmenter(tmp_path / "extracted.safetensors", "cpu")
    scan = bright_scan()

    def found(array, affine, device):
        grid = Grid(array.shape, affine, 64)
        # Turned: the first axis runs from left to right here.
        low, high = np.array([120 - 106, 20, 60]), np.array([120 - 71, 49, 95])
        kept = np.zeros(scan.shape, dtype=np.float32)
        kept[70:106, 20:50, 60:96] = 1
        return Brain(low, high, grid, grid.image_to_cube(kept))

    monkeypatch.setattr(module, "find_brain", found)
    finds_what_is_bright(segmenter, monkeypatch, cubes := [])
    result = segmenter.segment(Image(scan, np.diag([-1.0, 1.0, 1.0, 1.0])))
    assert len(cubes) == 1
    assert result.provenance["cube_spacing_mm"] == pytest.approx(36 / BRAIN_SHARE / 32, rel=0.01)
    truth = np.zeros(scan.shape, dtype=bool)
    truth[70:106, 20:50, 60:96] = True
    assert 2 * (truth & (result.labels == 1)).sum() / (truth.sum() + (result.labels == 1).sum()) > 0.95


def test_where_no_whole_brain_is_found_all_of_the_scan_is_shown_and_that_is_said(tiny_weights, tmp_path, monkeypatch):
    opened = load_weights(tiny_weights)
    save_weights(tmp_path / "extracted.safetensors", opened.network, {**opened.card, "find_brain": True})
    monkeypatch.setattr(module, "find_brain", lambda array, affine, device: None)
    for path, warned in ((tmp_path / "extracted.safetensors", True), (tiny_weights, False)):
        events = []
        result = Segmenter(path, "cpu").segment(Image(bright_scan(), np.eye(4)), events.append)
        warnings = [event["message"] for event in events if event["event"] == "warning"]
        assert any("no whole brain was found" in message for message in warnings) == warned
        assert result.provenance["cube_spacing_mm"] == pytest.approx(120 / 32)


def test_stray_parts_are_taken_away_from_a_brain_and_not_from_other_structures(tiny_weights, tmp_path, monkeypatch):
    opened = load_weights(tiny_weights)
    nuclei = [f"Nucleus {i}" for i in range(1, 20)]
    save_weights(tmp_path / "nuclei.safetensors", opened.network, {**opened.card, "structures": nuclei})
    paper = [structure.name for structure in paper_structures()]
    save_weights(tmp_path / "brain.safetensors", opened.network, {**opened.card, "structures": paper})
    for name, stays in (("nuclei", True), ("brain", False)):
        segmenter = Segmenter(tmp_path / f"{name}.safetensors", "cpu")
        finds_what_is_bright(segmenter, monkeypatch, [])
        labels = segmenter.segment(Image(bright_scan(), np.diag([-1.0, 1.0, 1.0, 1.0]))).labels
        assert labels[80:96, 30:40, 70:86].all()
        assert labels[7:10, 22:25, 62:65].any() == stays


@pytest.mark.parametrize("certainty, looks", [(0.9, True), (0.3, False)])
def test_a_scan_on_which_bundled_weights_hesitate_is_said_to_be_no_t1(certainty, looks, tiny_weights, monkeypatch):
    """A voxel's best class has a score of 0.9 or 0.3, all structures the same, so that is also the expected Dice."""
    classes = 20
    labels = torch.arange(32**3).reshape(32, 32, 32) % classes
    scores = torch.full((classes, 32, 32, 32), (1 - certainty) / (classes - 1)).scatter(0, labels[None], certainty)
    segmenter = Segmenter(tiny_weights, "cpu")
    segmenter.covers_brain = False  # every second voxel is another structure, and none would be left
    monkeypatch.setattr(segmenter, "predict", lambda cube, report: scores.clone())

    def segmented():
        events = []
        result = segmenter.segment(made_image(), events.append)
        return result, [event for event in events if event.get("kind") == NOT_T1]

    result, warnings = segmented()
    assert result.looks_like_t1 is None and not warnings  # own weights: nobody knows
    segmenter.knows_t1 = True
    result, warnings = segmented()
    assert result.quality["Thalamus"] == pytest.approx(certainty, abs=0.01)
    assert result.looks_like_t1 is looks and len(warnings) == (not looks)
    if warnings:
        assert warnings[0]["event"] == "warning"
        assert "this does not look like a T1-weighted scan, or it is badly damaged: its quality is 0.30" in str(
            warnings
        )


def test_weights_are_known_as_bundled_by_their_content(tiny_weights, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(bundled_weights()["gabor"].read_bytes())
    assert is_bundled(load_weights(copy).card)
    assert not is_bundled(load_weights(tiny_weights).card)


def test_specks_are_taken_away_from_the_papers_structures_alone(tiny_weights, tmp_path, monkeypatch):
    opened = load_weights(tiny_weights)
    paper = [structure.name for structure in paper_structures()]
    amygdala, grey = paper.index("Amygdala") + 1, paper.index("Cerebral grey") + 1
    scan = np.zeros((120, 120, 120), dtype=np.float32)
    scan[10:110, 10:110, 10:110] = 100
    scan[20:60, 20:60, 20:60] = 200
    scan[80:92, 80:92, 80:92] = 200

    def predict(cube, report):
        labels = grey * (cube > 50).long() + (amygdala - grey) * (cube > 150).long()
        return torch.nn.functional.one_hot(labels, 20).movedim(-1, 0).float()

    for names, expected in ((paper, grey), ([f"Nucleus {i}" for i in range(1, 20)], amygdala)):
        save_weights(tmp_path / f"{expected}.safetensors", opened.network, {**opened.card, "structures": names})
        segmenter = Segmenter(tmp_path / f"{expected}.safetensors", "cpu")
        monkeypatch.setattr(segmenter, "predict", predict)
        labels = segmenter.segment(Image(scan, np.eye(4))).labels
        assert (labels[24:56, 24:56, 24:56] == amygdala).all() and (labels[84:88, 84:88, 84:88] == expected).all()


class Full(torch.nn.Module):
    """A network of a device whose memory is full; on the CPU another takes its place."""

    def __init__(self, other=None):
        super().__init__()
        self.others = [other]  # not a part of it, so that it does not go to the device

    def forward(self, cube):
        if cube.device.type != "cpu" or self.others[0] is None:
            raise torch.OutOfMemoryError("made for this test")
        return self.others[0](cube)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_full_gpu_is_left_for_the_cpu_only_if_nobody_asked_for_it(device, tiny_weights, monkeypatch):
    expected = Segmenter(tiny_weights, "cpu").segment(made_image()).labels
    monkeypatch.setattr(module, "choose_device", lambda name: torch.device("meta"))  # in the place of a GPU
    segmenter = Segmenter(tiny_weights, device)
    segmenter.network, events = Full(segmenter.network), []
    if device == "auto":
        result = segmenter.segment(made_image(), events.append)
        assert np.array_equal(result.labels, expected) and result.provenance["device"] == "cpu"
        messages = [event["message"] for event in events if event["event"] == "warning"]
        assert messages.count("meta is out of memory; going on with the CPU") == 1
    else:
        with pytest.raises(GaborSegError, match="the memory of meta ran out; choose the device cpu"):
            segmenter.segment(made_image(), events.append)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_that_is_full_while_the_brain_is_found_is_left_too(device, tiny_weights, tmp_path, monkeypatch):
    opened = load_weights(tiny_weights)
    save_weights(tmp_path / "extracted.safetensors", opened.network, {**opened.card, "find_brain": True})
    asked = []

    def find(array, affine, device):
        asked.append(str(device))
        if len(asked) == 1:
            raise torch.OutOfMemoryError("made for this test")

    monkeypatch.setattr(module, "find_brain", find)
    monkeypatch.setattr(module, "choose_device", lambda name: torch.device("meta"))
    segmenter, events = Segmenter(tmp_path / "extracted.safetensors", device), []
    if device == "auto":
        assert segmenter.segment(made_image(), events.append).provenance["device"] == "cpu"
        assert asked == ["meta", "cpu"]
        assert sum("going on with the CPU" in event.get("message", "") for event in events) == 1
    else:
        with pytest.raises(GaborSegError, match="the memory of meta ran out; choose the device cpu"):
            segmenter.segment(made_image())


OUT_OF_MEMORY = [  # torch, Windows' torch, oneDNN, numpy and others, ITK
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: not enough memory: you tried to ..."),
    RuntimeError("could not create a memory object"),
    MemoryError(),
    RuntimeError("Exception thrown in SimpleITK: ITK ERROR: Failed to allocate memory for image."),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize("at", ["cube_scores", "keep_largest_component", "structure_quality"])
def test_a_full_memory_of_the_computer_is_told_with_a_remedy(at, error, tiny_weights, monkeypatch):
    def fail(*arguments):
        raise error

    segmenter = Segmenter(tiny_weights, "auto")
    monkeypatch.setattr(module, at, fail)
    with pytest.raises(GaborSegError, match="^scan.nii.gz: the memory of cpu ran out; close other") as told:
        segmenter.segment(Image(made_image().array, np.eye(4), "scan.nii.gz"))
    assert told.value.__cause__ is error


def test_other_errors_of_torch_are_defects(tiny_weights, monkeypatch):
    segmenter = Segmenter(tiny_weights, "auto")
    monkeypatch.setattr(segmenter, "_scores", lambda cube: cube.view(7))
    with pytest.raises(RuntimeError, match="shape"):
        segmenter.segment(made_image())


@pytest.mark.parametrize("variant", list(bundled_weights()))
def test_bundled_weights_open_and_say_what_they_are(variant):
    card = load_weights(bundled_weights()[variant]).card
    assert card["variant"] == variant
    assert len(card["structures"]) == 19
    for key in ("training", "licence", "scores", "versions", "limits"):
        assert card[key], key
