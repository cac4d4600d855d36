"""A scan in, its structures out."""

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..environment import is_out_of_memory, memory_lack, memory_needed
from ..errors import GaborSegError, WeightsError
from ..events import silent
from ..model.gabor import bake_kernels
from ..model.network import cube_scores
from ..model.weights import bundled_weights, is_bundled, load_weights
from ..protocol import NOT_T1, OWN_NAMES, PROGRESS, VARIANTS, WARNING
from ..scans.checking import check_image
from ..scans.grid import Grid, normalise
from ..scans.reading import read_image
from ..scans.writing import write_label_map
from ..structures import named_structures, paired_structures, paper_structures, sided_structures
from ..timing import Timer
from .at_once import at_once
from .finder import LARGEST_BRAIN, SMALLEST_BRAIN, find_brain, largest_component
from .icv import intracranial_volume
from .quality import looks_like_t1, structure_quality, t1_doubt
from .sides import divide, find_right
from .specks import remove_specks
from .volumes import percent_of_icv, side_volumes, structure_volumes, write_volumes


@dataclass(frozen=True)
class Segmentation:
    """The structures found in a scan.

    Args:
        labels: uint8 array (I, J, K) on the scan's own grid; 0 is background.
        affine: the scan's (4, 4), voxel index to right-anterior-superior millimetres.
        structures: list of `Structure`.
        volumes: dictionary from structure name to mL.
        quality: dictionary from structure name to 0..1, see `quality.structure_quality`.
        provenance: dictionary: scan, weights, their sha256, variant, versions, device, seconds (of this scan's
            own work), cube voxel size.
        looks_like_t1: False for a scan that is no T1 or badly damaged, see `quality.looks_like_t1`; None where the
            weights are not bundled ones, as only of these it is known.
        sides: dictionary from the names of paired structures to the volumes of their halves, see
            `volumes.side_volumes`.
        icv: dictionary on intracranial volume: `ml`, None if there is none; `missing`, why there is none, or "";
            `percent`, see `volumes.percent_of_icv`.
        right: bool array (I, J, K), true on the patient's right, see `sides.find_right`; None if nothing is paired.
    """

    labels: np.ndarray
    affine: np.ndarray
    structures: list
    volumes: dict
    quality: dict
    provenance: dict
    looks_like_t1: bool | None = None
    sides: dict = field(default_factory=dict)
    icv: dict = field(default_factory=dict)
    right: np.ndarray | None = None

    def save(self, path, parts=None):
        """Write the label map; the extension chooses the format (see `images.write_label_map`).

        With `parts`, from `structures.sided_structures`, the paired structures are divided into their halves.
        """
        if parts is None:
            write_label_map(path, self.labels, self.affine, self.structures)
        else:
            write_label_map(path, divide(self.labels, self.right, parts), self.affine, list(parts.values()))

    def save_volumes(self, path):
        """Write the volumes as CSV (see `volumes.write_volumes`)."""
        write_volumes(path, self.volumes, self.quality, self.sides, self.icv)

    def save_overview(self, path, image, title=None):
        """Write a picture of the structures over their scan, an `Image` (see `overview.write_overview`)."""
        from ..report.overview import write_overview

        facts = self.provenance
        caption = (
            f"{facts['weights']} ({facts['variant']} kernels), GaborSeg {facts['gaborseg']}, "
            f"{facts['seconds']} s on {facts['device']}. For research, not for diagnosis."
        )
        title = title or Path(facts["scan"]).name
        write_overview(path, image.array, self.labels, self.affine, self.structures, title, caption, self.volumes)


# Why there is no intracranial volume with weights that take any scan for a brain alone.
NOT_LOOKED_FOR = "these weights do not look for the brain in a head"
# Said where `find_brain` finds nothing that it believes.
NO_BRAIN = (
    "no whole brain was found in the field of view, so nothing around it was taken away; look at the result, and if "
    "it is wrong, remove the skull first"
)


def read_scan(path, report=silent, timer=None):
    """Read a scan as the first step of `Segmenter.segment`, which does it by itself where it is given a path.

    Args:
        path: of a file or DICOM folder.
        report: takes events.
        timer: a `Timer` that gets the stage.

    Returns:
        `Image`.

    Raises:
        ImageError: it cannot be read.
    """
    _report_step(report, "Reading", 0)
    with (timer or Timer())("Reading"):
        return read_image(path)


class Segmenter:
    """Segments scans with one network.

    Args:
        weights: path of a weight file, or a kernel variant whose file is bundled.
        device: `auto` (a GPU where there is one, else the CPU), or a torch device such as `cpu` or `cuda:1`.
        mirror: average the scores of the scan and of its mirror image: a little better, the same for left and right,
            and twice the time in the network.

    Raises:
        WeightsError: the file cannot be opened, or no file of that variant is bundled.
        GaborSegError: the device is not there.

    Example::

        segmentation = Segmenter("mixed").segment("scan.nii.gz")
        segmentation.save("labels.nii.gz")
        print(segmentation.volumes["Hippocampus"])
    """

    def __init__(self, weights="mixed", device="auto", mirror=True):
        opened = load_weights(weights_path(weights))
        self.card = opened.card
        self.path = opened.path
        self.mirror = mirror
        self.falls_back = device == "auto"
        self.device = choose_device(device)
        check_usable(self.card, self.path, self.device)
        self.structures = named_structures(self.card["structures"])
        # What is known of a whole brain's size says nothing about other structures.
        self.covers_brain = self.card["structures"] == [structure.name for structure in paper_structures()]
        # Own weights may hesitate on every scan, or be made for another contrast.
        self.knows_t1 = is_bundled(self.card)
        # Names of the structures that have a left and a right half.
        self.paired = self.card.get("paired", paired_structures() if self.covers_brain else [])
        self.network = bake_kernels(opened.network)

    def parts(self, names=OWN_NAMES):
        """Its structures, the paired ones as halves, for `Segmentation.save`; see `structures.sided_structures`.

        Raises:
            GaborSegError: none of them is paired, or FreeSurfer has no name for one.
        """
        if not self.paired:
            raise WeightsError(
                f"{self.path}: its card does not say which structures have a left and a right half; leave --sides "
                "out, or train with `paired`, a list of their names, among the --facts"
            )
        return sided_structures(self.structures, self.paired, names)

    def segment(self, image, report=silent, timer=None):
        """Segment a scan.

        Args:
            image: an `Image`, or the path of a file or DICOM folder.
            report: takes events.
            timer: a `Timer` of this scan that gets the stages.

        Returns:
            `Segmentation`.

        Raises:
            ImageError: the scan cannot be read or segmented.
            GaborSegError: the memory ran out; of a GPU only if that was asked for, else the CPU takes its place.
        """
        with self.explaining_memory(getattr(image, "name", image)):
            return self._segment(image, report, timer or Timer())

    def _segment(self, image, report, timer):
        if not hasattr(image, "affine"):
            image = read_scan(image, report, timer)
        with timer("Checking"):
            for message in check_image(image):
                report({"event": WARNING, "message": message})
        _report_step(report, "Segmenting", 1)
        brain, cube, grid = self._network_input(image, report, timer)
        with timer("Network"):
            scores = self.predict(cube, report)
        if self.covers_brain:
            with timer("Cleaning up"):
                scores = keep_largest_component(scores)
        _report_step(report, "Bringing the result to the scan's grid", 3)
        with timer("Scores to the scan's grid"):
            labels = grid.scores_to_labels(scores)
        if self.covers_brain:
            with timer("Specks"):
                labels = remove_specks(labels, image.spacing)
        sides, right = {}, None
        if self.paired:
            with timer("Left and right"):
                right = find_right(image.array, grid, brain, self.device)
        with timer("Intracranial volume"):
            icv, missing = None, NOT_LOOKED_FOR
            if self.card.get("find_brain"):
                icv, missing = intracranial_volume(image.array, brain, self.device)
        with timer("Quality and volumes"):
            quality = structure_quality(scores, self.structures)
            if not all(map(math.isfinite, quality.values())):
                raise WeightsError(f"{self.path}: gives scores that are no numbers; choose other weights")
            volumes = structure_volumes(labels, image.affine, self.structures)
            if self.paired:
                paired = [structure for structure in self.structures if structure.name in self.paired]
                sides = side_volumes(labels, right, image.affine, paired)
            icv = {"ml": icv, "missing": missing, "percent": percent_of_icv(volumes, icv)}
        _report_step(report, "Done", 4)
        if self.covers_brain:
            for message in _doubts(sum(volumes.values())):
                report({"event": WARNING, "message": f"{image.name}: {message}"})
        is_t1 = looks_like_t1(quality) if self.knows_t1 else None
        if is_t1 is False:
            report({"event": WARNING, "kind": NOT_T1, "message": f"{image.name}: {t1_doubt(quality)}"})
        facts = self._provenance(image, grid, timer)
        return Segmentation(labels, image.affine, self.structures, volumes, quality, facts, is_t1, sides, icv, right)

    def _network_input(self, image, report, timer):
        """What the network sees of the scan, by the card only what is near the brain.

        Returns:
            The `Brain`, or None; the cube (D, H, W); its `Grid`.
        """
        brain, grid = None, Grid(image.array.shape, image.affine, self.card["grid_size"])
        if self.card.get("find_brain"):
            with timer("Finding the brain"):
                brain = self._on_device(lambda: find_brain(image.array, image.affine, self.device), report)
            if brain is None:
                report({"event": WARNING, "message": f"{image.name}: {NO_BRAIN}"})
        with timer("Resampling to the cube"):
            if brain is None:
                return None, grid.image_to_cube(image.array), grid
            grid = brain.grid_for(grid.size)
            return brain, brain.extract(grid.image_to_cube(image.array), grid), grid

    def _provenance(self, image, grid, timer):
        return {
            "scan": str(image.path or ""),
            "weights": self.path.name,
            "weights_sha256": self.card["sha256"],
            "variant": self.card["variant"],
            "gaborseg": __version__,
            "torch": torch.__version__,
            "device": str(self.device),
            "mirror": self.mirror,
            "cube_spacing_mm": round(grid.spacing, 4),
            "seconds": round(timer.total, 2),
        }

    @torch.inference_mode()
    def predict(self, cube, report=silent):
        """Class scores of a cube.

        Args:
            cube: tensor (D, H, W), axes z, y, x, of the scan's own intensities.
            report: takes events.

        Returns:
            Tensor (C, D, H, W) on the CPU, sums to 1 over the classes; class 0 is background.

        Raises:
            RuntimeError or MemoryError: the memory ran out, see `explaining_memory`.
        """
        cube = normalise(cube)
        return self._on_device(lambda: self._predict(cube), report)

    def _on_device(self, work, report):
        """The result of `work()`; if a GPU that nobody asked for has too little memory, of the same on the CPU."""
        try:
            return work()
        except RuntimeError as error:
            if not (self.falls_back and self.device.type != "cpu" and is_out_of_memory(error)):
                raise
        report({"event": WARNING, "message": f"{self.device} is out of memory; going on with the CPU"})
        self.device = torch.device("cpu")
        return work()

    @contextmanager
    def explaining_memory(self, name):
        """Context in which running out of memory becomes a `GaborSegError` that names a scan and says what helps."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            remedy = "close other programs, or take a computer with more; gaborseg check tells how much it takes"
            if self.device.type != "cpu":
                remedy = "choose the device cpu"
            raise GaborSegError(f"{name}: the memory of {self.device} ran out; {remedy}") from error

    def _predict(self, cube):
        with torch.inference_mode(False):  # moved in that mode, its parameters could not be moved again outside of it
            self.network.to(self.device)
        cube = cube.to(self.device)
        if not self.mirror:
            return self._scores(cube)
        # The structures are not lateralised, so the mirrored brain is a brain as good.
        passes = partial(self._scores, cube), partial(self._scores, cube.flip(2))
        scores, mirrored = at_once(*passes) if self.device.type == "cpu" else [run() for run in passes]
        for score, other in zip(scores, mirrored):  # and not all classes at once, for memory
            score.add_(other.flip(2)).div_(2)
        return scores

    @torch.inference_mode()
    def _scores(self, cube):
        return cube_scores(self.network, cube, self.card["field"]).cpu()


def weights_path(weights):
    """The weight file of a name: a bundled variant, or a path."""
    bundled = bundled_weights()
    if str(weights) in bundled:
        return bundled[str(weights)]
    if str(weights) in VARIANTS:
        raise WeightsError(f"{weights}: no weights of this variant are bundled; give the path of a .safetensors file")
    return Path(weights)


def choose_device(name):
    """The torch device of a name; `auto` is a GPU where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError, TypeError) as error:
        raise GaborSegError(f"{name}: is no device; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise GaborSegError(f"{name}: was never tested with this program; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise GaborSegError(f"{name}: {torch.cuda.device_count()} CUDA devices are here; use auto or cpu")
    return device


def check_usable(card, path, device):
    """Refuse weights, by their card, that cannot segment a scan here: of several channels, or too large.

    Args:
        card: of the weights.
        path: of their file.
        device: torch device.

    Raises:
        WeightsError: says what is wrong.
    """
    if card["in_channels"] != 1:
        raise WeightsError(
            f"{path}: takes images of {card['in_channels']} channels, a scan has one; choose other weights"
        )
    lack = memory_lack(memory_needed(0, card["grid_size"], card), memory_of(device))
    if lack:
        raise WeightsError(f"{path}: {lack}; choose weights of a smaller network, or a larger machine")


def memory_of(device):
    """The memory of a torch device that is a GPU, MiB; 0 for the CPU."""
    return torch.cuda.get_device_properties(device).total_memory >> 20 if device.type == "cuda" else 0


def _report_step(report, stage, done):
    report({"event": PROGRESS, "stage": stage, "done": done, "total": 4})


def _doubts(total):
    """Yield what is unlikely about a brain of so many mL."""
    if total > LARGEST_BRAIN:
        yield f"the structures add up to {total:.0f} mL, more than a brain has; if it has its skull, remove that first"
    elif total < SMALLEST_BRAIN:
        yield f"the structures add up to {total:.0f} mL, less than a brain has; is this a T1 scan of a whole brain?"


@torch.inference_mode()
def keep_largest_component(scores):
    """Scores (C, D, H, W) of a whole brain, which is one piece: what else was found is background; changed in place."""
    found = scores.max(dim=0).indices > 0  # argmax takes four times as long
    stray = found & ~torch.from_numpy(largest_component(found.numpy()))
    scores[:, stray] = 0
    scores[0, stray] = 1
    return scores
