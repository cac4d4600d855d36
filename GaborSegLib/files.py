"""Files: only what is a file is read; what is written is whole or not there, and never over what is read."""

import csv
import errno
import os
import secrets
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError
from .protocol import csv_cell

LONGEST_NAME = 255  # bytes, of a file; what every system allows


def split_extension(path):
    """(all before the extension, extension in lower case), two strings; .nii.gz and .seg.nrrd are one extension."""
    stem, extension = os.path.splitext(path)
    inner_stem, inner = os.path.splitext(stem)
    if (inner + extension).lower() in (".nii.gz", ".seg.nrrd"):
        return inner_stem, (inner + extension).lower()
    return stem, extension.lower()


def utf8_name(path, error):
    """The name as text for a message. SimpleITK ends the process where a name is not UTF-8.

    Raises:
        error: an exception of this class: it is not.
    """
    shown = str(path) if str(path).isprintable() else ascii(str(path))
    try:
        str(path).encode()
    except UnicodeEncodeError as problem:
        raise error(f"{shown}: its name is not UTF-8; give it another one") from problem
    return shown


def regular_file(path, error):
    """The `Path` of an ordinary file that somebody named. What else has a name (a pipe, a device) may never end.

    Raises:
        error: an exception of this class: there is no such file, it is something else, or its name is not UTF-8.
    """
    shown = utf8_name(path, error)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as problem:  # ValueError: the name has a NUL
        why = getattr(problem, "strerror", None) or problem
        raise error(f"{shown}: there is no such file ({why}); check the name") from problem
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise error(f"{shown}: is {kind}; wanted a file")
    return Path(path)


@contextmanager
def replacing(path):
    """Context that gives a temporary `Path` to write to, which takes the place of `path` at the end.

    It lies in the same folder (made if missing) and has the same extension, in lower case. After an error it is
    removed, and an older file at `path` stays as it was.

    Raises:
        OutputError: the operating system does not allow the folder or the file to be written.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{secrets.token_hex(4)}{split_extension(path)[1]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_output(path, extensions):
    """Check, before long work, that a file of one of these extensions can be written; leaves nothing behind.

    Raises:
        OutputError: another extension, a name that no file can have, the path is a folder, or its folder cannot be made
            or written to.
    """
    known_extension(path, extensions)
    path = Path(path)
    _check_name(path)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(path).st_mode):
                raise OutputError(f"{path}: is a folder; name a file in it")
        folder = path.absolute().parent
        while not os.path.lexists(folder):  # a link to nothing is there, and no folder can be made in its place
            folder = folder.parent
        # Tried and not looked up: permissions say little for an administrator and on a read-only or network disk.
        with tempfile.TemporaryDirectory(prefix=".check-", dir=folder):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error


def keep_inputs(outputs, inputs):
    """Check, before anything starts, that no output is one of the inputs, by whatever name: `..`, a link, a hard link.

    Args:
        outputs, inputs: paths; what is not there yet is known by its resolved name.

    Raises:
        OutputError: one is; names both.
    """
    read = {place: path for path in inputs for place in _places(path)}
    for output in outputs:
        same = next((read[place] for place in _places(output) if place in read), None)
        if same is not None:
            raise OutputError(
                f"{output}: is {same}, which is read and would be overwritten; choose another name or folder"
            )


def _places(path):
    """Yield what tells a file from others: its resolved path and, if it is there, the numbers of its disk and inode."""
    with suppress(OSError, ValueError):
        yield os.path.normcase(os.path.realpath(path))
        status = os.stat(path)
        if status.st_ino:
            yield status.st_dev, status.st_ino


def _check_name(path):
    """Refuse a name that cannot be written, or that not all readers and writers of files take."""
    try:
        longest = max((len(part.encode()) for part in path.parts), default=0)
    except UnicodeEncodeError as error:
        raise OutputError(f"{path}: is not UTF-8; choose another name or folder") from error
    if longest > LONGEST_NAME or "\0" in str(path):
        raise OutputError(f"{path}: has a name of {longest} bytes; choose one of at most {LONGEST_NAME}, without NUL")


def load_array(path):
    """The array in a `.npy` file; OSError, which names the file, where it cannot be read or is damaged."""
    from numpy.lib import format

    try:
        with open(path, "rb") as file:
            return format.read_array(file, allow_pickle=False)
    except (EOFError, ValueError, TypeError) as error:
        raise OSError(errno.EIO, f"it is damaged, {error}", str(path)) from error


def write_csv(path, rows, delimiter=","):
    """Write rows of cells as CSV, UTF-8; no text in it is a formula for a spreadsheet, see `protocol.csv_cell`.

    With a tab as `delimiter` it is a TSV as BIDS wants it, with line feeds alone.

    Raises:
        OutputError: the file cannot be written.
    """
    # What is no character, as in names that are not UTF-8, stands as an escape.
    with (
        replacing(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\r\n" if delimiter == "," else "\n")
        writer.writerows([csv_cell(cell) for cell in row] for row in rows)


def known_extension(path, extensions):
    extension = split_extension(path)[1]
    if extension not in extensions:
        raise OutputError(f"{path}: got the extension '{extension}'; it can be {', '.join(extensions)}")
    return extension


def cannot_write(path, error):
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); choose a folder with room to write in")
