"""The headers of NRRD and MetaImage files, read strictly: text that says what the voxels are and where they lie.

They are read here and not by ITK, which takes what a file says for format strings and sizes as it stands, and ends the
process where that is nonsense.
"""

import math
import os
import re
from dataclasses import dataclass

import numpy as np

from .image import LPS_TO_RAS, not_one_volume, times

MOST_AXES, LONGEST_NUMBER, LONGEST_NAME = 16, 40, 1000
LONGEST = 4 << 20  # bytes of a header; 3D Slicer's segmentations of a hundred structures have 50,000
TEXT, RAW, COMPRESSED = "text", "raw", "compressed"
NRRD_TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
NRRD_TYPES = {name: code for code, names in NRRD_TYPES.items() for name in names.split(", ")}
NRRD_ENCODINGS = {"raw": RAW, "gzip": COMPRESSED, "gz": COMPRESSED, "text": TEXT, "txt": TEXT, "ascii": TEXT}
# What brings a space's millimetres to LPS. ITK takes those of other spaces for LPS, and so does this.
NRRD_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
}
NRRD_FIELDS = """
    type, dimension, sizes, encoding, endian, data file, line skip, byte skip, kinds, labels, units, space,
    space dimension, space directions, space origin, space units, spacings, axis mins, axis maxs, centers, centerings,
    thicknesses, measurement frame, content, sample units, number, block size, min, max, old min, old max
"""
NRRD_FIELDS = set("".join(NRRD_FIELDS.split()).split(","))  # "data file" and "datafile" are the same
# Fields whose text is a word that may have capitals.
NRRD_WORDS = ("type", "encoding", "endian", "space", "kinds")
PLACES = ("domain", "space", "time", "???", "none")  # kinds of axes along which voxels lie; others hold their values
META_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


@dataclass(frozen=True)
class Header:
    """What a header says.

    Args:
        shape: (I, J, K).
        dtype: of the stored voxels, a numpy dtype with its byte order.
        affine: (4, 4), voxel index to right-anterior-superior millimetres.
        files: the paths that the voxels lie in, each with the same number of them.
        encoding: `RAW`, `COMPRESSED` (gzip or zlib) or `TEXT`.
        start: where the voxels begin in each file, bytes; -1 if they are the last in it.
        oriented: whether it says how the head lies.
    """

    shape: tuple
    dtype: np.dtype
    affine: np.ndarray
    files: tuple
    encoding: str
    start: int
    oriented: bool = True


def read_header(path):
    """The `Header` of an NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd) file.

    Raises:
        ValueError: it is not as the format wants it, or as no scanner or program writes it; says what.
        ImageError: it is no volume with one number in each voxel.
    """
    read = _read_nrrd if path.suffix.lower() in (".nrrd", ".nhdr") else _read_metaimage
    with np.errstate(all="ignore"):  # voxels of no size make an affine that `check_image` refuses
        return read(path)


class _Fields(dict):
    """What a header says: dictionary from the name of a field to its text."""

    def __missing__(self, name):
        raise ValueError(f"its header lacks {name}")

    def first(self, *names, default=None):
        """The text of the first of these that it has."""
        return next((self[name] for name in names if name in self), default)

    def choice(self, name, known):
        """What a field's word stands for, by a dictionary of those that are known."""
        if self[name] not in known:
            raise ValueError(f"got {_short(self[name])} for {name}; wanted one of {', '.join(known)}")
        return known[self[name]]

    def whole(self, name, default=None):
        """A field's whole number."""
        (number,) = _numbers(self[name] if default is None else self.get(name, str(default)), int, 1)
        return number


# NRRD


def _read_nrrd(path):
    content, start = _content(path, rb"\r?\n\r?\n")
    fields, names = _nrrd_fields(os.fsdecode(content[:start]))
    dimension = _dimension(fields, "dimension")
    sizes = _numbers(fields["sizes"], int, dimension)
    directions, places = _nrrd_axes(fields, dimension)
    shape = _one_volume(path, [sizes[i] for i in places], math.prod(sizes[i] for i in {*range(dimension)} - {*places}))
    encoding = fields.choice("encoding", NRRD_ENCODINGS)
    dtype = np.dtype(fields.choice("type", NRRD_TYPES))
    if dtype.itemsize > 1 and encoding != TEXT:
        dtype = dtype.newbyteorder(fields.choice("endian", {"little": "<", "big": ">"}))
    skip, files = fields.whole("byteskip", 0), [path]
    if fields.whole("lineskip", 0) or skip < -1 or (skip and encoding != RAW):
        raise ValueError(f"got a line skip, or the byte skip {skip} for {encoding} voxels; save it as a .nrrd file")
    if "datafile" in fields:
        files = _files(path, fields["datafile"], names, sizes[-1])
    elif skip != -1:
        skip += start
    affine = _nrrd_affine(fields, dimension, directions, places)
    return Header(shape, dtype, affine, tuple(files), encoding, skip, "space" in fields)


def _nrrd_fields(text):
    """(the `_Fields`, the lines that a list of data files has behind them)."""
    if not re.match(r"NRRD000\d", text):
        raise ValueError("it does not begin as an NRRD file")
    fields, lines = _Fields(), text.replace("\r", "").split("\n")
    for number, line in enumerate(lines[1:], start=2):
        name, colon, value = line.partition(":")
        if line.startswith("#") or value.startswith("=") or not line:
            continue
        name, value = name.strip().lower().replace(" ", ""), value.strip()
        if not colon or name not in NRRD_FIELDS or name in fields:
            raise ValueError(f"got the line {_short(line)} in its header")
        fields[name] = value.lower() if name in NRRD_WORDS else value
        if name == "datafile" and value.split()[:1] == ["LIST"]:
            return fields, lines[number:]
    return fields, []


def _nrrd_axes(fields, dimension):
    """For each axis a step along it in the space, a list of numbers; and the axes along which voxels lie."""
    kinds, directions = fields.get("kinds", "none " * dimension).split(), [[]] * dimension
    if "spacedirections" in fields:
        vectors = re.findall(r"none|\([^()]*\)", fields["spacedirections"])
        count = sum(vector != "none" for vector in vectors)
        directions = [None if vector == "none" else _vector(vector, count) for vector in vectors]
    if not len(kinds) == len(directions) == dimension:
        raise ValueError(f"got {len(kinds)} kinds and {len(directions)} space directions for {dimension} axes")
    return directions, [i for i in range(dimension) if directions[i] is not None and kinds[i] in PLACES]


def _nrrd_affine(fields, dimension, directions, places):
    affine = np.eye(4)
    if "spacedirections" in fields:
        to_lps = np.diag(NRRD_SPACES.get(fields.get("space", "").removesuffix("-time"), (1, 1, 1)))
        columns = np.array([directions[i] for i in places]).T[:3, :3]
        spacing = np.sqrt((columns**2).sum(axis=0))
        affine[:3, :3] = to_lps @ (columns * (1 / spacing) * spacing)  # rounded as ITK does
        if "spaceorigin" in fields:
            affine[:3, 3] = to_lps @ _vector(fields["spaceorigin"], len(places))[:3]
    elif "spacings" in fields:
        spacing = np.nan_to_num(_numbers(fields["spacings"], float, dimension), nan=1.0)
        affine[:3, :3] = np.diag(spacing[places][:3])
        if "axismins" in fields:  # of the outer faces of voxels, unless they are said to be centres
            centers = fields.first("centers", "centerings", default="cell " * dimension).lower().split()
            half = [0.5 * (center != "node") for center in centers] * spacing
            affine[:3, 3] = np.add(_numbers(fields["axismins"], float, dimension), half)[places][:3]
    elif "axismaxs" in fields:
        raise ValueError("its header has axis maxs, and neither spacings nor space directions")
    return LPS_TO_RAS @ affine


def _vector(text, count):
    return _numbers(text.strip("() ").replace(",", " "), float, count)


# MetaImage


def _read_metaimage(path):
    content, start = _content(path, rb"(?:^|\n)[ \t]*ElementDataFile[^\n]*\n")
    lines = os.fsdecode(content[:start]).replace("\r", "").split("\n")
    pairs = (line.partition("=") for line in lines)
    fields = _Fields({name.strip(): value.strip() for name, equals, value in pairs if equals})
    dimension = _dimension(fields, "NDims")
    sizes = _numbers(fields["DimSize"], int, dimension)
    shape = _one_volume(path, sizes, fields.whole("ElementNumberOfChannels", 1))
    if not _true(fields, "BinaryData", "True"):
        raise ValueError("its voxels are text; wanted BinaryData = True")
    encoding = COMPRESSED if _true(fields, "CompressedData") else RAW
    big = _true(fields, "BinaryDataByteOrderMSB") or _true(fields, "ElementByteOrderMSB")
    dtype = np.dtype(fields.choice("ElementType", META_TYPES)).newbyteorder(">" if big else "<")
    skip, name, files = fields.whole("HeaderSize", 0), fields["ElementDataFile"], [path]
    if skip < -1 or (skip and encoding != RAW):
        raise ValueError(f"got the HeaderSize {skip} for {encoding} voxels")
    if name.lower() == "local":
        skip = skip or start
    else:
        names = os.fsdecode(content[start:]).split("\n") if name.startswith("LIST") else []
        files = _files(path, name, names, sizes[-1])
    return Header(shape, dtype, _meta_affine(fields, dimension), tuple(files), encoding, skip)


def _meta_affine(fields, dimension):
    affine = np.eye(4)
    unit, zero = " ".join("1" * dimension), " ".join("0" * dimension)
    spacing = _numbers(fields.first("ElementSpacing", "ElementSize", default=unit), float, dimension)
    origin = _numbers(fields.first("Offset", "Position", "Origin", default=zero), float, dimension)
    axes = fields.first("TransformMatrix", "Rotation", "Orientation")
    axes = np.reshape(_numbers(axes, float, dimension**2), (dimension, dimension)) if axes else np.eye(dimension)
    affine[:3, :3] = axes.T[:3, :3] * spacing[:3]
    affine[:3, 3] = origin[:3]
    return LPS_TO_RAS @ affine


def _true(fields, name, default="False"):
    return fields.get(name, default)[:1] in ("T", "t", "1")


# Both


def _content(path, end):
    """(the first bytes of a file, where its header ends): at what the pattern `end` finds, else with the file."""
    with open(path, "rb") as file:
        content = file.read(LONGEST + 1)
    found = re.search(end, content)
    if not found and len(content) > LONGEST:
        raise ValueError(f"its header has more than {LONGEST >> 20} MiB")
    return content, found.end() if found else len(content)


def _dimension(fields, name):
    dimension = fields.whole(name)
    if not 1 <= dimension <= MOST_AXES:
        raise ValueError(f"got {dimension} for {name}; wanted 3")
    return dimension


def _one_volume(path, shape, values):
    """The three sizes of a volume, from all that a header gives; a fourth one of 1 is dropped."""
    if not shape or min(shape) < 1 or values < 1:
        raise ValueError(f"got the sizes {_short(str(shape))} and {values} values in each voxel")
    if values > 1:
        raise not_one_volume(path, f"{values} values in each voxel")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise not_one_volume(path, f"{len(shape)} dimensions ({times(shape)})")
    return tuple(shape)


def _files(path, name, lines, slices):
    """The files that voxels lie in: one, those of a list, or those of a pattern; names are relative to the header.

    A list is the lines after the header. A pattern is a name with %d or %03d, and perhaps the first number, the last
    and the step, else 1, the number of slices and 1.
    """
    names = [name]
    if len(name) > LONGEST_NAME:
        raise ValueError(f"got the data file {_short(name)}; wanted a shorter name")
    if name.split()[:1] == ["LIST"]:
        names = [line.strip() for line in lines if line.strip()]
    elif "%" in name:
        pattern, *numbers = name.split()
        first, last, step = _numbers(" ".join(numbers[:3]), int, len(numbers[:3])) + [1, slices, 1][len(numbers[:3]) :]
        if not re.fullmatch(r"[^%]*%(0?\d)?d[^%]*", pattern) or len(numbers) > 4 or not step:
            raise ValueError(f"got the data file {_short(name)}; wanted a name, or one such as s%03d.raw 1 20 1")
        names = [pattern % number for number in range(first, last + (1 if step > 0 else -1), step)[: slices + 1]]
    if not names or slices % len(names):
        raise ValueError(f"names {len(names)} data files for {slices} slices")
    return [path.parent / name for name in names]


def _numbers(text, kind, count):
    words = text.split()
    if len(words) != count:
        raise ValueError(f"got {len(words)} numbers where {count} are wanted, {_short(text)}")
    try:
        return [kind(word) for word in words if len(word) <= LONGEST_NUMBER or kind("")]
    except ValueError as error:
        raise ValueError(f"got {_short(text)} where numbers are wanted") from error


def _short(text):
    """A text that somebody else wrote, fit for a message."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")
