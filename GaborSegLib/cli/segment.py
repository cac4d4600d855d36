"""Scans in, label maps out: `gaborseg segment`, and `gaborseg check`, whether that would work here."""

import os
import time
from dataclasses import asdict
from pathlib import Path

from ..errors import GaborSegError, OutputError
from ..events import say
from ..protocol import DONE, NAMES, OWN_NAMES, PROGRESS, REFUSED, RESULT, WARNING
from ..timing import Timer, peak_mib, profile_table
from .arguments import DEVICE, WEIGHTS
from .status import tell_error


def add_arguments(parser):
    parser.add_argument(
        "scans",
        nargs="+",
        metavar="SCAN",
        help="NIfTI, MGH/MGZ, NRRD, MetaImage, a DICOM folder, or a folder of such files (NAME_labels.* and .seg.nrrd "
        "are left out)",
    )
    parser.add_argument(
        "--output",
        "-o",
        metavar="PATH",
        help="the label map (.nii.gz, .nii, .mgz, .nrrd, .seg.nrrd) or a folder; default: SCAN_labels.nii.gz in the "
        "current folder",
    )
    parser.add_argument("--weights", default="mixed", metavar="W", help=WEIGHTS)
    parser.add_argument("--device", default="auto", help=DEVICE)
    parser.add_argument(
        "--no-mirror",
        dest="mirror",
        action="store_false",
        help="do not average with the mirror image: half the time, a little less accurate",
    )
    parser.add_argument(
        "--sides",
        action="store_true",
        help="divide paired structures into left and right, in all label maps: 32 labels in place of 19",
    )
    parser.add_argument(
        "--names",
        choices=NAMES,
        default=OWN_NAMES,
        help="with --sides: the labels 101 (left) and 201 (right) for 1, or those of FreeSurfer (default: %(default)s)",
    )
    parser.add_argument("--seg-nrrd", action="store_true", help="also write SCAN.seg.nrrd, for 3D Slicer")
    parser.add_argument("--volumes", action="store_true", help="also write the volumes, SCAN_volumes.csv")
    parser.add_argument("--overview", action="store_true", help="also write a picture, SCAN_overview.png")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")


def run(options, report):
    """Segment T1 scans."""
    if options.names != OWN_NAMES and not options.sides:
        raise GaborSegError(f"--names {options.names}: is for left and right; use it with --sides")
    start, began = Timer(), time.perf_counter()
    before = time.process_time()  # no clock says when Python started; this is what it has worked since
    start.add("Python", before, peak_mib())
    outputs = _outputs(options)
    with start("Importing torch"):
        import torch  # noqa: F401
    with start("Importing the rest"):
        from ..inference.segmenter import Segmenter
    with start("Opening the weights"):
        segmenter = Segmenter(options.weights, options.device, options.mirror)
        parts = segmenter.parts(options.names) if options.sides else None
    status, timers = DONE, []
    for done, (scan, files) in enumerate(outputs):  # one is written before the next is read
        if len(outputs) > 1:
            report({"event": PROGRESS, "stage": "Segmenting", "done": done, "total": len(outputs)})
        try:
            own_report = report if len(outputs) == 1 else _report_of(scan, report)
            result, timer = _segment(segmenter, scan, files, own_report, parts)
        except GaborSegError as error:
            # One bad scan of many is no reason to lose the others.
            tell_error(options, report, error, error.code, str(error))
            status = REFUSED
        else:
            timers.append(timer)
            profile = {"start": start.seconds, "scan": timer.seconds, "peak_mib": peak_mib()}
            tell_result({**result, "profile": profile} if options.profile else result, options, report)
    if len(outputs) > 1:
        report({"event": PROGRESS, "stage": "Segmenting", "done": len(outputs), "total": len(outputs)})
    if options.profile and timers and not options.json:
        say(profile_table(start, timers, before + time.perf_counter() - began))
    return status


def _outputs(options):
    """A list of (scan, dictionary from kind to the file to write), checked before the work."""
    from ..files import check_output, keep_inputs, split_extension
    from ..scans.image import LABELS_SUFFIX, WRITABLE
    from ..scans.reading import scans_in

    scans = [scan for given in options.scans for scan in scans_in(given)]
    output = Path(options.output) if options.output else Path(".")
    is_file = split_extension(output)[1] in WRITABLE
    if is_file and len(scans) > 1:
        raise OutputError(f"{output}: is one file, for {len(scans)} scans; name a folder")
    folder, outputs = output.parent if is_file else output, []
    for scan in (Path(os.path.realpath(scan)) for scan in scans):  # a name for ".", too
        stem = scan.name if scan.is_dir() else Path(split_extension(scan)[0]).name
        files = {"labels": output if is_file else folder / f"{stem}{LABELS_SUFFIX}.nii.gz"}
        if options.seg_nrrd:
            files["seg_nrrd"] = folder / f"{stem}.seg.nrrd"
        if options.volumes:
            files["volumes"] = folder / f"{stem}_volumes.csv"
        if options.overview:
            files["overview"] = folder / f"{stem}_overview.png"
        outputs.append(files)
    written = [os.path.realpath(file) for files in outputs for file in files.values()]
    if len(set(written)) < len(written):
        raise OutputError(f"{output}: two scans have the same name; segment them into different folders")
    keep_inputs([file for files in outputs for file in files.values()], [*scans, options.weights])
    for files in outputs:
        for kind, file in files.items():
            check_output(file, WRITABLE if kind == "labels" else (split_extension(file)[1],))
    return list(zip(scans, outputs))


def _report_of(scan, report):
    """What takes the events of one scan of many: warnings name it, and only whole scans count as progress."""

    def tell(event):
        if event["event"] == WARNING:
            message = event["message"]
            message = message if str(scan) in message else f"{scan}: {message}"
            report({**event, "message": message, "scan": str(scan)})

    return tell


def _segment(segmenter, scan, files, report, parts):
    """Segment one scan and write its files; (what to tell of it, its `Timer`)."""
    from ..inference.segmenter import read_scan

    timer = Timer()
    image = read_scan(scan, report, timer)
    device = str(segmenter.device)
    tell_doubts(*memory(image, segmenter.card, device), device, report)
    segmentation = segmenter.segment(image, report, timer)
    with timer("Writing"):
        return write(segmentation, image, files, parts), timer


def write(segmentation, image, files, parts=None):
    """Write the files of a `Segmentation` of an `Image`, a dictionary from kind to path; returns what to tell of it.

    `parts`, from `Segmenter.parts`, divides structures in the label maps into left and right.
    """
    for kind in ("labels", "seg_nrrd"):
        if kind in files:
            segmentation.save(files[kind], parts)
    if "volumes" in files:
        segmentation.save_volumes(files["volumes"])
    if "overview" in files:
        segmentation.save_overview(files["overview"], image)
    return {
        "files": {kind: str(file) for kind, file in files.items()},
        "volumes": segmentation.volumes,
        "quality": segmentation.quality,
        "looks_like_t1": segmentation.looks_like_t1,
        "sides": segmentation.sides,
        "icv": segmentation.icv,
        **({"segments": _segments(segmentation, parts)} if parts else {}),
        "provenance": segmentation.provenance,
    }


def _segments(segmentation, parts):
    """What stands for what in a label map with sides: a list of dictionaries."""
    names = {structure.label: structure.name for structure in segmentation.structures}
    return [{"structure": names[label], "side": side, **asdict(part)} for (label, side), part in parts.items()]


def tell_result(result, options, report):
    """Tell what `write` returned."""
    from ..inference.volumes import volumes_table

    if options.json:
        report({"event": RESULT, **result})
    else:
        say(volumes_table(result["volumes"], result["quality"], result["sides"], result["icv"]))
        say("\n".join(f"wrote {file}" for file in result["files"].values()))


def add_check_arguments(parser):
    parser.add_argument("scan", metavar="SCAN", help="as for segment")
    parser.add_argument("--weights", default="mixed", metavar="W", help=WEIGHTS)
    parser.add_argument("--device", default="auto", help=DEVICE)


def run_check(options, report):
    """Check, without segmenting, that a scan can be segmented here."""
    from ..inference.segmenter import check_usable, choose_device, weights_path
    from ..model.weights import load_weights
    from ..scans.checking import check_image
    from ..scans.reading import read_image

    opened, device = load_weights(weights_path(options.weights)), choose_device(options.device)
    card = opened.card
    check_usable(card, opened.path, device)
    device = str(device)
    image = read_image(options.scan)
    for message in check_image(image):
        report({"event": WARNING, "message": message})
    needed, free = memory(image, card, device)
    tell_doubts(needed, free, device, report)
    result = {"variant": card["variant"], "device": device, "needed_mib": needed, "free_mib": free}
    if options.json:
        report({"event": RESULT, **result})
    else:
        say(f"{options.scan}: can be segmented with {card['variant']} kernels on {device}, about {needed} MiB")
    return DONE


def memory(image, card, device):
    """MiB that segmenting an `Image` takes, by an estimate, and MiB that are free on a device, None if not known."""
    from ..environment import environment, memory_needed

    name = "cuda:0" if device == "cuda" else device
    free = next((entry["free_mib"] for entry in environment()["devices"] if entry["id"] == name), None)
    return memory_needed(image.array.size, card["grid_size"], card), free


def tell_doubts(needed, free, device, report):
    """Warn where so many MiB are needed on a device, and fewer are free."""
    if free is not None and free < needed:
        message = f"about {needed} MiB are needed and {free} MiB are free on {device}; close other programs"
        report({"event": WARNING, "message": message + ("" if device == "cpu" else ", or choose the device cpu")})
