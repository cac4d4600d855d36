"""Combo boxes of (text, value) items, and of paths used lately; what the two panels share of them."""

from pathlib import Path

from slicer.i18n import tr as _

from . import parameters
from .training import BEST, METRICS

BROWSE = "browse"  # item of a choice of paths that opens a dialog; no path is just this word
VARIANT_NAMES = {"mixed": _("Mixed (recommended)"), "gabor": _("Gabor"), "conventional": _("Conventional")}


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


def fill_paths(box, first, kind, current, last=None):
    """Give a combo box the items `first`, paths used lately as a `kind`, the current one, and `last` ("Browse...")."""
    last = last or ((_("Browse..."), BROWSE),)
    given = [value for text, value in first]
    paths = [path for path in dict.fromkeys([*parameters.recent_files(kind), current]) if path not in given]
    fill(box, [*first, *((short_name(path), path) for path in paths if path), *last], current)


def short_name(path):
    """By what people know a path: its end, or for weights that were trained here the name of their run."""
    path = Path(path)
    if path.name == BEST and (path.parent / METRICS).is_file():
        return _("{run} (trained here)").format(run=path.parent.name)
    return str(Path(*path.parts[-2:]))
