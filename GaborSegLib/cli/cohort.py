"""A study's scans: `gaborseg cohort`, and `gaborseg bids`, the same as a BIDS App."""

from pathlib import Path

from ..errors import GaborSegError
from ..files import keep_inputs
from ..protocol import DONE, REFUSED, RESULT
from .arguments import WEIGHTS, between

MOST_WORKERS = 1024


def add_arguments(parser):
    parser.add_argument(
        "input", metavar="IN", help="a folder of scans, a CSV with the column image, or a BIDS data set"
    )
    parser.add_argument("output", metavar="OUT", help="folder for the results; a run that is begun there goes on")
    _add_work(parser)


def add_bids_arguments(parser):
    parser.add_argument("input", metavar="BIDS_DIR", help="a BIDS data set")
    parser.add_argument("output", metavar="OUT_DIR", help="folder for the derivatives")
    parser.add_argument("level", choices=("participant", "group"), help="segment, or bring together what is segmented")
    label = "--participant-label", "--participant_label"
    parser.add_argument(*label, nargs="+", default=[], metavar="LABEL", help="only these, with or without sub-")
    parser.add_argument("--session-label", "--session_label", nargs="+", default=[], metavar="LABEL", help="only these")
    parser.add_argument("--bids-filter-file", metavar="JSON", help='as for fMRIPrep: its part "t1w"')
    skip = "--skip-bids-validation", "--skip_bids_validator"
    parser.add_argument(*skip, action="store_true", help="taken for other tools' sake: the validator is not run here")
    parser.add_argument("-w", "--work-dir", metavar="DIR", help="taken for other tools' sake: nothing is kept there")
    _add_work(parser)


def _add_work(parser):
    parser.add_argument("--weights", default="mixed", metavar="W", help=WEIGHTS)
    parser.add_argument("--no-mirror", dest="mirror", action="store_false", help="as for segment")
    parser.add_argument("--no-overview", dest="overview", action="store_false", help="make no pictures")
    parser.add_argument(
        "--workers", "--n-cpus", type=between(1, MOST_WORKERS), metavar="N", help="processes (default: what fits)"
    )
    parser.add_argument(
        "--threads", type=between(1, MOST_WORKERS), default=1, help="of each process (default: 1, which is fastest)"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of the workers (default: cpu)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster that is running: tcp://host:8786")
    where.add_argument("--slurm", metavar="OPTIONS", help="options of sbatch for each worker: partition=short,mem=4GB")
    parser.add_argument(
        "--jobs", type=between(1, MOST_WORKERS), default=4, metavar="N", help="workers in Slurm (default: 4)"
    )


def run(options, report):
    """Segment a study's scans in many processes, and bring the results together in a table and a report."""
    from ..cohort.items import find_items

    items = find_items(options.input)
    status = _segment(items, options, report)
    _group(items, options, report)
    return status


def run_bids(options, report):
    """Segment a BIDS data set into BIDS derivatives, as a BIDS App."""
    from ..cohort.bids import find_bids, read_filter, write_dataset
    from ..inference.segmenter import weights_path
    from ..model.weights import read_card
    from ..structures import named_structures

    wanted = read_filter(options.bids_filter_file) if options.bids_filter_file else {}
    items = find_bids(options.input, options.participant_label, options.session_label, wanted)
    if options.level == "group":
        _group(items, options, report)
        return DONE
    status = _segment(items, options, report)
    names = read_card(weights_path(options.weights))["structures"]
    write_dataset(options.output, options.input, options.weights, named_structures(names))
    return status


def _segment(items, options, report):
    from ..cohort.engine import output_of, segment_all

    settings = _settings(options)
    keep_inputs([options.output], [options.input])
    with output_of(Path(options.output).absolute()) as output, _cluster(options) as client:
        outcome = segment_all(items, output, settings, client, report)
    if options.json:
        report({"event": RESULT, "before": outcome.before, "done": outcome.done, "failed": outcome.failed})
    else:
        report.close()
        before = f", {len(outcome.before)} were done before" if outcome.before else ""
        print(f"{output}: {len(outcome.done)} scans segmented{before}, {len(outcome.failed)} failed")
    return REFUSED if outcome.failed else DONE


def _cluster(options):
    from ..cohort.engine import local_cluster, scheduler_at, slurm_cluster, workers_that_fit

    if options.scheduler:
        return scheduler_at(options.scheduler)
    if options.slurm:
        return slurm_cluster(options.slurm, options.jobs, options.threads)
    return local_cluster(options.workers or workers_that_fit(options.threads), options.threads)


def _settings(options):
    from ..cohort.work import Settings
    from ..inference.segmenter import weights_path
    from ..model.weights import read_card

    path = weights_path(options.weights)
    card = read_card(path)
    return Settings(
        str(path.absolute()),
        card["sha256"],
        card["variant"],
        options.device,
        options.mirror,
        options.overview,
        options.threads,
    )


def _group(items, options, report):
    from ..cohort.group import TABLE, read_group, write_group
    from ..cohort.report import REPORT, write_report

    variant = _settings(options).variant
    rows = read_group(items, options.output, variant)
    if not any(row.record for row in rows):
        raise GaborSegError(f"{options.output}: has no results yet; segment scans into it first")
    write_group(rows, options.output)
    write_report(rows, options.output, variant, f"Brain structures in {Path(options.input).resolve().name}")
    if not options.json:
        print(f"wrote {Path(options.output) / TABLE} and {Path(options.output) / REPORT}")
