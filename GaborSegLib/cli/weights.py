"""Weight files: `gaborseg info` and `gaborseg export`."""

import json

from ..events import say
from ..protocol import DONE, RESULT
from .arguments import WEIGHTS


def add_info_arguments(parser):
    parser.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)


def run_info(options, report):
    """Show a weight file's card."""
    from ..inference.segmenter import weights_path
    from ..model.weights import read_card

    card = read_card(weights_path(options.weights))
    if options.json:
        report({"event": RESULT, "card": card})
    else:
        say(json.dumps(card, indent=2, ensure_ascii=False))
    return DONE


def add_export_arguments(parser):
    parser.add_argument("weights", metavar="WEIGHTS", help=WEIGHTS)
    parser.add_argument("--output", "-o", required=True, metavar="FILE", help="the file (.onnx or .pt)")


def run_export(options, report):
    """Write a network as ONNX or TorchScript, for other runtimes."""
    from ..files import check_output, keep_inputs

    check_output(options.output, (".onnx", ".pt"))  # before torch is imported
    keep_inputs([options.output], [options.weights])
    from ..inference.segmenter import weights_path
    from ..model.export import export

    export(weights_path(options.weights), options.output)
    if options.json:
        report({"event": RESULT, "file": str(options.output)})
    else:
        say(f"wrote {options.output}")
    return DONE
