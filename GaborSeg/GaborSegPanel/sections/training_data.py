"""Training, data: which scans with label maps, what the labels mean, what is held out; and what is wrong with them."""

import qt
from slicer.i18n import tr as _

from .. import arguments, corrections, protocol, recipes
from ..widgets import BROWSE, PathBox, ask_file, say, show_text
from ..worker import Query
from . import Section

BROWSE_CSV = "browse for a CSV"
TABLES = (
    (_("The data's own"), ""),
    ("Neuromorphometrics", "neuromorphometrics"),
    (_("FreeSurfer (aseg)"), "freesurfer"),
    (_("GaborSeg, left and right"), "sides"),
)
LISTED = 8  # names of scans


class TrainingDataSection(Section):
    """Chooses a data set, and has it looked through beside Slicer."""

    def __init__(self, panel):
        super().__init__(panel)
        self._query = None  # the check under way
        self._checked = None  # the arguments of the check that is shown
        ui = self.ui
        browse = ((_("A folder..."), BROWSE), (_("A CSV of paths..."), BROWSE_CSV))
        self._data = PathBox(ui.dataBox, "trainingData", browse)
        self._tables = PathBox(ui.tableBox, "trainingTable")
        self.bound = {"trainingShare": ui.shareBox}
        self.when(ui.dataBox, "currentIndexChanged(int)", self._data_chosen)
        self.when(ui.tableBox, "currentIndexChanged(int)", self._table_chosen)
        self.when(ui.validationEdit, "editingFinished()", self._validation_chosen)
        self.when(ui.checkDataButton, "clicked(bool)", self.check_data)

    def show(self):
        ui, choices, corrected = self.ui, self.choices, self.panel.corrections
        first = [(_("Choose..."), "")]
        if corrected.count:
            first.append((_("Corrections ({count})").format(count=corrected.count), str(corrected.folder)))
        self._data.show(first, choices.trainingData)
        self._tables.show(TABLES, choices.trainingTable)
        show_text(ui.validationEdit, choices.trainingValidation)
        ui.shareBox.enabled = not choices.trainingValidation
        ui.checkDataButton.enabled = bool(choices.trainingData)
        # Only what was found with the present choices is shown.
        if not self.is_checking and (not choices.trainingData or arguments.data_arguments(choices) != self._checked):
            self._say("")

    def read_again(self):
        self._data.read_again()
        self._tables.read_again()

    def close(self):
        self.stop_check_data()

    def _data_chosen(self):
        path = self.ui.dataBox.currentData
        if path == BROWSE:
            path = qt.QFileDialog.getExistingDirectory(self.ui.dataBox, _("Choose a folder of labelled scans"))
        elif path == BROWSE_CSV:
            path = ask_file(self.ui.dataBox, _("Choose a CSV of images and labels"), _("Tables (*.csv)"))
        self.choose_data(path or self.choices.trainingData)

    def choose_data(self, path):
        """Take a data set. Corrections go on from the weights that were corrected."""
        values = {"trainingData": str(path)}
        made_by = corrections.weights_of(path) if path else None
        if made_by:
            values["trainingVariant"], values["trainingInit"] = made_by
            few = corrections.count_subjects(path) < recipes.FEW_SUBJECTS
            values.update(trainingShare=0 if few else 20, trainingValidation="", trainingTable="")
        self.panel.recipe.put_with_suggestion(**values)
        if path:
            self.check_data()

    def _table_chosen(self):
        path = self.ui.tableBox.currentData
        if path == BROWSE:
            path = ask_file(self.ui.tableBox, _("Choose a label table"), _("Tables (*.csv *.json)"))
        self.put(trainingTable=self.choices.trainingTable if path is None else path)
        if self.choices.trainingData:
            self.check_data()

    def _validation_chosen(self):
        self.put(trainingValidation=self.ui.validationEdit.text)

    # What is in the data

    @property
    def is_checking(self):
        """Whether the data are looked through just now."""
        return self._query is not None

    def check_data(self):
        """Look through the data set beside Slicer; the answer comes later."""
        what = arguments.data_arguments(self.choices)
        self.stop_check_data()
        self._say(_("Looking through the data..."))

        def tell(event):
            if event["event"] == protocol.PROGRESS:
                self._say(_("Looking through the data, scan {done} of {total}...").format(**event))

        def ended(result, message):
            self._query, self._checked = None, what
            if message is None:
                self._say(_in_words(result), result["problems"])
            else:
                self._say(message)

        self._query = Query(self.choices.interpreter, ["data", *what], tell, lambda line: None, ended)

    def stop_check_data(self):
        """End a check under way."""
        if self._query is not None:
            self._query.stop()
            self._query = None

    def _say(self, text, problems=()):
        ui = self.ui
        say(ui.dataLabel, text)
        ui.dataProblems.visible = bool(problems)
        ui.dataProblems.plainText = "\n".join(f"{p['file']}: {p['message']}" for p in problems)


def _in_words(found):
    """What `gaborseg data` found, in a few lines."""
    errors = sum(problem["kind"] == "error" for problem in found["problems"])
    held_out = ", ".join(found["validation"][:LISTED]) + "..." * (len(found["validation"]) > LISTED)
    lines = [
        _("{cases} scans of {subjects} subjects, {structures} structures").format(
            cases=found["cases"], subjects=found["subjects"], structures=len(found["structures"])
        ),
        _("Training: {training}, validation: {validation}").format(
            training=len(found["training"]), validation=held_out or _("none")
        ),
    ]
    if found["absent"]:
        lines.append(_("Not in these labels: {names}").format(names=", ".join(found["absent"])))
    if errors:
        lines.append(_("{count} problems to solve before training can start:").format(count=errors))
    elif found["problems"]:
        lines.append(_("Ready for training; to be aware of:"))
    else:
        lines.append(_("Ready for training."))
    return "\n".join(lines)
