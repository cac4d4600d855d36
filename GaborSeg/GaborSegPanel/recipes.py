"""What a training is best given: suggested values for a GPU or a CPU, from nothing or from weights, out of
`Resources/Recipes`."""

import shlex
from functools import cache

from slicer.i18n import tr as _

from . import PanelError, protocol, resource

# Fewer subjects than this are all trained on: one held out would be too much of them, and too little to tell by.
FEW_SUBJECTS = 5
SUGGESTED = ("trainingRate", "trainingEpochs", "trainingCubes")  # and trainingOptions
RECIPES = {  # by (on a GPU, fine-tuning)
    (True, False): "paper",
    (True, True): "fine-tune-gpu",
    (False, False): "cpu",
    (False, True): "fine-tune-cpu",
}
# What the panel has widgets for is no part of "More options", and what `gaborseg train` does anyway is left out.
WITH_WIDGETS = ("variant", "loss", "lr", "epochs", "patch")
USUAL = {"augmentation": "paper"}


def suggestion(on_gpu, fine_tunes):
    """Dictionary from each of `SUGGESTED`, and trainingOptions, to a value.

    On a GPU from nothing: the paper's. On a CPU: the recipe of the bundled weights, see docs/training.md. Fine-tuning:
    few epochs at a low rate that falls to zero, so that what was learned before is kept.
    """
    options = _options()[RECIPES[on_gpu, fine_tunes]]
    rate = options.get("lr", _options()["paper"]["lr"])
    more = {name: value for name, value in options.items() if name not in WITH_WIDGETS and USUAL.get(name) != value}
    text = shlex.join(protocol.Stage(more).arguments)
    return {**dict(zip(SUGGESTED, (rate, options["epochs"], options.get("patch", 0)))), "trainingOptions": text}


def suggested_options():
    """All texts that are suggested as more options, a set."""
    return {suggestion(*situation)["trainingOptions"] for situation in RECIPES}


def follows_a_suggestion(choices):
    """Whether the numbers are those of some suggestion, so that nobody chose them by hand."""
    values = [getattr(choices, name) for name in SUGGESTED]
    return values in [[suggestion(*situation)[name] for name in SUGGESTED] for situation in RECIPES]


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


@cache
def _options():
    """Dictionary from the name of each of `RECIPES`, which have one stage, to its options; read once."""
    try:
        paths = {name: resource("Recipes") / f"{name}.json" for name in RECIPES.values()}
        return {name: protocol.read_recipe(path).stages[0].options for name, path in paths.items()}
    except (OSError, ValueError) as error:
        raise PanelError(
            _("{folder}: cannot be read ({reason}); install the extension again.").format(
                folder=resource("Recipes"), reason=error
            )
        ) from error
