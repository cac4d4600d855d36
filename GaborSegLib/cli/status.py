"""How a command ends: its exit status, and what a person or a program is told of an error."""

import os
import sys
import traceback

from ..environment import keep_freed_memory, wait_asleep
from ..errors import GaborSegError, ToldElsewhere
from ..events import Terminal, json_lines
from ..protocol import CANCELLED, DEFECT, DONE, ERROR, REFUSED


def run_command(options):
    """Run a command that was parsed.

    Args:
        options: what the parser of `main` gives; `options.command(options, report)` does the work.

    Returns:
        The exit status, one of `protocol`'s: done, an error with a remedy, cancelled by Ctrl-C, or a defect.
    """
    keep_freed_memory()
    wait_asleep()
    report = json_lines if options.json else Terminal()
    try:
        return options.command(options, report)
    except ToldElsewhere:
        return REFUSED
    except GaborSegError as error:
        tell_error(options, report, error, error.code, str(error))
        return REFUSED
    except BrokenPipeError:  # whoever read the output (head, a pager) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt as error:
        tell_error(options, report, error, "cancelled", "cancelled")
        return CANCELLED
    except Exception as error:
        # A launcher says what happened, and starts the run again.
        if getattr(options, "place", None) or "TORCHELASTIC_RUN_ID" in os.environ:
            if options.debug:
                traceback.print_exc()
            raise
        message = f"unexpected {type(error).__name__}: {error}; --debug shows where"
        tell_error(options, report, error, "unexpected", message)
        return DEFECT
    finally:
        if not options.json:
            report.close()


def tell_error(options, report, error, code, message):
    """Tell an error: an event with --json, else a line; with --debug also where it came from."""
    if options.debug:
        traceback.print_exception(error)
    if options.json:
        report({"event": ERROR, "code": code, "message": message})
    else:
        report.close()
        print(f"gaborseg: {message}", file=sys.stderr)
