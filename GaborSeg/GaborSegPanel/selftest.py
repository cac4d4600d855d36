"""The module's self-test: a small synthetic brain, tiny weights, and the panel used as a person would use it.

It needs the packages of the library, in Slicer's own Python or in the one that the environment variable GABORSEG_PYTHON
names; no network, no data.
"""

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import qt
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _

from . import beside_module, parameters, protocol, resource, results, volumes
from .scan import world_affine
from .sections.segment import DOUBLE_CLICK
from .worker import PREFIX, TASKKILL, make_temporary_folder, python_executable, remove_folder, worker_environment

TIMEOUT = 300  # seconds for one step, on a very busy computer; a few are usual
CELL, MARGIN = 10, 1  # voxels: edge of a structure, and of the empty space around all
LACKS_PACKAGES = 77  # exit status, as of tests that are skipped
AFFINE = np.array([[-3.0, 0, 0, 60], [0, 0, 3, -60], [0, -3, 0, 70], [0, 0, 0, 1.0]])  # left, inferior, anterior

# Makes weights that need no training: they tell structures by their brightness. Logit c is 2 m x - m^2 with the
# brightness m of structure c, which is the largest for the m nearest to x.
MAKE_WEIGHTS = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from GaborSegLib.environment import missing_packages
if missing_packages():
    print("Not installed, or too old: " + ", ".join(missing_packages()))
    sys.exit(77)
import numpy as np
import torch
from GaborSegLib.scans.grid import Grid, normalise
from GaborSegLib.model.network import build_network
from GaborSegLib.structures import paper_structures
from GaborSegLib.model.weights import save_weights

folder, variant = sys.argv[1:]
with np.load(folder + "/brain.npz") as brain:
    scan, labels, affine = brain["scan"], brain["labels"], brain["affine"]
grid = Grid(scan.shape, affine, 32)
cube, truth = normalise(grid.image_to_cube(scan)), grid.labels_to_cube(labels, 20)
levels = torch.tensor([0.0] + [float(cube[truth == label].median()) for label in range(1, 20)])
network = build_network(variant, base_channels=4)
with torch.no_grad():
    down, up = network.down[0], network.up[0]
    for block in (down, up):
        block.layers[1].weight.zero_()  # of the normalisation, which then gives its bias alone
        block.layers[1].bias.zero_()
        block.projection.weight.zero_()
    down.projection.weight[0] = 1  # channel 0 is the brightness
    down.layers[1].bias[1] = 1  # channel 1 is one
    up.projection.weight[0, -4] = 1
    up.projection.weight[1, -3] = 1
    for output in network.outputs:
        output.weight.zero_()
    network.outputs[0].weight[:, 0, 0, 0, 0] = 400 * levels
    network.outputs[0].weight[:, 1, 0, 0, 0] = -200 * levels ** 2
card = dict(
    variant=variant, conventional_kernel_size=3, gabor_kernel_size=7, in_channels=1, classes=20, base_channels=4,
    grid_size=32, field="cube", structures=[structure.name for structure in paper_structures()],
    licence="none, made by a test",
)
save_weights(f"{folder}/{variant}.safetensors", network, card, torch.float32)
"""


class SelfTest:
    """Runs on a real module widget; puts the user's settings and the scene back at the end.

    Args:
        case: a unittest.TestCase, for its assertions.
        widget: the GaborSegWidget.
    """

    def __init__(self, case, widget):
        self.case, self.widget = case, widget
        self.panel, self.ui = widget.panel, widget.ui
        self.errors = []
        self.interpreter = os.environ.get("GABORSEG_PYTHON", "")
        self._settings = {name: qt.QSettings().value(name) for name in _setting_names()}
        self._former = self.panel.show_error
        self._before = _temporary_folders()  # such as one of a test that crashed
        self.folder = make_temporary_folder()  # last of what can fail: from here on there is something to take away
        self.panel.show_error = self.errors.append

    def run(self):
        self.scan, self.labels = synthetic_brain()
        self.weights = self.make_weights()
        for step in (
            self.no_volume,
            self.segment,
            self.results_are_right,
            self.scene_is_saved_and_restored,
            self.left_and_right,
            self.cancel,
            self.bad_weights,
            self.worker_killed,
            self.correction_is_taken,
            self.run_is_shown,
        ):
            started = time.monotonic()
            step()
            print(f"GaborSeg self-test: {step.__name__} {time.monotonic() - started:.1f} s")
        self.case.assertEqual(self.leftovers(), [], "temporary folders are left")

    def close(self):
        self.panel.cancel()
        self.panel.environment.stop_check()
        self.panel.show_error = self._former
        for name in _setting_names():
            qt.QSettings().remove(name)
        for name, value in self._settings.items():
            qt.QSettings().setValue(name, value)
        remove_folder(self.folder)
        slicer.mrmlScene.Clear()

    # What a user does

    def make_weights(self, variant="mixed"):
        """Path of tiny weights for the synthetic brain; made where torch is, in a process of its own."""
        np.savez(self.folder / "brain.npz", scan=self.scan, labels=self.labels, affine=AFFINE)
        library = str(beside_module("GaborSegLib").parent)
        command = [python_executable(self.interpreter), "-c", MAKE_WEIGHTS, library, str(self.folder), variant]
        process = subprocess.run(
            command,
            env=worker_environment(self.interpreter),
            cwd=self.folder,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if process.returncode == LACKS_PACKAGES:  # as on the machines that build extensions
            self.case.skipTest(f"{command[0]}: {process.stdout.strip()}")
        self.case.assertEqual(process.returncode, 0, process.stderr)
        return self.folder / f"{variant}.safetensors"

    def load_volume(self, name="Brain"):
        volume = slicer.util.addVolumeFromArray(
            np.ascontiguousarray(self.scan.T), ijkToRAS=AFFINE, name=name, nodeClassName="vtkMRMLScalarVolumeNode"
        )
        return volume

    def choose(self, volume=None, weights=None):
        """Set the panel: volume, Python, weights, CPU."""
        self.widget.enter()
        if volume is not None:
            self.ui.inputSelector.setCurrentNode(volume)
        self.panel.choices.interpreter = self.interpreter
        self.panel.segment.choose_weights(weights or self.weights)
        self.ui.deviceBox.currentIndex = self.ui.deviceBox.findData("cpu")

    def click_segment(self):
        self.errors.clear()
        self._clicked = time.monotonic()
        self.ui.segmentButton.click()

    def wait(self, condition, what):
        end = time.monotonic() + TIMEOUT
        while not condition():
            self.case.assertLess(time.monotonic(), end, f"{what} did not happen in {TIMEOUT} s")
            slicer.app.processEvents()
            time.sleep(0.02)

    def wait_for_end(self):
        self.wait(lambda: self.panel.segment.run is None, "the end of the run")

    def wait_for_worker(self):
        """Until the process that segments is at work, and a click on the button is no second one of a double click."""
        run = self.panel.segment.run
        self.wait(
            lambda: run.ended or (run.worker is not None and time.monotonic() - self._clicked > 2 * DOUBLE_CLICK),
            "the start of the worker",
        )
        self.case.assertFalse(run.ended, self.ui.statusLabel.text)

    def leftovers(self):
        """Names of temporary folders that were not there before, but for this test's own."""
        return sorted(_temporary_folders() - self._before - {self.folder.name})

    # The steps

    def no_volume(self):
        self.choose()
        self.click_segment()
        self.case.assertEqual(len(self.errors), 1)
        self.case.assertIn("No volume", self.errors[0])
        self.case.assertIsNone(self.panel.segment.run)

    def segment(self):
        self.choose(self.load_volume())
        self.case.assertEqual(self.panel.choices.variant, "mixed")
        self.click_segment()
        self.case.assertEqual(self.ui.segmentButton.text, _("Cancel"))
        self.wait_for_end()
        self.case.assertEqual(self.errors, [])
        self.case.assertEqual(self.ui.segmentButton.text, _("Segment"))

    def results_are_right(self):
        node = self.panel.choices.outputSegmentation
        volume = self.panel.choices.inputVolume
        self.case.assertTrue(node.GetName().startswith(volume.GetName()))
        expected = expected_segments(self.panel.choices.sides)
        segmentation = node.GetSegmentation()
        segments = [segmentation.GetNthSegment(i) for i in range(segmentation.GetNumberOfSegments())]
        self.case.assertEqual([segment.GetName() for segment in segments], [name for name, *_others in expected])
        for segment, (_name, _structure, colour, tag) in zip(segments, expected):
            np.testing.assert_allclose(segment.GetColor(), colour, atol=1e-5)
            self.case.assertEqual(_tag(segment), tag)
        self.labels_are_right(node, volume)
        self.case.assertTrue(segmentation.ContainsRepresentation(results.SURFACE))
        display = node.GetDisplayNode()
        self.case.assertTrue(display.GetVisibility() and display.GetVisibility3D())
        for i, (name, structure, *_others) in enumerate(expected):
            opacity = display.GetSegmentOpacity3D(segmentation.GetNthSegmentID(i))
            self.case.assertEqual(opacity < 0.5, structure in results.SEE_THROUGH, name)
        self.volumes_are_right(node)

    def labels_are_right(self, node, volume):
        """Each structure is where the synthetic brain has it, in millimetres: nothing is moved or flipped."""
        numbers, truth = segment_numbers(node, volume), self.labels_on(volume)
        structures = list(results.structure_colours())
        expected = expected_segments(node.GetSegmentation().GetNumberOfSegments() > len(structures))
        labels = np.array([0, *(structures.index(structure) + 1 for _name, structure, *_others in expected)])[numbers]
        for label, name in enumerate(structures, start=1):
            dice = 2 * np.sum((labels == label) & (truth == label)) / (np.sum(labels == label) + np.sum(truth == label))
            self.case.assertGreater(dice, 0.7, name)

    def labels_on(self, volume):
        """The brain's labels (K, J, I) on a volume's voxels: Slicer turns left-handed volumes when it reads them."""
        matrix = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        to_brain = np.linalg.inv(AFFINE) @ slicer.util.arrayFromVTKMatrix(matrix)
        indices = np.indices(volume.GetImageData().GetDimensions()).reshape(3, -1)
        i, j, k = np.rint(to_brain[:3, :3] @ indices + to_brain[:3, 3:]).astype(int)
        return self.labels[i, j, k].reshape(volume.GetImageData().GetDimensions()).T

    def volumes_are_right(self, node):
        columns = volumes.read(results.volumes_table(node))
        cell = CELL**3 * 27 / 1000
        self.case.assertEqual(columns[volumes.STRUCTURE], list(results.structure_colours()))
        np.testing.assert_allclose(columns[volumes.VOLUME], cell, rtol=0.35)
        np.testing.assert_allclose(np.sum(columns[volumes.PERCENT]), 100, atol=0.2)
        self.case.assertTrue(all(0 < quality <= 1 for quality in columns[volumes.QUALITY]))
        halves = [columns[side] for side in protocol.SIDES]
        for name, both, left, right in zip(columns[volumes.STRUCTURE], columns[volumes.VOLUME], *halves):
            self.case.assertEqual((left is None, right is None), (name not in paired(),) * 2, name)
            if name in paired():
                self.case.assertAlmostEqual(left + right, both, places=6)
        self.case.assertEqual(self.ui.volumesTable.rowCount, 19)
        facts = results.provenance(results.volumes_table(node))
        self.case.assertEqual(facts["variant"], "mixed")
        self.case.assertEqual(facts["device"], "cpu")
        self.case.assertEqual(facts["weights_sha256"], parameters.read_card(self.weights)["sha256"])

    def scene_is_saved_and_restored(self):
        name, sides = self.panel.choices.outputSegmentation.GetName(), self.panel.choices.sides
        bundle = self.folder / f"scene-{sides}"
        bundle.mkdir()
        self.case.assertTrue(slicer.mrmlScene.SaveSceneToSlicerDataBundleDirectory(str(bundle)))
        slicer.mrmlScene.Clear()
        self.case.assertIsNone(self.panel.choices.outputSegmentation)
        slicer.mrmlScene.SetURL(str(bundle / f"{bundle.name}.mrml"))
        self.case.assertTrue(slicer.mrmlScene.Connect())
        self.widget.enter()
        choices = self.panel.choices
        self.case.assertEqual((choices.weights, choices.device), (str(self.weights), "cpu"))
        self.case.assertEqual((choices.sides, self.ui.sidesBox.checked), (sides, sides))
        self.case.assertEqual(choices.outputSegmentation.GetName(), name)
        self.results_are_right()

    def left_and_right(self):
        """The halves of paired structures as segments, in the node that had the whole ones."""
        self.choose()
        node = self.panel.choices.outputSegmentation
        self.ui.sidesBox.click()
        self.click_segment()
        self.wait_for_end()
        self.case.assertEqual(self.errors, [])
        self.case.assertIs(self.panel.choices.outputSegmentation, node)
        self.results_are_right()
        self.halves_are_right(node, self.panel.choices.inputVolume)
        self.scene_is_saved_and_restored()

    def halves_are_right(self, node, volume):
        """The segments hold what the table says, each half on its side of the table."""
        columns = volumes.read(results.volumes_table(node))
        affine = world_affine(volume)
        counts = np.bincount(segment_numbers(node, volume).ravel()) * abs(np.linalg.det(affine[:3, :3])) / 1000
        expected = []
        for both, *halves in zip(columns[volumes.VOLUME], *(columns[side] for side in protocol.SIDES)):
            expected += [both] if None in halves else halves
        counts = np.pad(counts, (0, 1 + len(expected) - len(counts)))  # the last ones may be empty
        np.testing.assert_allclose(counts[1:], expected, atol=1e-3)

    def cancel(self):
        before = _node_ids()
        self.choose()
        self.click_segment()
        self.wait_for_worker()
        started = time.monotonic()
        self.ui.segmentButton.click()
        self.case.assertLess(time.monotonic() - started, 2)
        self.case.assertIsNone(self.panel.segment.run)
        self.case.assertEqual(self.errors, [])
        self.case.assertEqual(_node_ids(), before)

    def bad_weights(self):
        damaged = self.folder / "damaged.safetensors"
        damaged.write_bytes(self.weights.read_bytes()[:-1000])
        self.choose(weights=damaged)
        self.click_segment()
        self.wait_for_end()
        self.case.assertEqual(len(self.errors), 1)
        self.case.assertIn("damaged", self.errors[0])

    def worker_killed(self):
        self.choose()
        self.click_segment()
        self.wait_for_worker()
        _kill(self.panel.segment.run.worker.process_id)
        self.wait_for_end()
        self.case.assertEqual(len(self.errors), 1)
        self.case.assertIn(_("The worker"), self.errors[0])

    def correction_is_taken(self):
        """The segmentation with one more cell becomes a case to train on, voxel by voxel on the scan's grid."""
        self.errors.clear()
        volume, node = self.panel.choices.inputVolume, self.panel.choices.outputSegmentation
        folder = self.folder / "corrections"
        self.panel.choices.correctionsFolder = str(folder)
        segmentation, structures = node.GetSegmentation(), list(results.structure_colours())
        numbers = segment_numbers(node, volume)
        numbers[:CELL, :CELL, :CELL] = 1
        for i in range(segmentation.GetNumberOfSegments()):
            slicer.util.updateSegmentBinaryLabelmapFromArray(
                (numbers == i + 1).astype(np.uint8), node, segmentation.GetNthSegmentID(i), volume
            )
        parts = expected_segments(self.panel.choices.sides)
        expected = np.array([0, *(structures.index(structure) + 1 for _name, structure, *_others in parts)])[numbers]
        self.ui.learnButton.click()
        self.case.assertEqual(self.errors, [])
        (case,) = [file.name for file in (folder / "images").iterdir()]
        image, labels = (sitk.ReadImage(str(folder / part / case)) for part in ("images", "labels"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), expected)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), slicer.util.arrayFromVolume(volume))
        np.testing.assert_allclose(labels.GetDirection(), image.GetDirection())
        origin = np.array(image.TransformIndexToPhysicalPoint((1, 2, 3))) * (-1, -1, 1)  # LPS, as ITK has it
        np.testing.assert_allclose(origin, (world_affine(volume) @ (1, 2, 3, 1))[:3], atol=1e-3)

    def run_is_shown(self):
        """A run that ended while nobody looked: its state, its scores and its chart."""
        folder = self.folder / "Old run"
        folder.mkdir()
        rows = [",".join((*protocol.METRIC_COLUMNS, "Ball"))]
        rows += [f"{n},4,{1 / n},0.001,60,1,100,0,{n / 5},{n / 5},{n},{n / 5}" for n in range(1, 5)]
        (folder / protocol.METRICS).write_text("\n".join(rows) + "\n")
        self.panel.choices.trainingFolder = str(folder)
        self.case.assertIn("Finished after 4 epochs", self.ui.trainingLabel.text)
        self.case.assertEqual(self.ui.diceTable.item(1, 1).text(), "0.800")
        self.ui.chartButton.click()
        chart = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLPlotChartNode")
        loss = slicer.util.arrayFromTableColumn(chart.GetNthPlotSeriesNode(0).GetTableNode(), "loss")
        np.testing.assert_allclose(loss, 1 / np.arange(1, 5))
        self.panel.choices.trainingFolder = ""
        self.case.assertEqual(self.errors, [])


def synthetic_brain():
    """(scan, labels), axes i, j, k: a cube of 3 x 3 x 3 cells without its corners, nineteen cells of own brightness."""
    labels = np.zeros([3 * CELL + 2 * MARGIN] * 3, dtype=np.uint8)
    label = 0
    for cell in np.ndindex(3, 3, 3):
        if all(index != 1 for index in cell):
            continue
        label += 1
        labels[tuple(slice(MARGIN + index * CELL, MARGIN + (index + 1) * CELL) for index in cell)] = label
    return np.where(labels, 100 + 10.0 * labels, 0).astype(np.float32), labels


def paired():
    """Names of the structures that have halves."""
    with open(resource("sides.csv"), newline="", encoding="utf-8") as file:
        return {row["structure"] for row in csv.DictReader(file) if row["side"]}


def expected_segments(with_sides):
    """(name, structure, colour, terminology tag) of each segment that a result has."""
    tags = {side: protocol.terminology_tags(resource("GaborSeg.term.json"), side) for side in ("", *protocol.SIDES)}
    segments = []
    for name, colour in results.structure_colours().items():
        if with_sides and name in paired():
            darker = tuple(round(0.8 * 255 * value) / 255 for value in colour)
            segments.append((protocol.half_name(name, "left"), name, colour, tags["left"][name]))
            segments.append((protocol.half_name(name, "right"), name, darker, tags["right"][name]))
        else:
            segments.append((name, name, colour, tags[""][name]))
    return segments


def segment_numbers(node, volume):
    """Array (K, J, I) on a volume's voxels: the number of the segment, from 1, that each lies in."""
    segmentation = node.GetSegmentation()
    numbers = np.zeros(volume.GetImageData().GetDimensions()[::-1], dtype=np.uint8)
    for i in range(segmentation.GetNumberOfSegments()):
        segment_id = segmentation.GetNthSegmentID(i)
        numbers[slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume) > 0] = i + 1
    return numbers


def _kill(process_id):
    if sys.platform == "win32":
        subprocess.run([TASKKILL, "/F", "/T", "/PID", str(process_id)], capture_output=True)
    else:
        os.killpg(process_id, signal.SIGKILL)


def _temporary_folders():
    """Names of this Slicer's own folders among the temporary files."""
    try:
        names = os.listdir(slicer.app.temporaryPath)
    except OSError:
        return set()
    return {name for name in names if name.startswith(PREFIX)}


def _node_ids():
    nodes = slicer.mrmlScene.GetNodes()
    return sorted(nodes.GetItemAsObject(i).GetID() for i in range(nodes.GetNumberOfItems()))


def _setting_names():
    return [name for name in qt.QSettings().allKeys() if name.startswith(parameters.SETTINGS)]


def _tag(segment):
    text = vtk.reference("")
    segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), text)
    return str(text)
