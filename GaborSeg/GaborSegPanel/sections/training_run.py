"""Training, run: the run in the chosen folder is started, stopped, resumed, and followed while it may change."""

from pathlib import Path

import qt
from slicer.i18n import tr as _

from .. import PanelError, arguments, installation, parameters, protocol, training
from ..closing import CloseFilter, goes_on_or_stops
from ..training import FAILED, FINISHED, KILLED, RUNNING, TrainingRun
from ..training_status import status
from ..widgets import BROWSE, PathBox
from . import Section

INTERVAL_MS = 500


class TrainingRunSection(Section):
    """Works the run of the chosen folder, which may have been started by another Slicer, or in a terminal.

    Attributes:
        run: its `TrainingRun`; None if no folder is chosen.
    """

    def __init__(self, panel):
        super().__init__(panel)
        self.run = None
        ui = self.ui
        self._folders = PathBox(ui.runBox, "trainingFolder")
        self._timer = qt.QTimer()
        self._timer.setInterval(INTERVAL_MS)
        self._timer.connect("timeout()", self._poll)
        self._closing = CloseFilter(lambda: self.run is None or goes_on_or_stops(self.run))
        self.when(ui.runBox, "currentIndexChanged(int)", self._folder_chosen)
        self.when(ui.trainButton, "clicked(bool)", self.start)
        self.when(ui.stopButton, "clicked(bool)", self.stop)
        self.when(ui.resumeButton, "clicked(bool)", self.resume)

    def show(self):
        self._folders.show([(_("A new folder"), "")], self.choices.trainingFolder)
        self._follow_chosen()
        self._show_buttons()

    def read_again(self):
        self._folders.read_again()

    def close(self):
        """The panel goes; the run goes on."""
        self._timer.stop()
        self._let_go()
        self._closing.remove()

    def start(self):
        """Start a run with the present choices, in the chosen folder or in a new one."""
        arguments.starting_weights(self.choices)  # whether they fit is known before anything is looked for
        arguments.data_arguments(self.choices)
        self._when_python_is_ready(self._start)

    def resume(self):
        """Go on with the run that is shown."""
        self._when_python_is_ready(lambda: self._begin(training.resume(self.run, self.choices.interpreter)))

    def stop(self):
        """Ask the run to save and end after its step."""
        self.run.stop()
        self._show_run()

    def _start(self):
        choices, folder = self.choices, self._new_folder()
        options = arguments.train_arguments(choices, self.panel.environment.devices)
        for file in (folder, *(folder / name for name in training.WRITTEN)):
            parameters.refuse_input(choices, file)
        self._begin(training.start(folder, choices.interpreter, options))

    def _when_python_is_ready(self, then):
        """Call `then` once the chosen Python is known to have what training needs."""
        environment = self.panel.environment
        if environment.known() is not None:
            self._with_packages(then)
        elif self.panel.segment.run is not None:
            raise PanelError(_("A volume is being segmented; start the training when that has ended."))
        else:
            self.panel.course.say(_("Checking Python..."))
            environment.check(lambda: self.panel.react(lambda: self._with_packages(then)))

    def _with_packages(self, then):
        environment = self.panel.environment
        found = environment.known()
        if found is None:
            raise PanelError(self.ui.environmentLabel.text)  # why the check failed
        if found["missing"]:
            try:
                environment.install(found, self.choices.interpreter)
            except installation.Declined as error:
                self.panel.course.say(str(error))
                return
        then()

    def _new_folder(self):
        """The chosen folder, or a new one: where a run is already, or its weights, or none is chosen."""
        choices = self.choices
        chosen = Path(choices.trainingFolder)
        if choices.trainingFolder and not protocol.has_snapshot(chosen) and not (chosen / protocol.BEST).exists():
            return chosen  # new, or its run ended before there was anything to lose
        name = f"{Path(choices.trainingData).stem} {choices.trainingVariant}"
        parent = Path(choices.trainingFolder).parent if choices.trainingFolder else Path.home() / "GaborSeg" / "runs"
        number = 1
        while (parent / f"{name} {number}").exists():
            number += 1
        return parent / f"{name} {number}"

    def _folder_chosen(self):
        path = self.ui.runBox.currentData
        if path == BROWSE:
            path = qt.QFileDialog.getExistingDirectory(self.ui.runBox, _("Choose the folder of a run"))
            path = path or self.choices.trainingFolder
        self.put(trainingFolder=path)

    # The run that is shown

    def _begin(self, run):
        self._let_go()
        self.run = run
        self.panel.course.wants_chart()
        self.put(trainingFolder=str(run.folder))
        parameters.remember(self.choices)
        self.ui.trainingButton.collapsed = True
        self.panel.refresh()

    def _let_go(self):
        if self.run is not None:
            self.run.close()
            self.run = None

    def _follow_chosen(self):
        folder = self.choices.trainingFolder
        if self.run is not None and self.run.folder != Path(folder):
            self._let_go()
        if self.run is None and folder:
            self.run = TrainingRun(folder)
            if self.run.state != RUNNING:
                self._offer_weights()
        if self.run is not None and self.run.state != FINISHED and not self._timer.active:
            self._timer.start()  # also where nothing runs: somebody may go on with it in a terminal

    def _poll(self):
        run = self.run
        if run is None:
            self._timer.stop()
            return
        rows, was_running = len(run.rows), run.state == RUNNING
        try:
            run.update()
        except PanelError as error:
            run.stopping = False
            self.panel.show_error(str(error))
        if run.state == FINISHED:
            self._timer.stop()
        if self.choices is None:
            return
        self._show_run()
        if len(run.rows) != rows:
            self.panel.course.draw()
        if was_running and run.state != RUNNING:
            self._offer_weights()
            if run.state in (FAILED, KILLED):
                self.panel.show_error(status(run))

    def _offer_weights(self):
        """Let the weights of an ended run stand in the list of the Segment tab."""
        path = self.run.weights
        if path and str(path) not in parameters.recent_files("weights"):
            parameters.remember_file("weights", str(path))
        self.panel.refresh()

    def _show_run(self):
        self._show_buttons()
        self.panel.course.show()

    def _show_buttons(self):
        ui, run = self.ui, self.run
        there = run is not None and run.exists
        running = there and run.state == RUNNING
        ui.trainingChoices.enabled = not running
        ui.trainButton.enabled = not running
        ui.stopButton.enabled = running and not run.stopping
        ui.resumeButton.visible = there and run.can_resume
