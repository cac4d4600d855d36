"""Pictures of the panel before and after a run, of the 3D view, and of a training, made in the test host:
`make screenshots`.

    python Testing/panel/screenshots.py screenshots [--weights FILE] [--scan FILE]

Without --scan, the ICBM152 average brain that nilearn ships is segmented. What is trained is a tiny network, on made
volumes.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from pathlib import Path

from made_data import make_data_set

TESTING = Path(__file__).resolve().parents[1]
TIMEOUT = 900  # seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", help="weight file; default: the bundled one of the mixed variant")
    parser.add_argument("--scan", help="NIfTI file")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    start_host()
    widget = load_panel()
    volume = load_scan(options.scan)
    panel, ui = widget.panel, widget.ui
    widget.enter()
    panel.choices.interpreter = sys.executable
    panel.choices.inputVolume = volume
    panel.segment.choose_weights(options.weights or "")
    panel.environment.check()
    wait(lambda: panel.environment.found is not None)
    picture(widget, 0, options.folder / "panel-before.png")
    panel.show_error = sys.exit
    ui.segmentButton.click()
    wait(lambda: panel.segment.run is None or ui.progressBar.value >= 2)
    picture(widget, 0, options.folder / "panel-running.png")
    wait(lambda: panel.segment.run is None)
    picture(widget, 0, options.folder / "panel-after.png")
    view_picture(options.folder / "view-3d.png")
    with tempfile.TemporaryDirectory() as folder:
        training_pictures(widget, Path(folder) / "Studies", options.folder)
    panel.close()


def start_host():
    # Not through sys.path, as in conftest.py.
    spec = importlib.util.spec_from_file_location("host", TESTING / "host" / "__init__.py")
    host = sys.modules["host"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(host)
    host.start()


def load_panel():
    import slicer
    from host.application import load_module

    load_module(TESTING.parent / "GaborSeg" / "GaborSeg.py")
    slicer.util.selectModule("GaborSeg")
    slicer.util.mainWindow().show()
    return slicer.modules.GaborSegWidget


def load_scan(path):
    import nibabel
    import numpy as np
    import slicer

    if path:
        image, name = nibabel.load(path), Path(path).name.split(".")[0]
    else:
        from nilearn.datasets import load_mni152_template

        image, name = load_mni152_template(resolution=1), "ICBM152"
    array = np.ascontiguousarray(image.get_fdata(dtype=np.float32).T)
    return slicer.util.addVolumeFromArray(array, ijkToRAS=image.affine, name=name)


def wait(condition):
    import slicer

    end = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > end:
            sys.exit("screenshots.py: the panel did not get there in time")
        slicer.app.processEvents()
        time.sleep(0.02)


def picture(widget, tab, file):
    """The whole panel as it is, at the width that it has in Slicer."""
    import qt
    import slicer

    window = slicer.util.mainWindow()
    widget.ui.tabs.currentIndex = tab
    for _ in range(3):  # layouts settle
        slicer.app.processEvents()
        window.resize(460, max(320, window.centralWidget().sizeHint.height()))
    slicer.app.processEvents()
    page = widget.ui.tabs.currentWidget()
    bottom = page.mapTo(window, qt.QPoint(0, page.sizeHint.height())).y()  # below it is only what the other tab needs
    shown = window.grab()
    if not shown.copy(0, 0, shown.width(), min(shown.height(), bottom + 12)).save(str(file)):
        sys.exit(f"{file}: cannot be written")
    print(file)


def training_pictures(widget, folder, pictures):
    """A run of two processes: what is chosen, the run under way, its chart."""
    from GaborSegPanel import parameters

    panel, ui = widget.panel, widget.ui
    panel.choices.trainingFolder = str(folder / "Three structures")
    panel.data.choose_data(make_data_set(folder / "Made scans", 8))
    wait(lambda: not panel.data.is_checking)
    picture(widget, 1, pictures / "panel-training.png")
    parameters.put(
        panel.choices,
        trainingEpochs=24,
        trainingCubes=0,
        trainingProcesses=2,
        trainingOptions="--grid-size 32 --base-channels 4 --gabor-kernel-size 3 --augmentation none --dropout 0 "
        "--decay 0.4",
    )
    ui.trainButton.click()
    wait(lambda: len(panel.training.run.rows) >= 14)
    picture(widget, 1, pictures / "panel-training-running.png")
    ui.stopButton.click()
    wait(lambda: panel.training.run.state != "running")
    ui.resumeButton.click()
    wait(lambda: panel.training.run.state != "running")
    picture(widget, 1, pictures / "panel-training-after.png")
    panel.course.show_chart()
    view = slicer_plot()
    if not view.grab().save(str(pictures / "training-chart.png")):
        sys.exit(f"{pictures}: cannot be written")


def slicer_plot():
    import slicer

    view = slicer.app.layoutManager().plotWidget(0)
    view.resize(760, 420)
    slicer.app.processEvents()
    return view


def view_picture(file):
    import slicer

    slicer.app.layoutManager().threeDWidget(0).resize(900, 760)
    view = slicer.app.layoutManager().threeDWidget(0).threeDView()
    view.mrmlViewNode().SetUseDepthPeeling(True)
    view.mrmlViewNode().SetBoxVisible(False)
    view.mrmlViewNode().SetAxisLabelsVisible(False)
    view.resetFocalPoint()
    view.lookFromAxis(2)
    camera = view.cameraNode().GetCamera()
    camera.Azimuth(35)
    camera.Elevation(15)
    camera.Zoom(1.35)
    slicer.app.processEvents()
    view.forceRender()
    if not view.grab().save(str(file)):
        sys.exit(f"{file}: cannot be written")
    print(file)


if __name__ == "__main__":
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    main()
