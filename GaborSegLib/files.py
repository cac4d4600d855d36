"""Files that are written: whole or not at all, and refused before long work begins."""

import os
import secrets
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError


def split_extension(path):
    """(all before the extension, extension in lower case), two strings; .nii.gz and .seg.nrrd are one extension."""
    stem, extension = os.path.splitext(path)
    inner_stem, inner = os.path.splitext(stem)
    if (inner + extension).lower() in (".nii.gz", ".seg.nrrd"):
        return inner_stem, (inner + extension).lower()
    return stem, extension.lower()


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
        OutputError: another extension, the path is a folder, or its folder cannot be made or written to.
    """
    known_extension(path, extensions)
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it")
    try:
        folder = path.absolute().parent
        while not folder.exists():
            folder = folder.parent
        # Tried and not looked up: permissions say little for an administrator and on a read-only or network disk.
        with tempfile.TemporaryDirectory(prefix=".check-", dir=folder):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error


def known_extension(path, extensions):
    extension = split_extension(path)[1]
    if extension not in extensions:
        raise OutputError(f"{path}: got the extension '{extension}'; it can be {', '.join(extensions)}")
    return extension


def cannot_write(path, error):
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); choose a folder with room to write in")
