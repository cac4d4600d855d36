"""PySide6 with the manners of PythonQt, the Qt binding inside Slicer, offered as the module `qt`.

What differs between the two, and is bridged here: Qt properties are attributes (`button.enabled = False`), signals
are connected by their C++ signature, enumerations are plain integers, file dialogs return a path, and names that
Slicer's Qt 5 lacks are taken away. The classes themselves are PySide6's, changed once for the whole process.
"""

import json
import re
import types
from pathlib import Path
from xml.etree import ElementTree

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from . import dialogs

INVENTORY = json.loads(Path(__file__).with_name("inventory.json").read_text(encoding="utf-8"))
PROPERTIES = {name for names in INVENTORY["properties"].values() for name in names} | {
    "applicationName",
    "applicationVersion",
    "organizationName",
}
# Qt asks the Python class for these when it computes them itself: reading the property would never end.
VIRTUAL = {"sizeHint", "minimumSizeHint"}
# What PythonQt answers to although dir() does not list it, and what PySide6 needs for itself.
ALSO_THERE = {"exec_", "name", "raise_", "staticMetaObject", "connectNotify", "disconnectNotify", "emit", "receivers"}
NEWER_SIGNALS = set()


def known_members(name):
    """Every public name that the real class has; None where the inventory does not hold the class."""
    names = INVENTORY["classes"].get(name)
    if names is None:
        return None
    base = {member for entry in names if entry.startswith("<") for member in known_members(entry[1:-1])}
    return base | {entry for entry in names if not entry.startswith("<")}


def adopt_manners():
    everything = [getattr(module, name) for module in (QtCore, QtGui, QtWidgets) for name in dir(module)]
    classes = [item for item in everything if isinstance(item, type)]
    QtCore.QObject.className = lambda self: self.metaObject().className()
    QtCore.QObject.delete = lambda self: self.deleteLater()
    QtCore.QObject.name = attribute("objectName")
    for cls in classes:
        remove_newer_names(cls)
    for cls in classes:
        if issubclass(cls, QtCore.QObject):
            properties_as_attributes(cls)
            if "__getattribute__" in vars(cls):
                answer_connect_ourselves(cls)
    dialogs.take_over(QtWidgets)


def answer_connect_ourselves(cls):
    """PySide6 looks `connect` and `disconnect` up outside the class, so that replacing them there has no effect."""
    ours, theirs = {"connect": connect, "disconnect": disconnect}, cls.__getattribute__

    def get(self, name):
        if name in NEWER_SIGNALS:
            raise AttributeError(f"{type(self).__name__}.{name} came with Qt 6")
        if name not in ours:
            return theirs(self, name)
        # PySide6 itself connects in its own way inside QTimer.singleShot.
        return lambda *a: (
            ours[name](self, *a)
            if a and type(a[0]) is str and len(a) == 2 and a[0][0] not in "12"
            else theirs(self, name)(*a)
        )

    cls.__getattribute__ = get


def remove_newer_names(cls):
    """QFormLayout.setRowVisible and others came with Qt 6: a panel that uses them would only run in the tests."""
    known = known_members(f"qt.{cls.__name__}")
    if issubclass(cls, (QtWidgets.QAbstractItemView, QtCore.QAbstractItemModel)):
        return  # most of what they have beyond the inventory are hooks that PySide6 itself looks up
    for name in list(vars(cls)) if known else ():
        if not name.startswith("_") and name not in known | ALSO_THERE and not name[0].isupper():
            if isinstance(vars(cls)[name], QtCore.Signal):
                NEWER_SIGNALS.add(name)  # PySide6 finds signals without the class
            delattr(cls, name)


def properties_as_attributes(cls):
    meta = cls.staticMetaObject
    own = set(vars(cls))
    for index in range(meta.propertyCount()):
        name = meta.property(index).name()
        # A class that redefines the getter (QPushButton.sizeHint) would hide the attribute of its base.
        if name in PROPERTIES and (index >= meta.propertyOffset() or name in own):
            setattr(cls, name, attribute(name, vars(cls).get(name) if name in VIRTUAL else None))


def attribute(name, getter=None):
    def get(self):
        value = getter(self) if getter else self.property(name)
        return tuple(value) if isinstance(value, list) else value

    def put(self, value):
        if not self.setProperty(name, value):
            raise AttributeError(f"{type(self).__name__}.{name} cannot be set to {value!r}")

    return property(get, put)


def connect(self, signature, slot):
    bound_signal(self, signature).connect(slot)
    return True


def disconnect(self, signature, slot):
    return bound_signal(self, signature).disconnect(slot)


def bound_signal(sender, signature):
    """The signal of that C++ signature; PythonQt only warns about an unknown one, a test should see it at once."""
    # Signals of the host's own widgets carry MRML objects as Python objects.
    wanted = re.sub(r"vtk\w+\s*\*", "PyObject", signature).replace(" ", "").replace("const", "").replace("&", "")
    index = sender.metaObject().indexOfSignal(wanted)
    if index < 0:
        raise AttributeError(f"{sender.className()} has no signal {signature}")
    name, arguments = wanted[:-1].split("(", 1)
    signal = getattr(sender, name)
    declared = [sender.metaObject().method(i) for i in range(sender.metaObject().methodCount())]
    overloads = {bytes(m.methodSignature()).decode() for m in declared if bytes(m.name()).decode() == name}
    if not arguments and f"{name}()" in overloads and len(overloads) > 1:
        return WithoutArguments(signal)
    return signal[arguments or "void"] if len(overloads) > 1 else signal


class WithoutArguments:
    """`clicked()` of a signal `clicked(bool)`: the slot gets nothing, so that its default arguments hold."""

    wrappers = []

    def __init__(self, signal):
        self.signal = signal

    def connect(self, slot):
        wrapper = lambda *ignored: slot()
        self.wrappers.append((slot, wrapper))
        self.signal.connect(wrapper)

    def disconnect(self, slot):
        found = next(pair for pair in self.wrappers if pair[0] == slot)
        self.wrappers.remove(found)
        return self.signal.disconnect(found[1])


class QUiLoader(QtUiTools.QUiLoader):
    """Loads a Qt Designer file with the widgets of ctk and MRML, whose classes are Python's here."""

    custom_widgets = {}

    def load(self, device, parent=None):
        tree = ElementTree.fromstring(bytes(device.readAll()))
        self._register_custom_widgets(tree)
        connections = [{part.tag: part.text for part in c} for c in tree.iterfind("connections/connection")]
        for section in tree.findall("connections"):
            tree.remove(section)  # Qt cannot make those between Python signals: made below
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QIODevice.ReadOnly)
        widget = super().load(buffer, parent)
        by_name = {w.objectName: w for w in [widget, *widget.findChildren(QtCore.QObject)]}
        for c in connections:
            connect(by_name[c["sender"]], c["signal"], getattr(by_name[c["receiver"]], c["slot"].split("(")[0]))
        return widget

    def _register_custom_widgets(self, tree):
        for name in {w.get("class") for w in tree.iter("widget")} & set(self.custom_widgets):
            self.registerCustomWidget(self.custom_widgets[name])
        missing = {c.findtext("class") for c in tree.iter("customwidget")} - set(self.custom_widgets)
        if missing:
            raise RuntimeError(f"the test host has no {', '.join(sorted(missing))}")
        for value in [e for kind in ("set", "enum") for e in tree.iter(kind)]:
            self._as_number(value)

    def _as_number(self, value):
        """ctkPathLineEdit::Files|... : Qt cannot read the enumerations of classes made in Python."""
        parts = [part.split("::") for part in value.text.split("|")]
        if parts[0][0] in self.custom_widgets:
            total = 0
            for name, *_, constant in parts:
                total |= int(getattr(self.custom_widgets[name], constant))
            value.tag, value.text = "number", str(total)


def make_qt_module():
    module = types.ModuleType("qt", __doc__)
    offered = {"QUiLoader": QUiLoader}
    for source in (QtCore, QtGui, QtWidgets):
        offered |= {name: getattr(source, name) for name in dir(source) if name not in offered}
    for name in set(offered) & set(INVENTORY["modules"]["qt"]):
        setattr(module, name, offered[name])
    return module
