"""A click on Segment in the test host, with real weights: what the phases take, and how long Slicer answers nobody.

    python Testing/benchmarks/panel_click.py [--scan FILE] [--clicks N]

The scan is the ICBM152 average brain at 1 mm that nilearn ships. A freeze is the longest time between two turns of the
event loop; drawing is not in it, since no view is on a screen here: its own line says what that takes, by software. The
second click replaces the first one's result.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "panel"))

import screenshots


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", help="a T1 scan, NIfTI (default: ICBM152)")
    parser.add_argument("--clicks", type=int, default=2)
    options = parser.parse_args()
    screenshots.start_host()
    widget = screenshots.load_panel()
    panel, volume = widget.panel, screenshots.load_scan(options.scan)
    widget.enter()
    panel.show_error = sys.exit
    slicer_view()  # what follows the scene to draw it is at work from here on
    panel.choices.interpreter = sys.executable
    panel.choices.inputVolume = volume
    panel.environment.check()
    screenshots.wait(lambda: panel.environment.found is not None)
    clicks = [click(panel) for _ in range(options.clicks)]
    heads = ["seconds", *(f"click {n}" for n in range(1, len(clicks) + 1))]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name in clicks[0]:
        print(f"| {name} | {' | '.join(f'{times.get(name, 0):.2f}' for times in clicks)} |")
    print(f"\nDrawing the surfaces once: {drawing():.2f} s")
    segmentation, began = panel.choices.outputSegmentation.GetSegmentation(), time.monotonic()
    segmentation.CreateRepresentation("Closed surface", True)
    print(f"Surfaces made in Slicer, all in one piece: {time.monotonic() - began:.2f} s")


def click(panel):
    """Dictionary from a phase to seconds, of one click."""
    from GaborSegPanel import results

    began = time.monotonic()
    panel.ui.segmentButton.click()
    run, shown = panel.segment.run, None
    freezes = {"until the result": time.monotonic() - began, "surfaces": 0.0}
    while panel.segment.run is not None:
        before, phase = time.monotonic(), "until the result" if run.result is None else "surfaces"
        turn()
        freezes[phase] = max(freezes[phase], time.monotonic() - before)
        if shown is None and run.result is not None:
            shown = time.monotonic() - began
        time.sleep(0.002)
    whole = time.monotonic() - began
    facts = results.provenance(run.result)
    phases = (phase.rpartition(" ")[0].rpartition(" ") for phase in facts["phases"].split(", "))
    library = float(facts["seconds"])
    return {
        **{name: float(seconds) for name, _, seconds in phases},
        "**click to labels and volumes**": shown,
        "of these, not the library's own": shown - library,
        "**click to surfaces**": whole,
        **{f"longest freeze, {phase}": seconds for phase, seconds in freezes.items()},
    }


def turn():
    import slicer

    slicer.app.processEvents()


def drawing():
    view = slicer_view()
    view.forceRender()
    began = time.monotonic()
    view.forceRender()
    return time.monotonic() - began


def slicer_view():
    import slicer

    view = slicer.app.layoutManager().threeDWidget(0).threeDView()
    view.resize(600, 500)
    return view


if __name__ == "__main__":
    main()
