"""The command line: `gaborseg segment | data | train | evaluate | export | info`, or `python -m GaborSegLib`.

What torch is needed for is imported where it is needed, so that `--help` and mistakes in the options answer at once.
"""

import argparse
import json
import os
import sys
import time
import traceback
from pathlib import Path

from .. import __version__
from ..environment import keep_freed_memory
from ..errors import DataError, GaborSegError, OutputError, ToldElsewhere, TrainingError
from ..events import Terminal, json_lines
from ..timing import Timer, peak_mib, profile_table


def main(arguments=None):
    """Run one command and return its exit status: 0, 2 for an error with a remedy, 130 for Ctrl-C, 1 for a defect."""
    return run(_parser().parse_args(arguments))


def run(options):
    """Run a command that was parsed, see `main`."""
    keep_freed_memory()
    report = json_lines if options.json else Terminal()
    try:
        return options.command(options, report)
    except ToldElsewhere:
        return 2
    except GaborSegError as error:
        return _fail(options, report, error.code, str(error), 2)
    except BrokenPipeError:  # whoever read the output (head, a pager) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail(options, report, "cancelled", "cancelled", 130)
    except Exception as error:
        if "TORCHELASTIC_RUN_ID" in os.environ:  # the launcher says what happened, and starts the run again
            raise
        message = f"unexpected {type(error).__name__}: {error}; --debug shows where"
        return _fail(options, report, "unexpected", message, 1)
    finally:
        if not options.json:
            report.close()


def _fail(options, report, code, message, status, error=None):
    if options.debug:
        traceback.print_exception(error or sys.exc_info()[1])
    if options.json:
        report({"event": "error", "code": code, "message": message})
    else:
        report.close()
        print(f"gaborseg: {message}", file=sys.stderr)
    return status


def _parser():
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="write events to standard output, one JSON object a line")
    common.set_defaults(restart=None)  # a number in the processes of `processes.launch`
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = argparse.ArgumentParser(prog="gaborseg", description=sys.modules[__package__].__doc__)
    parser.add_argument("--version", action="version", version=f"gaborseg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, text):
        subparser = commands.add_parser(name, parents=[common], help=text, description=text)
        subparser.set_defaults(command=function)
        return subparser

    segment = command("segment", _segment, "Segment T1 scans.")
    segment.add_argument(
        "scans",
        nargs="+",
        metavar="SCAN",
        help="NIfTI, MGH/MGZ, NRRD, MetaImage, a DICOM folder, or a folder of such files (NAME_labels.* and .seg.nrrd "
        "are left out)",
    )
    segment.add_argument(
        "--output",
        "-o",
        metavar="PATH",
        help="the label map (.nii.gz, .nii, .mgz, .nrrd, .seg.nrrd) or a folder; default: SCAN_labels.nii.gz in the "
        "current folder",
    )
    segment.add_argument("--weights", default="mixed", metavar="W", help="mixed, gabor, conventional, or a weight file")
    segment.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    segment.add_argument(
        "--no-mirror",
        dest="mirror",
        action="store_false",
        help="do not average with the mirror image: half the time, a little less accurate",
    )
    segment.add_argument("--seg-nrrd", action="store_true", help="also write SCAN.seg.nrrd, for 3D Slicer")
    segment.add_argument("--volumes", action="store_true", help="also write the volumes, SCAN_volumes.csv")
    segment.add_argument("--overview", action="store_true", help="also write a picture, SCAN_overview.png")
    segment.add_argument("--profile", action="store_true", help="show where the time goes")

    train = command("train", _train, "Train or fine-tune a network.")
    train.add_argument(
        "data",
        metavar="DATA",
        help="folder with images and labels, BIDS folder, nnU-Net raw folder, CSV of paths (image, labels, subject), "
        "or packed data set",
    )
    train.add_argument("--output", "-o", required=True, metavar="DIR", help="folder of the run")
    train.add_argument("--variant", default="mixed", choices=("conventional", "gabor", "mixed"))
    train.add_argument("--loss", default="pcc", choices=("pcc", "dice", "cross-entropy", "pcc+cross-entropy"))
    train.add_argument("--lr", type=float, default=1e-3, dest="learning_rate", help="learning rate (default: 1e-3)")
    train.add_argument("--epochs", type=_at_least(1), default=300)
    train.add_argument("--batch-size", type=_at_least(1), default=1, help="images a step in each process (default: 1)")
    train.add_argument(
        "--augmentation",
        default="paper",
        choices=("paper", "strong", "scanner", "artefacts", "balanced", "field", "close", "none"),
    )
    train.add_argument("--heads", metavar="DIR", help="head label maps; heads are built around brain-extracted scans")
    train.add_argument(
        "--find-brain",
        action="store_true",
        help="find the brain first and take away what is not near it; set if the weights of --init were trained so",
    )
    train.add_argument("--patch", type=_at_least(16), help="train on random cubes of this edge; 64 suits a CPU")
    train.add_argument("--decay", type=float, default=0.0, help="last share of the steps, in which the rate falls to 0")
    train.add_argument("--dropout", type=float, default=0.1, help="spatial dropout (default: 0.1)")
    train.add_argument(
        "--validation", type=_names, metavar="ID,ID", help="scans or subjects held out (default: a share)"
    )
    train.add_argument("--validation-share", type=_share, default=0.1, metavar="S", help="of subjects (default: 0.1)")
    train.add_argument("--validate-every", type=_at_least(1), default=1, metavar="N", help="epochs between validations")
    train.add_argument("--init", metavar="WEIGHTS", help="weight file to start from")
    train.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    where = train.add_mutually_exclusive_group()
    where.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    where.add_argument("--gpus", type=_gpu_list, metavar="N,N", help="GPUs to train on, a process on each")
    where.add_argument("--processes", type=_at_least(1), metavar="N", help="processes to train in, on the CPU")
    train.add_argument("--precision", default="float32", choices=("float32", "tf32", "bfloat16"), help="of a GPU")
    train.add_argument("--workers", type=_at_least(0), default=0, help="loading processes, for each that trains")
    train.add_argument("--augment-on", choices=("cpu", "device"), help="default: device on a GPU, else cpu")
    train.add_argument("--threads", type=_at_least(1), help="CPU threads of each process (default: all together)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--grid-size", type=_at_least(16), default=128, help="edge of the cube, voxels (default: 128)")
    train.add_argument("--base-channels", type=_at_least(4), default=12, help="of the finest level (default: 12)")
    train.add_argument("--conventional-kernel-size", type=_at_least(1), default=3, metavar="K")
    train.add_argument("--gabor-kernel-size", type=_at_least(1), default=7, metavar="K")
    train.add_argument(
        "--table",
        metavar="TABLE",
        help="label table: a CSV, neuromorphometrics or freesurfer (default: DATA/structures.csv, else nnU-Net's)",
    )
    train.add_argument("--cache", metavar="DIR", help="folder for prepared scans (default: OUTPUT/cache)")
    train.add_argument("--facts", metavar="JSON", help="file with entries for the card, such as data and licence")

    data = command("data", _data, "Look through a data set before training: what is in it, and what is wrong with it.")
    data.add_argument("data", metavar="DATA", help="as for train")
    data.add_argument("--table", metavar="TABLE", help="as for train")
    data.add_argument("--validation", type=_names, metavar="ID,ID", help="scans or subjects held out")
    data.add_argument(
        "--validation-share", type=_share, default=0.1, metavar="S", help="of the subjects (default: 0.1)"
    )

    packed = command("pack", _pack, "Write a data set's prepared scans into one file to train from elsewhere.")
    packed.add_argument("data", metavar="DATA", help="as for train, but not packed")
    packed.add_argument("--output", "-o", required=True, metavar="FILE", help="the file (.zip or .npz)")
    packed.add_argument("--grid-size", type=_at_least(16), default=128, help="edge of the cube, voxels (default: 128)")
    packed.add_argument("--table", metavar="TABLE", help="as for train")
    packed.add_argument("--find-brain", action="store_true", help="as for train")
    packed.add_argument("--heads", metavar="DIR", help="as for train: the heads built around the scans go in, too")
    packed.add_argument("--cache", metavar="DIR", help="folder for prepared scans (default: a temporary one)")

    evaluate = command("evaluate", _evaluate, "Score a network on labelled scans.")
    evaluate.add_argument("weights", metavar="WEIGHTS", help="mixed, gabor, conventional, or a weight file")
    evaluate.add_argument("data", metavar="DATA", help="as for train")
    evaluate.add_argument("--scans", type=_names, metavar="ID,ID", help="scans or subjects to score (default: all)")
    evaluate.add_argument("--output", "-o", metavar="DIR", help="folder for scores_cube.csv and scores_scan.csv")
    evaluate.add_argument("--device", default="auto")
    evaluate.add_argument("--table", metavar="TABLE", help="as for train")

    exported = command("export", _export, "Write a network as ONNX or TorchScript, for other runtimes.")
    exported.add_argument("weights", metavar="WEIGHTS", help="mixed, gabor, conventional, or a weight file")
    exported.add_argument("--output", "-o", required=True, metavar="FILE", help="the file (.onnx or .pt)")

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


def _gpu_list(text):
    numbers = [int(number) for number in text.split(",")]
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"must be different numbers from 0, such as 0,1, got {text}")
    return numbers


def _share(text):
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and less than 1, got {text}")
    return float(text)


def _at_least(lowest):
    def number(text):
        if int(text) < lowest:
            raise argparse.ArgumentTypeError(f"must be at least {lowest}, got {text}")
        return int(text)

    return number


def _segment(options, report):
    start, began = Timer(), time.perf_counter()
    before = time.process_time()  # no clock says when Python started; this is what it has worked since
    start.add("Python", before, peak_mib())
    from ..files import check_output, split_extension
    from ..scans.image import WRITABLE
    from ..scans.reading import scans_in

    scans = [scan for given in options.scans for scan in scans_in(given)]
    outputs = _segment_outputs(scans, options)
    for files in outputs:
        for kind, file in files.items():
            check_output(file, WRITABLE if kind == "labels" else (split_extension(file)[1],))
    with start("Importing torch"):
        import torch  # noqa: F401
    with start("Importing the rest"):
        from ..inference.cohort import overlapped
        from ..inference.segmenter import Segmenter
    with start("Opening the weights"):
        segmenter = Segmenter(options.weights, options.device, options.mirror)

    told = [[] for _ in scans]  # the events of each of many, told in order once it is finished
    reports = [report] if len(scans) == 1 else [events.append for events in told]

    def prepare(i):
        return i, segmenter.prepare(scans[i], reports[i])

    def look(work):
        i, task = work
        return i, segmenter.look(task)

    def finish(work):
        i, task = work
        return _write(segmenter.finish(task), task, outputs[i]), task.timer

    failed, timers = 0, []
    if len(scans) > 1:
        report({"event": "progress", "stage": "Segmenting", "done": 0, "total": len(scans)})
    outcomes = overlapped(range(len(scans)), prepare, look, finish)
    for done, (scan, events, outcome) in enumerate(zip(scans, told, outcomes), start=1):
        for event in events:
            if event["event"] == "warning":
                report({**event, "message": _naming(scan, event["message"]), "scan": str(scan)})
        if isinstance(outcome, GaborSegError):
            # One bad scan of many is no reason to lose the others.
            failed = _fail(options, report, outcome.code, str(outcome), 2, outcome)
        else:
            timers.append(outcome[1])
            _tell_segmentation(*outcome, start, options, report)
        if len(scans) > 1:
            report({"event": "progress", "stage": "Segmenting", "done": done, "total": len(scans)})
    if options.profile and timers and not options.json:
        print(profile_table(start, timers, before + time.perf_counter() - began))
    return failed


def _write(segmentation, task, files):
    """Write the files of one scan, and return what to tell of it."""
    with task.timer("Writing"):
        for kind in ("labels", "seg_nrrd"):
            if kind in files:
                segmentation.save(files[kind])
        if "volumes" in files:
            segmentation.save_volumes(files["volumes"])
        if "overview" in files:
            segmentation.save_overview(files["overview"], task.image)
    return {
        "files": {kind: str(file) for kind, file in files.items()},
        "volumes": segmentation.volumes,
        "quality": segmentation.quality,
        "provenance": segmentation.provenance,
    }


def _tell_segmentation(result, timer, start, options, report):
    from ..inference.volumes import volumes_table

    if options.json:
        profile = {"start": start.seconds, "scan": timer.seconds, "peak_mib": peak_mib()} if options.profile else None
        report({"event": "result", **result, **({"profile": profile} if profile else {})})
    else:
        print(volumes_table(result["volumes"], result["quality"]))
        print("\n".join(f"wrote {file}" for file in result["files"].values()))


def _naming(scan, message):
    """A message that names its scan."""
    return message if str(scan) in message else f"{scan}: {message}"


def _segment_outputs(scans, options):
    """For each scan, the files to write: a dictionary from kind to path."""
    from ..files import split_extension
    from ..scans.image import LABELS_SUFFIX, WRITABLE

    output = Path(options.output) if options.output else Path(".")
    is_file = split_extension(output)[1] in WRITABLE
    if is_file and len(scans) > 1:
        raise OutputError(f"{output}: is one file, for {len(scans)} scans; name a folder")
    outputs = []
    for scan in map(Path.resolve, scans):
        stem = scan.name if scan.is_dir() else Path(split_extension(scan)[0]).name
        folder = output.parent if is_file else output
        files = {"labels": output if is_file else folder / f"{stem}{LABELS_SUFFIX}.nii.gz"}
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
    from functools import partial

    from ..training.lock import locked, request_stop, stop_requested
    from ..training.processes import is_launched, joined, launch

    if options.patch and options.patch % 16:
        raise DataError(f"--patch: got {options.patch}; it must be a multiple of 16")
    if int(os.environ.get("RANK", 0)) == 0 and not int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):
        _check_before_training(options, report)
    count = len(options.gpus or []) or options.processes or 1
    if count > 1 and not is_launched():
        _check_gpus(options.gpus)
        with locked(options.output):
            stop_requested(options.output)  # what is left from before is taken away
            return launch(
                partial(_train_in_team, options),
                count,
                lambda: request_stop(options.output),
                lambda message: report({"event": "warning", "message": message}),
            )
    with joined() as team:
        return _train_with(team, options, report)


def _check_before_training(options, report):
    """Look through all of the data set before anything is started; what is wrong becomes one error."""
    from ..data.checks import refuse_errors, split_and_check
    from ..data.packing import is_packed

    if not is_packed(options.data):
        found = split_and_check(_open_data(options), options.validation, options.validation_share, options.seed, report)
        refuse_errors(found[2], report)


def _train_in_team(options, restart):
    """What each process of `processes.launch` does."""
    options.restart = restart
    return run(options)


def _train_with(team, options, report):
    """Train as one of a team, or alone."""
    from contextlib import ExitStack
    from dataclasses import fields

    import torch

    from ..data.heads import find_heads
    from ..model.weights import read_card
    from ..protocol import BEST
    from ..training.lock import locked, stop_requested
    from ..training.options import Options
    from ..training.processes import is_launched, restarts
    from ..training.trainer import Trainer

    restart = restarts() if options.restart is None else options.restart
    if options.threads or options.restart is not None:
        torch.set_num_threads(options.threads or max(1, torch.get_num_threads() // team.local_size))
    with ExitStack() as stack:
        opened = team.gather_results(lambda: (_open_data(options), _device(options, team), _facts(options)))
        data, device, facts = opened[team.rank]
        if options.restart is None:  # else the launcher holds the lock
            # torchrun is the process that was started; it lives on when this one is started again.
            pid = os.getppid() if is_launched() else os.getpid()
            team.broadcast_from_first(lambda: stack.enter_context(locked(options.output, pid)))
            if team.rank == 0 and not restart:
                stop_requested(options.output)  # what is left from before is taken away
        heads = find_heads(options.heads) if options.heads else []
        find_brain = options.find_brain or bool(options.init and read_card(options.init).get("find_brain"))
        settings = {**vars(options), "heads": len(heads) or getattr(data, "heads", 0), "find_brain": find_brain}
        run = Options(**{field.name: settings[field.name] for field in fields(Options)})
        trainer = Trainer(
            data,
            options.output,
            run,
            options.validation,
            device,
            options.init,
            options.resume or restart > 0,
            options.cache,
            options.workers,
            facts,
            report,
            options.validation_share,
            options.precision,
            options.augment_on,
            team,
            heads,
        )
        progress = trainer.run()
    if team.rank == 0:
        _tell(trainer, progress, options, report, trainer.output / BEST)
    return 0


def _tell(trainer, progress, options, report, best):
    """Say how a run ended."""
    complete = progress.epoch >= trainer.options.epochs
    result = {
        "output": str(trainer.output),
        "epochs": progress.epoch,
        "complete": complete,
        "best_epoch": progress.best_epoch,
        "best_dice": progress.best_dice,
        "weights": str(best) if best.exists() else None,
    }
    if options.json:
        report({"event": "result", **result})
        return
    ending = "finished" if complete else "stopped; go on with --resume"
    score = "" if progress.best_dice is None else f", best validation Dice {progress.best_dice:.4f}"
    print(f"{trainer.output}: {ending} at epoch {progress.epoch}{score}")


def _check_gpus(numbers):
    import torch

    here = torch.cuda.device_count()
    if numbers and max(numbers) >= here:
        found = f"GPUs 0 to {here - 1}" if here else "no GPU"
        got = ",".join(map(str, numbers))
        raise TrainingError(f"--gpus: got {got}; torch finds {found} here, see gaborseg environment")


def _device(options, team):
    """The torch device of this process of a team."""
    import torch

    from ..inference.segmenter import choose_device

    if options.gpus and len(options.gpus) < team.local_size:
        raise TrainingError(f"--gpus: got {len(options.gpus)} for {team.local_size} processes; each needs its own")
    if options.gpus:
        _check_gpus(options.gpus)
        name = f"cuda:{options.gpus[team.local_rank]}"
    elif options.processes:
        name = "cpu"
    elif team.size > 1 and options.device in ("auto", "cuda"):
        enough = torch.cuda.device_count() >= team.local_size
        name = f"cuda:{team.local_rank}" if enough or options.device == "cuda" else "cpu"
    else:
        name = options.device
    device = choose_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _open_data(options):
    """The data set of a command, from whatever it was given as."""
    from ..data.packing import is_packed, open_packed
    from ..data.sources import find_data

    return open_packed(options.data) if is_packed(options.data) else find_data(options.data, options.table)


def _facts(options):
    if not options.facts:
        return None
    try:
        return json.loads(Path(options.facts).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{options.facts}: cannot be read as JSON: {error}") from error


def _pack(options, report):
    from contextlib import nullcontext
    from tempfile import TemporaryDirectory

    from ..data.heads import find_heads
    from ..data.packing import EXTENSIONS, pack
    from ..data.sources import find_data
    from ..files import check_output

    check_output(options.output, EXTENSIONS)
    data = find_data(options.data, options.table)
    with nullcontext(options.cache) if options.cache else TemporaryDirectory() as cache:
        heads = find_heads(options.heads) if options.heads else []
        pack(data, options.output, cache, options.grid_size, report, options.find_brain, heads)
    size = round(Path(options.output).stat().st_size / 2**20, 1)
    result = {"file": str(options.output), "cases": len(data.cases), "mib": size}
    if options.json:
        report({"event": "result", **result})
    else:
        print(f"{options.output}: {len(data.cases)} prepared scans, {size} MiB; gaborseg train takes it as a data set")
    return 0


def _data(options, report):
    from dataclasses import asdict

    from ..data.checks import split_and_check, summary
    from ..data.sources import find_data

    data = find_data(options.data, options.table)
    training, validation, problems = split_and_check(data, options.validation, options.validation_share, report=report)
    if options.json:
        report(
            {
                "event": "result",
                "layout": data.layout,
                "cases": len(data.cases),
                "subjects": len({case.subject for case in data.cases}),
                "structures": list(data.table.names),
                "absent": list(data.table.absent),
                "table": str(data.table.path),
                "training": [case.id for case in training],
                "validation": [case.id for case in validation],
                "problems": [{**asdict(problem), "file": str(problem.file)} for problem in problems],
            }
        )
    else:
        print(summary(data, training, validation, problems))
    return 0


def _evaluate(options, report):
    from ..data.checks import refuse_errors
    from ..data.sources import find_data
    from ..evaluation.evaluation import evaluate
    from ..evaluation.metrics import score_table, write_scores
    from ..files import check_output
    from ..inference.segmenter import Segmenter

    data = find_data(options.data, options.table)
    refuse_errors(data.problems, report)
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
        cube, scan = ([{k: None if v != v else v for k, v in row.items()} for row in rows] for rows in results)  # NaN
        report({"event": "result", "files": [str(file) for file in files], "cube": cube, "scan": scan})
    else:
        size = segmenter.card["grid_size"]
        for title, rows in zip((f"On the network's {size}^3 cube", "On the scans' own grids"), results):
            print(f"{title}, {len(cases)} scans, mean and standard deviation\n{score_table(rows)}\n")
    return 0


def _export(options, report):
    from ..files import check_output

    check_output(options.output, (".onnx", ".pt"))  # before torch is imported
    from ..inference.segmenter import weights_path
    from ..model.export import export

    export(weights_path(options.weights), options.output)
    if options.json:
        report({"event": "result", "file": str(options.output)})
    else:
        print(f"wrote {options.output}")
    return 0


def _check(options, report):
    from ..environment import environment, memory_needed
    from ..inference.segmenter import choose_device, weights_path
    from ..model.weights import load_weights
    from ..scans.checking import check_image
    from ..scans.reading import read_image

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
    from ..environment import environment

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
    from ..inference.segmenter import weights_path
    from ..model.weights import read_card

    card = read_card(weights_path(options.weights))
    if options.json:
        report({"event": "result", "card": card})
    else:
        print(json.dumps(card, indent=2, ensure_ascii=False))
    return 0
