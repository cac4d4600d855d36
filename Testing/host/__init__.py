"""The test host: Slicer's application as far as a scripted module needs it, on real MRML and real Qt. See README.md."""

import os
import sys

_application = None


def start():
    """Makes `import qt, ctk, slicer` work as inside Slicer; returns slicer.app. May be called again."""
    global _application
    if _application is None:
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        # PySide6 reads this once: enumerations become integers, as PythonQt's are.
        os.environ["PYSIDE6_OPTION_PYTHON_ENUM"] = "0x06"
        from . import pythonqt

        pythonqt.adopt_manners()
        sys.modules["qt"] = pythonqt.make_qt_module()
        from . import ctk_widgets

        sys.modules["ctk"] = ctk_widgets.make_ctk_module()
        from . import application

        _application = application.start()
    return _application
