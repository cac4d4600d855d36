"""The voxels of a file whose header was read: as many as that says, or none."""

import gzip
import math
import os
import warnings
import zlib

import numpy as np

from ..files import regular_file
from .headers import COMPRESSED, RAW, TEXT
from .image import check_memory

# Bytes of voxels that one byte of a file can stand for; deflate has no more.
MOST = {RAW: 1, TEXT: 8, COMPRESSED: 1032}
LONGEST_NUMBER = 40  # letters of a voxel in a text


def read_voxels(path, header):
    """The voxels that a `Header` tells of, an array (I, J, K), axes as stored.

    Raises:
        ImageError: this computer has not the memory.
        Exception: they are not whole, or not there; ValueError, EOFError, OSError, zlib.error.
    """
    files = [regular_file(name, ValueError) for name in header.files]
    size = math.prod(header.shape) * header.dtype.itemsize
    check_size(path, header.shape, size, sum(file.stat().st_size for file in files), MOST[header.encoding])
    array = np.empty(header.shape, header.dtype, order="F")
    room = memoryview(array.reshape(-1, order="F").view(np.uint8))
    share = len(room) // len(files)
    fill = {RAW: _fill_raw, TEXT: _fill_text}.get(header.encoding, _fill_compressed)
    for number, name in enumerate(files):
        with open(name, "rb") as file:
            fill(file, room[number * share : (number + 1) * share], header)
    return array.astype(header.dtype.newbyteorder("="), copy=False)


def check_size(path, shape, size, stored, most=1):
    """Compare what a header tells of with the file and with this computer's memory, before any of it is read.

    Args:
        path: the scan, for people.
        shape: of the voxels.
        size: their bytes.
        stored: bytes that the file has.
        most: bytes that one of these can stand for.

    Raises:
        ValueError: the file cannot hold as many.
        ImageError: this computer cannot; see `image.check_memory`.
    """
    if size > stored * most:
        raise ValueError(f"its header tells of {size} bytes, more than a file of {stored} can hold")
    check_memory(path, shape)


def inflated(file, size, most=None):
    """What lies compressed, as gzip or zlib, from here to the end of a file, with its checksum and length compared.

    Args:
        file: open, binary.
        size: bytes that there have to be.
        most: bytes that there may be; default: `size`. No more are ever made.

    Raises:
        Exception: it is damaged, cut off, or holds less or more; ValueError, EOFError, OSError, zlib.error.
    """
    begin, most = file.tell(), size if most is None else most
    magic = file.read(2)
    file.seek(begin)
    if magic == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=file) as stream:
            content = stream.read(most + 1)  # to the end, where the checksum is, unless there is too much
    else:
        stream = zlib.decompressobj()
        content = stream.decompress(file.read(), most + 1)
        if len(content) <= most and not stream.eof:
            raise EOFError("it ends before its compressed voxels do")
    if not size <= len(content) <= most:
        count = "more" if len(content) > most else len(content)
        raise ValueError(f"its header tells of {size} bytes, it holds {count}")
    return content


def _fill_compressed(file, room, header):
    file.seek(header.start)
    room[:] = inflated(file, len(room))


def _fill_raw(file, room, header):
    size = os.fstat(file.fileno()).st_size
    start = size - len(room) if header.start == -1 else header.start
    if start < 0 or size - start != len(room):
        raise ValueError(f"its header tells of {len(room)} bytes, {file.name} holds {max(0, size - max(0, start))}")
    file.seek(start)
    if file.readinto(room) != len(room):
        raise EOFError(f"{file.name} ends before its voxels do")


def _fill_text(file, room, header):
    count = len(room) // header.dtype.itemsize
    file.seek(header.start)
    text = file.read(count * LONGEST_NUMBER + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is no number, or too large a one
        numbers = np.fromstring(text, np.float64, sep=" ")
        voxels = numbers.astype(header.dtype)
    rounded = header.dtype.kind != "f" and not np.array_equal(voxels, numbers)
    if len(text) > count * LONGEST_NUMBER or len(numbers) != count or rounded:
        raise ValueError(f"wanted {count} numbers of the type {header.dtype.name} as text, got others, more or fewer")
    room[:] = voxels.view(np.uint8)
