"""The choices that a user makes: those saved with the scene, in the parameter node, and those that never are.

A scene may come from anybody. What is in it can choose nodes, words, numbers and files that are read: weights (never a
pickle), scans, label maps, tables. What is started, what is put on a command line as it stands, and where files are
written is this user's alone, and is kept in the application's settings: `Own`.
"""

import os
from contextlib import suppress
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
    "trainingData",
    "trainingTable",
)
BUNDLED = "bundled"  # as the weights that a training starts from
# The user's own choices, and what they are at first.
OWN = {"interpreter": "", "correctionsFolder": "", "trainingFolder": "", "trainingOptions": None}
RECENT = ("weights", "interpreter", "trainingData", "trainingTable", "trainingFolder")
RECENT_FILES = 8
_FIRST = recipes.suggestion(on_gpu=False, fine_tunes=False)


@parameterNodeWrapper
class Parameters:
    """What is saved with the scene.

    inputVolume: the scan.
    outputSegmentation: where the result goes; None for a new node.
    variant: kernel variant of the network.
    weights: path of a weight file; "" for the bundled file of the variant.
    device: "auto", "cpu" or "cuda:N".
    sides: whether paired structures are divided into left and right.
    trainingData: folder of a data set, or path of a CSV.
    trainingTable: label table: a path, the name of a bundled one, or "" for the data's own.
    trainingShare: of the subjects, held out for validation, percent; trainingValidation: or these, separated by commas.
    trainingVariant: kernel variant; trainingInit: path of the weights to start from, `BUNDLED`, or "" for none.
    trainingLoss, trainingRate, trainingEpochs: of `gaborseg train`.
    trainingCubes: edge of the random cubes trained on, 0 for whole scans.
    trainingDevices: "auto", or numbers of GPUs ("0,1"), "" for the CPU in trainingProcesses processes.
    """

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    outputSegmentation: slicer.vtkMRMLSegmentationNode
    variant: str = "mixed"
    weights: str = ""
    device: str = "auto"
    sides: bool = False
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
    trainingDevices: str = "auto"
    trainingProcesses: Annotated[int, WithinRange(1, 64)] = 1


class Own:
    """A choice of this user that no scene can make: kept in the application's settings, and used like the others."""

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, choices, owner=None):
        return choices.own[self._name]

    def __set__(self, choices, value):
        if value == choices.own[self._name]:
            return
        choices.own[self._name] = value
        if value is None:
            qt.QSettings().remove(SETTINGS + self._name)
        else:
            qt.QSettings().setValue(SETTINGS + self._name, value)
        choices.parameterNode.Modified()


class Choices(Parameters):
    """`Parameters` of a node, observed and bound to widgets until `release`; and the user's own choices.

    interpreter: path of the Python that does the work; "" for Slicer's own.
    correctionsFolder: where corrected segmentations go, as a data set; "" for the usual place.
    trainingFolder: of the run that is shown, and resumed as it says there; "" for a new one.
    trainingOptions: more options of `gaborseg train`, as in a terminal; None for those that are suggested.

    Attributes:
        own: dictionary from the names of the user's own choices to their values.

    Slicer's own `disconnectGui` leaves an observer on the node, which keeps the wrapper alive; and a wrapper that is
    alive when the scene is closed writes its defaults into the emptied node, where the remembered ones belong.
    """

    interpreter = Own()
    correctionsFolder = Own()
    trainingFolder = Own()
    trainingOptions = Own()

    def __init__(self, node):
        self._observers, self._binding = [], None
        self.own = own_choices()
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


def own_choices():
    """The user's own choices, out of the application's settings."""
    settings = qt.QSettings()
    values = {name: settings.value(SETTINGS + name) for name in OWN}
    return {name: value if value is not None else OWN[name] for name, value in values.items()}


def take_foreign(node):
    """Take out of a scripted module node what a scene has brought along for one of the user's own choices.

    Returns:
        Dictionary from names to texts: what differs from the user's, and is not what this program would suggest.
    """
    found = {name: node.GetParameter(name) for name in OWN if node.HasParameter(name)}
    for name in found:
        node.UnsetParameter(name)
    harmless = {"", *recipes.suggested_options()}
    own = own_choices()
    return {name: text for name, text in found.items() if text not in harmless and text != own[name]}


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
    """Path of the weight file that the choices mean, for any working folder."""
    return os.path.abspath(choices.weights) if choices.weights else str(bundled_weights(choices.variant))


def refuse_input(choices, path):
    """Refuse to write a file that the choices name, under whatever name or link.

    Raises:
        PanelError: it is the scan's, or one of weights, training data or label table.
    """
    storage = choices.inputVolume.GetStorageNode() if choices.inputVolume else None
    inputs = {
        _("the scan"): storage.GetFileName() if storage else "",
        _("the weights"): weights_file(choices),
        _("the weights that the training starts from"): choices.trainingInit,
        _("the training data"): choices.trainingData,
        _("the label table"): choices.trainingTable,
    }
    for what, file in inputs.items():
        with suppress(OSError, ValueError):  # one of them is not there
            if file and os.path.samefile(file, path):
                raise PanelError(_("{path}: is {what}; choose another output.").format(path=path, what=what))


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
