"""Data sets to train on: `gaborseg data`, which looks through one, and `gaborseg pack`, which makes it one file."""

from pathlib import Path

from ..events import say
from ..protocol import DONE, REFUSED, RESULT
from .arguments import names, network_size, share


def add_arguments(parser):
    parser.add_argument("data", metavar="DATA", help="as for train")
    parser.add_argument("--table", metavar="TABLE", help="as for train")
    parser.add_argument("--validation", type=names, metavar="ID,ID", help="scans or subjects held out")
    parser.add_argument(
        "--validation-share", type=share, default=0.1, metavar="S", help="of the subjects (default: 0.1)"
    )


def run(options, report):
    """Look through a data set before training: what is in it, and what is wrong with it."""
    from dataclasses import asdict

    from ..data.checks import split_and_check, summary
    from ..data.sources import find_data

    data = find_data(options.data, options.table)
    training, validation, problems = split_and_check(data, options.validation, options.validation_share, report=report)
    status = REFUSED if any(problem.kind == "error" for problem in problems) else DONE
    if not options.json:
        say(summary(data, training, validation, problems))
        return status
    report(
        {
            "event": RESULT,
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
    return status


def add_pack_arguments(parser):
    parser.add_argument("data", metavar="DATA", help="as for train, but not packed")
    parser.add_argument("--output", "-o", required=True, metavar="FILE", help="the file (.zip or .npz)")
    parser.add_argument(
        "--grid-size", type=network_size("grid_size"), default=128, help="edge of the cube, voxels (default: 128)"
    )
    parser.add_argument("--table", metavar="TABLE", help="as for train")
    parser.add_argument("--find-brain", action="store_true", help="as for train")
    parser.add_argument("--soft-labels", action="store_true", help="as for train")
    parser.add_argument("--heads", metavar="DIR", help="as for train: the heads built around the scans go in, too")
    parser.add_argument("--cache", metavar="DIR", help="folder for prepared scans (default: a temporary one)")


def run_pack(options, report):
    """Write a data set's prepared scans into one file to train from elsewhere."""
    from contextlib import nullcontext
    from tempfile import TemporaryDirectory

    from ..data.heads import find_heads
    from ..data.packing import EXTENSIONS, pack
    from ..data.sources import find_data
    from ..files import check_output, keep_inputs

    check_output(options.output, EXTENSIONS)
    data = find_data(options.data, options.table)
    heads = find_heads(options.heads) if options.heads else []
    keep_inputs([options.output], [options.data, *data.files, *heads])
    with nullcontext(options.cache) if options.cache else TemporaryDirectory() as cache:
        size, soft = options.grid_size, options.soft_labels
        pack(data, options.output, cache, size, report, options.find_brain, heads, soft)
    size = round(Path(options.output).stat().st_size / 2**20, 1)
    if options.json:
        report({"event": RESULT, "file": str(options.output), "cases": len(data.cases), "mib": size})
    else:
        say(f"{options.output}: {len(data.cases)} prepared scans, {size} MiB; gaborseg train takes it as a data set")
    return DONE
