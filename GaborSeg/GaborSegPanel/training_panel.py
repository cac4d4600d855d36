"""The training part of the Advanced tab: its widgets and the parameter node are kept alike, data are looked through,
and the run in the chosen folder is started, shown, stopped and found again."""

from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from . import PanelError, corrections, parameters, recipes, training
from .chart import show_chart, update_chart
from .training import FAILED, FINISHED, KILLED, RUNNING, TrainingRun
from .widgets import BROWSE, VARIANT_NAMES, fill, fill_paths
from .worker import Worker, make_temporary_folder, remove_folder

INTERVAL_MS = 500
BAR = 1000  # steps of the progress bar
BROWSE_CSV = "browse for a CSV"
TABLES = (
    ("", _("The data's own")),
    ("neuromorphometrics", "Neuromorphometrics"),
    ("freesurfer", _("FreeSurfer (aseg)")),
)
LOSSES = (("PCC", "pcc"), ("Dice", "dice"), (_("Cross-entropy"), "cross-entropy"))
CUBES = (0, 64, 96, 128)
LISTED = 8  # names of scans


class TrainingPanel:
    """Works the training widgets of one module panel.

    Args:
        panel: the `Panel`, which has the choices, the environment, and shows errors.
    """

    def __init__(self, panel):
        self.panel, self.ui = panel, panel.ui
        self.run = None  # TrainingRun of the chosen folder
        self._look = None  # (worker, folder) of a look through the data
        self._looked_at = None  # the arguments of the look that is shown
        self._wants_chart = False  # once there is something to draw
        self._closing = CloseFilter(self._may_close)
        self._timer = qt.QTimer()
        self._timer.setInterval(INTERVAL_MS)
        self._timer.connect("timeout()", self._poll)
        self._connect()
        window = slicer.util.mainWindow()
        if window is not None:
            window.installEventFilter(self._closing)

    @property
    def choices(self):
        return self.panel.choices

    def _connect(self):
        ui = self.ui
        for box, react in (
            (ui.dataBox, self._data_chosen),
            (ui.tableBox, self._table_chosen),
            (ui.initBox, self._init_chosen),
            (ui.runBox, self._folder_chosen),
            (ui.trainingVariantBox, self._variant_chosen),
            (ui.lossBox, lambda: self._put(trainingLoss=ui.lossBox.currentData)),
            (ui.cubesBox, lambda: self._put(trainingCubes=ui.cubesBox.currentData)),
        ):
            box.connect("currentIndexChanged(int)", lambda index, react=react: self._react(react))
        for box, react in (
            (ui.shareBox, lambda: self._put(trainingShare=ui.shareBox.value)),
            (ui.epochsBox, lambda: self._put(trainingEpochs=ui.epochsBox.value)),
            (ui.processesBox, lambda: self._put(trainingProcesses=ui.processesBox.value)),
        ):
            box.connect("valueChanged(int)", lambda value, react=react: self._react(react))
        for edit, react in (
            (ui.validationEdit, lambda: self._put(trainingValidation=ui.validationEdit.text)),
            (ui.rateEdit, self._rate_chosen),
            (ui.optionsEdit, lambda: self._put(trainingOptions=ui.optionsEdit.text)),
        ):
            edit.connect("editingFinished()", lambda react=react: self._react(react))
        ui.deviceList.connect("itemChanged(QListWidgetItem*)", lambda item: self._react(self._devices_chosen))
        for button, react in (
            (ui.lookButton, self.look),
            (ui.suggestButton, self._take_suggestion),
            (ui.trainButton, self.start),
            (ui.stopButton, self.stop),
            (ui.resumeButton, self.resume),
            (ui.chartButton, self.show_chart),
        ):
            button.connect("clicked(bool)", lambda checked, react=react: self._react(react))

    def _react(self, react):
        """What a widget sets off; an error that the user can do something about is shown."""
        if self.choices is None:
            return
        try:
            react()
        except PanelError as error:
            self.panel.show_error(str(error))
            self.show_choices()

    # Choices

    def show_choices(self):
        """Bring the widgets in line with the parameter node, and show the run that it names."""
        ui, choices = self.ui, self.choices
        corrected = self.corrections_folder()
        first = [(_("Choose..."), "")]
        if corrections.count_cases(corrected):
            first.append((_("Corrections ({count})").format(count=corrections.count_cases(corrected)), str(corrected)))
        fill_paths(
            ui.dataBox,
            first,
            "trainingData",
            choices.trainingData,
            ((_("A folder..."), BROWSE), (_("A CSV of paths..."), BROWSE_CSV)),
        )
        fill_paths(ui.tableBox, [(text, value) for value, text in TABLES], "trainingTable", choices.trainingTable)
        fill(
            ui.trainingVariantBox,
            [(VARIANT_NAMES[name], name) for name in parameters.VARIANTS],
            choices.trainingVariant,
        )
        first = [(_("None: from nothing"), "")]
        if parameters.bundled_weights(choices.trainingVariant).is_file():
            first.append((_("Bundled"), parameters.BUNDLED))
        fill_paths(ui.initBox, first, "weights", choices.trainingInit)
        fill(ui.lossBox, list(LOSSES), choices.trainingLoss)
        edges = sorted({*CUBES, choices.trainingCubes})
        fill(
            ui.cubesBox,
            [(_("cubes of {edge}").format(edge=n) if n else _("whole scans"), n) for n in edges],
            choices.trainingCubes,
        )
        fill_paths(ui.runBox, [(_("A new folder"), "")], "trainingFolder", choices.trainingFolder)
        for widget, name, value in (
            (ui.shareBox, "value", choices.trainingShare),
            (ui.epochsBox, "value", choices.trainingEpochs),
            (ui.processesBox, "value", choices.trainingProcesses),
            (ui.validationEdit, "text", choices.trainingValidation),
            (ui.optionsEdit, "text", choices.trainingOptions),
            (ui.rateEdit, "text", f"{choices.trainingRate:g}"),
        ):
            was_blocked = widget.blockSignals(True)
            if getattr(widget, name) != value:  # else the cursor would jump
                setattr(widget, name, value)
            widget.blockSignals(was_blocked)
        ui.optionsEdit.cursorPosition = 0  # the beginning of a long text is shown
        ui.shareBox.enabled = not choices.trainingValidation
        self._show_devices()
        self._show_suggestion()
        self._show_look()
        self._show_run()

    def _put(self, **values):
        """Write choices; a look through other data is no longer shown."""
        with slicer.util.NodeModify(self.choices.parameterNode):
            for name, value in values.items():
                setattr(self.choices, name, value)
        self.show_choices()

    def _put_with_suggestion(self, **values):
        """Write choices that the suggested values depend on; those follow, unless they were chosen by hand."""
        follows = recipes.follows_a_suggestion(self.choices)
        with slicer.util.NodeModify(self.choices.parameterNode):
            self._put(**values)
            if follows:
                self._take_suggestion()

    def _devices(self):
        return self.panel.environment["devices"] if self.panel.environment else []

    def _suggestion(self):
        on_gpu = bool(recipes.gpus(self.choices, self._devices()))
        return on_gpu, bool(self.choices.trainingInit)

    def _take_suggestion(self):
        self._put(**recipes.suggestion(*self._suggestion()))

    def _show_suggestion(self):
        suggested = recipes.suggestion(*self._suggestion())
        self.ui.hintLabel.text = recipes.hint(*self._suggestion())
        self.ui.suggestButton.visible = any(getattr(self.choices, name) != value for name, value in suggested.items())

    def _data_chosen(self):
        path = self.ui.dataBox.currentData
        if path == BROWSE:
            path = qt.QFileDialog.getExistingDirectory(self.ui.dataBox, _("Choose a folder of labelled scans"))
        elif path == BROWSE_CSV:
            path = self._ask_file(self.ui.dataBox, _("Choose a CSV of images and labels"), _("Tables (*.csv)"))
        self.choose_data(path or self.choices.trainingData)

    def choose_data(self, path):
        """Take a data set. Corrections go on from the weights that were corrected."""
        values = {"trainingData": str(path)}
        made_by = corrections.weights_of(path) if path else None
        if made_by:
            values["trainingVariant"], values["trainingInit"] = made_by
            few = corrections.count_subjects(path) < recipes.FEW_SUBJECTS
            values.update(trainingShare=0 if few else 20, trainingValidation="", trainingTable="")
        self._put_with_suggestion(**values)
        if path:
            self.look()

    def _table_chosen(self):
        path = self.ui.tableBox.currentData
        if path == BROWSE:
            path = self._ask_file(self.ui.tableBox, _("Choose a label table"), _("Tables (*.csv *.json)"))
        self._put(trainingTable=self.choices.trainingTable if path is None else path)
        if self.choices.trainingData:
            self.look()

    def _variant_chosen(self):
        """Weights of other kernels cannot be started from: back to the bundled ones, or to none."""
        variant, init = self.ui.trainingVariantBox.currentData, self.choices.trainingInit
        if init:
            init = parameters.BUNDLED if parameters.bundled_weights(variant).is_file() else ""
        self._put_with_suggestion(trainingVariant=variant, trainingInit=init)

    def _init_chosen(self):
        path = self.ui.initBox.currentData
        if path == BROWSE:
            path = self._ask_file(self.ui.initBox, _("Choose a weight file"), _("Weights of GaborSeg (*.safetensors)"))
        self.choose_init(self.choices.trainingInit if path is None else path)

    def choose_init(self, path):
        """Take weights to start from, and the variant that they say they are of."""
        values = {"trainingInit": str(path)}
        if path and path != parameters.BUNDLED:
            values["trainingVariant"] = parameters.read_card(path)["variant"]
        self._put_with_suggestion(**values)

    def _rate_chosen(self):
        try:
            rate = float(self.ui.rateEdit.text)
            if not 0 < rate < 1:
                raise ValueError
        except ValueError:
            raise PanelError(
                _("{text}: is no learning rate; wanted a number such as 0.001 or 3e-4.").format(
                    text=self.ui.rateEdit.text
                )
            ) from None
        self._put(trainingRate=rate)

    def _show_devices(self):
        ui = self.ui
        found = [device for device in self._devices() if device["id"].startswith("cuda:")]
        chosen = recipes.gpus(self.choices, self._devices())
        names = {int(device["id"].removeprefix("cuda:")): device["name"] for device in found}
        names.update(
            {
                number: _("GPU {number} (not seen here)").format(number=number)
                for number in chosen
                if number not in names
            }
        )
        was_blocked = ui.deviceList.blockSignals(True)
        ui.deviceList.clear()
        for row, number in enumerate(sorted(names)):
            ui.deviceList.addItem(f"{number}: {names[number]}")
            item = ui.deviceList.item(row)
            item.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled)
            item.setCheckState(qt.Qt.Checked if number in chosen else qt.Qt.Unchecked)
            item.setData(qt.Qt.UserRole, number)
        ui.deviceList.blockSignals(was_blocked)
        ui.deviceList.visible = bool(names)
        ui.deviceList.setMaximumHeight(22 * len(names) + 6)
        ui.cpuLabel.text = _("CPU, processes:") if not names else _("or the CPU, processes:")
        ui.processesBox.enabled = not chosen

    def _devices_chosen(self):
        items = [self.ui.deviceList.item(row) for row in range(self.ui.deviceList.count)]
        checked = [str(item.data(qt.Qt.UserRole)) for item in items if item.checkState() == qt.Qt.Checked]
        self._put_with_suggestion(trainingDevices=",".join(checked))

    def _folder_chosen(self):
        path = self.ui.runBox.currentData
        if path == BROWSE:
            path = qt.QFileDialog.getExistingDirectory(self.ui.runBox, _("Choose the folder of a run"))
            path = path or self.choices.trainingFolder
        self._put(trainingFolder=path)

    def _ask_file(self, widget, title, kinds):
        return qt.QFileDialog.getOpenFileName(widget, title, "", kinds) or None

    def corrections_folder(self):
        """Where corrections go."""
        return Path(self.choices.correctionsFolder or corrections.usual_folder())

    # What is in the data

    def look(self):
        """Look through the data set beside Slicer; the answer comes later."""
        arguments = recipes.data_arguments(self.choices)
        self.stop_look()
        self._say_data(_("Looking through the data..."))
        folder = make_temporary_folder()

        def tell(event):
            if event["event"] == "progress":
                self._say_data(_("Looking through the data, scan {done} of {total}...").format(**event))

        def ended(result, message):
            self.stop_look()
            self._looked_at = arguments
            if message is None:
                self._say_data(_in_words(result), result["problems"])
            else:
                self._say_data(message)

        try:
            worker = Worker(self.choices.interpreter, ["data", *arguments], folder, tell, lambda line: None, ended)
        except PanelError:
            remove_folder(folder)
            raise
        self._look = worker, folder

    def stop_look(self):
        """End a look under way."""
        if self._look is not None:
            worker, folder = self._look
            self._look = None
            worker.stop()
            remove_folder(folder)

    def _show_look(self):
        """Only what was found with the present choices is shown."""
        choices, ui = self.choices, self.ui
        ui.lookButton.enabled = bool(choices.trainingData)
        if self._look is None and (not choices.trainingData or recipes.data_arguments(choices) != self._looked_at):
            self._say_data("")

    def _say_data(self, text, problems=()):
        ui = self.ui
        ui.dataLabel.text = text
        ui.dataLabel.visible = bool(text)
        ui.dataProblems.visible = bool(problems)
        ui.dataProblems.plainText = "\n".join(f"{p['file']}: {p['message']}" for p in problems)

    # The run

    def start(self):
        """Start a run with the present choices, in the chosen folder or in a new one."""
        choices = self.choices
        recipes.starting_weights(choices)
        recipes.data_arguments(choices)
        self._when_python_is_ready(self._start)

    def _start(self):
        choices = self.choices
        arguments = recipes.train_arguments(choices, self._devices())
        folder = self._new_folder()
        self._begin(training.start(folder, choices.interpreter, arguments))

    def resume(self):
        """Go on with the run that is shown."""
        self._when_python_is_ready(lambda: self._begin(training.resume(self.run, self.choices.interpreter)))

    def stop(self):
        """Ask the run to save and end after its step."""
        self.run.stop()
        self._show_progress()

    def _when_python_is_ready(self, then):
        """Call `then` once the chosen Python is known to have what training needs."""
        if self.panel.known_environment() is not None:
            self._with_packages(then)
        elif self.panel.run is not None:
            raise PanelError(_("A volume is being segmented; start the training when that has ended."))
        else:
            self._say(_("Checking Python..."))
            self.panel.check_environment(lambda: self._react(lambda: self._with_packages(then)))

    def _with_packages(self, then):
        environment = self.panel.known_environment()
        if environment is None:
            raise PanelError(self.ui.environmentLabel.text)  # why the check failed
        if environment["missing"]:
            self.panel.install(environment["missing"], self.choices.interpreter)
        then()

    def _new_folder(self):
        """The chosen folder, or a new one: where a run is already, or none is chosen."""
        choices = self.choices
        if choices.trainingFolder and not training.has_snapshot(choices.trainingFolder):
            return Path(choices.trainingFolder)  # new, or its run ended before there was anything to lose
        name = f"{Path(choices.trainingData).stem} {choices.trainingVariant}"
        parent = Path(choices.trainingFolder).parent if choices.trainingFolder else Path.home() / "GaborSeg" / "runs"
        number = 1
        while (parent / f"{name} {number}").exists():
            number += 1
        return parent / f"{name} {number}"

    def _begin(self, run):
        if self.run is not None:
            self.run.close()
        self.run = run
        self._wants_chart = True
        self._put(trainingFolder=str(run.folder))
        parameters.remember(self.choices)
        self.ui.trainingButton.collapsed = True
        self.show_choices()

    def _show_run(self):
        """Show the run of the chosen folder, which may have been started by another Slicer, or in a terminal."""
        folder = self.choices.trainingFolder
        if self.run is not None and str(self.run.folder) != folder:
            self.run.close()
            self.run = None
        if self.run is None and folder:
            self.run = TrainingRun(folder)
            if self.run.state != RUNNING:
                self._offer_weights()
        if self.run is not None and self.run.state != FINISHED:
            self._timer.start()  # also where nothing runs: somebody may go on with it in a terminal
        self._show_progress()

    def _poll(self):
        run = self.run
        if run is None:
            self._timer.stop()
            return
        rows = len(run.rows)
        was_running = run.state == RUNNING
        try:
            run.update()
        except PanelError as error:
            run.stopping = False
            self.panel.show_error(str(error))
        if run.state == FINISHED:
            self._timer.stop()
        if self.choices is None:
            return
        self._show_progress()
        if len(run.rows) != rows:
            self._draw()
        if was_running and run.state != RUNNING:
            self._offer_weights()
            if run.state in (FAILED, KILLED):
                self.panel.show_error(run.status())

    def _offer_weights(self):
        """Let the weights of an ended run stand in the list of the Segment tab."""
        path = self.run.weights
        if path and str(path) not in parameters.recent_files("weights"):
            parameters.remember_file("weights", str(path))
            self.panel.show_choices()

    def _show_progress(self):
        ui, run = self.ui, self.run
        there = run is not None and run.exists
        running = there and run.state == RUNNING
        ui.trainingChoices.enabled = not running
        ui.trainButton.enabled = not running
        ui.stopButton.enabled = running and not run.stopping
        ui.resumeButton.visible = there and run.can_resume
        ui.trainingBar.visible = running
        ui.runButton.visible = there and bool(run.rows or run.problems)
        if not there:
            self._say("")
            return
        ui.trainingBar.value = round(BAR * run.fraction)
        text, *more = run.status().splitlines() or [""]
        if not running and run.state == FINISHED and run.weights:
            text += " " + _("Its weights stand in the list of the Segment tab.")
        self._say(_("{run}: {status}").format(run=run.folder.name, status=text))
        ui.trainingNotes.visible = bool(run.problems or more)
        notes = "\n".join([*run.problems, *(more if run.state != FAILED else [])])
        if ui.trainingNotes.plainText != notes:
            ui.trainingNotes.plainText = notes
        self._show_dice()

    def _say(self, text):
        self.ui.trainingLabel.text = text
        self.ui.trainingLabel.visible = bool(text)

    def _show_dice(self):
        """Dice per structure, of the last validation and of the best one."""
        table, run = self.ui.diceTable, self.run
        validated = [row for row in run.rows if row["dice_mean"] is not None]
        table.visible = bool(validated)
        self.ui.chartButton.visible = bool(run.rows)
        if not validated:
            return
        last, best = validated[-1], max(validated, key=lambda row: row["dice_mean"])
        names = run.structures
        table.setColumnCount(3)
        table.setHorizontalHeaderLabels(
            [
                _("Structure"),
                _("Dice, epoch {n}").format(n=int(last["epoch"])),
                _("best, epoch {n}").format(n=int(best["epoch"])),
            ]
        )
        table.setRowCount(len(names) + 1)
        for i, (name, key) in enumerate([(_("Mean"), "dice_mean"), *((name, name) for name in names)]):
            for j, text in enumerate((name, *("" if row[key] is None else f"{row[key]:.3f}" for row in (last, best)))):
                item = qt.QTableWidgetItem(text)
                if j:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                table.setItem(i, j, item)

    def _draw(self):
        """Bring the chart up to date; at the start of a run it is shown by itself."""
        if self.run.rows:
            chart = update_chart(self.choices.parameterNode, self.run.rows, self.run.folder.name)
            if self._wants_chart:
                self._wants_chart = False
                show_chart(chart)

    def show_chart(self):
        """Show the course of the run in the plot view."""
        self._wants_chart = True
        self._draw()

    # The end

    def _may_close(self):
        """Slicer is about to be closed: ask what becomes of the run. False to stay."""
        if self.run is None:
            return True
        self.run.update()
        if self.run.state != RUNNING:
            return True
        box = qt.QMessageBox(slicer.util.mainWindow())
        box.setIcon(qt.QMessageBox.Question)
        box.windowTitle = _("GaborSeg is training")
        box.text = _(
            "{run}: {status}\n\nShould the training go on without Slicer? Then it is shown again here when Slicer is "
            "started next. If it stops, after this step, it can be resumed then."
        ).format(run=self.run.folder.name, status=self.run.status())
        box.setStandardButtons(qt.QMessageBox.Yes | qt.QMessageBox.No | qt.QMessageBox.Cancel)
        for button, text in ((qt.QMessageBox.Yes, _("Go on without Slicer")), (qt.QMessageBox.No, _("Stop it"))):
            box.button(button).text = text
        box.setDefaultButton(qt.QMessageBox.Yes)
        answer = box.exec_()
        if answer == qt.QMessageBox.No:
            self.run.stop()
        return answer in (qt.QMessageBox.Yes, qt.QMessageBox.No)

    def close(self):
        """The panel goes; the run goes on."""
        self.stop_look()
        self._timer.stop()
        if self.run is not None:
            self.run.close()
            self.run = None
        window = slicer.util.mainWindow()
        if window is not None:
            window.removeEventFilter(self._closing)


class CloseFilter(qt.QWidget):
    """Asks before the main window closes, never shown itself; a widget, as Slicer's own recipe for this has it.

    Not at aboutToQuit or in cleanup(): by then no dialog can be shown any more.
    """

    def __init__(self, may_close):
        super().__init__()
        self._may_close = may_close

    def eventFilter(self, watched, event):
        if event.type() == qt.QEvent.Close and not self._may_close():
            event.ignore()
            return True
        return False


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
