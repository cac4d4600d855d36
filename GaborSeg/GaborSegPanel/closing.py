"""What becomes of a run when Slicer is closed."""

import qt
import slicer
from slicer.i18n import tr as _

from .training import RUNNING
from .training_status import status


class CloseFilter(qt.QWidget):
    """Asks before the main window closes, never shown itself; a widget, as Slicer's own recipe for this has it.

    Not at aboutToQuit or in cleanup(): by then no dialog can be shown any more.

    Args:
        may_close: called when the window is about to be closed; False to stay.
    """

    def __init__(self, may_close):
        super().__init__()
        self._may_close = may_close
        if slicer.util.mainWindow() is not None:
            slicer.util.mainWindow().installEventFilter(self)

    def remove(self):
        """Ask no more."""
        if slicer.util.mainWindow() is not None:
            slicer.util.mainWindow().removeEventFilter(self)

    def eventFilter(self, watched, event):
        if event.type() == qt.QEvent.Close and not self._may_close():
            event.ignore()
            return True
        return False


def goes_on_or_stops(run):
    """Ask, if a `TrainingRun` is alive, whether it should go on without Slicer. False if Slicer should stay open."""
    run.update()
    if run.state != RUNNING:
        return True
    box = qt.QMessageBox(slicer.util.mainWindow())
    box.setIcon(qt.QMessageBox.Question)
    box.windowTitle = _("GaborSeg is training")
    box.text = _(
        "{run}: {status}\n\nShould the training go on without Slicer? Then it is shown again here when Slicer is "
        "started next. If it stops, after this step, it can be resumed then."
    ).format(run=run.folder.name, status=status(run))
    box.setStandardButtons(qt.QMessageBox.Yes | qt.QMessageBox.No | qt.QMessageBox.Cancel)
    for button, text in ((qt.QMessageBox.Yes, _("Go on without Slicer")), (qt.QMessageBox.No, _("Stop it"))):
        box.button(button).text = text
    box.setDefaultButton(qt.QMessageBox.Yes)
    answer = box.exec_()
    if answer == qt.QMessageBox.No:
        run.stop()
    return answer in (qt.QMessageBox.Yes, qt.QMessageBox.No)
