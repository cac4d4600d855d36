"""The arguments of `gaborseg train` and `gaborseg data` that the choices mean."""

import os
import shlex

from slicer.i18n import tr as _

from . import PanelError, parameters, recipes, resource


def gpus(choices, devices):
    """The chosen GPUs' numbers, a list; empty for the CPU.

    Args:
        devices: of the worker's `environment` result; `auto` takes the first GPU of these.
    """
    if choices.trainingDevices == "auto":
        found = [device["id"] for device in devices if device["id"].startswith("cuda:")]
        return [int(name.removeprefix("cuda:")) for name in found[:1]]
    return [int(number) for number in choices.trainingDevices.split(",") if number]


def situation(choices, devices):
    """What a suggestion depends on: (whether on a GPU, whether from weights)."""
    return bool(gpus(choices, devices)), bool(choices.trainingInit)


def more_options(choices, devices):
    """The text of more options: the user's, or what is suggested."""
    if choices.trainingOptions is not None:
        return choices.trainingOptions
    return recipes.suggestion(*situation(choices, devices))["trainingOptions"]


def starting_weights(choices):
    """Absolute path of the weights to start from, "" for none.

    Raises:
        PanelError: the file cannot be read or has other kernels.
    """
    path = choices.trainingInit
    if path == parameters.BUNDLED:
        path = str(parameters.bundled_weights(choices.trainingVariant))
    if path:
        path = os.path.abspath(path)
        variant = parameters.read_card(path)["variant"]
        if variant != choices.trainingVariant:
            raise PanelError(
                _(
                    "{path}: has {found} kernels, and {wanted} kernels are to be trained; choose the same for both."
                ).format(path=path, found=variant, wanted=choices.trainingVariant)
            )
    return path


def data_arguments(choices):
    """What `gaborseg data` and `gaborseg train` both take; with absolute paths, since these run in other folders."""
    if not choices.trainingData:
        raise PanelError(_("No training data are chosen; choose a folder of scans with label maps, or a CSV of them."))
    arguments = [os.path.abspath(choices.trainingData)]
    table = choices.trainingTable
    if table:
        is_bundled = os.path.basename(table) == table and (resource("Tables") / f"{table}.csv").is_file()
        arguments += ["--table", table if is_bundled else os.path.abspath(table)]
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
    options = more_options(choices, devices)
    try:
        return arguments + shlex.split(options)
    except ValueError as error:
        raise PanelError(
            _("More options: {text} cannot be understood ({reason}); see gaborseg train --help.").format(
                text=options, reason=error
            )
        ) from error
