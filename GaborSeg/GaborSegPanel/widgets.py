"""What several sections do with widgets: combo boxes of (text, value) items and of paths, tables, texts."""

from functools import cache
from pathlib import Path

import qt
from slicer.i18n import tr as _

from . import parameters, protocol

BROWSE = "browse"  # item of a choice of paths that opens a dialog; no path is just this word
# In the order of the menus.
VARIANT_NAMES = {"mixed": _("Mixed (recommended)"), "gabor": _("Gabor"), "conventional": _("Conventional")}
WEIGHT_FILES = _("Weights of GaborSeg (*.safetensors)")


def fill(box, items, current):
    """Give a combo box (text, value) items and choose the one with the current value; it tells nobody."""
    was_blocked = box.blockSignals(True)
    try:
        if [(box.itemText(i), box.itemData(i)) for i in range(box.count)] != items:
            box.clear()
            for text, value in items:
                box.addItem(text, value)
        box.currentIndex = next((i for i, (text, value) in enumerate(items) if value == current), -1)
    finally:
        box.blockSignals(was_blocked)


def fill_variants(box, current):
    """Give a combo box the kernel variants."""
    fill(box, [(text, name) for name, text in VARIANT_NAMES.items()], current)


class PathBox:
    """A combo box of paths: given items, those used lately, the current one, and items that open a dialog.

    What it reads for that (the paths used lately, the names of runs) it keeps until `read_again`.

    Args:
        box: QComboBox.
        kind: one of `parameters.RECENT`.
        last: (text, value) items that open a dialog; one for any file by default.
    """

    def __init__(self, box, kind, last=None):
        self._box, self._last = box, last or ((_("Browse..."), BROWSE),)
        self._used_lately = cache(lambda: parameters.recent_files(kind))
        self._name = cache(short_name)

    def show(self, first, current):
        """Show (text, value) items `first`, then paths; choose the current one."""
        given = [value for text, value in first]
        paths = [path for path in dict.fromkeys([*self._used_lately(), current]) if path and path not in given]
        fill(self._box, [*first, *((self._name(path), path) for path in paths), *self._last], current)

    def read_again(self):
        """What was read may have changed."""
        self._used_lately.cache_clear()
        self._name.cache_clear()


def short_name(path):
    """By what people know a path: its end, or for weights that were trained here the name of their run."""
    path = Path(path)
    if path.name == protocol.BEST and (path.parent / protocol.METRICS).is_file():
        return _("{run} (trained here)").format(run=path.parent.name)
    return str(Path(*path.parts[-2:]))


def ask_file(parent, title, kinds):
    """A path, or None if the user cancels."""
    return qt.QFileDialog.getOpenFileName(parent, title, "", kinds) or None


def fill_table(table, headers, rows):
    """Give a table rows of texts; all but the first column are numbers, and get the width that they need."""
    table.setColumnCount(len(headers))
    for column in range(len(headers)):
        mode = qt.QHeaderView.ResizeToContents if column else qt.QHeaderView.Stretch
        table.horizontalHeader().setSectionResizeMode(column, mode)
    table.setHorizontalHeaderLabels(headers)
    table.setRowCount(len(rows))
    for i, row in enumerate(rows):
        for j, text in enumerate(row):
            item = qt.QTableWidgetItem(text)
            if j:
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            table.setItem(i, j, item)


class NumberTable:
    """A table of numbers with names as headings of its rows, which stay in sight. A click on the heading of a column
    sorts by it: largest first, then smallest first, then as given. Empty cells come last.

    Args:
        table: QTableWidget.
    """

    def __init__(self, table):
        self._table, self._names, self._columns = table, [], []
        self._sorted = None  # (column, whether largest first)
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        table.verticalHeader().setDefaultAlignment(qt.Qt.AlignLeft | qt.Qt.AlignVCenter)
        table.horizontalHeader().connect("sectionClicked(int)", self.sort)

    def show(self, names, columns):
        """Show columns, a list of (heading, tool tip, digits, numbers or None for empty cells)."""
        if [column[0] for column in columns] != [column[0] for column in self._columns]:
            self._sorted = None
        self._names, self._columns = names, columns
        self._table.setColumnCount(len(columns))
        self._table.setRowCount(len(names))
        self._fill()

    def sort(self, column):
        """As a click on the heading of a column does."""
        steps = [(column, True), (column, False), None]
        self._sorted = steps[steps.index(self._sorted) + 1] if self._sorted in steps[:2] else steps[0]
        self._fill()

    def _fill(self):
        rows, table = self._order(), self._table
        table.setVerticalHeaderLabels([self._names[row] for row in rows])
        table.setHorizontalHeaderLabels([column[0] + self._mark(j) for j, column in enumerate(self._columns)])
        for j, (_heading, tip, digits, numbers) in enumerate(self._columns):
            table.horizontalHeaderItem(j).setToolTip(tip)
            for i, row in enumerate(rows):
                item = qt.QTableWidgetItem("" if numbers[row] is None else f"{numbers[row]:.{digits}f}")
                item.setToolTip(tip)
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                table.setItem(i, j, item)

    def _mark(self, column):
        """That it is sorted by this column. Qt's own mark would widen all columns."""
        if self._sorted is None or self._sorted[0] != column:
            return ""
        return " \u2193" if self._sorted[1] else " \u2191"

    def _order(self):
        """Numbers of the rows from top to bottom."""
        rows = range(len(self._names))
        if self._sorted is None:
            return list(rows)
        column, is_falling = self._sorted
        numbers, sign = self._columns[column][3], -1 if is_falling else 1
        filled = [row for row in rows if numbers[row] is not None]
        return sorted(filled, key=lambda row: sign * numbers[row]) + [row for row in rows if numbers[row] is None]


def show_text(edit, text):
    """Put a text into a line edit, unless it stands there already (else the cursor would jump); it tells nobody."""
    was_blocked = edit.blockSignals(True)
    if edit.text != text:
        edit.text = text
    edit.blockSignals(was_blocked)


def say(label, text):
    """Show a label with a text, or none without."""
    label.text = text
    label.visible = bool(text)
