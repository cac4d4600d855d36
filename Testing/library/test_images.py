"""Reading scans and writing label maps: voxels and millimetres, refusals, warnings, and files that are whole or absent.

Geometry is never checked with the library that made it: files are read with the other one, or their header is read or
written here by hand.
"""

import gzip
import re
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from GaborSegLib.errors import ImageError, OutputError
from GaborSegLib.files import check_output, replacing, split_extension
from GaborSegLib.scans.checking import check_image
from GaborSegLib.scans.image import READABLE, WRITABLE, Image
from GaborSegLib.scans.reading import read_image
from GaborSegLib.scans.writing import write_label_map
from GaborSegLib.structures import paper_structures

SHAPE = (17, 18, 20)
RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
VOXEL = (3, 11, 5)


def oblique(seed=0, hand=-1):
    """An affine with random right-angled axes, right- (1) or left-handed (-1), and three different spacings."""
    random = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(random.normal(size=(3, 3)))
    if np.linalg.det(axes) * hand < 0:
        axes[:, 0] *= -1
    affine = np.eye(4)
    affine[:3, :3] = axes * (0.9, 1.3, 2.1)
    affine[:3, 3] = random.uniform(-90, 90, 3)
    return affine


def millimetres(affine, voxel=VOXEL):
    return affine[:3, :3] @ voxel + affine[:3, 3]


def some_labels():
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:9, 4:15, 3:10] = np.random.default_rng(1).integers(0, 19, (7, 11, 7))  # 19, the thalamus, is absent
    return labels


def scan():
    """A bright ball with noise in a dark background, which passes all checks without a warning."""
    random = np.random.default_rng(2)
    distance = np.linalg.norm(np.indices(SHAPE) - np.reshape(SHAPE, (3, 1, 1, 1)) / 2, axis=0)
    return ((distance < 7) * 900 + random.uniform(0, 20, SHAPE)).astype(np.int16)


def save_nifti(path, array=None, affine=None):
    nibabel.save(nibabel.Nifti1Image(scan() if array is None else array, np.eye(4) if affine is None else affine), path)
    return path


# Label maps: every format, read back here and by something else.


@pytest.mark.parametrize("hand", [1, -1])
@pytest.mark.parametrize("extension", WRITABLE)
def test_label_map_comes_back_on_the_same_grid(tmp_path, extension, hand):
    path, labels, affine = tmp_path / f"labels{extension}", some_labels(), oblique(hand=hand)
    write_label_map(path, labels, affine, paper_structures())
    image = read_image(path)
    assert np.array_equal(image.array, labels)
    assert np.allclose(image.affine, affine, atol=1e-4)
    assert image.spacing == pytest.approx((0.9, 1.3, 2.1), abs=1e-5)
    assert image.path == str(path) and image.warnings == ()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("hand", [1, -1])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd", ".seg.nrrd"])
def test_simpleitk_sees_the_voxel_at_the_same_place(tmp_path, extension, hand):
    path, labels, affine = tmp_path / f"labels{extension}", some_labels(), oblique(hand=hand)
    write_label_map(path, labels, affine, paper_structures())
    image = sitk.ReadImage(str(path))
    assert image[VOXEL] == labels[VOXEL]
    point = image.TransformIndexToPhysicalPoint(VOXEL)
    assert point == pytest.approx(millimetres(affine) * RAS_TO_LPS, abs=1e-4)


def test_nifti_has_both_transforms_and_millimetres(tmp_path):
    affine = oblique()
    write_label_map(tmp_path / "labels.nii.gz", some_labels(), affine, paper_structures())
    header = nibabel.load(tmp_path / "labels.nii.gz").header
    assert header["sform_code"] == header["qform_code"] == 1
    assert header.get_xyzt_units()[0] == "mm"
    assert np.allclose(header.get_qform(), affine, atol=1e-4) and np.allclose(header.get_sform(), affine, atol=1e-4)


def test_mgh_header_puts_the_voxel_at_the_same_place(tmp_path):
    affine = oblique()
    write_label_map(tmp_path / "labels.mgz", some_labels(), affine, paper_structures())
    content = gzip.decompress((tmp_path / "labels.mgz").read_bytes())
    version, *shape, frames, kind, _ = struct.unpack(">7i", content[:28])
    assert (version, tuple(shape), frames, kind) == (1, SHAPE, 1, 0)
    good, *numbers = struct.unpack(">h15f", content[28:90])
    spacing, directions, centre = np.array(numbers[:3]), np.reshape(numbers[3:12], (3, 3)).T, np.array(numbers[12:])
    assert good == 1
    offset = np.array(VOXEL) - np.array(SHAPE) / 2
    assert directions @ (spacing * offset) + centre == pytest.approx(millimetres(affine), abs=1e-4)


@pytest.mark.parametrize("extension", [".nrrd", ".seg.nrrd"])
def test_nrrd_header_puts_the_voxel_at_the_same_place(tmp_path, extension):
    path, affine = tmp_path / f"labels{extension}", oblique()
    write_label_map(path, some_labels(), affine, paper_structures())
    header = nrrd_header(path)
    assert header["space"] == "left-posterior-superior"
    assert header["sizes"] == "17 18 20"
    assert header["type"] == "unsigned char"
    assert header["encoding"] == "gzip"
    directions = np.array([vector(text) for text in header["space directions"].split(" ")]).T
    point = directions @ VOXEL + vector(header["space origin"])
    assert point == pytest.approx(millimetres(affine) * RAS_TO_LPS, abs=1e-9)


def nrrd_header(path):
    text = path.read_bytes().split(b"\n\n")[0].decode()
    return dict(re.findall(r"^([^#:\n]+)(?:: |:=)(.*)$", text, re.MULTILINE))


def vector(text):
    return np.array([float(number) for number in text.strip("()").split(",")])


# A Slicer segmentation.


def test_segmentation_header(tmp_path):
    path, labels, affine = tmp_path / "labels.seg.nrrd", some_labels(), oblique()
    write_label_map(path, labels, affine, paper_structures())
    header = nrrd_header(path)
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert header["Segmentation_SourceRepresentation"] == "Binary labelmap"
    assert header["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert header["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    for index, structure in enumerate(paper_structures()):
        field = {key.split("_")[1]: value for key, value in header.items() if key.startswith(f"Segment{index}_")}
        assert field["ID"] == f"Segment_{structure.label}"
        assert field["Name"] == structure.name
        assert field["LabelValue"] == str(structure.label)
        assert field["Layer"] == field["NameAutoGenerated"] == field["ColorAutoGenerated"] == "0"
        colour = [float(number) for number in field["Color"].split()]
        assert np.allclose(np.multiply(colour, 255), structure.colour, atol=1e-3)
        where = np.argwhere(labels == structure.label)
        extent = np.transpose([where.min(axis=0), where.max(axis=0)]).ravel() if len(where) else [0, -1] * 3
        assert field["Extent"] == " ".join(str(number) for number in extent)
    assert header["Segment18_Extent"] == "0 -1 0 -1 0 -1"
    assert "Segment19_ID" not in header


def test_segmentation_names_the_grid_of_the_scan(tmp_path):
    affine = oblique()
    write_label_map(tmp_path / "labels.seg.nrrd", some_labels(), affine, paper_structures())
    name, geometry, _ = nrrd_header(tmp_path / "labels.seg.nrrd")["Segmentation_ConversionParameters"].split("|")
    numbers = [float(number) for number in geometry.rstrip(";").split(";")]
    assert name == "Reference image geometry"
    assert np.array_equal(np.reshape(numbers[:16], (4, 4)), affine)
    assert numbers[16:] == [0, 16, 0, 17, 0, 19]


@pytest.mark.parametrize("empty", [False, True])
def test_slicer_opens_the_segmentation(tmp_path, empty):
    core = pytest.importorskip("slicer_core.MRMLCore")
    vtk = pytest.importorskip("vtk")
    from vtk.util.numpy_support import vtk_to_numpy

    path, labels, affine = tmp_path / "labels.seg.nrrd", some_labels() * (not empty), oblique()
    write_label_map(path, labels, affine, paper_structures())
    scene = core.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 19
    for index, structure in enumerate(paper_structures()):
        segment = segmentation.GetNthSegment(index)
        assert segmentation.GetNthSegmentID(index) == f"Segment_{structure.label}"
        assert (segment.GetName(), segment.GetLabelValue()) == (structure.name, structure.label)
        assert np.allclose(np.multiply(segment.GetColor(), 255), structure.colour, atol=1e-3)
    if empty:
        return
    loaded = segmentation.GetNthSegment(0).GetRepresentation("Binary labelmap")
    matrix = vtk.vtkMatrix4x4()
    loaded.GetImageToWorldMatrix(matrix)
    assert np.allclose([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)], affine)
    i, _, j, _, k, _ = loaded.GetExtent()
    part = vtk_to_numpy(loaded.GetPointData().GetScalars()).reshape(loaded.GetDimensions()[::-1]).T
    assert np.array_equal(part, labels[i : i + part.shape[0], j : j + part.shape[1], k : k + part.shape[2]])
    assert part.astype(bool).sum() == labels.astype(bool).sum()
    storage.SetFileName(str(tmp_path / "saved.seg.nrrd"))
    assert storage.WriteData(node)
    saved = read_image(tmp_path / "saved.seg.nrrd")  # on the scan's grid, not cropped to the segments
    assert np.array_equal(saved.array, labels) and np.allclose(saved.affine, affine)


# Scans.


@pytest.mark.parametrize("hand", [1, -1])
@pytest.mark.parametrize("extension", [".nrrd", ".nhdr", ".mha", ".mhd", ".nii", ".nii.gz", ".NRRD"])
def test_reads_what_simpleitk_wrote(tmp_path, extension, hand):
    path, affine = tmp_path / f"scan{extension}", oblique(hand=hand)
    image = sitk.GetImageFromArray(np.ascontiguousarray(scan().T))
    image.SetSpacing((0.9, 1.3, 2.1))
    image.SetDirection((np.diag(RAS_TO_LPS) @ affine[:3, :3] / (0.9, 1.3, 2.1)).ravel().tolist())
    image.SetOrigin((RAS_TO_LPS * affine[:3, 3]).tolist())
    sitk.WriteImage(image, str(path))
    read = read_image(path)
    assert np.array_equal(read.array, scan())
    assert np.allclose(read.affine, affine, atol=1e-4)
    assert check_image(read) == []


def test_reads_a_nrrd_written_by_hand(tmp_path):
    affine = oblique()
    directions = " ".join(f"({','.join(repr(float(x)) for x in column)})" for column in affine[:3, :3].T)
    origin = ",".join(repr(float(x)) for x in affine[:3, 3])
    header = (
        "NRRD0004\ntype: int16\ndimension: 3\nspace: right-anterior-superior\nsizes: 17 18 20\nendian: little\n"
        f"space directions: {directions}\nencoding: raw\nspace origin: ({origin})\n\n"
    )
    (tmp_path / "scan.nrrd").write_bytes(header.encode() + scan().astype("<i2").tobytes(order="F"))
    read = read_image(tmp_path / "scan.nrrd")
    assert np.array_equal(read.array, scan())
    assert np.allclose(read.affine, affine)


def test_reads_a_metaimage_written_by_hand(tmp_path):
    affine = oblique()
    lps = np.diag(RAS_TO_LPS) @ affine[:3, :3] / (0.9, 1.3, 2.1)
    (tmp_path / "scan.raw").write_bytes(scan().astype("<i2").tobytes(order="F"))
    (tmp_path / "scan.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"TransformMatrix = {' '.join(map(repr, lps.T.ravel().tolist()))}\n"
        f"Offset = {' '.join(map(repr, (RAS_TO_LPS * affine[:3, 3]).tolist()))}\n"
        "ElementSpacing = 0.9 1.3 2.1\nDimSize = 17 18 20\nElementType = MET_SHORT\nElementDataFile = scan.raw\n"
    )
    read = read_image(tmp_path / "scan.mhd")
    assert np.array_equal(read.array, scan())
    assert np.allclose(read.affine, affine)


def test_nifti_intensities_are_scaled(tmp_path):
    content = bytearray(save_nifti(tmp_path / "scan.nii").read_bytes())
    content[112:120] = struct.pack("<2f", 0.5, 3)  # scl_slope, scl_inter
    (tmp_path / "scan.nii").write_bytes(content)
    stored = np.frombuffer(content[352:], "<i2").reshape(SHAPE, order="F")
    assert np.allclose(read_image(tmp_path / "scan.nii").array, stored * 0.5 + 3)


def test_extension_in_capitals(tmp_path):
    save_nifti(tmp_path / "scan.nii.gz").rename(tmp_path / "SCAN.NII.GZ")
    assert np.array_equal(read_image(tmp_path / "SCAN.NII.GZ").array, scan())


def test_single_fourth_axis_is_dropped(tmp_path):
    save_nifti(tmp_path / "scan.nii", scan()[..., None])
    assert np.array_equal(read_image(tmp_path / "scan.nii").array, scan())


@pytest.mark.parametrize("extension", [".nrrd", ".mha"])
def test_single_fourth_axis_is_dropped_by_simpleitk(tmp_path, extension):
    image = sitk.JoinSeries([sitk.GetImageFromArray(np.ascontiguousarray(scan().T))])
    sitk.WriteImage(image, str(tmp_path / f"scan{extension}"))
    assert np.array_equal(read_image(tmp_path / f"scan{extension}").array, scan())


# DICOM.


def save_dicom(folder, affine, slices=SHAPE[2], uid="1.2.3", move=lambda k, position: position):
    """Write a series whose file names do not follow the slices' order; `move` displaces slices."""
    folder.mkdir(exist_ok=True)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = RAS_TO_LPS[:, None] * affine[:3, :3] / spacing
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(slices):
        image = sitk.GetImageFromArray(np.ascontiguousarray(scan()[:, :, k].T))
        image.SetSpacing(spacing[:2].tolist())
        position = move(k, RAS_TO_LPS * millimetres(affine, (0, 0, k)))
        fields = {
            "0008|0060": "MR",
            "0008|0018": f"{uid}.{k + 1}",
            "0020|000d": "1.2",
            "0020|000e": uid,
            "0020|0013": str(k + 1),
            "0020|0032": "\\".join(f"{x:.6f}" for x in position),
            "0020|0037": "\\".join(f"{x:.8f}" for x in axes[:, :2].T.ravel()),
        }
        for key, value in fields.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{uid}-{k * 7 % 20:02}.dcm"))
        writer.Execute(image)


@pytest.mark.parametrize("one_file", [False, True])
@pytest.mark.parametrize("straight", [False, True])
def test_dicom_series(tmp_path, straight, one_file):
    affine = np.diag([-0.9, -1.3, 2.1, 1]) if straight else oblique(hand=1)
    save_dicom(tmp_path / "series", affine)
    image = read_image(tmp_path / "series" / "1.2.3-07.dcm" if one_file else tmp_path / "series")
    assert np.array_equal(image.array, scan())
    assert np.allclose(image.affine, affine, atol=1e-4)
    assert check_image(image) == []


def test_longest_dicom_series_is_taken_with_a_warning(tmp_path):
    save_dicom(tmp_path / "study", oblique(hand=1))
    save_dicom(tmp_path / "study", oblique(1, hand=1), slices=3, uid="1.2.2")
    image = read_image(tmp_path / "study")
    assert image.array.shape == SHAPE
    (warning,) = check_image(image)
    assert "2 DICOM series" in warning and "(20)" in warning and str(tmp_path / "study") in warning


def test_series_of_the_named_dicom_file_is_taken(tmp_path):
    save_dicom(tmp_path / "study", oblique(hand=1))
    save_dicom(tmp_path / "study", oblique(1, hand=1), slices=3, uid="1.2.2")
    image = read_image(tmp_path / "study" / "1.2.2-07.dcm")
    assert image.array.shape == (17, 18, 3)
    assert image.warnings == ()


def missing_slice(folder):
    save_dicom(folder, oblique(hand=1))
    (folder / "1.2.3-07.dcm").unlink()  # the second slice


def tilted_stack(folder):
    save_dicom(folder, oblique(hand=1), move=lambda k, position: [*position, 0.4 * k, 0, 0])


@pytest.mark.parametrize("save", [missing_slice, tilted_stack])
def test_uneven_dicom_series_is_refused(tmp_path, save):
    save(tmp_path / "series")
    assert "even, straight stack" in refusal(tmp_path / "series")


# Refusals.


def refusal(path):
    """The message with which a file is refused, after checking that it is one line that names the file."""
    with pytest.raises(ImageError) as caught:
        check_image(read_image(path))
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


def cut(path, share=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def noise():
    return np.random.default_rng(3).integers(0, 1000, SHAPE).astype(np.int16)


@pytest.mark.parametrize("share", [0, 0.005, 0.05, 0.6, 0.99])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".mgh", ".mgz", ".nrrd", ".mha"])
def test_incomplete_file_is_refused(tmp_path, capfd, extension, share):
    path = tmp_path / f"scan{extension}"
    if extension in (".nrrd", ".mha"):
        sitk.WriteImage(sitk.GetImageFromArray(noise()), str(path), extension == ".nrrd")
    else:
        nibabel.save((nibabel.MGHImage if "mg" in extension else nibabel.Nifti1Image)(noise(), np.eye(4)), path)
    assert "cannot be read" in refusal(cut(path, share))
    assert capfd.readouterr().out == ""


def test_wrong_checksum_is_refused(tmp_path):
    path = save_nifti(tmp_path / "scan.nii.gz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    assert "CRC" in refusal(path)


@pytest.mark.parametrize("extension", READABLE)
def test_text_is_refused(tmp_path, extension):
    (tmp_path / f"scan{extension}").write_text("This is not an image.\n" * 40)
    assert "cannot be read" in refusal(tmp_path / f"scan{extension}")


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nrrd", "folder"])
def test_missing_file_is_refused(tmp_path, name):
    assert "no such file" in refusal(tmp_path / name)


def test_detached_header_without_its_data_is_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(scan()), str(tmp_path / "scan.mhd"))
    (tmp_path / "scan.raw").unlink()
    assert "cannot be read" in refusal(tmp_path / "scan.mhd")


@pytest.mark.parametrize("name", ["scan.png", "scan", "scan.gz"])
def test_unknown_extension_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"something")
    message = refusal(tmp_path / name)
    assert all(extension in message for extension in READABLE)


def test_folder_without_dicom_is_refused(tmp_path):
    save_nifti(tmp_path / "scan.nii")
    assert "no DICOM" in refusal(tmp_path)


def test_dicom_extension_on_something_else_is_refused(tmp_path):
    (tmp_path / "scan.dcm").write_text("This is not an image.")
    assert "no DICOM" in refusal(tmp_path / "scan.dcm")


def test_several_volumes_are_refused(tmp_path):
    assert "4 dimensions (17 x 18 x 20 x 2)" in refusal(save_nifti(tmp_path / "scan.nii", np.stack([scan()] * 2, -1)))


def test_colours_are_refused(tmp_path):
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    assert "colours" in refusal(save_nifti(tmp_path / "scan.nii", colours))


@pytest.mark.parametrize("extension", [".nrrd", ".mha"])
def test_colours_are_refused_by_simpleitk(tmp_path, extension):
    image = sitk.GetImageFromArray(np.zeros((*SHAPE, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / f"scan{extension}"))
    assert "3 values" in refusal(tmp_path / f"scan{extension}")


def test_a_picture_is_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((20, 20), np.uint8)), str(tmp_path / "scan.mha"))
    assert "2 dimensions" in refusal(tmp_path / "scan.mha")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_voxels_without_a_number_are_refused(tmp_path, value):
    array = scan().astype(np.float64)
    array[3, 4, 5] = value
    assert "NaN or infinite" in refusal(save_nifti(tmp_path / "scan.nii", array))


def test_constant_image_is_refused(tmp_path):
    assert "every voxel" in refusal(save_nifti(tmp_path / "scan.nii", np.full(SHAPE, 7, np.int16)))


def test_few_voxels_are_refused(tmp_path):
    assert "17 x 18 x 15 voxels" in refusal(save_nifti(tmp_path / "scan.nii", scan()[:, :, :15]))


def test_shear_is_refused_in_a_file(tmp_path):
    affine = np.eye(4)
    affine[0, 1] = 2e-3
    assert "right angles" in refusal(save_nifti(tmp_path / "scan.nii", affine=affine))


@pytest.mark.parametrize(
    "entry, value, words",
    [((1, 1), 0, "voxel size"), ((0, 3), np.nan, "affine"), ((2, 2), np.inf, "affine"), ((0, 1), 1, "right angles")],
)
def test_affine_is_refused(entry, value, words):
    affine = np.eye(4)
    affine[entry] = value
    with pytest.raises(ImageError, match=f"^scan.nii: .*{words}"):
        check_image(Image(scan(), affine, "scan.nii"))


def test_rounded_affine_passes():
    affine = oblique()
    affine[0, 1] += 5e-4
    assert check_image(Image(scan(), affine)) == []


# Warnings.


def warning(image):
    (line,) = check_image(image)
    assert line.startswith("scan.nii: ") and "\n" not in line
    return line


def test_thick_slices_are_warned_of():
    assert "1 x 1 x 3.5 mm" in warning(Image(scan(), np.diag([1, 1, 3.5, 1]), "scan.nii"))
    assert check_image(Image(scan(), np.diag([1, 1, 3, 1]), "scan.nii")) == []


def test_ct_is_warned_of():
    assert "as in CT" in warning(Image(scan() - 1000, np.eye(4), "scan.nii"))


@pytest.mark.parametrize("shift", [100, -100])
def test_background_is_warned_of(shift):
    assert "background" in warning(Image(scan() + shift, np.eye(4), "scan.nii"))


def test_standardised_intensities_are_warned_of():
    array = scan().astype(np.float32)
    assert "background" in warning(Image((array - array.mean()) / array.std(), np.eye(4), "scan.nii"))


def test_shoulders_and_one_bright_spot_are_not_warned_of():
    array = scan()
    array[:, :, :3] = 700
    array[8, 8, 8] = 30000
    array[:3, :, :3] = 0
    assert check_image(Image(array, np.eye(4), "scan.nii")) == []


def test_unknown_orientation_is_warned_of(tmp_path):
    image = nibabel.Nifti1Image(scan(), np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "scan.nii")
    (line,) = check_image(read_image(tmp_path / "scan.nii"))
    assert "how the head lies" in line and line.startswith(str(tmp_path / "scan.nii"))


def test_unknown_orientation_of_a_nrrd_is_warned_of(tmp_path):
    header = "NRRD0004\ntype: int16\ndimension: 3\nsizes: 17 18 20\nendian: little\nencoding: raw\n\n"
    (tmp_path / "scan.nrrd").write_bytes(header.encode() + scan().astype("<i2").tobytes(order="F"))
    (line,) = check_image(read_image(tmp_path / "scan.nrrd"))
    assert "how the head lies" in line


# Names and writing.


@pytest.mark.parametrize(
    "path, stem, extension",
    [
        ("a/scan.nii.gz", "a/scan", ".nii.gz"),
        ("scan.SEG.nrrd", "scan", ".seg.nrrd"),
        ("sub-1.T1w.nii", "sub-1.T1w", ".nii"),
        ("scan.tar.gz", "scan.tar", ".gz"),
        ("weights.safetensors", "weights", ".safetensors"),
        ("a.b/scan", "a.b/scan", ""),
    ],
)
def test_split_extension(path, stem, extension):
    assert split_extension(path) == (stem, extension)


def test_replacing_gives_the_extension_and_makes_folders(tmp_path):
    path = tmp_path / "new" / "folder" / "labels.SEG.NRRD"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent and temporary.name.endswith(".seg.nrrd")
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failing_writer_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "volumes.csv"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="No space left") as caught, replacing(tmp_path / "volumes.csv") as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert str(caught.value).startswith(str(tmp_path / "volumes.csv"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("extension", [".nii.gz", ".seg.nrrd"])
def test_failing_library_leaves_the_old_file_alone(tmp_path, monkeypatch, extension):
    path = tmp_path / f"labels{extension}"
    path.write_text("old")

    def fail(image, name, **_):
        open(name, "w").close()
        raise RuntimeError("ITK ERROR: disk\n") if extension == ".seg.nrrd" else OSError(28, "No space left on device")

    monkeypatch.setattr(nibabel, "save", fail)
    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(OutputError, match="cannot be written"):
        write_label_map(path, some_labels(), oblique(), paper_structures())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def write(path):
    write_label_map(path, some_labels(), oblique(), paper_structures())


@pytest.mark.parametrize("call", [write, check_output])
def test_unknown_output_extension(tmp_path, call):
    with pytest.raises(OutputError, match=r"'.png'.*\.seg\.nrrd") as caught:
        call(tmp_path / "labels.png")
    assert str(tmp_path / "labels.png") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", [write, check_output])
@pytest.mark.parametrize("name", ["file/labels.nii", "file/folder/labels.nrrd", "folder.nii"])
def test_impossible_output(tmp_path, call, name):
    (tmp_path / "file").write_text("a file, not a folder")
    (tmp_path / "folder.nii").mkdir()
    with pytest.raises(OutputError) as caught:
        call(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name)) and "\n" not in message
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.nii"]


def test_check_output_leaves_nothing_behind(tmp_path):
    check_output(tmp_path / "new" / "folder" / "labels.nii.gz", WRITABLE)
    check_output(tmp_path / "volumes.csv", [".csv"])
    assert list(tmp_path.iterdir()) == []


def test_check_output_tries_to_write(tmp_path, monkeypatch):
    def deny(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.mkdir", deny)
    with pytest.raises(OutputError, match="Permission denied"):
        check_output(tmp_path / "labels.nii.gz", WRITABLE)
