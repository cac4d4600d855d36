"""The volumes of a result: a table node in the scene, and how it is read again, also from older scenes."""

import math

import vtk

from . import protocol

# Columns of the table node, and of what is copied and saved: those of older scenes, then those of the library's
# volumes.csv, by the names that they have there.
STRUCTURE, VOLUME, PERCENT, QUALITY = COLUMNS = ("Structure", "Volume (mL)", "Percent", "Quality")
SIDE_COLUMNS = (*protocol.SIDES, "asymmetry")
ICV_COLUMNS = ICV, PERCENT_OF_ICV = ("icv_ml", "percent_of_icv")


def fill(node, volumes, quality=None, sides=None, icv=None):
    """Fill a table node with what the `result` event says of these names; see there, docs/usage.md."""
    columns = _columns(volumes, quality, sides, icv)
    table, names = vtk.vtkTable(), vtk.vtkStringArray()
    names.SetName(STRUCTURE)
    for name in volumes:
        names.InsertNextValue(name)
    table.AddColumn(names)
    for title, found in columns.items():
        column = vtk.vtkDoubleArray()
        column.SetName(title)
        for name in volumes:
            value = found.get(name)
            column.InsertNextValue(math.nan if value is None else value)
        table.AddColumn(column)
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)  # a result is not to be edited by a slip of the hand


def _columns(volumes, quality, sides, icv):
    """Dictionary from titles of columns to dictionaries from structure to a number, None or nothing."""
    total = sum(volumes.values()) or 1.0
    columns = {VOLUME: volumes, PERCENT: {name: 100 * volume / total for name, volume in volumes.items()}}
    if quality:
        columns[QUALITY] = quality
    if sides:
        for title in SIDE_COLUMNS:
            columns[title] = {name: halves[title] for name, halves in sides.items()}
    if icv:
        columns[ICV] = dict.fromkeys(volumes, icv["ml"])
        columns[PERCENT_OF_ICV] = icv["percent"]
    return columns


def read(node):
    """Dictionary from titles of columns that a table node has to lists: texts of the first, numbers or None of others.

    The first four are always there: tables of older scenes have no quality.
    """
    table = node.GetTable()
    rows = range(table.GetNumberOfRows())
    columns = {STRUCTURE: [table.GetValue(row, 0).ToString() for row in rows]}
    for title in (*COLUMNS[1:], *SIDE_COLUMNS, *ICV_COLUMNS):
        is_there = table.GetColumnByName(title) is not None
        if is_there or title in COLUMNS:
            numbers = [table.GetValueByName(row, title).ToDouble() if is_there else math.nan for row in rows]
            columns[title] = [number if math.isfinite(number) else None for number in numbers]
    return columns


def texts(columns):
    """What `read` returned as rows of texts, the titles first, to be saved; new columns as in the library's CSV."""
    lists = [columns[STRUCTURE]]
    for title, numbers in list(columns.items())[1:]:
        digits = 2 if title in COLUMNS else 4
        lists.append(["" if number is None else f"{number:.{digits}f}" for number in numbers])
    return [tuple(columns), *zip(*lists)]


def intracranial(columns):
    """The intracranial volume in mL, of what `read` returned, or None."""
    return next(iter(columns.get(ICV, ())), None)
