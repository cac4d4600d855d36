"""The parser of the command line, `gaborseg COMMAND` or `python -m GaborSegLib COMMAND`.

The commands stand in the files beside this one. Each has a function `add_arguments(parser)` and a function
`run(options, report)`, which does the work, reports events and returns the exit status; its docstring is the command's
help. What torch is needed for is imported in there, so that `--help` and mistakes in the options answer at once.
"""

import argparse
import sys

from .. import __doc__ as description
from .. import __version__
from ..protocol import printable
from . import cohort, data, demo, environment, evaluate, segment, train, weights
from .status import run_command


def main(arguments=None):
    """Run one command and return its exit status, see `run_command`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = build_parser()
    if any("\0" in argument for argument in arguments):
        parser.error("got a NUL in an argument; no name of a file has one, check the names")
    return run_command(parser.parse_args(arguments))


class Parser(argparse.ArgumentParser):
    """Says what is wrong with arguments without what a terminal would obey."""

    def error(self, message):
        super().error(printable(message))


def build_parser():
    """The `ArgumentParser` of all commands."""
    parser = Parser(prog="gaborseg", description=description)
    parser.add_argument("--version", action="version", version=f"gaborseg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, add_arguments, run):
        added = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        added.add_argument(
            "--json", action="store_true", help="write events to standard output, one JSON object a line"
        )
        added.add_argument("--debug", action="store_true", help="show the traceback of an error")
        added.set_defaults(command=run)
        add_arguments(added)

    command("segment", segment.add_arguments, segment.run)
    command("cohort", cohort.add_arguments, cohort.run)
    command("bids", cohort.add_bids_arguments, cohort.run_bids)
    command("train", train.add_arguments, train.run)
    command("data", data.add_arguments, data.run)
    command("pack", data.add_pack_arguments, data.run_pack)
    command("evaluate", evaluate.add_arguments, evaluate.run)
    command("export", weights.add_export_arguments, weights.run_export)
    command("check", segment.add_check_arguments, segment.run_check)
    command("environment", environment.add_arguments, environment.run)
    command("info", weights.add_info_arguments, weights.run_info)
    command("demo", demo.add_arguments, demo.run)
    return parser
