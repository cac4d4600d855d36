"""Learn from this correction: the shown volume and its corrected segmentation become a case to train on."""

from functools import cache
from pathlib import Path

import qt
from slicer.i18n import tr as _

from .. import corrections, parameters
from ..widgets import say
from . import Section


class CorrectionsSection(Section):
    """Takes corrections into a folder, which is then training data."""

    def __init__(self, panel):
        super().__init__(panel)
        self._count = cache(corrections.count_cases)
        self.ui.learnLabel.visible = False
        self.when(self.ui.learnButton, "clicked(bool)", self.learn)
        self.when(self.ui.learnFolderButton, "clicked(bool)", self._choose_folder)

    def read_again(self):
        self._count.cache_clear()

    @property
    def folder(self):
        """Where corrections go."""
        return Path(self.choices.correctionsFolder or corrections.usual_folder())

    @property
    def count(self):
        """How many corrections are there."""
        return self._count(self.folder)

    def learn(self):
        """Take the shown volume and its corrected segmentation as a case to train on."""
        choices = self.choices
        case, overlap = corrections.take_correction(choices.inputVolume, choices.outputSegmentation, self.folder)
        parameters.remember(choices)
        self.panel.refresh()
        lines = [
            _("Added as {case} to {folder}; corrections there: {count}.").format(
                case=case, folder=self.folder, count=self.count
            )
        ]
        if overlap:
            lines.append(
                _("{count} voxels were in several segments; the later one in the list has them.").format(count=overlap)
            )
        lines.append(_("To learn from them: Advanced tab, training data, Corrections."))
        say(self.ui.learnLabel, " ".join(lines))

    def forget(self):
        """What is shown was about another volume."""
        self.ui.learnLabel.visible = False

    def _choose_folder(self):
        folder = qt.QFileDialog.getExistingDirectory(
            self.ui.learnButton, _("Choose the folder that corrections go to"), str(self.folder)
        )
        if folder:
            self.put(correctionsFolder=folder)
