"""The sections of the panel: a small class each, with widgets of its own.

One more needs its widgets in Resources/UI/GaborSeg.ui, its file here, and a line in `panel.SECTIONS`.
"""

from .. import parameters


class Section:
    """A section of the panel. It connects its widgets when it is made; what happens there changes the choices, and
    every change of the choices, whoever made it, shows all sections anew.

    Args:
        panel: the `Panel`: it has the widgets (`ui`), the choices and the other sections, and shows errors.

    Attributes:
        bound: dictionary from names of parameters to plain widgets that Slicer's parameter node wrapper keeps alike.
            Not line edits: it writes them back at every key, and the cursor jumps to the end of the line.
    """

    def __init__(self, panel):
        self.panel, self.ui = panel, panel.ui
        self.bound = {}

    @property
    def choices(self):
        """`parameters.Choices`; None while there is no scene to keep them in."""
        return self.panel.choices

    def show(self):
        """Bring the widgets in line with the choices. It reads no file that it has read for the same choices."""

    def read_again(self):
        """Forget what was read from files, which may have changed: the user came back or did something, a run ended."""

    def close(self):
        """The panel goes: end what is under way."""

    def when(self, widget, signal, react):
        """Call `react` at a widget's signal, as `Panel.react` does."""
        widget.connect(signal, lambda: self.panel.react(react))

    def put(self, **values):
        """Write choices, and show them (also where they are as before: the widget may not be)."""
        parameters.put(self.choices, **values)
        self.panel.show_choices()
