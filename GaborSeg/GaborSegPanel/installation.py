"""What is missing to compute with, and what would be installed. Nothing is installed without asking."""

import slicer
from slicer.i18n import tr as _

from . import PanelError, protocol


class Declined(PanelError):
    """The user was asked whether to install, and did not want to; there is nothing more to ask."""


def ask_and_install(found, interpreter):
    """Install what is missing into Slicer's Python if the user agrees.

    Args:
        found: the worker's `environment` result.
        interpreter: path of the worker's Python; "" for Slicer's own, the only one that is ever changed.

    Raises:
        Declined: the user did not want to.
        PanelError: nothing was installed; says why and what to do.
    """
    names = ", ".join(_what_is_missing(name, found["versions"].get(name)) for name in found["missing"])
    requirements = [f"{name}>={protocol.REQUIREMENTS[name]}" for name in found["missing"]]
    by_hand = " ".join(f'"{requirement}"' for requirement in requirements)
    if interpreter:
        raise PanelError(
            _('{python} lacks {names}. In a terminal, run: "{python}" -m pip install {requirements}').format(
                python=interpreter, names=names, requirements=by_hand
            )
        )
    declined = _(
        "These Python packages are missing: {names}. Install them when asked, or choose a Python that has them on the "
        "Advanced tab."
    ).format(names=names)
    # As Slicer's own installer does: a test never changes the Python it runs in.
    if slicer.app.testingEnabled():
        raise PanelError(declined)
    question = _(
        "GaborSeg needs these Python packages, which Slicer's Python lacks: {names}.\n\nThey will be downloaded and "
        "installed into Slicer's Python, in place of older ones; torch alone can take some gigabytes. To leave "
        "Slicer's Python as it is, cancel and choose another Python on the Advanced tab."
    ).format(names=names)
    if not slicer.util.confirmOkCancelDisplay(question, windowTitle=_("GaborSeg: install packages")):
        raise Declined(declined)
    try:
        _install(requirements)
    except Exception as error:  # pip, the network, PyTorchUtils: whatever failed there, the remedy is the same
        raise PanelError(
            _(
                "The packages could not be installed: {error}. The Python console shows the log. What is in use cannot "
                "be replaced: restart Slicer before you try again."
            ).format(error=error)
        ) from error


def _what_is_missing(name, version):
    if version is None:
        return name
    return _("{name} {oldest} or later (it has {version}, which other extensions may need)").format(
        name=name, oldest=protocol.REQUIREMENTS[name], version=version
    )


def _install(requirements):
    torch = f"torch>={protocol.REQUIREMENTS['torch']}"
    if torch in requirements and _install_torch(torch.removeprefix("torch")):
        requirements = [requirement for requirement in requirements if requirement != torch]
    if not requirements:
        return
    try:
        from slicer.packaging import pip_install
    except ImportError:  # Slicer before 5.11
        slicer.util.pip_install(requirements)
    else:
        pip_install(requirements, requester="GaborSeg")  # shows its log while it runs


def _install_torch(version):
    """Let the PyTorch extension choose the build that fits the graphics card; False if it is not there."""
    try:
        from PyTorchUtils import PyTorchUtilsLogic
    except ImportError:
        return False
    if PyTorchUtilsLogic().installTorch(torchVersionRequirement=version) is None:
        raise PanelError(_("the PyTorch extension installed no torch"))
    return True
