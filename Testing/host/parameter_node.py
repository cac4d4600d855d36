"""`slicer.parameterNodeWrapper`: typed parameters kept in a MRML node, and their two-way binding to widgets.

As far as a panel needs it: numbers, texts, paths, enumerations, lists of those, and references to nodes. Refuses what
Slicer's own refuses: values of another type, choices outside the annotation, widgets of another class. What it does is
read off Base/Python/slicer/parameterNodeWrapper of Slicer's sources (wrapper.py, guiConnectors.py, serializers.py).
"""

import enum
import json
import pathlib
import types
import typing
import weakref
from dataclasses import dataclass

import slicer
import vtk
from PySide6 import QtWidgets

from .ctk_widgets import ctkPathLineEdit
from .mrml_widgets import qMRMLNodeComboBox


@dataclass
class Default:
    value: object


@dataclass
class Minimum:
    minimum: float

    def validate(self, value):
        _check(value >= self.minimum, value, f"at least {self.minimum}")


@dataclass
class Maximum:
    maximum: float

    def validate(self, value):
        _check(value <= self.maximum, value, f"at most {self.maximum}")


@dataclass
class WithinRange:
    minimum: float
    maximum: float

    def validate(self, value):
        _check(self.minimum <= value <= self.maximum, value, f"from {self.minimum} to {self.maximum}")


@dataclass
class Choice:
    choices: list

    def validate(self, value):
        _check(value in self.choices, value, f"one of {self.choices}")


def _check(good, value, wanted):
    if not good:
        raise ValueError(f"got {value!r}, wanted {wanted}")


class _Parameter:
    """One typed value: its text in the node, and the checks before it is written."""

    def __init__(self, name, hint, default):
        self.name, self.hint = name, hint
        annotated = typing.get_origin(hint) is typing.Annotated
        self.type, *self.annotations = typing.get_args(hint) if annotated else [hint]
        given = [a.value for a in self.annotations if isinstance(a, Default)]
        self.is_node = isinstance(self.type, type) and issubclass(self.type, slicer.vtkMRMLNode)
        self.item = typing.get_args(self.type)[0] if typing.get_origin(self.type) is list else None
        self.default = default if default is not None else given[0] if given else self._empty()

    def _empty(self):
        if self.is_node:
            return None
        if self.item:
            return []
        return next(iter(self.type)) if issubclass(self.type, enum.Enum) else self.type()

    def annotation(self, kind):
        return next((a for a in self.annotations if isinstance(a, kind)), None)

    def check(self, value):
        wanted = (int, float) if self.type is float else pathlib.PurePath if self.type is pathlib.Path else self.type
        if self.item:
            wrong = [v for v in value if not isinstance(v, self.item)]
        else:
            wrong = [] if isinstance(value, wanted) or (self.is_node and value is None) else [value]
        if wrong:
            raise TypeError(f"{self.name}: got {wrong[0]!r}, wanted {self.item or self.type}")
        for annotation in self.annotations:
            if hasattr(annotation, "validate"):
                annotation.validate(value)

    def write(self, node, value):
        self.check(value)
        with slicer.util.NodeModify(node):
            node.SetParameter(self.name, self._text(value))
            if self.is_node:
                node.SetNodeReferenceID(self.name, value.GetID() if value else None)

    def _text(self, value):
        if self.is_node:
            return ""
        if self.item:
            return json.dumps([str(v) for v in value])
        return value.name if isinstance(value, enum.Enum) else str(value)

    def read(self, node):
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.item:
            return [self.item(v) for v in json.loads(text)]
        if self.type is bool:
            return text == "True"
        return self.type[text] if issubclass(self.type, enum.Enum) else self.type(text)

    def property(self):
        return property(
            lambda wrapper: self.read(wrapper.parameterNode),
            lambda wrapper, value: self.write(wrapper.parameterNode, value),
        )


class _Wrapper:
    """What every parameter class gets."""

    def __init__(self, parameterNode, prefix=None):
        self.parameterNode = parameterNode
        self._guis, self._next_tag, self._updating_gui = {}, 0, False
        self._write_missing()
        # Slicer's own reads all values again at each change of the node, and writes the defaults of those that are gone
        # (closing the scene empties the node), for as long as the wrapper lives.
        living = weakref.ref(self)
        tag = parameterNode.AddObserver(
            vtk.vtkCommand.ModifiedEvent, lambda caller, event: living() and living()._write_missing()
        )
        weakref.finalize(self, parameterNode.RemoveObserver, tag)

    def _write_missing(self):
        for parameter in self.allParameters.values():
            if not self.parameterNode.HasParameter(parameter.name):
                parameter.write(self.parameterNode, parameter.default)

    def getValue(self, name):
        return getattr(self, self._known(name))

    def setValue(self, name, value):
        setattr(self, self._known(name), value)

    def default(self, name):
        return Default(self.allParameters[self._known(name)].default)

    def dataType(self, name):
        return self.allParameters[self._known(name)].hint

    def _known(self, name):
        if name not in self.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}")
        return name

    def connectGui(self, gui):
        """Binds the widgets with the property SlicerParameterName. Gives no tag, as in Slicer itself, so that only
        connectParametersToGui can be undone."""
        widgets = gui.findChildren(QtWidgets.QWidget) if hasattr(gui, "isWidgetType") else vars(gui).values()
        named = {w.property("SlicerParameterName"): w for w in widgets}
        self.connectParametersToGui({name: widget for name, widget in named.items() if name})

    def connectParametersToGui(self, mapping):
        """As in Slicer itself, the observer stays for as long as the node, and with it this wrapper, even after
        disconnectGui."""
        for name in mapping:
            self._known(name)
        bindings = [_Binding(self, self.allParameters[name], widget) for name, widget in mapping.items()]
        tag = self._next_tag
        self._next_tag += 1
        self._guis[tag] = bindings
        self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._update_gui())
        return tag

    def disconnectGui(self, tag):
        for binding in self._guis.pop(tag, ()):
            binding.end()

    def _update_gui(self):
        if not self._updating_gui:
            self._updating_gui = True
            try:
                for binding in [b for bindings in self._guis.values() for b in bindings]:
                    binding.to_widget()
            finally:
                self._updating_gui = False

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified):
        return self.parameterNode.EndModify(wasModified)

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        self.parameterNode.RemoveObserver(tag)

    def Modified(self):
        self.parameterNode.Modified()


class _Binding:
    """One parameter and one widget. The widget's class has to be exactly one of these."""

    KINDS = {
        (QtWidgets.QCheckBox, bool): ("checked", "stateChanged"),
        (QtWidgets.QPushButton, bool): ("checked", "toggled"),
        (QtWidgets.QSpinBox, int): ("value", "valueChanged"),
        (QtWidgets.QSlider, int): ("value", "valueChanged"),
        (QtWidgets.QDoubleSpinBox, float): ("value", "valueChanged"),
        (QtWidgets.QLineEdit, str): ("text", "textChanged"),
        (QtWidgets.QTextEdit, str): ("plainText", "textChanged"),
        (ctkPathLineEdit, pathlib.Path): ("currentPath", "currentPathChanged"),
    }

    def __init__(self, wrapper, parameter, widget):
        self.wrapper, self.parameter, self.widget = wrapper, parameter, widget
        self._choose(type(widget), parameter)
        self._set_range()
        self.to_widget()
        getattr(widget, self.signal).connect(self._changed)

    def end(self):
        getattr(self.widget, self.signal).disconnect(self._changed)

    def _choose(self, widget_type, parameter):
        """Sets how the widget is read and written, and the signal that tells of a change."""
        self.choices = None
        if widget_type is qMRMLNodeComboBox and parameter.is_node:
            self.signal = "currentNodeChanged"
            self.widget.nodeTypes = [parameter.type.__name__]
        elif widget_type is QtWidgets.QComboBox and self._options():
            self.choices, self.signal = self._options(), "currentIndexChanged"
            self.widget.clear()
            label = getattr(parameter.type, "label", lambda item: getattr(item, "name", str(item)))
            self.widget.addItems([label(item) for item in self.choices])
        elif (widget_type, parameter.type) in self.KINDS:
            self.attribute, self.signal = self.KINDS[widget_type, parameter.type]
        else:
            raise RuntimeError(
                f"Unable to create GUI connector from datatype '{parameter.hint}' to widget type '{widget_type}'"
            )

    def _options(self):
        choice = self.parameter.annotation(Choice)
        is_enum = isinstance(self.parameter.type, type) and issubclass(self.parameter.type, enum.Enum)
        return list(self.parameter.type) if is_enum else choice.choices if choice else None

    def _set_range(self):
        if self.parameter.type not in (int, float) or self.choices:
            return
        limits = self.parameter.annotation(WithinRange)
        low, high = limits or self.parameter.annotation(Minimum), limits or self.parameter.annotation(Maximum)
        if type(self.widget) is QtWidgets.QSlider and not (low and high):
            raise RuntimeError("Cannot have a connection to a slider where the type is unbounded.")
        whole = self.parameter.type is int
        self.widget.minimum = low.minimum if low else -(2**31) if whole else float("-inf")
        self.widget.maximum = high.maximum if high else 2**31 - 1 if whole else float("inf")

    def to_widget(self):
        value = self.parameter.read(self.wrapper.parameterNode)
        if self.parameter.is_node:
            self.widget.setCurrentNode(value)
        elif self.choices:
            self.widget.currentIndex = self.choices.index(value)
        else:
            setattr(self.widget, self.attribute, str(value) if isinstance(value, pathlib.PurePath) else value)

    def _changed(self, *ignored):
        if not self.wrapper._updating_gui:
            self.wrapper.setValue(self.parameter.name, self._from_widget())

    def _from_widget(self):
        if self.parameter.is_node:
            return self.widget.currentNode()
        if self.choices:
            return self.choices[self.widget.currentIndex]
        return self.parameter.type(getattr(self.widget, self.attribute))


def parameterNodeWrapper(cls=None):
    return _process(cls) if cls else _process


def _process(cls):
    parameters = {}
    reserved = {name for name in vars(_Wrapper) if not name.startswith("__")} | {"parameterNode", "allParameters"}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if name in reserved:
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        parameters[name] = _Parameter(name, hint, getattr(cls, name, None))
        setattr(cls, name, parameters[name].property())
    cls.allParameters = parameters
    for name, item in vars(_Wrapper).items():
        if callable(item):
            setattr(cls, name, item)
    return cls


def isParameterNodeWrapper(thing):
    return hasattr(thing, "allParameters")


def make_module():
    module = types.ModuleType("slicer.parameterNodeWrapper", __doc__)
    for item in (parameterNodeWrapper, isParameterNodeWrapper, Default, Minimum, Maximum, WithinRange, Choice):
        setattr(module, item.__name__, item)
    module.SlicerParameterNamePropertyName = "SlicerParameterName"
    return module
