"""The course of a training in Slicer's own plot view: loss and validation Dice over the epochs."""

import numpy as np
import slicer
from slicer.i18n import tr as _

ROLE = "GaborSeg.trainingChart"  # reference of the parameter node to the chart
LOSS, DICE = "loss", "dice"
COLOURS = {LOSS: (0.12, 0.47, 0.71), DICE: (1.0, 0.5, 0.05)}


def update_chart(owner, rows, title):
    """Bring the chart that belongs to a node up to date; it is made if it is missing.

    Args:
        owner: the parameter node.
        rows: of metrics.csv, see `training.TrainingRun`.

    Returns:
        The vtkMRMLPlotChartNode.
    """
    chart = owner.GetNodeReference(ROLE)
    if chart is None:
        chart = _new_chart(owner)
    chart.SetTitle(title)
    # Two tables, because not every epoch is validated: a line through gaps would be no line.
    points = {
        LOSS: [(row["epoch"], row["loss"]) for row in rows],
        DICE: [(row["epoch"], row["dice_mean"]) for row in rows if row["dice_mean"] is not None],
    }
    for name, values in points.items():
        # The plot view complains, at every change, of a series that is no line yet.
        series = _series(chart, name)
        if len(values) < 2 and chart.HasPlotSeriesNodeID(series.GetID()):
            chart.RemovePlotSeriesNodeID(series.GetID())
        table = chart.GetNodeReference(f"GaborSeg.{name}")
        columns = np.array(values, dtype=float).reshape(-1, 2)
        slicer.util.updateTableFromArray(table, columns, ["epoch", name])
        table.SetUseColumnTitleAsColumnHeader(True)
        if len(values) > 1 and not chart.HasPlotSeriesNodeID(series.GetID()):
            chart.AddAndObservePlotSeriesNodeID(series.GetID())
    # From 0, and with room at the top, where the legend would hide the best scores.
    top = 1.25 * max([1.0, *(loss for epoch, loss in points[LOSS])])
    chart.SetYAxisRangeAuto(False)
    chart.SetYAxisRange(0.0, top)
    return chart


def _series(chart, name):
    """The series of a chart, whether it is shown or not."""
    role = f"GaborSeg.{name}.series"
    series = chart.GetNodeReference(role)
    if series is None:  # of a scene saved by an older version, where both were always shown
        shown = [chart.GetNthPlotSeriesNode(i) for i in range(chart.GetNumberOfPlotSeriesNodes())]
        series = next(node for node in shown if node.GetYColumnName() == name)
        chart.SetNodeReferenceID(role, series.GetID())
    return series


def show_chart(chart):
    """Show a chart in the plot view, in the layout that is most like the present one and has such a view."""
    slicer.modules.plots.logic().ShowChartInLayout(chart)


def _new_chart(owner):
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", _("GaborSeg training"))
    for name, title in ((LOSS, _("Training loss")), (DICE, _("Validation Dice"))):
        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", f"GaborSeg training, {name}")
        series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", title)
        series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName("epoch")
        series.SetYColumnName(name)
        series.SetColor(*COLOURS[name])
        series.SetLineWidth(2)
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
        chart.SetNodeReferenceID(f"GaborSeg.{name}", table.GetID())
        chart.SetNodeReferenceID(f"GaborSeg.{name}.series", series.GetID())
    chart.SetXAxisTitle(_("epoch"))
    chart.SetYAxisTitle(_("loss, Dice"))
    chart.SetLegendVisibility(True)
    owner.SetNodeReferenceID(ROLE, chart.GetID())
    return chart
