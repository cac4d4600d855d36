"""Work in turns: one step in each turn of the event loop, so that Slicer answers between any two of them."""

import qt

INTERVAL_MS = 5  # what the user and the views asked for is done meanwhile


class Turns:
    """Calls functions one after the other; a function may add more.

    Args:
        on_error: called with an exception that a step has raised; what was to follow is forgotten.
    """

    def __init__(self, on_error):
        self._on_error = on_error
        self._steps = []
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(INTERVAL_MS)
        self._timer.connect("timeout()", self._do_next)

    def add(self, step, *arguments):
        """Call `step(*arguments)` when all that was added before is done."""
        self._steps.append((step, arguments))
        self._go_on()

    def stop(self):
        """Forget what is not done yet; safe to call at any time."""
        self._timer.stop()
        self._steps = []

    def _do_next(self):
        if not self._steps:
            return
        step, arguments = self._steps.pop(0)
        try:
            step(*arguments)
        except Exception as error:
            self.stop()
            self._on_error(error)
        self._go_on()

    def _go_on(self):
        if self._steps and not self._timer.active:
            self._timer.start()
