"""Results: the structures, their volumes, and how they were made."""

import csv

import qt
import slicer
from slicer.i18n import tr as _

from .. import PanelError, parameters, protocol, results
from ..widgets import fill_table, say
from . import Section


class ResultsSection(Section):
    """Shows the chosen segmentation, if it is a result of this program."""

    def __init__(self, panel):
        super().__init__(panel)
        # Slicer builds its table anew whenever it is told a node, also where it is the same one.
        self._shown, self._rows_shown = None, []
        self.ui.resultsButton.visible = False
        self.when(self.ui.copyButton, "clicked(bool)", self.copy)
        self.when(self.ui.saveButton, "clicked(bool)", self.save)

    def show(self):
        ui, segmentation = self.ui, self.choices.outputSegmentation
        table = results.volumes_table(segmentation)
        ui.resultsButton.visible = table is not None
        shown = segmentation if table is not None else None
        if shown is not self._shown:
            self._shown = shown
            ui.segmentsTable.setSegmentationNode(shown)
            ui.show3DButton.setSegmentationNode(shown)
        rows = results.volume_rows(table) if table is not None else []
        if rows != self._rows_shown:
            self._rows_shown = rows
            fill_table(ui.volumesTable, [_("Structure"), _("Volume (mL)"), _("% of all"), _("Quality")], rows)
        facts = results.provenance(segmentation) if rows else {}
        say(ui.doubtLabel, facts.get("doubt", ""))
        ui.provenanceLabel.text = _provenance_line(facts) if rows else ""

    def copy(self):
        """Put the volumes on the clipboard, for a spreadsheet."""
        slicer.app.clipboard().setText("\n".join("\t".join(row) for row in self._rows()))

    def save(self):
        """Save the volumes where the user says."""
        table = results.volumes_table(self.choices.outputSegmentation)
        path = qt.QFileDialog.getSaveFileName(
            self.ui.saveButton, _("Save the volumes"), f"{table.GetName()}.csv", _("Table (*.csv)")
        )
        if not path:
            return
        try:
            parameters.refuse_input(self.choices, path)
            with open(path, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(self._rows())
        except OSError as error:
            raise PanelError(
                _("{path}: cannot be written ({reason}); choose another folder.").format(
                    path=path, reason=error.strerror
                )
            ) from error

    def _rows(self):
        """As a spreadsheet may have them: a table comes with the scene, whoever made that."""
        rows = results.volume_rows(results.volumes_table(self.choices.outputSegmentation))
        return [[protocol.csv_cell(protocol.printable(cell)) for cell in row] for row in (results.COLUMNS, *rows)]


def _provenance_line(facts):
    text = _("{weights} ({variant} kernels, hash {hash}), GaborSeg {gaborseg}, torch {torch}, {seconds} s on {device}.")
    return text.format(hash=facts["weights_sha256"][:8], **facts) + " " + _("For research, not for diagnosis.")
