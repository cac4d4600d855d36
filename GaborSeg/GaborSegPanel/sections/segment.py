"""Segment: what is segmented, with which weights and where; the button; how the run stands."""

import time
from functools import cache

import slicer
from slicer.i18n import tr as _

from .. import PanelError, parameters, results
from ..run import STEPS, Run
from ..widgets import BROWSE, WEIGHT_FILES, PathBox, ask_file, fill, fill_variants, say
from . import Section

DOUBLE_CLICK = 0.4  # seconds in which a second click on Segment is not yet one on Cancel


class SegmentSection(Section):
    """Chooses, starts and shows a segmentation.

    Attributes:
        run: the `Run` under way, or None.
    """

    def __init__(self, panel):
        super().__init__(panel)
        self.run = None
        self._started = 0.0  # when the run was, seconds
        self._warnings = []
        self._filling = False
        ui = self.ui
        self._weights = PathBox(ui.weightsBox, "weights")
        self._card = cache(_card_line)
        self.bound = {"outputSegmentation": ui.outputSelector, "sides": ui.sidesBox}
        ui.progressBar.visible = ui.statusLabel.visible = False
        ui.progressBar.maximum = STEPS
        self.when(ui.segmentButton, "clicked(bool)", self.segment_or_cancel)
        self.when(ui.variantBox, "currentIndexChanged(int)", self._variant_chosen)
        self.when(ui.weightsBox, "currentIndexChanged(int)", self._weights_chosen)
        self.when(ui.deviceBox, "currentIndexChanged(int)", self._device_chosen)
        self.when(ui.inputSelector, "currentNodeChanged(vtkMRMLNode*)", self._input_chosen)

    def show(self):
        ui, choices = self.ui, self.choices
        self._filling = True
        try:
            ui.inputSelector.setCurrentNode(choices.inputVolume)
        finally:
            self._filling = False
        fill_variants(ui.variantBox, choices.variant)
        self._weights.show([(_("Bundled"), "")], choices.weights)
        fill(ui.deviceBox, self._device_items(), choices.device)
        ui.cardLabel.text = self._card(choices.weights, choices.variant)

    def read_again(self):
        self._weights.read_again()
        self._card.cache_clear()

    def close(self):
        self.cancel()

    def _device_items(self):
        items = [(_("Auto"), "auto"), (_("CPU"), "cpu")]
        for device in self.panel.environment.devices:
            if device["id"] != "cpu":
                free = f"{device['free_mib'] / 1024:.1f}"
                items.append((_("{name}, {free} GiB free").format(name=device["name"], free=free), device["id"]))
        current = self.choices.device
        if current not in [value for text, value in items]:
            items.append((_("{device} (not seen here)").format(device=current), current))
        return items

    # Choices of the user

    def _variant_chosen(self):
        self.put(variant=self.ui.variantBox.currentData, weights="")

    def _weights_chosen(self):
        path = self.ui.weightsBox.currentData
        if path == BROWSE:
            path = ask_file(self.ui.weightsBox, _("Choose a weight file"), WEIGHT_FILES)
        self.choose_weights(path if path is not None else self.choices.weights)

    def choose_weights(self, path):
        """Take a weight file ("" for the bundled one), and the variant that it says it is of."""
        try:
            variant = parameters.read_card(path)["variant"] if path else self.choices.variant
            parameters.put(self.choices, variant=variant, weights=str(path))
        except PanelError as error:
            self.panel.show_error(str(error))
        self.panel.refresh()

    def _device_chosen(self):
        self.put(device=self.ui.deviceBox.currentData)

    def _input_chosen(self):
        """Another scan's result goes into a node of its own, unless the user then chooses otherwise."""
        if self._filling:
            return
        self.panel.corrections.forget()
        volume, output = self.ui.inputSelector.currentNode(), self.choices.outputSegmentation
        role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        is_of_another = output is not None and output.GetNodeReference(role) is not volume
        parameters.put(self.choices, inputVolume=volume, **{"outputSegmentation": None} if is_of_another else {})

    # A run

    def segment_or_cancel(self):
        """The button."""
        if self.run is None:
            self.segment()
        elif time.monotonic() - self._started > DOUBLE_CLICK:
            self.cancel()

    def segment(self):
        """Segment the chosen volume; the result comes later."""
        environment = self.panel.environment
        parameters.remember(self.choices)
        self.panel.refresh()
        environment.stop_check()  # the run asks for itself, and two would load torch twice at the same time
        self.ui.log.plainText = ""
        self._warnings = []
        self._started = time.monotonic()
        self.run = Run(
            self.choices,
            environment.known(),
            self._progress,
            self.log,
            self._warning,
            environment.take,
            self._have_result,
            self._ended,
            environment.install,
        )
        self._show_running(True)
        self.run.start()

    def cancel(self):
        """End the run under way, if there is one."""
        if self.run is not None:
            self.run.cancel()

    def node_removed(self, node):
        """A node leaves the scene: the input takes its run with it, the output is made anew."""
        run = self.run
        if run is None:
            return
        if node is run.result or (node is run.volume and run.result is None):
            name = node.GetName()
            self.cancel()
            self._say(_("{name} was deleted; cancelled.").format(name=name))
        elif node is run.segmentation:
            run.forget_output()

    def log(self, line):
        """Add a line to the log."""
        self.ui.log.appendPlainText(line)

    def note(self, line):
        """Show a line below the button, and in the log."""
        self._say(line)
        self.log(line)

    def _progress(self, stage, done):
        self._say(_("{stage}...").format(stage=stage))
        self.ui.progressBar.value = done

    def _warning(self, message):
        self._warnings.append(message)
        self.log(message)

    def _have_result(self, segmentation):
        """Labels and volumes are in the scene; surfaces may follow."""
        self.put(outputSegmentation=segmentation)

    def _ended(self, message):
        run, self.run = self.run, None
        self._show_running(False)
        if message is not None:
            self._say(message)
            self.log(message)
            if not run.declined:
                self.panel.show_error(message)
        elif run.result is not None:
            self._have_result(run.result)  # also where it was cancelled before it was told
            self._say("\n".join([_result_line(run.result), *self._warnings]))
        else:
            self._say(_("Cancelled."))

    def _show_running(self, running):
        self.ui.segmentButton.text = _("Cancel") if running else _("Segment")
        self.ui.segmentButton.toolTip = (
            _("End this run; the scene stays as it is")
            if running
            else _("Segment the volume; Slicer can be used meanwhile")
        )
        self.ui.progressBar.visible = running
        self.ui.progressBar.value = 0

    def _say(self, text):
        say(self.ui.statusLabel, text)


def _result_line(segmentation):
    table, facts = results.volumes_table(segmentation), results.provenance(segmentation)
    count = table.GetNumberOfRows() if table else 0
    text = _("{count} structures in {seconds} s on {device}.").format(count=count, **facts)
    if results.wants_surfaces(segmentation):
        text += " " + _("Their surfaces were not made; Show 3D makes them.")
    return text


def _card_line(weights, variant):
    """What the chosen weight file says about itself, in one line."""
    if not weights and not parameters.are_bundled(variant):
        return _("None came with this copy; choose other kernels or a weight file.")
    try:
        card = parameters.read_card(weights or parameters.bundled_weights(variant))
    except PanelError as error:
        return str(error)
    facts = [_("{count} structures").format(count=len(card["structures"]))]
    dice = card.get("scores", {}).get("validation", {}).get("dice_mean")
    if dice is not None:
        facts.append(_("validation Dice {dice}").format(dice=f"{dice:.2f}"))
    licence = card.get("licence")
    if licence:
        facts.append(_("licence: {licence}").format(licence=licence))
    facts.append(_("hash {hash}").format(hash=card["sha256"][:8]))
    return ", ".join(facts)
