"""Python of the worker: which one, what it has, and which devices it can use."""

from slicer.i18n import tr as _

from .. import PanelError, installation, protocol
from ..widgets import BROWSE, PathBox, ask_file
from ..worker import Query
from . import Section


class EnvironmentSection(Section):
    """Chooses and checks the Python that does the work.

    Attributes:
        found: the worker's `environment` result: what its Python has and which devices there are; None if not known.
        install: called with (the `environment` result, interpreter); raises PanelError if nothing was installed.
    """

    def __init__(self, panel):
        super().__init__(panel)
        self.found = None
        self.install = installation.ask_and_install
        self._query = None  # the check under way
        self._asked = None  # the interpreter that `found` is of
        ui = self.ui
        self._interpreters = PathBox(ui.interpreterBox, "interpreter")
        ui.installButton.visible = False
        self.when(ui.interpreterBox, "currentIndexChanged(int)", self._interpreter_chosen)
        self.when(ui.checkButton, "clicked(bool)", self.check)
        self.when(ui.installButton, "clicked(bool)", self._install_missing)

    def show(self):
        self._interpreters.show([(_("Slicer's own"), "")], self.choices.interpreter)

    def read_again(self):
        self._interpreters.read_again()

    def close(self):
        self.stop_check()

    @property
    def devices(self):
        """Of the `environment` result, a list of dictionaries; [] if they are not known."""
        return self.found["devices"] if self.found else []

    def known(self):
        """What the chosen Python has, or None if that is not known."""
        return self.found if self._asked == self.choices.interpreter else None

    def check_once(self):
        """Find the devices, if that is not done yet."""
        if self.found is None and self._query is None:
            self.check()

    def check(self, then=None):
        """Ask the chosen Python what it has; the answer comes later, well or badly, and then `then` is called."""
        if self.choices is None or self.panel.segment.run is not None:
            return
        self.stop_check()
        self.ui.environmentLabel.text = _("Checking...")

        def ended(result, message):
            self._query = None
            if message is None:
                self.take(result)
            else:
                self._failed(message)
            if then is not None:
                then()

        try:
            self._query = Query(
                self.choices.interpreter, ["environment"], lambda event: None, self.panel.segment.log, ended
            )
        except PanelError as error:
            ended(None, str(error))

    def stop_check(self):
        """End a check under way."""
        if self._query is not None:
            self._query.stop()
            self._query = None

    def take(self, found):
        """Take what was found about the chosen Python, by a check or by a run, and show it."""
        self.found, self._asked = found, self.choices.interpreter
        self.panel.segment.log(f"Python {found['python']}, {found['executable']}")
        lines = [f"Python {found['python']}"]
        lines += [_package(name, version, name in found["missing"]) for name, version in found["versions"].items()]
        lines += [
            _("{name}: {free} of {total} MiB free").format(
                name=device["name"], free=device["free_mib"], total=device["total_mib"]
            )
            for device in found["devices"]
            if device["free_mib"] is not None
        ]
        if not found["missing"]:
            lines.append(_("Everything that segmenting needs is there."))
        self.ui.environmentLabel.text = "\n".join(lines)
        if found["missing"]:
            self.ui.environmentButton.collapsed = False
        self.ui.installButton.visible = bool(found["missing"]) and not self.choices.interpreter
        self.panel.show_choices()

    def _failed(self, message):
        self.found = None
        self.ui.environmentButton.collapsed = False
        self.ui.environmentLabel.text = message
        self.ui.installButton.visible = False

    def _interpreter_chosen(self):
        path = self.ui.interpreterBox.currentData
        if path == BROWSE:
            path = ask_file(self.ui.interpreterBox, _("Choose a Python that has torch"), _("Programs (*)"))
        self.put(interpreter=self.choices.interpreter if path is None else path)
        self.check()

    def _install_missing(self):
        try:
            self.install(self.found, self.choices.interpreter)
        except installation.Declined:
            pass  # the list of what is missing stays
        except PanelError as error:
            self.panel.show_error(str(error))
        self.check()


def _package(name, version, is_missing):
    if version and is_missing:
        oldest = protocol.REQUIREMENTS[name]
        return _("{name} {version}, {oldest} or later is needed").format(name=name, version=version, oldest=oldest)
    return f"{name} {version or _('is not installed')}"
