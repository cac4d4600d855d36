"""The command line: `gaborseg segment | train | evaluate | info`, or `python -m GaborSegLib`.

What torch is needed for is imported where it is needed, so that `--help` and mistakes in the options answer at once.
"""

import argparse
import json
import os
import sys
import traceback
from pathlib import Path

from . import __version__
from .errors import DataError, GaborSegError, OutputError
from .events import Terminal, json_lines


def main(arguments=None):
    """Run one command and return its exit status: 0, 2 for an error with a remedy, 130 for Ctrl-C, 1 for a defect."""
    options = _parser().parse_args(arguments)
    report = json_lines if options.json else Terminal()
    try:
        return options.command(options, report)
    except GaborSegError as error:
        return _fail(options, report, error.code, str(error), 2)
    except BrokenPipeError:  # whoever read the output (head, a pager) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail(options, report, "cancelled", "cancelled", 130)
    except Exception as error:
        message = f"unexpected {type(error).__name__}: {error}; --debug shows where"
        return _fail(options, report, "unexpected", message, 1)
    finally:
        if not options.json:
            report.close()


def _fail(options, report, code, message, status):
    if options.debug:
        traceback.print_exc()
    if options.json:
        report({"event": "error", "code": code, "message": message})
    else:
        report.close()
        print(f"gaborseg: {message}", file=sys.stderr)
    return status


def _parser():
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="write events to standard output, one JSON object a line")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = argparse.ArgumentParser(prog="gaborseg", description=sys.modules[__package__].__doc__)
    parser.add_argument("--version", action="version", version=f"gaborseg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, text):
        subparser = commands.add_parser(name, parents=[common], help=text, description=text)
        subparser.set_defaults(command=function)
        return subparser

    segment = command("segment", _segment, "Segment T1 scans.")
    segment.add_argument("scans", nargs="+", metavar="SCAN", help="NIfTI, MGH/MGZ, NRRD, MetaImage, or a DICOM folder")
    segment.add_argument(
        "--output", "-o", metavar="PATH",
        help="the label map (.nii.gz, .nii, .mgz, .nrrd, .seg.nrrd) or a folder; default: SCAN_labels.nii.gz in the "
        "current folder",
    )
    segment.add_argument("--weights", default="mixed", metavar="W", help="mixed, gabor, conventional, or a weight file")
    segment.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    segment.add_argument("--seg-nrrd", action="store_true", help="also write SCAN.seg.nrrd, for 3D Slicer")
    segment.add_argument("--volumes", action="store_true", help="also write the volumes, SCAN_volumes.csv")
    segment.add_argument("--overview", action="store_true", help="also write a picture, SCAN_overview.png")

    train = command("train", _train, "Train or fine-tune a network.")
    train.add_argument("data", metavar="DATA", help="folder with images, labels, structures.csv and subjects.csv")
    train.add_argument("--output", "-o", required=True, metavar="DIR", help="folder of the run")
    train.add_argument("--variant", default="mixed", choices=("conventional", "gabor", "mixed"))
    train.add_argument("--loss", default="pcc", choices=("pcc", "dice", "cross-entropy"))
    train.add_argument("--lr", type=float, default=1e-3, dest="learning_rate", help="learning rate (default: 1e-3)")
    train.add_argument("--epochs", type=_at_least(1), default=300)
    train.add_argument("--batch-size", type=_at_least(1), default=1, help="images a step (default: 1)")
    train.add_argument("--augmentation", default="paper", choices=("paper", "strong", "none"))
    train.add_argument("--patch", type=_at_least(16), help="train on random cubes of this edge; 64 suits a CPU")
    train.add_argument("--decay", type=float, default=0.0, help="last share of the steps, in which the rate falls to 0")
    train.add_argument("--dropout", type=float, default=0.1, help="spatial dropout (default: 0.1)")
    train.add_argument("--validation", type=_names, metavar="ID,ID", help="scans or subjects held out (default: 10%%)")
    train.add_argument("--validate-every", type=_at_least(1), default=1, metavar="N", help="epochs between validations")
    train.add_argument("--init", metavar="WEIGHTS", help="weight file to start from")
    train.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    train.add_argument("--workers", type=_at_least(0), default=0, help="processes that load images")
    train.add_argument("--threads", type=_at_least(1), help="CPU threads (default: all)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--grid-size", type=_at_least(16), default=128, help="edge of the cube, voxels (default: 128)")
    train.add_argument("--base-channels", type=_at_least(4), default=12, help="of the finest level (default: 12)")
    train.add_argument("--conventional-kernel-size", type=_at_least(1), default=3, metavar="K")
    train.add_argument("--gabor-kernel-size", type=_at_least(1), default=7, metavar="K")
    train.add_argument("--table", metavar="CSV", help="label table (default: DATA/structures.csv)")
    train.add_argument("--cache", metavar="DIR", help="folder for prepared scans (default: OUTPUT/cache)")
    train.add_argument("--facts", metavar="JSON", help="file with entries for the card, such as data and licence")

    evaluate = command("evaluate", _evaluate, "Score a network on labelled scans.")
    evaluate.add_argument("weights", metavar="WEIGHTS", help="mixed, gabor, conventional, or a weight file")
    evaluate.add_argument("data", metavar="DATA", help="folder as for train")
    evaluate.add_argument("--scans", type=_names, metavar="ID,ID", help="scans or subjects to score (default: all)")
    evaluate.add_argument("--output", "-o", metavar="DIR", help="folder for scores_cube.csv and scores_scan.csv")
    evaluate.add_argument("--device", default="auto")
    evaluate.add_argument("--table", metavar="CSV", help="label table (default: DATA/structures.csv)")

    check = command("check", _check, "Check, without segmenting, that a scan can be segmented here.")
    check.add_argument("scan", metavar="SCAN", help="as for segment")
    check.add_argument("--weights", default="mixed", metavar="W", help="mixed, gabor, conventional, or a weight file")
    check.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")

    command("environment", _environment, "Show what is installed and which devices there are.")

    info = command("info", _info, "Show a weight file's card.")
    info.add_argument("weights", metavar="WEIGHTS", help="mixed, gabor, conventional, or a weight file")
    return parser


def _names(text):
    return [name for name in text.split(",") if name]


def _at_least(lowest):
    def number(text):
        if int(text) < lowest:
            raise argparse.ArgumentTypeError(f"must be at least {lowest}, got {text}")
        return int(text)

    return number


def _segment(options, report):
    from .images import WRITABLE, check_output, split_extension

    outputs = _segment_outputs(options)
    for files in outputs:
        for kind, file in files.items():
            check_output(file, WRITABLE if kind == "labels" else (split_extension(file)[1],))

    from .segmenter import Segmenter

    segmenter = Segmenter(options.weights, options.device)
    failed = 0
    for scan, files in zip(options.scans, outputs):
        try:
            _segment_one(segmenter, scan, files, options, report)
        except GaborSegError as error:
            # One bad scan of many is no reason to lose the others.
            failed = _fail(options, report, error.code, str(error), 2)
    return failed


def _segment_one(segmenter, scan, files, options, report):
    from .segmenter import read_image
    from .volumes import volumes_table

    image = read_image(scan)
    result = segmenter.segment(image, report)
    result.save(files["labels"])
    if "seg_nrrd" in files:
        result.save(files["seg_nrrd"])
    if "volumes" in files:
        result.save_volumes(files["volumes"])
    if "overview" in files:
        result.save_overview(files["overview"], image)
    files = {name: str(file) for name, file in files.items()}
    if options.json:
        report({"event": "result", "files": files, "volumes": result.volumes, "provenance": result.provenance})
    else:
        print(volumes_table(result.volumes))
        print("\n".join(f"wrote {file}" for file in files.values()))


def _segment_outputs(options):
    """For each scan, the files to write: a dictionary from kind to path."""
    from .images import WRITABLE, split_extension

    output = Path(options.output) if options.output else Path(".")
    is_file = split_extension(output)[1] in WRITABLE
    if is_file and len(options.scans) > 1:
        raise OutputError(f"{output}: is one file, for {len(options.scans)} scans; name a folder")
    outputs = []
    for scan in options.scans:
        scan = Path(scan).resolve()
        stem = scan.name if scan.is_dir() else Path(split_extension(scan)[0]).name
        folder = output.parent if is_file else output
        files = {"labels": output if is_file else folder / f"{stem}_labels.nii.gz"}
        if options.seg_nrrd:
            files["seg_nrrd"] = folder / f"{stem}.seg.nrrd"
        if options.volumes:
            files["volumes"] = folder / f"{stem}_volumes.csv"
        if options.overview:
            files["overview"] = folder / f"{stem}_overview.png"
        outputs.append(files)
    written = [file.resolve() for files in outputs for file in files.values()]
    if len(set(written)) < len(written):
        raise OutputError(f"{output}: two scans have the same name; segment them into different folders")
    return outputs


def _train(options, report):
    from dataclasses import fields

    import torch

    from .dataset import find_data
    from .segmenter import choose_device
    from .trainer import Options, Trainer

    if options.patch and options.patch % 16:
        raise DataError(f"--patch: got {options.patch}; it must be a multiple of 16")
    if options.threads:
        torch.set_num_threads(options.threads)
    run = Options(**{field.name: getattr(options, field.name) for field in fields(Options)})
    facts = json.loads(Path(options.facts).read_text(encoding="utf-8")) if options.facts else None
    trainer = Trainer(
        find_data(options.data, options.table), options.output, run, options.validation,
        choose_device(options.device), options.init, options.resume, options.cache, options.workers, facts, report,
    )
    progress = trainer.run()
    complete = progress.epoch >= run.epochs
    result = {
        "output": str(trainer.output), "epochs": progress.epoch, "complete": complete,
        "best_epoch": progress.best_epoch, "best_dice": progress.best_dice,
    }
    if options.json:
        report({"event": "result", **result})
    else:
        ending = "finished" if complete else "stopped; go on with --resume"
        print(f"{trainer.output}: {ending} at epoch {progress.epoch}, best validation Dice {progress.best_dice:.4f}")
    return 0


def _evaluate(options, report):
    from .dataset import find_data
    from .evaluation import evaluate
    from .images import check_output
    from .metrics import score_table, write_scores
    from .segmenter import Segmenter

    data = find_data(options.data, options.table)
    cases = data.select(options.scans)
    files = [Path(options.output) / f"scores_{grid}.csv" for grid in ("cube", "scan")] if options.output else []
    for file in files:
        check_output(file, (".csv",))
    segmenter = Segmenter(options.weights, options.device)
    names = list(data.table.names)
    if names != segmenter.card["structures"]:
        raise DataError(f"{data.folder}: its label table has other structures than {segmenter.path}")
    results = evaluate(segmenter, cases, data.table, report)
    for file, rows in zip(files, results):
        write_scores(file, rows)
    if options.json:
        report({"event": "result", "files": [str(file) for file in files], "cube": results[0], "scan": results[1]})
    else:
        size = segmenter.card["grid_size"]
        for title, rows in zip((f"On the network's {size}^3 cube", "On the scans' own grids"), results):
            print(f"{title}, {len(cases)} scans, mean and standard deviation\n{score_table(rows)}\n")
    return 0


def _check(options, report):
    from .environment import environment, memory_needed
    from .images import check_image, read_image
    from .segmenter import choose_device, weights_path
    from .weights import load_weights

    card = load_weights(weights_path(options.weights)).card
    device = str(choose_device(options.device))
    image = read_image(options.scan)
    for message in check_image(image):
        report({"event": "warning", "message": message})
    needed = memory_needed(image.array.size, card["grid_size"])
    name = "cuda:0" if device == "cuda" else device
    free = next((entry["free_mib"] for entry in environment()["devices"] if entry["id"] == name), None)
    if free is not None and free < needed:
        message = f"about {needed} MiB are needed and {free} MiB are free on {device}; close other programs"
        report({"event": "warning", "message": message + ("" if name == "cpu" else ", or choose the device cpu")})
    result = {"variant": card["variant"], "device": device, "needed_mib": needed, "free_mib": free}
    if options.json:
        report({"event": "result", **result})
    else:
        print(f"{options.scan}: can be segmented with {card['variant']} kernels on {device}, about {needed} MiB")
    return 0


def _environment(options, report):
    from .environment import environment

    found = environment()
    if options.json:
        report({"event": "result", **found})
        return 0
    print(f"Python {found['python']}, {found['executable']}")
    for name, version in found["versions"].items():
        print(f"  {name:<12} {version or 'not installed'}")
    for device in found["devices"]:
        print(f"  {device['id']:<12} {device['name']}, {device['free_mib']} of {device['total_mib']} MiB free")
    return 0


def _info(options, report):
    from .segmenter import weights_path
    from .weights import read_card

    card = read_card(weights_path(options.weights))
    if options.json:
        report({"event": "result", "card": card})
    else:
        print(json.dumps(card, indent=2, ensure_ascii=False))
    return 0
