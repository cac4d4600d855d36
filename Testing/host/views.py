"""The 3D view, rendered off-screen by the real displayable managers; the plot view; the layout manager of both."""

import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets

MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
)


class qMRMLThreeDView(QtWidgets.QWidget):
    """The camera's picture; it is rendered when it is asked for or painted, never in the background."""

    def __init__(self, view_node, application_logic):
        super().__init__()
        self._view_node = view_node
        self._renderer = vtk.vtkRenderer()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(True)
        self._window.SetMultiSamples(8)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(application_logic)
        for name in MANAGERS:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self._managers = factory.InstantiateDisplayableManagers(self._renderer)
        self._managers.SetMRMLDisplayableNode(view_node)

    def mrmlViewNode(self):
        return self._view_node

    def renderWindow(self):
        return self._window

    def interactor(self):
        return self._interactor

    def displayableManagerByClassName(self, name):
        managers = [self._managers.GetNthDisplayableManager(i) for i in range(len(MANAGERS))]
        return next((manager for manager in managers if manager.IsA(name)), None)

    def cameraNode(self):
        return self.displayableManagerByClassName("vtkMRMLCameraDisplayableManager").GetCameraNode()

    def resetFocalPoint(self):
        self.resetCamera()

    def resetCamera(self):
        self._renderer.ResetCamera()

    def lookFromAxis(self, axis, angle=0):
        """ctkAxesWidget's axes: Right, Left, Posterior, Anterior, Inferior, Superior are 1 to 6."""
        camera, direction = self._renderer.GetActiveCamera(), [0, 0, 0]
        direction[(axis - 1) // 2] = (1, -1, -1, 1, -1, 1)[axis - 1]
        focus = camera.GetFocalPoint()
        camera.SetPosition([f + 100 * d for f, d in zip(focus, direction)])
        camera.SetViewUp((0, 1, 0) if axis > 4 else (0, 0, 1))
        self._renderer.ResetCamera()

    def forceRender(self):
        self._window.SetSize(self.width, self.height)
        self._window.Render()

    def scheduleRender(self):
        self.update()

    def paintEvent(self, event):
        self.forceRender()
        QtGui.QPainter(self).drawImage(0, 0, image_of(self._window))


def image_of(window):
    """What a render window shows, a QImage."""
    pixels = vtk.vtkWindowToImageFilter()
    pixels.SetInput(window)
    pixels.SetInputBufferTypeToRGB()
    pixels.ReadFrontBufferOff()
    pixels.Update()
    width, height, _ = pixels.GetOutput().GetDimensions()
    data = bytes(memoryview(pixels.GetOutput().GetPointData().GetScalars()))
    return QtGui.QImage(data, width, height, 3 * width, QtGui.QImage.Format.Format_RGB888).flipped()


class qMRMLThreeDWidget(QtWidgets.QWidget):
    def __init__(self, view):
        super().__init__()
        self._view = view
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(view)
        self.resize(600, 500)

    def threeDView(self):
        return self._view

    def mrmlViewNode(self):
        return self._view.mrmlViewNode()


class qMRMLPlotView(QtWidgets.QWidget):
    """The chart that the view node names, drawn from its series and tables by VTK's charts each time it is painted."""

    def __init__(self, view_node):
        super().__init__()
        self._view_node = view_node
        self._chart = vtk.vtkChartXY()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(True)
        self._window.SetMultiSamples(8)
        self._view = vtk.vtkContextView()
        self._view.SetRenderWindow(self._window)
        self._view.GetRenderer().SetBackground(1, 1, 1)
        self._view.GetScene().AddItem(self._chart)

    def renderWindow(self):
        return self._window

    def chart(self):
        return self._chart

    def fitToContent(self):
        self._chart.RecalculateBounds()

    def paintEvent(self, event):
        self._window.SetSize(self.width, self.height)
        self._draw()
        self._window.Render()
        QtGui.QPainter(self).drawImage(0, 0, image_of(self._window))

    def _draw(self):
        self._chart.ClearPlots()
        node = self._view_node.GetPlotChartNode()
        series = [node.GetNthPlotSeriesNode(i) for i in range(node.GetNumberOfPlotSeriesNodes())] if node else []
        for one in series:
            table = one.GetTableNode().GetTable()
            if table.GetNumberOfRows() < 1:
                continue
            plot = self._chart.AddPlot(vtk.vtkChart.LINE)
            plot.SetInputData(table, one.GetXColumnName(), one.GetYColumnName())
            plot.SetColorF(*one.GetColor())
            plot.SetWidth(one.GetLineWidth())
            plot.SetMarkerStyle(one.GetMarkerStyle())
            plot.SetLabel(one.GetName())
        if node:
            self._chart.SetTitle(node.GetTitle() or "")
            self._chart.SetShowLegend(bool(node.GetLegendVisibility()))
            self._chart.GetAxis(vtk.vtkAxis.BOTTOM).SetTitle(node.GetXAxisTitle() or "")
            self._chart.GetAxis(vtk.vtkAxis.LEFT).SetTitle(node.GetYAxisTitle() or "")
            for axis, auto, limits in (
                (vtk.vtkAxis.BOTTOM, node.GetXAxisRangeAuto(), node.GetXAxisRange()),
                (vtk.vtkAxis.LEFT, node.GetYAxisRangeAuto(), node.GetYAxisRange()),
            ):
                self._chart.GetAxis(axis).SetBehavior(vtk.vtkAxis.AUTO if auto else vtk.vtkAxis.FIXED)
                if not auto:
                    self._chart.GetAxis(axis).SetRange(*limits)


class qMRMLPlotWidget(QtWidgets.QWidget):
    def __init__(self, view_node):
        super().__init__()
        self._view_node, self._view = view_node, qMRMLPlotView(view_node)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._view)
        self.resize(600, 400)

    def plotView(self):
        return self._view

    def mrmlPlotViewNode(self):
        return self._view_node


class qSlicerLayoutManager(QtCore.QObject):
    """One 3D view, one plot view, no slice views; each is made when somebody asks for it, since that starts OpenGL."""

    threeDViewCount = QtCore.Property(int, lambda self: 1)
    tableViewCount = QtCore.Property(int, lambda self: 0)
    plotViewCount = QtCore.Property(int, lambda self: 1)

    def __init__(self, application_logic):
        super().__init__()
        self._application_logic = application_logic
        self._widgets = []
        self._plot_widget = None

    def threeDWidget(self, index):
        if not self._widgets:
            node = slicer.mrmlScene.GetSingletonNode("1", "vtkMRMLViewNode") or slicer.vtkMRMLViewNode()
            node.SetName("View1")
            node.SetLayoutName("1")
            node.SetSingletonTag("1")
            slicer.mrmlScene.AddNode(node)
            self._widgets.append(qMRMLThreeDWidget(qMRMLThreeDView(node, self._application_logic)))
        return self._widgets[index]

    def plotWidget(self, index):
        node = slicer.mrmlScene.GetSingletonNode("PlotViewerWindow", "vtkMRMLPlotViewNode")
        if node is None:
            node = slicer.vtkMRMLPlotViewNode()
            node.SetName("PlotView1")
            node.SetLayoutName("PlotViewerWindow")
            node.SetSingletonTag("PlotViewerWindow")
            node = slicer.mrmlScene.AddNode(node)
        if self._plot_widget is None or self._plot_widget.mrmlPlotViewNode() is not node:
            self._plot_widget = qMRMLPlotWidget(node)
        self._application_logic.PropagatePlotChartSelection()
        return self._plot_widget

    def resetThreeDViews(self):
        self.threeDWidget(0).threeDView().resetCamera()

    def sliceViewNames(self):
        return ()

    def resetSliceViews(self):
        pass
