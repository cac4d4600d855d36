"""The parameter node: every choice a user makes, saved with the scene; and the defaults remembered between sessions."""

from typing import Annotated

import qt
import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from . import PanelError, protocol, recipes, resource

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
_FIRST = recipes.suggestion(on_gpu=False, fine_tunes=False)


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
    trainingShare: Annotated[int, WithinRange(0, 50)] = 10
    trainingValidation: str = ""
    trainingVariant: str = "mixed"
    trainingInit: str = ""
    trainingLoss: str = "pcc"
    trainingRate: float = _FIRST["trainingRate"]
    trainingEpochs: Annotated[int, WithinRange(1, 10000)] = _FIRST["trainingEpochs"]
    trainingCubes: int = _FIRST["trainingCubes"]
    trainingOptions: str = _FIRST["trainingOptions"]
    trainingDevices: str = "auto"
    trainingProcesses: Annotated[int, WithinRange(1, 64)] = 1
    trainingFolder: str = ""


class Choices(Parameters):
    """`Parameters` of a node, observed and bound to widgets until `release`.

    Slicer's own `disconnectGui` leaves an observer on the node, which keeps the wrapper alive; and a wrapper that is
    alive when the scene is closed writes its defaults into the emptied node, where the remembered ones belong.
    """

    def __init__(self, node):
        self._observers, self._binding = [], None
        super().__init__(node)

    def AddObserver(self, event, callback, priority=0.0):
        self._observers.append(super().AddObserver(event, callback, priority))
        return self._observers[-1]

    def bind(self, widgets):
        """Keep plain widgets and parameters alike; `widgets` is a dictionary from names of parameters to widgets."""
        self._binding = self.connectParametersToGui(widgets)

    def release(self):
        """Let go of the widgets, and of all who observe the node through this."""
        self.disconnectGui(self._binding)
        while self._observers:
            self.RemoveObserver(self._observers.pop())


def wrap(node):
    """`Choices` over a scripted module node; a new node gets the remembered defaults."""
    is_new = node.GetParameterCount() == 0
    choices = Choices(node)
    if is_new:
        for name in REMEMBERED:
            value = qt.QSettings().value(SETTINGS + name)
            if value:
                setattr(choices, name, value)
    return choices


def put(choices, **values):
    """Write several choices as one change."""
    with slicer.util.NodeModify(choices.parameterNode):
        for name, value in values.items():
            setattr(choices, name, value)


def remember(choices):
    """Keep these choices as the defaults of the next session."""
    settings = qt.QSettings()
    for name in REMEMBERED:
        settings.setValue(SETTINGS + name, getattr(choices, name))
    for name in RECENT:
        if getattr(choices, name):
            remember_file(name, getattr(choices, name))


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


def are_bundled(variant):
    """Whether weights of a variant came with this copy."""
    return bundled_weights(variant).is_file()


def weights_file(choices):
    """Path of the weight file that the choices mean."""
    return choices.weights or str(bundled_weights(choices.variant))


def read_card(path):
    """The card in a weight file: what it says about itself, a dictionary.

    Raises:
        PanelError: the file cannot be read, is no weight file of GaborSeg, or has a card that this copy cannot use.
    """
    try:
        return protocol.read_card(path)
    except OSError as error:
        raise PanelError(
            _("{path}: cannot be read ({reason}); choose another weight file.").format(path=path, reason=error.strerror)
        ) from error
    except protocol.CardError as error:
        raise PanelError(f"{path}: {error}") from error
    except ValueError as error:
        raise PanelError(
            _("{path}: is not a weight file of GaborSeg; choose a .safetensors file that GaborSeg has written.").format(
                path=path
            )
        ) from error
