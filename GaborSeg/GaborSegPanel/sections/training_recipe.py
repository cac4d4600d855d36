"""Training, recipe: what is trained, from where, and how; with values that suit the devices and starting weights."""

from functools import cache

import slicer
from slicer.i18n import tr as _

from .. import PanelError, arguments, parameters, recipes
from ..widgets import BROWSE, WEIGHT_FILES, PathBox, ask_file, fill, fill_variants, show_text
from . import Section

LOSSES = (("PCC", "pcc"), ("Dice", "dice"), (_("Cross-entropy"), "cross-entropy"))
CUBES = (0, 64, 96, 128)


class TrainingRecipeSection(Section):
    """Chooses kernels, starting weights, loss, rate, epochs, cubes and more options."""

    def __init__(self, panel):
        super().__init__(panel)
        ui = self.ui
        self._inits = PathBox(ui.initBox, "weights")
        self._are_bundled = cache(parameters.are_bundled)
        self.bound = {"trainingEpochs": ui.epochsBox}
        self._options_help = ui.optionsEdit.toolTip
        self.when(ui.trainingVariantBox, "currentIndexChanged(int)", self._variant_chosen)
        self.when(ui.initBox, "currentIndexChanged(int)", self._init_chosen)
        self.when(ui.lossBox, "currentIndexChanged(int)", lambda: self.put(trainingLoss=ui.lossBox.currentData))
        self.when(ui.cubesBox, "currentIndexChanged(int)", lambda: self.put(trainingCubes=ui.cubesBox.currentData))
        self.when(ui.rateEdit, "editingFinished()", self._rate_chosen)
        self.when(ui.optionsEdit, "editingFinished()", self._options_chosen)
        self.when(ui.suggestButton, "clicked(bool)", self._suggestion_taken)

    def show(self):
        ui, choices = self.ui, self.choices
        fill_variants(ui.trainingVariantBox, choices.trainingVariant)
        first = [(_("None: from nothing"), "")]
        if self._are_bundled(choices.trainingVariant):
            first.append((_("Bundled"), parameters.BUNDLED))
        self._inits.show(first, choices.trainingInit)
        fill(ui.lossBox, list(LOSSES), choices.trainingLoss)
        edges = sorted({*CUBES, choices.trainingCubes})
        cubes = [(_("cubes of {edge}").format(edge=n) if n else _("whole scans"), n) for n in edges]
        fill(ui.cubesBox, cubes, choices.trainingCubes)
        show_text(ui.rateEdit, f"{choices.trainingRate:g}")
        options = arguments.more_options(choices, self.panel.environment.devices)
        show_text(ui.optionsEdit, options)
        ui.optionsEdit.cursorPosition = 0  # the beginning of a long text is shown, and all of it by the pointer
        ui.optionsEdit.toolTip = "\n\n".join(filter(None, [options, self._options_help]))
        ui.hintLabel.text = recipes.hint(*self._situation())
        chosen = {name: getattr(choices, name) for name in recipes.SUGGESTED}
        ui.suggestButton.visible = {**chosen, "trainingOptions": options} != self._suggestion()

    def read_again(self):
        self._inits.read_again()
        self._are_bundled.cache_clear()

    def put_with_suggestion(self, **values):
        """Write choices that the suggested numbers depend on; those follow, unless they were chosen by hand."""
        follows = recipes.follows_a_suggestion(self.choices)
        with slicer.util.NodeModify(self.choices.parameterNode):
            parameters.put(self.choices, **values)
            if follows:
                numbers = self._suggestion()
                parameters.put(self.choices, **{name: numbers[name] for name in recipes.SUGGESTED})
        self.panel.show_choices()

    def _situation(self):
        return arguments.situation(self.choices, self.panel.environment.devices)

    def _suggestion(self):
        return recipes.suggestion(*self._situation())

    def _suggestion_taken(self):
        self.put(**{**self._suggestion(), "trainingOptions": None})

    def _options_chosen(self):
        """What is suggested anyway is no choice of the user's, and follows."""
        text = self.ui.optionsEdit.text
        self.put(trainingOptions=None if text == self._suggestion()["trainingOptions"] else text)

    def _variant_chosen(self):
        """Weights of other kernels cannot be started from: back to the bundled ones, or to none."""
        variant, init = self.ui.trainingVariantBox.currentData, self.choices.trainingInit
        if init:
            init = parameters.BUNDLED if parameters.are_bundled(variant) else ""
        self.put_with_suggestion(trainingVariant=variant, trainingInit=init)

    def _init_chosen(self):
        path = self.ui.initBox.currentData
        if path == BROWSE:
            path = ask_file(self.ui.initBox, _("Choose a weight file"), WEIGHT_FILES)
        self.choose_init(self.choices.trainingInit if path is None else path)

    def choose_init(self, path):
        """Take weights to start from, and the variant that they say they are of."""
        values = {"trainingInit": str(path)}
        if path and path != parameters.BUNDLED:
            values["trainingVariant"] = parameters.read_card(path)["variant"]
        self.put_with_suggestion(**values)

    def _rate_chosen(self):
        text = self.ui.rateEdit.text
        try:
            rate = float(text)
            if not 0 < rate < 1:
                raise ValueError
        except ValueError:
            raise PanelError(
                _("{text}: is no learning rate; wanted a number such as 0.001 or 3e-4.").format(text=text)
            ) from None
        self.put(trainingRate=rate)
