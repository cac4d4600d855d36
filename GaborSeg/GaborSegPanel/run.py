"""One segmentation, from the click to its end: checks, the worker's two commands, the result. It knows no widget."""

import logging

from slicer.i18n import tr as _

from . import PanelError, installation, parameters, protocol
from .results import show_results
from .scan import check_volume, read_labels, write_volume
from .worker import Worker, make_temporary_folder, remove_folder

# Steps of the progress bar: checking Python, checking the scan, the library's four, the surfaces.
STEPS = 7


class Run:
    """Segments the volume that the choices name; ends exactly once, by itself, by an error or by `cancel`.

    Args:
        choices: `Parameters`.
        environment: the worker's `environment` result, or None if it is not known yet.
        on_progress: called with (stage in words, steps done).
        on_log: called with a line; on_warning: with a line that the user should see.
        on_environment: called with a newly found environment.
        on_end: called with (segmentation node, None) or (None, message); (None, None) after `cancel`.
        install: called with (missing packages, interpreter); raises PanelError if they are not there afterwards.
    """

    def __init__(
        self,
        choices,
        environment,
        on_progress,
        on_log,
        on_warning,
        on_environment,
        on_end,
        install=installation.ask_and_install,
    ):
        self.volume = choices.inputVolume
        self._segmentation = choices.outputSegmentation
        self._weights = parameters.weights_file(choices)
        self._own_weights = bool(choices.weights)
        self._variant = choices.variant
        self._device, self._interpreter = choices.device, choices.interpreter
        self._environment = environment
        self._on_progress, self._on_log, self._on_warning = on_progress, on_log, on_warning
        self._on_environment, self._on_end, self._install = on_environment, on_end, install
        self._warnings = set()  # `check` and `segment` find the same ones
        self.worker = self.folder = self._affine = None
        self.ended = False

    def start(self):
        self._guarded(self._begin)

    def cancel(self):
        """End at once, and leave nothing behind."""
        self._end(None, None)

    def forget_output(self):
        """The output node is gone: the result goes into a new one."""
        self._segmentation = None

    @property
    def segmentation(self):
        return self._segmentation

    def _begin(self):
        check_volume(self.volume)
        self._check_weights()
        self.folder = make_temporary_folder()
        if self._environment is None or self._environment["missing"]:
            self._on_progress(_("Checking Python"), 0)
            self._command(["environment"], self._have_environment)
        else:
            self._check_scan()

    def _check_weights(self):
        if not self._own_weights and not parameters.are_bundled(self._variant):
            raise PanelError(
                _(
                    "{variant}: no weights of this variant came with this copy; choose another variant or a weight "
                    "file."
                ).format(variant=self._variant)
            )
        parameters.read_card(self._weights)

    def _have_environment(self, environment, asked=False):
        self._on_environment(environment)
        if not environment["missing"]:
            self._check_scan()
        elif asked:
            raise PanelError(
                _(
                    "{names}: still missing after the installation; restart Slicer, or choose another Python on the "
                    "Advanced tab."
                ).format(names=", ".join(environment["missing"]))
            )
        else:
            self._install(environment["missing"], self._interpreter)
            if not self.ended:  # closed while the question stood there
                self._command(["environment"], lambda found: self._have_environment(found, asked=True))

    def _check_scan(self):
        self._on_progress(_("Checking the scan"), 1)
        self._affine = write_volume(self.volume, self._scan)
        self._command(["check", self._scan, *self._options], lambda result: self._segment())

    def _segment(self):
        self._on_progress(_("Loading the network"), 2)
        self._command(["segment", self._scan, "-o", self._labels, *self._options], self._show)

    def _show(self, result):
        self._on_progress(_("Making the surfaces"), STEPS - 1)
        labels = read_labels(self._labels, self.volume, self._affine)
        # The scan's name in the result is that of a temporary file.
        provenance = {**result["provenance"], "scan": self.volume.GetName(), "weights_file": self._weights}
        segmentation = show_results(
            self.volume, labels, result["volumes"], provenance, self._segmentation, result["quality"]
        )
        self._on_progress(_("Done"), STEPS)
        self._end(segmentation, None)

    @property
    def _scan(self):
        return self.folder / "scan.nii"

    @property
    def _labels(self):
        return self.folder / "labels.nii"

    @property
    def _options(self):
        return ["--weights", self._weights, "--device", self._device]

    def _command(self, arguments, then):
        def ended(result, message):
            self.worker = None
            if message is None:
                self._guarded(then, result)
            else:
                self._end(None, self._in_users_words(message))

        self.worker = Worker(self._interpreter, arguments, self.folder, self._event, self._on_log, ended)

    def _event(self, event):
        if event["event"] == protocol.PROGRESS:
            self._on_progress(event["stage"], 2 + event["done"])
        elif event["event"] == protocol.WARNING and event["message"] not in self._warnings:
            self._warnings.add(event["message"])
            self._on_warning(self._in_users_words(event["message"]))

    def _in_users_words(self, message):
        """The library names the temporary file; the user knows the volume by its name."""
        return message.replace(str(self._scan), self.volume.GetName())

    def _guarded(self, step, *arguments):
        """Run one step; whatever goes wrong in it ends the run with a message."""
        try:
            step(*arguments)
        except PanelError as error:
            self._end(None, str(error))
        except Exception as error:
            logging.exception("GaborSeg: unexpected error")
            self._end(
                None,
                _("Unexpected {kind}: {error}. The Python console shows where.").format(
                    kind=type(error).__name__, error=error
                ),
            )

    def _end(self, segmentation, message):
        if self.ended:
            return
        self.ended = True
        if self.worker is not None:
            self.worker.stop()
            self.worker = None
        if self.folder is not None:
            remove_folder(self.folder)
        self._on_end(segmentation, message)
