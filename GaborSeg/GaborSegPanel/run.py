"""One segmentation, from the click to its end: checks, the worker, the result, its surfaces. It knows no widget."""

import logging
import time
from contextlib import contextmanager

from slicer.i18n import tr as _

from . import PanelError, camera, installation, parameters, protocol, results
from .scan import check_volume, read_labels, write_volume
from .surfaces import Surfaces
from .turns import Turns
from .worker import Worker, make_temporary_folder, remove_folder

# Steps of the progress bar: checking Python, the library's four and its start, then the surfaces.
SHOWN, STEPS = 6, 16


class Run:
    """Segments the volume that the choices name; ends exactly once, by itself, by an error or by `cancel`.

    The result comes in two steps: labels and volumes, then the surfaces. Every step has a turn of the event loop of its
    own.

    Args:
        choices: `Parameters`.
        environment: the worker's `environment` result, or None if it is not known yet.
        on_progress: called with (stage in words, steps done).
        on_log: called with a line; on_warning: with a line that the user should see.
        on_environment: called with a newly found environment.
        on_result: called with the segmentation node, when labels and volumes are in the scene.
        on_end: called with None or an error's message.
        install: called with (the `environment` result, interpreter); raises PanelError if nothing was installed.

    Attributes:
        result: the segmentation node, once labels and volumes are in the scene; else None.
        declined: whether it ended since the user did not want to install what is missing.
    """

    def __init__(
        self,
        choices,
        environment,
        on_progress,
        on_log,
        on_warning,
        on_environment,
        on_result,
        on_end,
        install=installation.ask_and_install,
    ):
        self.volume = choices.inputVolume
        self._name = self.volume.GetName() if self.volume else ""
        self._segmentation = choices.outputSegmentation
        self._weights = parameters.weights_file(choices)
        self._own_weights = bool(choices.weights)
        self._variant, self._sides = choices.variant, choices.sides
        self._device, self._interpreter = choices.device, choices.interpreter
        self._environment = environment
        self._on_progress, self._on_log, self._on_warning = on_progress, on_log, on_warning
        self._on_environment, self._on_result, self._on_end = on_environment, on_result, on_end
        self._install = install
        self._warnings = set()  # one may be found twice
        self._doubt = ""  # what puts all of the result in doubt
        self._seconds = {}  # of each phase
        self._turns = Turns(self._failed)
        self.worker = self.folder = self.result = self._affine = self._surfaces = None
        self.ended = self.declined = False

    def start(self):
        self._guarded(self._begin)

    def cancel(self):
        """End at once; what is not in the scene yet leaves nothing behind."""
        self._end(None)

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
            self._on_progress(_("Loading the network"), 1)
            self._turns.add(self._segment)

    def _check_weights(self):
        if not self._own_weights and not parameters.are_bundled(self._variant):
            raise PanelError(
                _(
                    "{variant}: no weights of this variant came with this copy; choose another variant or a weight "
                    "file."
                ).format(variant=self._variant)
            )
        card = parameters.read_card(self._weights)
        if self._sides and not card.get("paired", card["structures"] == list(results.structure_colours())):
            raise PanelError(
                _(
                    "{weights}: does not say which structures have a left and a right half; choose other weights, or "
                    "take the tick from Left and right."
                ).format(weights=self._weights)
            )

    def _have_environment(self, environment, asked=False):
        self._on_environment(environment)
        if not environment["missing"]:
            self._segment()
        elif asked:
            raise PanelError(
                _(
                    "{names}: still missing after the installation; restart Slicer, or choose another Python on the "
                    "Advanced tab."
                ).format(names=", ".join(environment["missing"]))
            )
        else:
            self._install(environment, self._interpreter)
            if not self.ended:  # closed while the question stood there
                self._command(["environment"], lambda found: self._have_environment(found, asked=True))

    def _segment(self):
        self._on_progress(_("Loading the network"), 1)
        with self._timed("writing the scan"):
            self._affine = write_volume(self.volume, self._scan)
        arguments = ["segment", self._scan, "-o", self._labels, "--weights", self._weights, "--device", self._device]
        arguments += ["--profile", *(["--sides"] if self._sides else [])]
        started = time.monotonic()
        self._command(arguments, lambda result: self._segmented(result, time.monotonic() - started))

    def _segmented(self, result, seconds):
        self._seconds.update(_phases(result["profile"], seconds))
        self._turns.add(self._read_labels, result)

    def _read_labels(self, result):
        self._on_progress(_("Showing the result"), SHOWN - 1)
        with self._timed("reading the labels"):
            labels = read_labels(self._labels, self.volume, self._affine)
        self._turns.add(self._show, result, labels)

    def _show(self, result, labels):
        # The scan's name in the result is that of a temporary file.
        provenance = {**result["provenance"], "scan": self._name, "weights_file": self._weights, "doubt": self._doubt}
        icv = result.get("icv")
        provenance["icv_missing"] = icv["missing"] if icv else ""
        self._is_first_in_3d = not camera.shows_other_things(self._segmentation)
        with self._timed("into the scene"):
            self.result = results.show_results(
                self.volume,
                labels,
                result["volumes"],
                provenance,
                self._segmentation,
                result["quality"],
                result["sides"],
                icv,
                result.get("segments"),
            )
        self._turns.add(self._tell_result)

    def _tell_result(self):
        self._note_seconds()
        self._on_result(self.result)
        if self.ended:
            return
        if results.wants_surfaces(self.result):
            self._turns.add(self._make_surfaces)
        else:
            self._end(None)

    def _make_surfaces(self):
        started = time.monotonic()

        def ended(are_there):
            self._seconds["surfaces"] = time.monotonic() - started
            self._turns.add(self._show_surfaces if are_there else lambda: self._end(None))

        def progress(done, total):
            text = _("Making the surfaces ({done} of {total})").format(done=done, total=total)
            self._on_progress(text, SHOWN + (STEPS - SHOWN) * done // total)

        folder = self.folder / "surfaces"
        folder.mkdir()
        self._surfaces = Surfaces(self.result, folder, progress, self._on_log, ended)

    def _show_surfaces(self):
        self._note_seconds()
        if results.show_surfaces(self.result) and self._is_first_in_3d:
            camera.fit_cameras(self.result)
        self._end(None)

    def _note_seconds(self):
        """Where the time went, with the result and in the log."""
        text = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in self._seconds.items())
        results.note(self.result, {"phases": text})
        self._on_log(text)

    @contextmanager
    def _timed(self, phase):
        started = time.monotonic()
        yield
        self._seconds[phase] = time.monotonic() - started

    @property
    def _scan(self):
        return self.folder / "scan.nii"

    @property
    def _labels(self):
        return self.folder / "labels.nii"

    def _command(self, arguments, then):
        def ended(result, message):
            self.worker = None
            if message is None:
                self._guarded(then, result)
            else:
                self._end(self._in_users_words(message))

        self.worker = Worker(self._interpreter, arguments, self.folder, self._event, self._on_log, ended)

    def _event(self, event):
        if event["event"] == protocol.PROGRESS:
            self._on_progress(event["stage"], 1 + event["done"])
        elif event["event"] == protocol.WARNING and event["message"] not in self._warnings:
            self._warnings.add(event["message"])
            message = self._in_users_words(event["message"])
            if event.get("kind") == protocol.NOT_T1:
                self._doubt = message
            self._on_warning(message)

    def _in_users_words(self, message):
        """The library names the temporary file; the user knows the volume by its name."""
        return message.replace(str(self._scan), self._name)

    def _guarded(self, step, *arguments):
        """Run one step; whatever goes wrong in it ends the run with a message."""
        try:
            step(*arguments)
        except Exception as error:
            self._failed(error)

    def _failed(self, error):
        self.declined = isinstance(error, installation.Declined)
        if isinstance(error, PanelError):
            self._end(str(error))
            return
        logging.error("GaborSeg: unexpected error", exc_info=error)
        self._end(
            _("Unexpected {kind}: {error}. The Python console shows where.").format(
                kind=type(error).__name__, error=error
            )
        )

    def _end(self, message):
        if self.ended:
            return
        self.ended = True
        self._turns.stop()
        if self._surfaces is not None:
            self._surfaces.stop()
        if self.worker is not None:
            self.worker.stop()
            self.worker = None
        if self.folder is not None:
            remove_folder(self.folder)
        self._on_end(message)


def _phases(profile, seconds):
    """Seconds of the worker's phases, a dictionary in their order.

    Args:
        profile: of the `result` event of `segment --profile`.
        seconds: from its start to its end, by the clock.
    """
    start, scan = profile["start"], profile["scan"]
    own = {
        "importing torch": start["Importing torch"],
        "opening the weights": start["Importing the rest"] + start["Opening the weights"],
        "reading": scan["Reading"],
        "network": sum(scan.values()) - scan["Reading"] - scan["Writing"],
        "writing": scan["Writing"],
    }
    return {"starting and ending Python": seconds - sum(own.values()), **own}
