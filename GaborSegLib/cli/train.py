"""Networks out of labelled scans: `gaborseg train`, in one process or several."""

import argparse
import os
from pathlib import Path

from ..errors import DataError, TrainingError
from ..events import say
from ..protocol import (
    AUGMENTATIONS,
    BEST,
    CURVES,
    DONE,
    LIMITS,
    LOCK,
    LOSSES,
    METRICS,
    PRECISIONS,
    PREVIOUS,
    RESULT,
    SNAPSHOT,
    STOP,
    VARIANTS,
    WARNING,
    parse_json,
    read_text,
)
from .arguments import DEVICE, between, gpu_numbers, names, network_size, part, positive, share
from .recipe import bundled_recipes, find_stage, parse_stage
from .status import run_command

# Beyond what any run needs; and beyond what a machine can start of threads, or of processes that import torch.
MANY, MOST_PROCESSES = 1_000_000, 256


def add_arguments(parser):
    """Add the arguments; what a recipe can set is None if it is not given, and `_complete` puts its default in."""
    defaults = {}

    def option(name, default, **more):
        """One of `protocol.RECIPE_OPTIONS`."""
        defaults[parser.add_argument(name, **more).dest] = default

    parser.add_argument(
        "data",
        metavar="DATA",
        help="folder with images and labels, BIDS folder, nnU-Net raw folder, CSV of paths (image, labels, subject), "
        "or packed data set",
    )
    parser.add_argument("--output", "-o", required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"how to train, in the place of the defaults: {', '.join(bundled_recipes())}, or the path of a .json; "
        "NAME:N is the N-th stage of one that has several",
    )
    option("--variant", "mixed", choices=VARIANTS)
    option("--loss", "pcc", choices=LOSSES)
    option("--lr", 1e-3, type=positive, dest="learning_rate", help="learning rate (default: 1e-3)")
    option("--epochs", 300, type=between(1, MANY))
    option("--batch-size", 1, type=between(1, MANY), help="images a step in each process (default: 1)")
    option("--augmentation", "paper", choices=AUGMENTATIONS)
    parser.add_argument("--heads", metavar="DIR", help="head label maps; heads are built around brain-extracted scans")
    option(
        "--find-brain",
        None,
        action=argparse.BooleanOptionalAction,
        help="find the brain first and take away what is not near it; set if the weights of --init were trained so",
    )
    option(
        "--soft-labels",
        False,
        action=argparse.BooleanOptionalAction,
        help="train on the share that each structure has of a voxel, not on the label of the largest",
    )
    option(
        "--patch",
        None,
        type=between(16, LIMITS["grid_size"][-1]),
        help="train on random cubes of this edge; 64 suits a CPU",
    )
    option("--decay", 0.0, type=part, help="last share of the steps, in which the rate falls to 0")
    option("--dropout", 0.1, type=share, help="spatial dropout (default: 0.1)")
    parser.add_argument(
        "--validation", type=names, metavar="ID,ID", help="scans or subjects held out (default: a share)"
    )
    parser.add_argument("--validation-share", type=share, default=0.1, metavar="S", help="of subjects (default: 0.1)")
    option("--validate-every", 1, type=between(1, MANY), metavar="N", help="epochs between validations")
    parser.add_argument("--init", metavar="WEIGHTS", help="weight file to start from")
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--device", default="auto", help=DEVICE)
    where.add_argument("--gpus", type=gpu_numbers, metavar="N,N", help="GPUs to train on, a process on each")
    where.add_argument(
        "--processes", type=between(1, MOST_PROCESSES), metavar="N", help="processes to train in, on the CPU"
    )
    option("--precision", "float32", choices=PRECISIONS, help="of a GPU")
    option("--workers", 0, type=between(0, MOST_PROCESSES), help="loading processes, for each that trains")
    parser.add_argument("--augment-on", choices=("cpu", "device"), help="default: device on a GPU, else cpu")
    parser.add_argument(
        "--threads", type=between(1, MOST_PROCESSES), help="CPU threads of each process (default: all together)"
    )
    option("--seed", 0, type=between(0, 2**63 - 1))
    option("--grid-size", 128, type=network_size("grid_size"), help="edge of the cube, voxels (default: 128)")
    option("--base-channels", 12, type=network_size("base_channels"), help="of the finest level (default: 12)")
    option("--conventional-kernel-size", 3, type=network_size("conventional_kernel_size"), metavar="K")
    option("--gabor-kernel-size", 7, type=network_size("gabor_kernel_size"), metavar="K")
    parser.add_argument(
        "--table",
        metavar="TABLE",
        help="label table: a CSV, neuromorphometrics or freesurfer (default: DATA/structures.csv, else nnU-Net's)",
    )
    parser.add_argument("--cache", metavar="DIR", help="folder for prepared scans (default: OUTPUT/cache)")
    parser.add_argument("--facts", metavar="JSON", help="file with entries for the card, such as data and licence")
    # `place` is a `processes.Place` in those that `processes.launch` started.
    parser.set_defaults(defaults=defaults, place=None)


def run(options, report):
    """Train or fine-tune a network."""
    from functools import partial

    from ..training.lock import locked, request_stop, stop_requested
    from ..training.processes import is_launched, joined, launch

    if not options.place:  # else it was done by the process that started this one
        _complete(options)
    count = len(options.gpus or []) or options.processes or 1
    if count > 1 and not options.place and not is_launched():
        _check_gpus(options.gpus)
        _check_data(options, report)
        with locked(options.output, report=report):
            stop_requested(options.output)  # what is left from before is taken away
            return launch(
                partial(_run_in_team, options),
                count,
                lambda: request_stop(options.output),
                lambda message: report({"event": WARNING, "message": message}),
            )
    with joined(options.place) as team:
        return _train(team, options, report)


def _complete(options):
    """Add what was not given: the recipe's options, then the defaults."""
    chosen = {}
    if options.recipe:
        options.recipe, path, stage = find_stage(options.recipe)
        chosen = parse_stage(stage, path, add_arguments)
        _check_patch(chosen.get("patch"), f"{path}: patch")
    for name, value in {**options.defaults, **chosen}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    _check_patch(options.patch, "--patch")


def _check_patch(patch, name):
    if patch and patch % 16:
        raise DataError(f"{name}: got {patch}; it must be a multiple of 16")


def _check_data(options, report):
    """Look through all of the data set before anything is started; what is wrong becomes one error."""
    from ..data.checks import refuse_errors, split_and_check
    from ..data.packing import is_packed
    from ..files import keep_inputs

    data, folder = _open_data(options), Path(options.output)
    outputs = [folder / name for name in (BEST, METRICS, CURVES, SNAPSHOT, PREVIOUS, LOCK, STOP)]
    inputs = [path for path in (options.data, options.init, options.facts) if path]
    keep_inputs(outputs, [*inputs, *data.files])
    if not is_packed(options.data):
        found = split_and_check(data, options.validation, options.validation_share, options.seed, report)
        refuse_errors(found[2], report)


def _run_in_team(options, place):
    """What each process of `processes.launch` does."""
    options.place = place
    return run_command(options)


def _train(team, options, report):
    """Train as one of a team, or alone."""
    from contextlib import ExitStack

    import torch

    from ..training.lock import check_shared, locked, stop_requested
    from ..training.processes import is_launched, restarts

    restart = options.place.restart if options.place else restarts()
    if options.threads or options.place:
        torch.set_num_threads(options.threads or max(1, torch.get_num_threads() // team.local_size))
    with ExitStack() as stack:
        data, device = team.gather_results(lambda: (_open_data(options), _device(options, team)))[team.rank]
        if not options.place:  # else the launcher has looked through the data, and holds the lock
            team.broadcast_from_first(lambda: _check_data(options, report))
        facts = team.gather_results(lambda: _facts(options))[team.rank]
        if not options.place:
            # torchrun is the process that was started; it lives on when this one is started again.
            pid = os.getppid() if is_launched() else os.getpid()
            owner = team.broadcast_from_first(lambda: stack.enter_context(locked(options.output, pid, report)))
            check_shared(options.output, owner, team, restart, report)
            if team.rank == 0 and not restart:
                stop_requested(options.output)  # what is left from before is taken away
        trainer = _trainer(data, device, facts, restart, team, options, report)
        progress = trainer.run()
    if team.rank == 0:
        _tell(trainer, progress, options, report)
    return DONE


def _trainer(data, device, facts, restart, team, options, report):
    from dataclasses import fields

    from ..data.heads import find_heads
    from ..model.weights import read_card
    from ..training.options import Options
    from ..training.trainer import Trainer

    heads = find_heads(options.heads) if options.heads else []
    find_brain = options.find_brain
    if find_brain is None:  # weights that were trained so bring it along
        find_brain = bool(options.init and read_card(options.init).get("find_brain"))
    settings = {**vars(options), "heads": len(heads) or getattr(data, "heads", 0), "find_brain": find_brain}
    return Trainer(
        data,
        options.output,
        Options(**{field.name: settings[field.name] for field in fields(Options)}),
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
        recipe=options.recipe,
    )


def _tell(trainer, progress, options, report):
    """Say how a run ended."""
    complete, best = progress.epoch >= trainer.options.epochs, trainer.output / BEST
    if options.json:
        report(
            {
                "event": RESULT,
                "output": str(trainer.output),
                "epochs": progress.epoch,
                "complete": complete,
                "best_epoch": progress.best_epoch,
                "best_dice": progress.best_dice,
                "weights": str(best) if best.exists() else None,
            }
        )
        return
    ending = "finished" if complete else "stopped; go on with --resume"
    score = "" if progress.best_dice is None else f", best validation Dice {progress.best_dice:.4f}"
    say(f"{trainer.output}: {ending} at epoch {progress.epoch}{score}")


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
    if device.type == "cpu" and options.precision != "float32":  # of bfloat16 the loss becomes NaN there
        raise TrainingError(f"--precision {options.precision}: is for GPUs, this run is on the CPU; take float32")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _open_data(options):
    """The data set, from whatever it was given as."""
    from ..data.packing import is_packed, open_packed
    from ..data.sources import find_data

    return open_packed(options.data) if is_packed(options.data) else find_data(options.data, options.table)


def _facts(options):
    if not options.facts:
        return None
    try:
        facts = parse_json(read_text(options.facts))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{options.facts}: cannot be read as JSON ({reason}); wanted a dictionary in it") from error
    if not isinstance(facts, dict):
        raise DataError(f"{options.facts}: got {facts!r:.60}; wanted a dictionary, such as of data and licence")
    return facts
