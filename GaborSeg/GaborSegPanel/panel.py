"""The panel as a whole: its sections, and the parameter node that they show and change."""

import slicer
from slicer.i18n import tr as _

from . import PanelError, parameters, results
from .sections.corrections import CorrectionsSection
from .sections.environment import EnvironmentSection
from .sections.results import ResultsSection
from .sections.segment import SegmentSection
from .sections.training_course import TrainingCourseSection
from .sections.training_data import TrainingDataSection
from .sections.training_devices import TrainingDevicesSection
from .sections.training_recipe import TrainingRecipeSection
from .sections.training_run import TrainingRunSection

# The attribute of the panel that each section is, from top to bottom.
SECTIONS = {
    "segment": SegmentSection,
    "results": ResultsSection,
    "corrections": CorrectionsSection,
    "data": TrainingDataSection,
    "recipe": TrainingRecipeSection,
    "devices": TrainingDevicesSection,
    "training": TrainingRunSection,
    "course": TrainingCourseSection,
    "environment": EnvironmentSection,
}


class Panel:
    """Works the widgets of one module panel: a section for each of `SECTIONS`.

    Args:
        ui: the widgets of GaborSeg.ui, as attributes.
    """

    def __init__(self, ui):
        self.ui = ui
        self.choices = None  # parameters.Choices; None while there is no scene to keep them in
        self.show_error = slicer.util.errorDisplay  # for the self-test, which has nobody to close a message
        for name, section in SECTIONS.items():
            setattr(self, name, section(self))
        self.sections = [getattr(self, name) for name in SECTIONS]
        results.load_terminology()

    def set_parameter_node(self, node):
        """Show and change the choices in this node from now on; None for no node."""
        if self.choices is not None:
            if self.choices.parameterNode is node:
                return
            self.choices.release()
            self.choices = None
        if node is None:
            return
        ignored = parameters.take_foreign(node)
        self.choices = parameters.wrap(node)
        if self.choices.inputVolume is None:
            self.choices.inputVolume = _first_scalar_volume()
        self.choices.bind({name: widget for section in self.sections for name, widget in section.bound.items()})
        self.choices.AddObserver("ModifiedEvent", lambda caller, event: self.show_choices())
        self.show_choices()
        if ignored:
            self.segment.note(_what_was_ignored(ignored))

    def show_choices(self):
        """Bring every section in line with the parameter node."""
        if self.choices is not None:
            for section in self.sections:
                section.show()

    def refresh(self):
        """Show every section anew, from the files too."""
        for section in self.sections:
            section.read_again()
        self.show_choices()

    def react(self, reaction):
        """Do what a widget sets off; an error that the user can do something about is shown."""
        if self.choices is None:
            return
        try:
            reaction()
        except PanelError as error:
            self.show_error(str(error))
            self.show_choices()

    def enter(self):
        """The user opens the panel."""
        self.refresh()
        self.environment.check_once()

    def cancel(self):
        """End the segmentation under way, if there is one."""
        self.segment.cancel()

    def node_removed(self, node):
        """A node leaves the scene."""
        self.segment.node_removed(node)

    def close(self):
        """The panel goes: end everything but a training."""
        for section in self.sections:
            section.close()
        self.set_parameter_node(None)


def _what_was_ignored(choices):
    """That a scene wanted to make choices that are the user's alone, in one line."""
    names = {
        "interpreter": _("Python"),
        "correctionsFolder": _("Folder of corrections"),
        "trainingFolder": _("Output of the training"),
        "trainingOptions": _("More options"),
    }
    # As in Python, so that nothing in a text is a line end or another control character.
    texts = [f"{names[name]} {text!r}" for name, text in choices.items()]
    return _("Ignored, since no scene may choose it: {choices}. Choose it yourself if you trust it.").format(
        choices=", ".join(texts)
    )


def _first_scalar_volume():
    """The first volume of the scene that is not a label map or of another kind, or None."""
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return next((volume for volume in volumes if volume.GetClassName() == "vtkMRMLScalarVolumeNode"), None)
