"""How well a network does on labelled scans: `gaborseg evaluate`."""

from pathlib import Path

from ..errors import DataError
from ..events import say
from ..protocol import DONE, RESULT
from .arguments import WEIGHTS, names


def add_arguments(parser):
    parser.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)
    parser.add_argument("data", metavar="DATA", help="as for train")
    parser.add_argument("--scans", type=names, metavar="ID,ID", help="scans or subjects to score (default: all)")
    parser.add_argument("--output", "-o", metavar="DIR", help="folder for scores_cube.csv and scores_scan.csv")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--table", metavar="TABLE", help="as for train")


def run(options, report):
    """Score a network on labelled scans."""
    from ..data.checks import refuse_errors
    from ..data.sources import find_data
    from ..evaluation.evaluation import evaluate
    from ..evaluation.metrics import write_scores
    from ..files import check_output, keep_inputs
    from ..inference.segmenter import Segmenter

    data = find_data(options.data, options.table)
    refuse_errors(data.problems, report)
    cases = data.select(options.scans)
    files = [Path(options.output) / f"scores_{grid}.csv" for grid in ("cube", "scan")] if options.output else []
    keep_inputs(files, [options.weights, options.data, *data.files])
    for file in files:
        check_output(file, (".csv",))
    segmenter = Segmenter(options.weights, options.device)
    if list(data.table.names) != segmenter.card["structures"]:
        raise DataError(f"{data.folder}: its label table has other structures than {segmenter.path}")
    results = evaluate(segmenter, cases, data.table, report)
    for file, rows in zip(files, results):
        write_scores(file, rows)
    if options.json:
        cube, scan = ([{k: None if v != v else v for k, v in row.items()} for row in rows] for rows in results)  # NaN
        report({"event": RESULT, "files": [str(file) for file in files], "cube": cube, "scan": scan})
    else:
        _print_scores(results, segmenter.card["grid_size"], len(cases))
    return DONE


def _print_scores(results, size, count):
    from ..evaluation.metrics import score_table

    for title, rows in zip((f"On the network's {size}^3 cube", "On the scans' own grids"), results):
        say(f"{title}, {count} scans, mean and standard deviation\n{score_table(rows)}\n")
