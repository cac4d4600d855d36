"""What a training is best given: suggested values for a GPU or a CPU, from nothing or from weights; and the options of
`gaborseg train` that the choices mean."""

import shlex

from slicer.i18n import tr as _

from . import PanelError, parameters

# Fewer subjects than this are all trained on: one held out would be too much of them, and too little to tell by.
FEW_SUBJECTS = 5
SUGGESTED = ("trainingRate", "trainingEpochs", "trainingCubes", "trainingOptions")
CPU = "--augmentation strong --dropout 0"


def suggestion(on_gpu, fine_tunes):
    """Dictionary from each of `SUGGESTED` to a value.

    On a GPU from nothing: the paper's. On a CPU: the recipe of the bundled weights, see docs/training.md. Fine-tuning:
    few epochs at a low rate that falls to zero, so that what was learned before is kept.
    """
    rate, epochs, cubes, options = {
        (True, False): (1e-3, 300, 0, ""),
        (True, True): (3e-4, 20, 0, "--decay 1"),
        (False, False): (1e-3, 60, 64, f"{CPU} --decay 0.4 --validate-every 10"),
        (False, True): (3e-4, 20, 96, f"{CPU} --decay 1 --validate-every 5"),
    }[on_gpu, fine_tunes]
    return dict(zip(SUGGESTED, (rate, epochs, cubes, options)))


def follows_a_suggestion(choices):
    """Whether the values are those of some suggestion, so that nobody chose them by hand."""
    values = {name: getattr(choices, name) for name in SUGGESTED}
    return values in [suggestion(gpu, tunes) for gpu in (True, False) for tunes in (True, False)]


def hint(on_gpu, fine_tunes):
    """The suggestion in words."""
    if fine_tunes:
        text = _("Fine-tuning: few epochs at a low rate, which falls to zero.")
    elif on_gpu:
        text = _("From nothing on a GPU: as in the paper, whole scans and 300 epochs.")
    else:
        text = _("From nothing on a CPU: 28 scans took 2 hours for mixed kernels, 70 minutes for conventional ones.")
    if not on_gpu:
        text += " " + _("Random cubes of the scans make it feasible without a GPU.")
    return text


def gpus(choices, devices):
    """The chosen GPUs' numbers, a list; empty for the CPU.

    Args:
        devices: of the worker's `environment` result; `auto` takes the first GPU of these.
    """
    if choices.trainingDevices == "auto":
        found = [device["id"] for device in devices if device["id"].startswith("cuda:")]
        return [int(name.removeprefix("cuda:")) for name in found[:1]]
    return [int(number) for number in choices.trainingDevices.split(",") if number]


def starting_weights(choices):
    """Path of the weights to start from, "" for none.

    Raises:
        PanelError: the file cannot be read or has other kernels.
    """
    path = choices.trainingInit
    if path == parameters.BUNDLED:
        path = str(parameters.bundled_weights(choices.trainingVariant))
    if path:
        variant = parameters.read_card(path)["variant"]
        if variant != choices.trainingVariant:
            raise PanelError(
                _(
                    "{path}: has {found} kernels, and {wanted} kernels are to be trained; choose the same for both."
                ).format(path=path, found=variant, wanted=choices.trainingVariant)
            )
    return path


def data_arguments(choices):
    """What `gaborseg data` and `gaborseg train` both take."""
    if not choices.trainingData:
        raise PanelError(_("No training data are chosen; choose a folder of scans with label maps, or a CSV of them."))
    arguments = [choices.trainingData]
    if choices.trainingTable:
        arguments += ["--table", choices.trainingTable]
    names = ",".join(name.strip() for name in choices.trainingValidation.split(",") if name.strip())
    if names:
        return [*arguments, "--validation", names]
    return [*arguments, "--validation-share", f"{choices.trainingShare / 100:g}"]


def train_arguments(choices, devices):
    """The arguments of `gaborseg train`, without the output folder.

    Raises:
        PanelError: what is chosen does not go together.
    """
    arguments = [
        *data_arguments(choices),
        "--variant",
        choices.trainingVariant,
        "--loss",
        choices.trainingLoss,
        "--lr",
        f"{choices.trainingRate:g}",
        "--epochs",
        str(choices.trainingEpochs),
    ]
    if choices.trainingCubes:
        arguments += ["--patch", str(choices.trainingCubes)]
    weights = starting_weights(choices)
    if weights:
        arguments += ["--init", weights]
    numbers = gpus(choices, devices)
    if numbers:
        arguments += ["--gpus", ",".join(map(str, numbers))]
    else:
        arguments += ["--processes", str(choices.trainingProcesses)]
    try:
        return arguments + shlex.split(choices.trainingOptions)
    except ValueError as error:
        raise PanelError(
            _("More options: {text} cannot be understood ({reason}); see gaborseg train --help.").format(
                text=choices.trainingOptions, reason=error
            )
        ) from error
