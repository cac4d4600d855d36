"""The widgets of CTK that a module's panel is made of, as small real Qt widgets under the same names."""

import types

from PySide6 import QtCore, QtWidgets

from .pythonqt import QUiLoader

Property, Signal = QtCore.Property, QtCore.Signal
WIDE = QtWidgets.QSizePolicy.Policy.Preferred, QtWidgets.QSizePolicy.Policy.Minimum


class _Collapsible:
    """Hides the children while it is not checked, and only those that were not hidden already."""

    def _start(self):
        self._hidden_by_us = []
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(self._apply)

    def _apply(self, expanded):
        if expanded:
            for child in self._hidden_by_us:
                child.setVisible(True)
            self._hidden_by_us = []
        else:
            for child in self.children():
                self._hide(child)
        self.updateGeometry()

    def _hide(self, child):
        if child.isWidgetType() and not child.isHidden() and child not in self._hidden_by_us:
            self._hidden_by_us.append(child)
            child.setVisible(False)

    def showEvent(self, event):
        """A .ui file sets `collapsed` before the children exist."""
        super().showEvent(event)
        self._apply(self.isChecked())

    def childEvent(self, event):
        super().childEvent(event)
        if event.polished() and not self.isChecked():  # not when added: the child is half built then
            self._hide(event.child())

    collapsed = Property(bool, lambda self: not self.isChecked(), lambda self, value: self.setChecked(not value))


class ctkCollapsibleButton(_Collapsible, QtWidgets.QAbstractButton):
    contentsCollapsed = Signal(bool)

    def __init__(self, text=None, parent=None):
        super().__init__(text if isinstance(text, QtWidgets.QWidget) else parent)
        self._start()
        self.setText(text if isinstance(text, str) else "")
        self.setSizePolicy(*WIDE)
        self._margins()
        self.toggled.connect(lambda checked: self.contentsCollapsed.emit(not checked))

    def _header(self):
        return self.fontMetrics().height() + 10

    def _margins(self):
        self.setContentsMargins(0, self._header(), 0, 0)

    def hitButton(self, position):
        return position.y() < self._header()

    def paintEvent(self, event):
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect.setHeight(self._header())
        option.text = (
            "\N{BLACK DOWN-POINTING TRIANGLE}  " if self.isChecked() else "\N{BLACK RIGHT-POINTING TRIANGLE}  "
        ) + self.text
        QtWidgets.QStylePainter(self).drawControl(QtWidgets.QStyle.ControlElement.CE_PushButton, option)

    def sizeHint(self):
        layout = self.layout()
        inner = layout.sizeHint() if layout and self.isChecked() else QtCore.QSize(0, 0)
        width = self.fontMetrics().horizontalAdvance(self.text) + 60
        return QtCore.QSize(max(width, inner.width()), max(self._header(), inner.height()))

    minimumSizeHint = sizeHint


class ctkCollapsibleGroupBox(_Collapsible, QtWidgets.QGroupBox):
    def __init__(self, title=None, parent=None):
        super().__init__(title if isinstance(title, QtWidgets.QWidget) else parent)
        self._start()
        self.setTitle(title if isinstance(title, str) else "")


class ctkPathLineEdit(QtWidgets.QWidget):
    """A path that can be typed, browsed for, or taken from the ones used before (kept in the settings)."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    Dirs, Files, Drives, NoSymLinks = 1, 2, 4, 8
    Readable, Writable, Executable, Hidden = 16, 32, 64, 256

    def __init__(self, parent=None):
        super().__init__(parent)
        self._values = {"filters": self.Files, "nameFilters": [], "label": "", "settingKey": ""}
        self._combo = QtWidgets.QComboBox()
        self._combo.setEditable(True)
        self._combo.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._button = QtWidgets.QToolButton(text="...")
        self._button.clicked.connect(lambda checked: self.browse())
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        layout.addWidget(self._button)
        self._combo.currentTextChanged.connect(lambda text: self.currentPathChanged.emit(text))

    def _value(name):
        return Property(
            {"filters": int, "nameFilters": "QStringList"}.get(name, str),
            lambda self: self._values[name],
            lambda self, value: self._values.update({name: value}),
        )

    filters, nameFilters, label = _value("filters"), _value("nameFilters"), _value("label")
    settingKey = Property(str, lambda self: self._values["settingKey"], lambda self, key: self._set_key(key))
    currentPath = Property(str, lambda self: self._combo.currentText, lambda self, path: self.setCurrentPath(path))
    showBrowseButton = Property(
        bool, lambda self: not self._button.isHidden(), lambda self, on: self._button.setVisible(on)
    )
    showHistoryButton = Property(bool, lambda self: True, lambda self, on: None)

    def _set_key(self, key):
        self._values["settingKey"] = key
        self.retrieveHistory()

    def setCurrentPath(self, path):
        self._combo.setEditText(path)

    def comboBox(self):
        return self._combo

    def browse(self):
        files = QtWidgets.QFileDialog
        ask = files.getOpenFileName if self.filters & self.Files else files.getExistingDirectory
        path = ask(self, self.label, self.currentPath, ";;".join(self.nameFilters))
        if path:
            self.setCurrentPath(path)

    def addCurrentPathToHistory(self):
        if self.currentPath and self.settingKey:
            history = [self.currentPath, *(p for p in self._history() if p != self.currentPath)][:10]
            QtCore.QSettings().setValue(self.settingKey, history)
            self.retrieveHistory()

    def retrieveHistory(self):
        current = self.currentPath
        self._combo.blockSignals(True)
        self._combo.clear()
        self._combo.addItems(self._history())
        self._combo.setEditText(current)
        self._combo.blockSignals(False)

    def _history(self):
        kept = QtCore.QSettings().value(self.settingKey) or []
        return [kept] if isinstance(kept, str) else list(kept)


class ctkMessageBox(QtWidgets.QMessageBox):
    """Slicer's own message box; whether to show it again is remembered under a settings key."""

    dontShowAgainSettingsKey = Property(
        str, lambda self: getattr(self, "_key", ""), lambda self, key: setattr(self, "_key", key)
    )
    dontShowAgainVisible = Property(
        bool, lambda self: getattr(self, "_visible", False), lambda self, on: setattr(self, "_visible", on)
    )


def make_ctk_module():
    module = types.ModuleType("ctk", __doc__)
    for name, item in list(globals().items()):
        if name.startswith("ctk") and isinstance(item, type):
            setattr(module, name, item)
            QUiLoader.custom_widgets[name] = item
    return module
