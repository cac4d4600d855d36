"""Results: the structures, their volumes, and how they were made."""

import csv

import qt
import slicer
from slicer.i18n import tr as _

from .. import PanelError, parameters, protocol, results, volumes
from ..widgets import NumberTable, say
from . import Section

# Columns as they are shown, the ones that are looked at first; heading, tool tip, digits.
SHOWN = {
    volumes.VOLUME: (_("mL"), _("Volume, mL"), 2),
    "left": (_("Left"), _("Volume of the half on the patient's left, mL; empty where there are no halves"), 2),
    "right": (_("Right"), _("Volume of the half on the patient's right, mL; empty where there are no halves"), 2),
    "asymmetry": (_("Asymmetry"), _("2 (left - right) / (left + right): above 0 where the left half is larger"), 3),
    volumes.PERCENT_OF_ICV: (_("% of ICV"), _("Share of the intracranial volume, %"), 3),
    volumes.PERCENT: (_("% of all"), _("Share of all the structures together, %"), 2),
    volumes.QUALITY: (
        _("Quality"),
        _("How far the segmentation can be trusted, 0 to 1, from the network itself; it ranks, it is no Dice"),
        2,
    ),
}


class ResultsSection(Section):
    """Shows the chosen segmentation, if it is a result of this program."""

    def __init__(self, panel):
        super().__init__(panel)
        # Slicer builds its table anew whenever it is told a node, also where it is the same one.
        self._shown, self._columns_shown = None, {}
        self._table = NumberTable(self.ui.volumesTable)
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
        columns = volumes.read(table) if table is not None else {}
        if columns != self._columns_shown:
            self._columns_shown = columns
            self._table.show(columns.get(volumes.STRUCTURE, []), _as_shown(columns))
        facts = results.provenance(segmentation) if columns else {}
        say(ui.doubtLabel, facts.get("doubt", ""))
        say(ui.icvLabel, _icv_line(volumes.intracranial(columns), facts.get("icv_missing", "")))
        ui.provenanceLabel.text = _provenance_line(facts) if columns else ""

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
        rows = volumes.texts(volumes.read(results.volumes_table(self.choices.outputSegmentation)))
        return [[protocol.csv_cell(protocol.printable(cell)) for cell in row] for row in rows]


def _as_shown(columns):
    """Columns for `NumberTable.show`, those that are not empty."""
    found = {title: columns.get(title, ()) for title in SHOWN}
    return [(*SHOWN[title], numbers) for title, numbers in found.items() if any(n is not None for n in numbers)]


def _icv_line(volume, missing):
    if volume is not None:
        return _("Intracranial volume (ICV): {volume} mL").format(volume=f"{volume:.1f}")
    return _("No intracranial volume (ICV): {reason}").format(reason=missing) if missing else ""


def _provenance_line(facts):
    text = _("{weights} ({variant} kernels, hash {hash}), GaborSeg {gaborseg}, torch {torch}, {seconds} s on {device}.")
    return text.format(hash=facts["weights_sha256"][:8], **facts) + " " + _("For research, not for diagnosis.")
