"""What can go wrong in the middle of a run, told with what helps; the last snapshot is kept in every case."""

from contextlib import contextmanager

from ..environment import is_out_of_memory
from ..errors import DataError, OutputError, TrainingError
from ..protocol import BEST, has_snapshot


@contextmanager
def explaining_memory(what, output, options, device, precision):
    """Context in which running out of memory becomes an error that says at what, and what helps."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        helps = []
        edge = options.patch or options.grid_size
        if edge > 48:
            helps.append(f"--patch {edge // 32 * 16} (random cubes of that edge)")
        if device.type == "cuda" and precision != "bfloat16":
            helps.append("--precision bfloat16")
        raise TrainingError(
            f"{output}: the memory of {device} ran out while {what}, {options.variant} kernels, {precision} "
            f"({(str(error) or 'MemoryError').splitlines()[0]}). What helps: "
            f"{', '.join(helps) or 'a device with more memory'}; or close other programs"
        ) from error


@contextmanager
def explaining_output(output):
    """Context in which an `OutputError` gets to say that the run can go on."""
    try:
        yield
    except OutputError as error:
        reached = "the last snapshot is kept" if has_snapshot(output) else "nothing was saved yet"
        raise OutputError(
            f"{error}. The run has ended; {reached}. Free some room or allow writing, then go on with --resume"
        ) from error


def not_finite(loss, epoch, output, options, precision):
    """The error of a loss that is not a number any more."""
    kept = f"the best weights so far are kept in {BEST}" if (output / BEST).exists() else "nothing is lost"
    advice = f"Try a smaller learning rate than {options.learning_rate:g}"
    if precision == "bfloat16":
        advice += ", or --precision float32"
    return TrainingError(f"{output}: the loss became {loss} in epoch {epoch}; {kept}. {advice}")


def readable(items):
    """Yield items that are read from prepared scans; an error of the system becomes a `DataError`."""
    items = iter(items)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except OSError as error:
            raise cannot_read(error) from error
        yield item


def cannot_read(error):
    """The error of prepared scans that the system does not give, or that are damaged; see `dataset.load_array`."""
    # One that comes from a loading process has lost its parts, and has them in the last line of its text.
    what = f"{error.filename}: cannot be read ({error.strerror})" if error.filename else str(error).splitlines()[-1]
    return DataError(
        f"{what}. When the data are "
        "back, go on with --resume; a prepared scan that is damaged is made anew once its cache folder is deleted"
    )
