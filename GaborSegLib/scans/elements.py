"""What a DICOM file says of its pixels, and whether it has them all: a walk over its data elements.

GDCM leaves out without a word what it cannot read, and takes sizes as they stand; this tells which file is damaged.
"""

import io
import os
import struct
import zlib
from dataclasses import dataclass

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
KIND, TRANSFER_SYNTAX, SERIES, PIXELS = 0x00020002, 0x00020010, 0x0020000E, 0x7FE00010
SAMPLES, FRAMES, ROWS, COLUMNS, BITS = 0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100
TEXTS, NUMBERS = (KIND, TRANSFER_SYNTAX, SERIES, FRAMES), (SAMPLES, ROWS, COLUMNS, BITS)
IMPLICIT, DEFLATED, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
# Value representations with four bytes for the length, behind two that are empty.
LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
UNDEFINED = 0xFFFFFFFF  # the length of what an element of its own ends
DEEPEST, LONGEST_TEXT, MOST_ELEMENTS = 64, 1024, 1_000_000
LARGEST_INFLATED = 256 << 20  # bytes of a deflated file


@dataclass(frozen=True)
class Slice:
    """What a DICOM file says of itself.

    Args:
        series: the UID of its series, "" if it was not found.
        kind: the UID of what it is, such as an MR image (its SOP class), "" if it was not found.
        voxels: how many its header tells of; 0 if it has no pixels.
        missing: what of its pixels is not there, for people; "" if they are whole.
        unclear: why its elements cannot be followed, for people; "" if they can.
    """

    series: str = ""
    kind: str = ""
    voxels: int = 0
    missing: str = ""
    unclear: str = ""


def look_at(path):
    """The `Slice` of a file, or None if neither its name nor its first bytes say that it is DICOM.

    Raises:
        OSError: the system does not let a file that is named so be read.
    """
    named, found = os.path.splitext(path)[1].lower() in (".dcm", ".ima"), {}
    try:
        with open(path, "rb") as file:
            if file.read(132)[128:] != b"DICM":
                return Slice(unclear="it does not begin as a DICOM file") if named else None
            unclear = _walk(file, found)
    except OSError:
        if named:
            raise
        return None
    pixels = found.get(ROWS, 0) * found.get(COLUMNS, 0) * int(found.get(FRAMES, "1"))
    voxels = pixels if PIXELS in found else 0
    return Slice(found.get(SERIES, ""), found.get(KIND, ""), voxels, _missing(found, voxels), unclear)


def _missing(found, voxels):
    """What is wrong with the length of the pixels; nothing is known of compressed ones and of packed bits.

    Scanners fill up with a few bytes, less than a row.
    """
    length, bits, samples = found.get(PIXELS), found.get(BITS, 0), found.get(SAMPLES, 1)
    wanted, row = voxels * bits // 8, found.get(COLUMNS, 0) * bits // 8
    if length in (None, UNDEFINED) or bits % 8 or samples > 1 or 0 <= length - wanted < max(row, 2):
        return ""
    return f"its header tells of {wanted} bytes of pixels, it holds {length}"


def _walk(file, found):
    """Put the elements of interest into the dictionary `found`, of the pixels the length, as far as they are there.

    Returns:
        Why the elements cannot be followed to their end, for people; "" if they can.
    """
    try:
        _follow(file, found)
    except (ValueError, EOFError, struct.error, zlib.error) as error:
        return str(error)
    return ""


def _follow(file, found):
    """Go through the first group, which says how the others are written, and then through those."""
    explicit, order, size = True, "<", os.fstat(file.fileno()).st_size
    while _bytes(file, 2) == b"\2\0":
        file.seek(-2, os.SEEK_CUR)
        tag, _, length = _head(file, explicit, order)
        _take(file, tag, length, order, found)
    file.seek(-2, os.SEEK_CUR)
    syntax = found.get(TRANSFER_SYNTAX)
    explicit, order = syntax != IMPLICIT, ">" if syntax == BIG else "<"
    if syntax == DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), LARGEST_INFLATED)
        file, size = io.BytesIO(content), len(content)
    ends = []  # of the sequences and items around: where, None if an element says so; and how it goes on behind
    for _ in range(MOST_ELEMENTS):
        while ends and ends[-1][0] is not None and file.tell() >= ends[-1][0]:
            explicit = ends.pop()[1]
        if size - file.tell() < 8:
            return
        tag, representation, length = _head(file, explicit, order)
        begin = file.tell()
        if tag in (ITEM_END, SEQUENCE_END):
            explicit = ends.pop()[1] if ends else explicit
        elif tag == PIXELS:
            whole = length if length != UNDEFINED else _fragments(file, order)
            if not ends:
                found[PIXELS] = length if length == UNDEFINED else min(length, size - begin)
            file.seek(begin + whole)
        elif length == UNDEFINED or representation == b"SQ" or tag == ITEM:
            ends.append((None if length == UNDEFINED else begin + length, explicit))
            explicit = explicit and representation != b"UN"
            if len(ends) > 2 * DEEPEST:
                raise ValueError(f"it has more than {DEEPEST} sequences in each other")
        elif begin + length > size:
            raise EOFError("it ends before its elements do")
        else:
            _take(file, tag, length, order, {} if ends else found)
    raise ValueError(f"it has more than {MOST_ELEMENTS} elements")


def _head(file, explicit, order):
    """(tag, value representation, length) of the element that begins here; the value is next."""
    group, number = struct.unpack(order + "HH", _bytes(file, 4))
    if group == 0xFFFE or not explicit:
        return group << 16 | number, b"", struct.unpack(order + "I", _bytes(file, 4))[0]
    representation = _bytes(file, 2)
    if not (representation.isalpha() and representation.isupper()):
        raise ValueError(f"it has an element of the type {representation!r}")
    code = "xxI" if representation in LONG else "H"
    (length,) = struct.unpack(order + code, _bytes(file, struct.calcsize(order + code)))
    return group << 16 | number, representation, length


def _bytes(file, count):
    content = file.read(count)
    if len(content) < count:
        raise EOFError("it ends before its elements do")
    return content


def _take(file, tag, length, order, found):
    """Keep an element's value if it is of interest, and go behind it."""
    if tag in NUMBERS:
        found[tag] = struct.unpack(order + "H", _bytes(file, min(length, 2)))[0]
    elif tag in TEXTS and length <= LONGEST_TEXT:
        found[tag] = _bytes(file, length).decode("ascii").strip("\0 ")
        if tag == FRAMES and not (found[tag].isdecimal() and len(found[tag]) < 10):
            raise ValueError(f"it has {found.pop(tag)!r} frames")
    else:
        file.seek(length, os.SEEK_CUR)


def _fragments(file, order):
    """The length of the compressed pixels that begin here, up to the element that ends them."""
    begin = file.tell()
    for _ in range(MOST_ELEMENTS):
        tag, _, length = _head(file, False, order)
        if tag == SEQUENCE_END:
            return file.tell() - begin
        if tag != ITEM:
            break
        file.seek(length, os.SEEK_CUR)
    raise ValueError("its compressed pixels do not end")
