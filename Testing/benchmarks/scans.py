"""Labelled scans, networks and Markdown: what the benchmarks on accuracy share."""

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np

from GaborSegLib.data.dataset import read_case
from GaborSegLib.data.sources import find_data
from GaborSegLib.errors import DataError
from GaborSegLib.evaluation.metrics import dice
from GaborSegLib.files import replacing
from GaborSegLib.inference.segmenter import Segmenter
from GaborSegLib.model.weights import bundled_weights
from GaborSegLib.scans.grid import Grid

DATA = Path(os.environ.get("GABORSEG_DATA", Path(__file__).parents[3] / "shared" / "data"))
SCANS = DATA / "oasis-neuromorphometrics"
# Of these, what the bundled weights were not trained on: five scans of four people.
VALIDATION = ("1002", "1019", "1039", "1036", "1122")


@dataclass(frozen=True, eq=False)
class Scan:
    """A labelled scan, turned to right, anterior, superior: its id, its subject, `Image` (float32), label map."""

    id: str
    subject: str
    image: object
    truth: np.ndarray


class Scans:
    """The labelled scans of a data set, each read once."""

    def __init__(self, folder):
        self.data = find_data(folder)
        self._read = {}

    def __getitem__(self, scan):
        if scan not in self._read:
            case = next(case for case in self.data.cases if case.id == scan)
            self._read[scan] = Scan(case.id, case.subject, *straight(*read_case(case, self.data.table)))
        return self._read[scan]


class Network:
    """A `Segmenter` of a data set's structures that segments every labelled scan once, and knows what it has seen."""

    def __init__(self, weights, device, data):
        self.segmenter = Segmenter(weights, device)
        self.card = self.segmenter.card
        path = self.segmenter.path
        # Runs call all their files best.safetensors: their folders tell them apart.
        self.name = path.stem if path in bundled_weights().values() else f"{path.parent.name}/{path.stem}"
        self.structures = self.card["structures"]
        self.labels = range(1, len(self.structures) + 1)
        if self.structures != list(data.table.names):
            raise DataError(f"{data.folder}: its label table has other structures than {self.segmenter.path}")
        self._found = {}

    def segmentation(self, scan):
        """The `Segmentation` of a `Scan`."""
        if scan.id not in self._found:
            self._found[scan.id] = self.segment(scan.image, scan.id)
        return self._found[scan.id]

    def segment(self, image, what):
        print(f"{self.name}: {what}", file=sys.stderr, flush=True)
        return self.segmenter.segment(image)

    def dice(self, labels, truth):
        """Dice of each structure, an array; NaN for one that is in neither map."""
        return dice(labels, truth, self.labels)

    def held_out(self):
        """Ids of the scans of the card's validation and test splits."""
        scores = self.card.get("scores", {})
        return [scan for split in ("validation", "test") for scan in scores.get(split, {}).get("scans", [])]

    def split(self, scan):
        """Which part the scan of an id had in making the network: training, validation, test or unknown."""
        training = self.card.get("training", {})
        seen = [s for stage in (training, *training.get("earlier_stages", [])) for s in stage.get("scans", [])]
        parts = {"training": seen}
        for split in ("validation", "test"):
            parts[split] = self.card.get("scores", {}).get(split, {}).get("scans", [])
        return next((name for name, scans in parts.items() if scan in scans), "unknown")


def straight(image, truth):
    """The image as float32 and its label map with their axes turned to right, anterior, superior."""
    grid = Grid(image.array.shape, image.affine)
    affine = image.affine @ nibabel.orientations.inv_ornt_aff(grid.orientation, grid.shape)
    array = np.ascontiguousarray(grid.turn(image.array), dtype=np.float32)
    return replace(image, array=array, affine=affine), np.ascontiguousarray(grid.turn(truth))


def add_options(parser):
    """The options that the benchmarks share."""
    parser.add_argument("weights", nargs="*", default=["mixed"], metavar="WEIGHTS", help="variants or weight files")
    parser.add_argument("--data", type=Path, default=SCANS, help="labelled scans")
    parser.add_argument(
        "--scans",
        type=lambda text: text.split(","),
        metavar="IDS",
        help="scans to measure on (default: those that the weight file's card says were held out)",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the tables and the numbers behind them")


@contextmanager
def saving(folder, name):
    """Context that gives a function which prints a text at once; in the end all go into a file, given a folder."""
    texts = []

    def show(text):
        print(text, end="\n\n", flush=True)  # benchmarks take long, and what is measured should not wait or get lost
        texts.append(text)

    yield show
    if folder:
        with replacing(Path(folder) / name) as temporary:
            temporary.write_text("\n\n".join(texts) + "\n", encoding="utf-8")


def markdown(head, rows):
    """A Markdown table of texts."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
