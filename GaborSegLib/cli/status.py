"""How a command ends: its exit status, and what a person or a program is told of an error."""

import os
import sys
import traceback
from contextlib import suppress

from ..environment import keep_freed_memory, wait_asleep
from ..errors import GaborSegError, ToldElsewhere
from ..events import Terminal, json_lines, say
from ..protocol import CANCELLED, DEFECT, DONE, ERROR, REFUSED, printable


def run_command(options):
    """Run a command that was parsed.

    Args:
        options: what the parser of `main` gives; `options.command(options, report)` does the work.

    Returns:
        The exit status, one of `protocol`'s: done, an error with a remedy, cancelled by Ctrl-C, or a defect.
    """
    keep_freed_memory()
    wait_asleep()
    with suppress(AttributeError):  # not every stream has it
        sys.stdout.reconfigure(errors="backslashreplace")  # letters that a terminal or pipe has no code for
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
    except OSError as error:
        # Of a file or folder that the user named: closed, gone, a name too long, a link to itself.
        if not error.filename or _is_one_of_several(options):
            return _defect(options, report, error)
        reason = error.strerror or error
        message = f"{error.filename}: {reason}; check the name, the permissions and the disk"
        tell_error(options, report, error, "file", message)
        return REFUSED
    except KeyboardInterrupt as error:
        tell_error(options, report, error, "cancelled", "cancelled")
        return CANCELLED
    except Exception as error:
        return _defect(options, report, error)
    finally:
        if not options.json:
            report.close()


def _defect(options, report, error):
    """Tell what is no error with a remedy."""
    if _is_one_of_several(options):
        if options.debug:
            traceback.print_exc()
        raise error
    message = f"unexpected {type(error).__name__}: {error}; --debug shows where"
    tell_error(options, report, error, "unexpected", message)
    return DEFECT


def _is_one_of_several(options):
    """Whether a launcher started this process: it says what happened, and starts the run again."""
    return bool(getattr(options, "place", None)) or "TORCHELASTIC_RUN_ID" in os.environ


def tell_error(options, report, error, code, message):
    """Tell an error: an event with --json, else a line; with --debug also where it came from."""
    if options.debug:
        say("".join(traceback.format_exception(error)).rstrip(), sys.stderr)
    if options.json:
        report({"event": ERROR, "code": code, "message": message})
    else:
        report.close()
        say(f"gaborseg: {printable(message)}", sys.stderr)
