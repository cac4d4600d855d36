"""`slicer.packaging`, which here notes what would be installed and installs nothing.

packaging.requested                what pip was asked for, one list per call
packaging.refusal = Exception(..)  the next call fails with it
"""

import subprocess
import types

import slicer

requested, refusal = [], None


def pip_install(
    requirements,
    constraints=None,
    no_deps_requirements=None,
    skip_packages=None,
    blocking=True,
    show_progress=True,
    requester=None,
    parent=None,
    logCallback=None,
    completedCallback=None,
):
    global refusal
    requested.append([requirements] if isinstance(requirements, str) else [str(r) for r in requirements])
    failure, refusal = refusal, None
    if failure:
        raise failure
    if logCallback:
        logCallback(f"the test host installs nothing: {' '.join(requested[-1])}")
    if completedCallback:
        completedCallback(0)


def pip_check(requirements):
    from importlib import metadata

    from packaging.requirements import Requirement

    for requirement in requirements if isinstance(requirements, (list, tuple)) else [requirements]:
        wanted = Requirement(str(requirement))
        try:
            if not wanted.specifier.contains(metadata.version(wanted.name), prereleases=True):
                return False
        except metadata.PackageNotFoundError:
            return False
    return True


def pip_ensure(
    requirements,
    constraints=None,
    skip_packages=None,
    prompt_install=True,
    prompt_restart=True,
    requester=None,
    skip_in_testing=True,
    show_progress=True,
):
    missing = [str(r) for r in requirements if not pip_check(r)]
    if not missing or (skip_in_testing and slicer.app.testingEnabled()):
        return
    question = f"{requester or ''}: install {' '.join(missing)}?"
    if prompt_install and not slicer.util.confirmOkCancelDisplay(question, "Install packages"):
        raise RuntimeError("installation was cancelled")
    pip_install(missing, requester=requester)


def pip_uninstall(requirements, **options):
    raise subprocess.CalledProcessError(1, f"pip uninstall {requirements}")


def make_module():
    module = types.ModuleType("slicer.packaging", __doc__)
    for item in (pip_install, pip_check, pip_ensure, pip_uninstall):
        setattr(module, item.__name__, item)
    return module
