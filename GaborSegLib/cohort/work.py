"""What a worker of a cohort does: one scan, its files and its record."""

import multiprocessing
import signal
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import GaborSegError
from ..protocol import WARNING
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


def segment_alone(item, output, settings):
    """`segment_item` in a process of its own, for a scan that ended a worker: what ends the process is its error."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, item, output, settings), daemon=True)
    process.start()
    sender.close()
    try:
        reason = receiver.recv()
    except EOFError:
        process.join()
        return f"{item.path}: reading or segmenting it ended the process ({_ending(process.exitcode)}), twice"
    process.join()
    return reason


def _child(sender, item, output, settings):
    sender.send(segment_item(item, output, settings))


def _ending(code):
    """What an exit status of multiprocessing says."""
    if code is None or code >= 0:
        return f"exit status {code}"
    name = signal.Signals(-code).name
    return name + (", often a lack of memory" if -code == signal.SIGKILL else "")
