"""What the widgets do: they and the parameter node are kept alike, runs are started and shown, Python is checked."""

import csv
import time

import qt
import slicer
from slicer.i18n import tr as _

from . import PanelError, installation, parameters, results
from .corrections import count_cases, take_correction
from .run import STEPS, Run
from .training_panel import TrainingPanel
from .widgets import BROWSE, VARIANT_NAMES, fill, fill_paths
from .worker import Worker, make_temporary_folder, remove_folder

DOUBLE_CLICK = 0.4  # seconds in which a second click on Segment is not yet one on Cancel


class Panel:
    """Works the widgets of one module panel.

    Args:
        ui: the widgets of GaborSeg.ui, as attributes.
    """

    def __init__(self, ui):
        self.ui = ui
        self.choices = None  # Parameters; None while there is no scene to keep them in
        self.run = None  # the run under way
        self.environment = None  # what the worker's Python has and which devices there are; None if not known
        self.show_error = slicer.util.errorDisplay  # for the self-test, which has nobody to close a message
        self.install = installation.ask_and_install
        self._check = None  # (worker, folder) of an environment check under way
        self._checked_interpreter = None
        self._observed = None  # (parameter node, observer tag)
        self._filling = False
        self._connect()
        self.training = TrainingPanel(self)
        for widget in (ui.progressBar, ui.statusLabel, ui.resultsButton, ui.installButton, ui.learnLabel):
            widget.visible = False
        ui.progressBar.maximum = STEPS
        results.load_terminology()

    def _connect(self):
        ui = self.ui
        ui.segmentButton.connect("clicked(bool)", lambda checked: self.segment_or_cancel())
        ui.variantBox.connect("currentIndexChanged(int)", lambda index: self._variant_chosen())
        ui.weightsBox.connect("currentIndexChanged(int)", lambda index: self._weights_chosen())
        ui.deviceBox.connect("currentIndexChanged(int)", lambda index: self._device_chosen())
        ui.interpreterBox.connect("currentIndexChanged(int)", lambda index: self._interpreter_chosen())
        ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: self._input_chosen(node))
        ui.outputSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: self._output_chosen(node))
        ui.copyButton.connect("clicked(bool)", lambda checked: self._copy_volumes())
        ui.saveButton.connect("clicked(bool)", lambda checked: self._save_volumes())
        ui.checkButton.connect("clicked(bool)", lambda checked: self.check_environment())
        ui.installButton.connect("clicked(bool)", lambda checked: self._install_missing())
        ui.learnButton.connect("clicked(bool)", lambda checked: self.learn())
        ui.learnFolderButton.connect("clicked(bool)", lambda checked: self._choose_corrections_folder())

    # The parameter node

    def set_parameter_node(self, node):
        """Show and change the choices in this node from now on; None for no node."""
        if self.choices is not None and self.choices.parameterNode is node:
            return
        if self._observed is not None:
            observed, tag = self._observed
            observed.RemoveObserver(tag)
        self.choices = self._observed = None
        if node is None:
            return
        self.choices = parameters.wrap(node)
        self._observed = (node, node.AddObserver("ModifiedEvent", lambda caller, event: self.show_choices()))
        if self.choices.inputVolume is None:
            self.choices.inputVolume = _first_scalar_volume()
        self.show_choices()

    def show_choices(self):
        """Bring every widget in line with the parameter node."""
        if self.choices is None or self._filling:
            return
        ui, choices = self.ui, self.choices
        self._filling = True
        try:
            ui.inputSelector.setCurrentNode(choices.inputVolume)
            ui.outputSelector.setCurrentNode(choices.outputSegmentation)
        finally:
            self._filling = False
        fill(ui.variantBox, [(VARIANT_NAMES[name], name) for name in parameters.VARIANTS], choices.variant)
        fill_paths(ui.weightsBox, [(_("Bundled"), "")], "weights", choices.weights)
        fill_paths(ui.interpreterBox, [(_("Slicer's own"), "")], "interpreter", choices.interpreter)
        fill(ui.deviceBox, self._device_items(choices.device), choices.device)
        ui.cardLabel.text = _card_line(choices)
        self._show_results(choices.outputSegmentation)
        self.training.show_choices()

    def _device_items(self, current):
        items = [(_("Auto"), "auto"), (_("CPU"), "cpu")]
        for device in self.environment["devices"] if self.environment else []:
            if device["id"] != "cpu":
                free = f"{device['free_mib'] / 1024:.1f}"
                items.append((_("{name}, {free} GiB free").format(name=device["name"], free=free), device["id"]))
        if current not in [value for text, value in items]:
            items.append((_("{device} (not seen here)").format(device=current), current))
        return items

    # Choices of the user

    def _variant_chosen(self):
        if self.choices is not None and not self._filling:
            with slicer.util.NodeModify(self.choices.parameterNode):
                self.choices.variant = self.ui.variantBox.currentData
                self.choices.weights = ""

    def _weights_chosen(self):
        if self.choices is None or self._filling:
            return
        path = self.ui.weightsBox.currentData
        if path == BROWSE:
            path = self._ask_file(_("Choose a weight file"), _("Weights of GaborSeg (*.safetensors)"))
        self.choose_weights(path if path is not None else self.choices.weights)

    def choose_weights(self, path):
        """Take a weight file ("" for the bundled one), and the variant that it says it is of."""
        try:
            with slicer.util.NodeModify(self.choices.parameterNode):
                if path:
                    self.choices.variant = parameters.read_card(path)["variant"]
                self.choices.weights = str(path)
        except PanelError as error:
            self.show_error(str(error))
        self.show_choices()

    def _device_chosen(self):
        if self.choices is not None and not self._filling:
            self.choices.device = self.ui.deviceBox.currentData

    def _interpreter_chosen(self):
        if self.choices is None or self._filling:
            return
        path = self.ui.interpreterBox.currentData
        if path == BROWSE:
            path = self._ask_file(_("Choose a Python that has torch"), _("Programs (*)"))
        self.choices.interpreter = self.choices.interpreter if path is None else path
        self.show_choices()
        self.check_environment()

    def _input_chosen(self, volume):
        """Another scan's result goes into a node of its own, unless the user then chooses otherwise."""
        if self.choices is None or self._filling:
            return
        output = self.choices.outputSegmentation
        role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        self.ui.learnLabel.visible = False
        with slicer.util.NodeModify(self.choices.parameterNode):
            self.choices.inputVolume = volume
            if output is not None and output.GetNodeReference(role) is not volume:
                self.choices.outputSegmentation = None

    def _output_chosen(self, segmentation):
        if self.choices is not None and not self._filling:
            self.choices.outputSegmentation = segmentation

    def _ask_file(self, title, kinds):
        """A path, or None if the user cancels."""
        return qt.QFileDialog.getOpenFileName(self.ui.segmentButton, title, "", kinds) or None

    # A run

    def segment_or_cancel(self):
        if self.run is None:
            self.segment()
        elif time.monotonic() - self._started > DOUBLE_CLICK:
            self.cancel()

    def segment(self):
        if self.choices is None:
            return
        parameters.remember(self.choices)
        self.stop_check()  # the run asks for itself, and two would load torch twice at the same time
        self.ui.log.plainText = ""
        self._warnings = []
        self._started = time.monotonic()
        self.run = Run(
            self.choices,
            self.known_environment(),
            self._progress,
            self._log,
            self._warning,
            self._have_environment,
            self._ended,
            self.install,
        )
        self._show_running(True)
        self.run.start()

    def cancel(self):
        """End the run under way, if there is one."""
        if self.run is not None:
            self.run.cancel()

    def node_removed(self, node):
        """A node leaves the scene: the input takes its run with it, the output is made anew."""
        if self.run is None:
            return
        if node is self.run.volume:
            name = node.GetName()
            self.cancel()
            self._say(_("{name} was deleted; cancelled.").format(name=name))
        elif node is self.run.segmentation:
            self.run.forget_output()

    def _progress(self, stage, done):
        self._say(_("{stage}...").format(stage=stage))
        self.ui.progressBar.value = done
        if done == STEPS - 1:
            # Surfaces take a moment: show the words first.
            slicer.app.processEvents(qt.QEventLoop.ExcludeUserInputEvents)

    def _log(self, line):
        self.ui.log.appendPlainText(line)

    def _warning(self, message):
        self._warnings.append(message)
        self._log(message)

    def _ended(self, segmentation, message):
        self.run = None
        self._show_running(False)
        if segmentation is not None:
            self.choices.outputSegmentation = segmentation
            self.show_choices()
            facts = results.provenance(segmentation)
            done = _("{count} structures in {seconds} s on {device}.").format(
                count=len(results.volume_rows(results.volumes_table(segmentation))), **facts
            )
            self._say("\n".join([done, *self._warnings]))
        elif message is None:
            self._say(_("Cancelled."))
        else:
            self._say(message)
            self._log(message)
            self.show_error(message)

    def _show_running(self, running):
        self.ui.segmentButton.text = _("Cancel") if running else _("Segment")
        self.ui.segmentButton.toolTip = (
            _("End this run; the scene stays as it is")
            if running
            else _("Segment the volume; Slicer can be used meanwhile")
        )
        self.ui.progressBar.visible = running
        self.ui.progressBar.value = 0

    def _say(self, text):
        self.ui.statusLabel.text = text
        self.ui.statusLabel.visible = bool(text)

    # Results

    def _show_results(self, segmentation):
        ui, table = self.ui, results.volumes_table(segmentation)
        ui.resultsButton.visible = table is not None
        shown = segmentation if table is not None else None
        ui.segmentsTable.setSegmentationNode(shown)
        ui.show3DButton.setSegmentationNode(shown)
        rows = results.volume_rows(table) if table is not None else []
        ui.volumesTable.setColumnCount(len(results.COLUMNS))
        ui.volumesTable.setHorizontalHeaderLabels(
            [
                _("Structure"),
                _("Volume (mL)"),
                _("% of all"),
                _("Quality"),
            ]
        )
        ui.volumesTable.setRowCount(len(rows))
        for i, row in enumerate(rows):
            for j, text in enumerate(row):
                item = qt.QTableWidgetItem(text)
                if j:
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                ui.volumesTable.setItem(i, j, item)
        ui.volumesTable.resizeColumnsToContents()
        ui.provenanceLabel.text = _provenance_line(results.provenance(segmentation)) if rows else ""

    def _copy_volumes(self):
        rows = [results.COLUMNS, *results.volume_rows(results.volumes_table(self.choices.outputSegmentation))]
        slicer.app.clipboard().setText("\n".join("\t".join(row) for row in rows))

    def _save_volumes(self):
        segmentation = self.choices.outputSegmentation
        path = qt.QFileDialog.getSaveFileName(
            self.ui.saveButton,
            _("Save the volumes"),
            f"{results.volumes_table(segmentation).GetName()}.csv",
            _("Table (*.csv)"),
        )
        if not path:
            return
        try:
            with open(path, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([results.COLUMNS, *results.volume_rows(results.volumes_table(segmentation))])
        except OSError as error:
            self.show_error(
                _("{path}: cannot be written ({reason}); choose another folder.").format(
                    path=path, reason=error.strerror
                )
            )

    # Corrections

    def learn(self):
        """Take the shown volume and its corrected segmentation as a case to train on."""
        choices, folder = self.choices, self.training.corrections_folder()
        try:
            case, overlap = take_correction(choices.inputVolume, choices.outputSegmentation, folder)
        except PanelError as error:
            self.show_error(str(error))
            return
        parameters.remember(choices)
        lines = [
            _("Added as {case} to {folder}; corrections there: {count}.").format(
                case=case, folder=folder, count=count_cases(folder)
            )
        ]
        if overlap:
            lines.append(
                _("{count} voxels were in several segments; the later one in the list has them.").format(count=overlap)
            )
        lines.append(_("To learn from them: Advanced tab, training data, Corrections."))
        self.ui.learnLabel.text = " ".join(lines)
        self.ui.learnLabel.visible = True
        self.training.show_choices()

    def _choose_corrections_folder(self):
        folder = qt.QFileDialog.getExistingDirectory(
            self.ui.learnButton,
            _("Choose the folder that corrections go to"),
            str(self.training.corrections_folder()),
        )
        if folder:
            self.choices.correctionsFolder = folder

    # The worker's environment

    def known_environment(self):
        """What the chosen Python has, or None if that is not known."""
        return self.environment if self._checked_interpreter == self.choices.interpreter else None

    def check_environment(self, then=None):
        """Ask the chosen Python what it has; the answer comes later, well or badly, and then `then` is called."""
        if self.choices is None or self.run is not None:
            return
        self.stop_check()
        self.ui.environmentLabel.text = _("Checking...")
        folder = make_temporary_folder()

        def ended(result, message):
            self.stop_check()
            if message is None:
                self._have_environment(result)
            else:
                self._environment_failed(message)
            if then is not None:
                then()

        try:
            worker = Worker(self.choices.interpreter, ["environment"], folder, lambda event: None, self._log, ended)
            self._check = (worker, folder)
        except PanelError as error:
            remove_folder(folder)
            self._environment_failed(str(error))
            if then is not None:
                then()

    def stop_check(self):
        """End an environment check under way."""
        if self._check is not None:
            worker, folder = self._check
            self._check = None
            worker.stop()
            remove_folder(folder)

    def enter(self):
        """The user opens the panel: find the devices, if that is not done yet."""
        if self.environment is None and self._check is None:
            self.check_environment()

    def close(self):
        """The panel goes: end everything."""
        self.cancel()
        self.stop_check()
        self.training.close()
        self.set_parameter_node(None)

    def _have_environment(self, environment):
        self.environment = environment
        self._checked_interpreter = self.choices.interpreter
        self._log(f"Python {environment['python']}, {environment['executable']}")
        lines = [f"Python {environment['python']}"]
        lines += [f"{name} {version or _('is not installed')}" for name, version in environment["versions"].items()]
        lines += [
            _("{name}: {free} of {total} MiB free").format(
                name=device["name"], free=device["free_mib"], total=device["total_mib"]
            )
            for device in environment["devices"]
            if device["free_mib"] is not None
        ]
        if not environment["missing"]:
            lines.append(_("Everything that segmenting needs is there."))
        self.ui.environmentLabel.text = "\n".join(lines)
        if environment["missing"]:
            self.ui.environmentButton.collapsed = False
        self.ui.installButton.visible = bool(environment["missing"]) and not self.choices.interpreter
        self.show_choices()

    def _environment_failed(self, message):
        self.environment = None
        self.ui.environmentButton.collapsed = False
        self.ui.environmentLabel.text = message
        self.ui.installButton.visible = False

    def _install_missing(self):
        try:
            self.install(self.environment["missing"], self.choices.interpreter)
        except PanelError as error:
            self.show_error(str(error))
        self.check_environment()


def _first_scalar_volume():
    """The first volume of the scene that is not a label map or of another kind, or None."""
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return next((volume for volume in volumes if volume.GetClassName() == "vtkMRMLScalarVolumeNode"), None)


def _card_line(choices):
    """What the chosen weight file says about itself, in one line."""
    if not choices.weights and not parameters.bundled_weights(choices.variant).is_file():
        return _("None came with this copy; choose other kernels or a weight file.")
    try:
        card = parameters.read_card(parameters.weights_file(choices))
    except PanelError as error:
        return str(error)
    facts = [_("{count} structures").format(count=len(card["structures"]))]
    dice = card.get("scores", {}).get("validation", {}).get("dice_mean")
    if dice is not None:
        facts.append(_("validation Dice {dice}").format(dice=f"{dice:.2f}"))
    licence = card.get("licence")
    if licence:
        facts.append(_("licence: {licence}").format(licence=licence))
    facts.append(_("hash {hash}").format(hash=card["sha256"][:8]))
    return ", ".join(facts)


def _provenance_line(facts):
    text = _("{weights} ({variant} kernels, hash {hash}), GaborSeg {gaborseg}, torch {torch}, {seconds} s on {device}.")
    return text.format(hash=facts["weights_sha256"][:8], **facts) + " " + _("For research, not for diagnosis.")
