"""The parameter node: every choice a user makes, saved with the scene; and the defaults remembered between sessions."""

import json
import struct

import qt
import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import parameterNodeWrapper

from . import PanelError, resource

VARIANTS = ("mixed", "gabor", "conventional")
SETTINGS = "GaborSeg/"
REMEMBERED = (
    "variant",
    "weights",
    "device",
    "interpreter",
    "trainingData",
    "trainingTable",
    "trainingFolder",
    "correctionsFolder",
)
BUNDLED = "bundled"  # as the weights that a training starts from
RECENT = ("weights", "interpreter", "trainingData", "trainingTable", "trainingFolder")
RECENT_FILES = 8
LONGEST_HEADER = 100 << 20  # bytes; the format's own limit


@parameterNodeWrapper
class Parameters:
    """
    inputVolume: the scan.
    outputSegmentation: where the result goes; None for a new node.
    variant: kernel variant of the network.
    weights: path of a weight file; "" for the bundled file of the variant.
    device: "auto", "cpu" or "cuda:N".
    interpreter: path of the Python that does the work; "" for Slicer's own.
    correctionsFolder: where corrected segmentations go, as a data set; "" for the usual place.
    trainingData: folder of a data set, or path of a CSV.
    trainingTable: label table: a path, the name of a bundled one, or "" for the data's own.
    trainingShare: of the subjects, held out for validation, percent; trainingValidation: or these, separated by commas.
    trainingVariant: kernel variant; trainingInit: path of the weights to start from, `BUNDLED`, or "" for none.
    trainingLoss, trainingRate, trainingEpochs: of `gaborseg train`.
    trainingCubes: edge of the random cubes trained on, 0 for whole scans.
    trainingOptions: more options of `gaborseg train`, as in a terminal.
    trainingDevices: "auto", or numbers of GPUs ("0,1"), "" for the CPU in trainingProcesses processes.
    trainingFolder: of the run that is shown; "" for a new one.
    """

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    outputSegmentation: slicer.vtkMRMLSegmentationNode
    variant: str = "mixed"
    weights: str = ""
    device: str = "auto"
    interpreter: str = ""
    correctionsFolder: str = ""
    trainingData: str = ""
    trainingTable: str = ""
    trainingShare: int = 10
    trainingValidation: str = ""
    trainingVariant: str = "mixed"
    trainingInit: str = ""
    trainingLoss: str = "pcc"
    trainingRate: float = 1e-3
    trainingEpochs: int = 60
    trainingCubes: int = 64
    trainingOptions: str = "--augmentation strong --dropout 0 --decay 0.4 --validate-every 10"
    trainingDevices: str = "auto"
    trainingProcesses: int = 1
    trainingFolder: str = ""


def wrap(node):
    """`Parameters` over a scripted module node; a new node gets the remembered defaults."""
    is_new = node.GetParameterCount() == 0
    parameters = Parameters(node)
    if is_new:
        for name in REMEMBERED:
            value = qt.QSettings().value(SETTINGS + name)
            if value:
                setattr(parameters, name, value)
    return parameters


def remember(parameters):
    """Keep these choices as the defaults of the next session."""
    settings = qt.QSettings()
    for name in REMEMBERED:
        settings.setValue(SETTINGS + name, getattr(parameters, name))
    for name in RECENT:
        if getattr(parameters, name):
            remember_file(name, getattr(parameters, name))


def remember_file(name, path):
    """Put a path first among those used lately as one of `RECENT`."""
    files = [path, *(file for file in recent_files(name) if file != path)]
    qt.QSettings().setValue(f"{SETTINGS}recent_{name}", "\n".join(files[:RECENT_FILES]))


def recent_files(name):
    """Paths used lately as one of `RECENT`, the last one first."""
    return [file for file in (qt.QSettings().value(f"{SETTINGS}recent_{name}") or "").split("\n") if file]


def bundled_weights(variant):
    """Path of the weight file that comes with the extension for a variant; it need not exist."""
    return resource("Weights") / f"{variant}.safetensors"


def weights_file(parameters):
    """Path of the weight file that the choices mean."""
    return parameters.weights or str(bundled_weights(parameters.variant))


def read_card(path):
    """The card in a weight file: what it says about itself, a dictionary. Needs no package.

    A .safetensors file starts with the length of a header, then the header: JSON, whose metadata hold the card as text.
    """
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LONGEST_HEADER:
                raise ValueError("no header")
            card = json.loads(json.loads(file.read(length))["__metadata__"]["gaborseg"])
        if card["variant"] not in VARIANTS:
            raise ValueError(f"unknown variant {card['variant']}")
        return card
    except OSError as error:
        raise PanelError(
            _("{path}: cannot be read ({reason}); choose another weight file.").format(path=path, reason=error.strerror)
        ) from error
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise PanelError(
            _("{path}: is not a weight file of GaborSeg; choose a .safetensors file that GaborSeg has written.").format(
                path=path
            )
        ) from error
