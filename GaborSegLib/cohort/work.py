"""What a worker of a cohort does: one scan, its files and its record."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import GaborSegError
from ..protocol import WARNING
from .items import Item
from .record import source_of, write_record

# Results of a scan, beside its record; the last only if it is asked for.
KINDS = ("labels", "volumes", "thumbnail", "overview")


@dataclass(frozen=True)
class Settings:
    """How a cohort is segmented.

    Args:
        weights: path of the weight file.
        sha256, variant: of the weights.
        device: of torch.
        mirror: see `Segmenter`.
        overview: also make pictures.
        threads: of torch, for each worker.
    """

    weights: str
    sha256: str
    variant: str
    device: str = "cpu"
    mirror: bool = True
    overview: bool = True
    threads: int = 1

    def identity(self):
        """What results depend on, for records: a scan is done anew if it is not as it was."""
        return {key: value for key, value in asdict(self).items() if key not in ("weights", "device", "threads")}


def segment_item(item, output, settings):
    """Segment one scan and write its results; the error's text if it cannot be segmented, else None.

    Runs in a worker, whose `Segmenter` is opened once. What is wrong with the scan is no exception: a scheduler would
    take that for a failed worker.
    """
    try:
        _segment(item, Path(output), settings)
    except GaborSegError as error:
        return str(error)
    except OSError as error:
        return f"{item.path}: cannot be read ({error.strerror or error}); check that it is there and may be read"
    except MemoryError:
        return f"{item.path}: the memory of the worker is not enough; use fewer workers"
    return None


def _segment(item, output, settings):
    segmenter = _segmenter(settings.weights, settings.device, settings.mirror, settings.threads)
    warnings = []
    source = source_of(item.path)
    from ..inference.segmenter import read_scan
    from ..report.overview import write_thumbnail

    image = read_scan(item.path)
    segmentation = segmenter.segment(image, lambda event: _keep_warning(event, warnings))
    files = {kind: item.file(kind, settings.variant) for kind in KINDS if kind != "overview" or settings.overview}
    segmentation.save(output / files["labels"])
    write_morph(output / files["volumes"], segmentation)
    write_thumbnail(
        output / files["thumbnail"], image.array, segmentation.labels, image.affine, segmentation.structures
    )
    if settings.overview:
        segmentation.save_overview(output / files["overview"], image, item.id)
    record = record_of(item, settings, source, segmentation, warnings)
    record["GaborSeg"]["Outputs"] = {path.as_posix(): (output / path).stat().st_size for path in files.values()}
    write_record(output, item, settings, record)


def _keep_warning(event, warnings):
    if event["event"] == WARNING:
        warnings.append(event["message"])


@lru_cache(maxsize=1)
def _segmenter(weights, device, mirror, threads):
    from ..environment import keep_freed_memory

    keep_freed_memory()
    import torch

    from ..inference.segmenter import Segmenter

    torch.set_num_threads(threads)
    return Segmenter(weights, device, mirror)


def _rounded(sides):
    """Left, right and asymmetry of structures, as `volumes.side_volumes` gives them, with four decimals."""
    return {
        name: {key: None if value is None else round(value, 4) for key, value in halves.items()}
        for name, halves in sides.items()
    }


def record_of(item, settings, source, segmentation, warnings):
    """The record of a segmentation, a dictionary, as its sidecar has it."""
    provenance = segmentation.provenance
    return {
        "Description": f"Brain structures by GaborSeg, {settings.variant} kernels",
        "SpatialReference": "orig",
        "Sources": [f"bids:raw:{item.uri}"] if item.uri else [str(item.path)],
        "GaborSeg": {
            "Version": provenance["gaborseg"],
            "Torch": provenance["torch"],
            "Weights": provenance["weights"],
            "Settings": settings.identity(),
            "Source": source,
            "Seconds": provenance["seconds"],
            "Device": provenance["device"],
            "VolumesMl": {name: round(volume, 4) for name, volume in segmentation.volumes.items()},
            "IntracranialMl": segmentation.icv.get("ml"),
            "IntracranialMissing": segmentation.icv.get("missing"),
            "SidesMl": _rounded(segmentation.sides),
            "Quality": {name: round(quality, 4) for name, quality in segmentation.quality.items()},
            "Warnings": warnings,
        },
    }


def write_morph(path, segmentation):
    """Write a scan's volumes as a BIDS morphometry table: index, name, volume-mm3."""
    from ..files import replacing

    rows = ["index\tname\tvolume-mm3"]
    for structure in segmentation.structures:
        rows.append(f"{structure.label}\t{structure.name}\t{1000 * segmentation.volumes[structure.name]:.1f}")
    with replacing(path) as temporary:
        temporary.write_text("\n".join(rows) + "\n", encoding="utf-8")


# What a process for one scan runs; the library is imported from where this one has it.
CHILD = "import sys; sys.path.insert(0, sys.argv[1])\nfrom GaborSegLib.cohort.work import child\nchild()"


def segment_alone(item, output, settings):
    """`segment_item` in a process of its own, for a scan that ended a worker: what ends the process is its error."""
    order = {"item": {**asdict(item), "path": str(item.path)}, "output": str(output), "settings": asdict(settings)}
    command = [sys.executable, "-c", CHILD, str(Path(__file__).resolve().parents[2])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()  # and left open: the process ends where this one is gone
        answer = process.stdout.readline()
    if not answer:
        return f"{item.path}: reading or segmenting it ended the process ({_ending(process.returncode)}), twice"
    return json.loads(answer)


def child():
    """What `segment_alone` starts: one scan, as standard input says; the answer goes to standard output."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    item = Item(**{**order["item"], "path": Path(order["item"]["path"])})
    print(json.dumps(segment_item(item, order["output"], Settings(**order["settings"]))), flush=True)


def _end_with_parent():
    sys.stdin.read()
    os._exit(1)


def _ending(code):
    """What an exit status says."""
    if code >= 0:
        return f"exit status {code}"
    name = signal.Signals(-code).name
    return name + (", often a lack of memory" if -code == signal.SIGKILL else "")
