"""Training, course of the run: how it stands, what it warned of, Dice of each structure, and the chart."""

from slicer.i18n import tr as _

from ..chart import show_chart, update_chart
from ..training import FAILED, FINISHED, RUNNING
from ..training_status import status
from ..widgets import fill_table, say
from . import Section

BAR = 1000  # steps of the progress bar


class TrainingCourseSection(Section):
    """Shows the run of `TrainingRunSection`."""

    def __init__(self, panel):
        super().__init__(panel)
        self._wants_chart = False  # once there is something to draw
        self._logged = None, 0  # the run whose warnings are in the log, and how many of them
        self.ui.trainingBar.maximum = BAR
        self.when(self.ui.chartButton, "clicked(bool)", self.show_chart)

    def show(self):
        ui, run = self.ui, self.panel.training.run
        there = run is not None and run.exists
        running = there and run.state == RUNNING
        ui.trainingBar.visible = running
        if not there:
            ui.runButton.visible = False
            self.say("")
            return
        ui.trainingBar.value = round(BAR * run.fraction)
        text, *more = status(run).splitlines() or [""]
        text = text if text.endswith((".", ":")) else f"{text}."  # errors end without; more may follow here
        if run.state == FINISHED and run.weights:
            text += " " + _("Its weights stand in the list of the Segment tab.")
        warnings = [problem for problem in run.problems if problem != run.error]
        self._log(run, warnings)
        if warnings:
            text += " " + _("Warnings: {count}, see the log of the Segment tab.").format(count=len(warnings))
        self.say(_("{run}: {status}").format(run=run.folder.name, status=text))
        notes = "\n".join(run.error.splitlines() if run.state == FAILED else more)
        ui.runButton.visible = bool(run.rows or more)
        ui.trainingNotes.visible = bool(more)
        if ui.trainingNotes.plainText != notes:
            ui.trainingNotes.plainText = notes
        self._show_dice(run)

    def say(self, text):
        """Show a text where the run's state stands."""
        say(self.ui.trainingLabel, text)

    def _log(self, run, warnings):
        """Put the warnings of a run into the log, each once: they may be long, and the scores are what matters here."""
        known = self._logged[1] if self._logged[0] is run else 0
        for warning in warnings[known:]:
            self.panel.segment.log(f"{run.folder.name}: {warning}")
        self._logged = run, len(warnings)

    def wants_chart(self):
        """A run was started: its chart is shown as soon as there is something to draw."""
        self._wants_chart = True

    def show_chart(self):
        """Show the course of the run in the plot view."""
        self._wants_chart = True
        self.draw()

    def draw(self):
        """Bring the chart up to date; at the start of a run it is shown by itself."""
        run = self.panel.training.run
        if run.rows:
            chart = update_chart(self.choices.parameterNode, run.rows, run.folder.name)
            if self._wants_chart:
                self._wants_chart = False
                show_chart(chart)

    def _show_dice(self, run):
        """Dice per structure, of the last validation and of the best one."""
        table = self.ui.diceTable
        validated = [row for row in run.rows if row["dice_mean"] is not None]
        table.visible = bool(validated)
        self.ui.chartButton.visible = bool(run.rows)
        if not validated:
            return
        last, best = validated[-1], max(validated, key=lambda row: row["dice_mean"])
        headers = [
            _("Structure"),
            _("Dice,\nepoch {n}").format(n=int(last["epoch"])),  # two lines, which leave room for the names
            _("best,\nepoch {n}").format(n=int(best["epoch"])),
        ]
        names = [(_("Mean"), "dice_mean"), *((name, name) for name in run.structures)]
        scores = [
            (name, *("" if row[key] is None else f"{row[key]:.3f}" for row in (last, best))) for name, key in names
        ]
        fill_table(table, headers, scores)
