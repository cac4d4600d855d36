"""Scans of every format with damaged headers, voxels and streams, and what is put in the place of a scan."""

import bz2
import gzip
import os
import struct
import zlib

import numpy as np

from .damage import Case, bomb
from .seeds import SHAPE, SPACING

# Of headers: name to (offset, how many, format).
NIFTI = {
    "sizeof_hdr": (0, 1, "i"),
    "dim": (40, 8, "h"),
    "datatype": (70, 1, "h"),
    "bitpix": (72, 1, "h"),
    "pixdim": (76, 8, "f"),
    "vox_offset": (108, 1, "f"),
    "scaling": (112, 2, "f"),
    "units": (123, 1, "b"),
    "codes": (252, 2, "h"),
    "quaternion": (256, 6, "f"),
    "srow": (280, 12, "f"),
    "magic": (344, 4, "B"),
}
NIFTI2 = {
    "sizeof_hdr": (0, 1, "i"),
    "magic": (4, 8, "B"),
    "datatype": (12, 1, "h"),
    "bitpix": (14, 1, "h"),
    "dim": (16, 8, "q"),
    "pixdim": (104, 8, "d"),
    "vox_offset": (168, 1, "q"),
    "scaling": (176, 2, "d"),
    "srow": (400, 12, "d"),
}
MGH = {
    "version": (0, 1, "i"),
    "size": (4, 4, "i"),
    "type": (20, 1, "i"),
    "ras_good": (28, 1, "h"),
    "spacing": (30, 3, "f"),
    "directions": (42, 9, "f"),
    "centre": (78, 3, "f"),
}
# What a header of text may say that a scanner never would.
PATTERNS = (
    "%d%s%n",
    "%s%s%s%s.raw",
    "scan%03d.raw 1 3 1",
    "scan%99999999d.raw 1 2 1",
    "LIST",
    "LIST 2",
    "x" * 5000,
    "nowhere.raw",
)
FILES = ("/dev/zero", "/etc/passwd", "../../x", ".", "", "fifo.raw", "./scan.nhdr", "\udcff\udcfe.raw")
NRRD_LINES = (
    *(
        "byte skip: -1",
        "byte skip: 999999999999",
        "line skip: 100000000",
        "line skip: -1",
        "encoding: gzip",
        "type: block",
    ),
    *("encoding: text", "encoding: hex", "encoding: bzip2", "encoding: raw", "block size: 999999999", "type: double"),
    *(
        "dimension: 16",
        "dimension: 0",
        "dimension: 4",
        "space dimension: 8",
        "measurement frame: (1,0) (2)",
        "spacings: 1 2",
    ),
    *(
        "sizes: 18 20",
        "sizes: 18 20 99999999",
        "sizes: 2000 2000 2000",
        "sizes: -18 20 22",
        "space directions: none none none",
    ),
    *(
        "space directions: (1,0,0) (1,0,0) (0,0,1)",
        "centerings: cell",
        "kinds: vector domain domain",
        "endian: big",
        "min: nan",
    ),
    *(
        "content: %n%n",
        "key:=value",
        "=:=",
        ":=",
        "old min: 1e999",
        "sample units: \x1b[31m",
        'labels: "a" "b',
        "number: 5",
    ),
)
META_LINES = (
    *(
        "NDims = 1000000000",
        "NDims = -3",
        "NDims = 2",
        "NDims = 4",
        "NDims = 10",
        "DimSize = 2000 2000 2000",
        "DimSize = 18 20",
    ),
    *(
        "DimSize = -1 -1 -1",
        "ElementNumberOfChannels = 1000000000",
        "ElementNumberOfChannels = 3",
        "ElementType = MET_DOUBLE",
    ),
    *(
        "ElementType = MET_STRING",
        "ElementType = MET_DOUBLE_ARRAY",
        "HeaderSize = -1",
        "HeaderSize = 99999999999",
        "BinaryData = False",
    ),
    *("CompressedData = True", "CompressedDataSize = 5", "CompressedDataSize = 99999999999", "ElementSpacing = 0 0 0"),
    *(
        "ElementSpacing = 3e-7 3e-7 3e-7",
        "TransformMatrix = 0 0 0 0 0 0 0 0 0",
        "TransformMatrix = 1 2",
        "ObjectType = Tube",
    ),
    *(
        "ElementByteOrderMSB = True",
        "Offset = nan nan nan",
        "AnatomicalOrientation = XXX",
        "NObjects = 999999999",
        "x" * 40000 + " = 1",
    ),
)


def segment(draw, path, name=None, **more):
    """The case of a scan: it is segmented, or now and then only checked."""
    word, weights = draw.relative(path), draw.relative(draw.copy("tiny.safetensors"))
    names = (name or path.name.partition(".")[0],)
    if draw.random.random() < 0.1:
        return Case(draw.command("check", word, "--weights", weights, "--device", "cpu"), names, **more)
    words = ["segment", word, "-o", "made", "--weights", weights, "--device", "cpu", "--no-mirror"]
    for option in ("--volumes", "--seg-nrrd"):
        words += [option] * draw.random.getrandbits(1)
    return Case(draw.command(*words), names, **more)


def voxels(draw):
    return np.load(draw.seeds / "scan.npy").astype("<i2").tobytes(order="F")


def compressed(draw, data, kind="gzip"):
    """(stream, whether its damage must be noticed): what was compressed, then damaged, or the other way round."""
    pack = {"gzip": lambda x: gzip.compress(x, mtime=0), "bzip2": bz2.compress, "zlib": zlib.compress}[kind]
    way = 0 if draw.sound else draw.random.random()
    if way < 0.6:
        return draw.bytes(pack(data)), True
    if way < 0.85:
        return pack(draw.bytes(data)), False
    if kind == "zlib":
        return pack(data + bytes(200 << 20)), False
    return pack(data) + bomb("gzip" if kind == "gzip" else "bz2"), False


def nifti(draw):
    """NIfTI 1 and 2: one file, compressed, or header and voxels apart."""
    kind = draw.choice(("nii", "nii", "nii.gz", "nii.gz", "nii2", "img"))
    fields, seed = (NIFTI2, "scan2.nii") if kind == "nii2" else (NIFTI, "scan.hdr" if kind == "img" else "scan.nii")
    data = (draw.seeds / seed).read_bytes()
    way = draw.random.random()
    if way < 0.6:
        data = draw.fields(data, fields)
    if kind == "img":
        other = draw.copy("scan.img")
        other.with_suffix(".hdr").write_bytes(data if way < 0.6 else draw.bytes(data))
        if draw.sound:  # this pair is not among the formats that are read
            return segment(draw, draw.copy("scan.nii"))
        return segment(draw, draw.choice((other, other.with_suffix(".hdr"))))
    path = draw.given / ("scan.nii.gz" if kind == "nii.gz" else "scan.nii")
    if kind == "nii.gz":
        data, noticed = compressed(draw, data) if way > 0.6 else (gzip.compress(data, mtime=0), False)
        path.write_bytes(data)
        return segment(draw, path, same_as=draw.seeds / "scan.nii" if noticed else None)
    path.write_bytes(data if way < 0.6 else draw.bytes(data))
    return segment(draw, path)


def mgh(draw):
    """FreeSurfer's MGH and MGZ."""
    data = (draw.seeds / "scan.mgh").read_bytes()
    if draw.random.random() < 0.6:
        data, stream = draw.fields(data, MGH, ">"), None
    else:
        stream, noticed = compressed(draw, data)
    path = draw.given / draw.choice(("scan.mgz", "scan.mgz", "scan.mgh"))
    if path.suffix == ".mgh":
        path.write_bytes(data if stream is None else draw.bytes(data))
        return segment(draw, path)
    path.write_bytes(stream or gzip.compress(data, mtime=0))
    return segment(draw, path, same_as=draw.seeds / "scan.mgh" if stream and noticed else None)


def _text_scan(draw, name, lines, absurd, key, data, detached, same):
    """The case of a scan whose header is lines of text.

    Args:
        name: of the file without extension of the voxels' own, such as `scan.nhdr`.
        lines: of the sound header.
        absurd: lines that may take the place of others.
        key: what the line that names the voxels' file begins with.
        data: the voxels as they are stored, perhaps damaged.
        detached: the voxels' own file, or None.
        same: whether all of `data` has to be read as it was, if it is read.
    """
    plain, refused = draw.random.random() < 0.3, False
    if not plain:
        if draw.chance(0.45):
            for _ in range(draw.choice((1, 1, 2))):
                lines = _with_line(draw, lines, draw.choice(absurd))
        if draw.chance(0.25):
            lines = [line for line in lines if not line.startswith(key.strip(" :="))]
            lines, refused = [*lines, key + draw.choice((*PATTERNS, *FILES))], True
    header = "\n".join(lines)
    if plain or draw.random.random() < 0.6:
        header = header.encode("utf-8", "surrogateescape")
    else:
        header, refused = draw.text(header), False
    path = draw.given / name
    end = b"\n\n" if name.startswith("scan.n") else b"\n"
    path.write_bytes(header + end + (b"" if detached else data))
    if detached:
        detached.write_bytes(data)
        if draw.chance(0.15):
            draw.other_file(detached)
        if draw.chance(0.3):
            os.mkfifo(draw.given / "fifo.raw")
    return segment(draw, path, same_as=draw.seeds / "scan.nrrd" if same and plain else None, refused=refused)


def _with_line(draw, lines, line):
    """Lines with one more, mostly in the place of those that say the same."""
    key = line.replace("=", ":").partition(":")[0].strip()
    if draw.random.random() < 0.8:
        lines = [old for old in lines if not old.startswith(key)]
    place = draw.choice((1, len(lines) - 1))
    return [*lines[:place], line, *lines[place:]]


NRRD_ENCODINGS = ("raw", "gzip", "gzip", "text", "bzip2", "hex")  # the last two are not read


def nrrd(draw):
    """NRRD in all encodings, in one file or with the voxels apart."""
    encoding = draw.choice(("raw", "gzip", "gzip", "text") if draw.sound else NRRD_ENCODINGS)
    data, detached, same = voxels(draw), draw.random.random() < 0.3, False
    if encoding in ("gzip", "bzip2"):
        data, same = compressed(draw, data, encoding)
    elif encoding == "text":
        data = draw.bytes(" ".join(map(str, np.frombuffer(data, "<i2"))).encode())
    elif encoding == "hex":
        data = draw.bytes(data.hex().encode())
    elif draw.chance(0.3):
        data = draw.bytes(data)
    lines = [
        "NRRD0004",
        "type: short",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, SHAPE))}",
    ]
    lines += [f"space directions: ({SPACING},0,0) (0,{SPACING},0) (0,0,{SPACING})", "kinds: domain domain domain"]
    lines += ["endian: little", f"encoding: {encoding}", "space origin: (0,0,0)"]
    name = {"gzip": "scan.raw.gz", "bzip2": "scan.raw.bz2", "text": "scan.txt", "hex": "scan.hex"}.get(
        encoding, "scan.raw"
    )
    lines += [f"data file: {name}"] * detached
    if draw.chance(0.05):
        lines += [f"key{i}:={i}" for i in range(1_000_000)]
    own = draw.given / name if detached else None
    name = "scan.nhdr" if detached else "scan.nrrd"
    return _text_scan(draw, name, lines, NRRD_LINES, "data file: ", data, own, same)


def meta(draw):
    """MetaImage, in one file or with the voxels apart, compressed or not."""
    packed, detached = draw.random.random() < 0.5, draw.random.random() < 0.5
    data, same = compressed(draw, voxels(draw), "zlib") if packed else (voxels(draw), False)
    name = ("scan.zraw" if packed else "scan.raw") if detached else "LOCAL"
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += [f"CompressedData = {packed}"] + [f"CompressedDataSize = {len(data)}"] * packed
    lines += [
        "TransformMatrix = 1 0 0 0 1 0 0 0 1",
        "Offset = 0 0 0",
        "CenterOfRotation = 0 0 0",
        "AnatomicalOrientation = RAI",
    ]
    lines += [f"ElementSpacing = {SPACING} {SPACING} {SPACING}", f"DimSize = {' '.join(map(str, SHAPE))}"]
    lines += ["ElementType = MET_SHORT", f"ElementDataFile = {name}"]
    if not packed and draw.chance(0.3):
        data = draw.bytes(data)
    own = draw.given / name if detached else None
    name = "scan.mhd" if detached else "scan.mha"
    return _text_scan(draw, name, lines, META_LINES, "ElementDataFile = ", data, own, same)


def _elements(data):
    """Yield (tag, place of the element, of its value, its length) of the data elements of a DICOM file."""
    place = 132
    while place + 8 <= len(data):
        group, element, kind, length = struct.unpack_from("<HH2sH", data, place)
        value = place + 8
        if kind in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
            (length,) = struct.unpack_from("<I", data, value)
            value += 4
        yield f"{group:04x}{element:04x}", place, value, length
        place = value + length


def _dicom_file(draw, data):
    """(a DICOM file with one of its elements rewritten or its bytes damaged, whether it has too few pixels then)."""
    way = draw.random.random()
    if draw.sound or way < 0.3:
        return draw.bytes(data), False
    tag, place, value, length = draw.choice(_elements(data))
    if way < 0.4:  # a length that is not so
        wrong = draw.random.choice((0, 1, length + 2, 65535)) % 65536
        return data[: value - 2] + struct.pack("<H", wrong) + data[value:], False
    if way < 0.5:
        return data[:place] + data[value + length :], tag == "7fe00010"
    if way < 0.6:
        item = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
        return data[:place] + item * draw.choice((1, 50, 100_000)) + data[place:], False
    if length == 2 and tag.startswith("0028") and way < 0.85:  # rows, columns, bits
        number = draw.random.choice((0, 1, 2, 19, 255, 65535))
        more = tag in ("00280010", "00280011") and number > max(SHAPE)
        return data[:value] + struct.pack("<H", number) + data[value + 2 :], more
    text = "\\".join(str(draw.choice((draw.number, draw.word))()) for _ in range(draw.random.choice((1, 2, 3, 6))))
    text = text.encode("utf-8", "surrogatepass")[:60000]
    text += b" " * (len(text) % 2)
    return data[: value - 2] + struct.pack("<H", len(text)) + text + data[value + length :], False


def dicom(draw):
    """A folder with a DICOM series."""
    folder = draw.copy("dicom", "scan")
    files = sorted(folder.iterdir())
    chosen = [files[0], files[-1], draw.choice(files)]
    refused = False
    for file in files if draw.chance(0.15) else [draw.choice(chosen)]:
        data, short = _dicom_file(draw, file.read_bytes())
        file.write_bytes(data)
        refused |= short
    if draw.chance(0.1):
        draw.other_file(draw.choice(chosen))
        refused = False
    elif draw.chance(0.1):
        draw.choice(files).unlink()
        refused = False
    if draw.chance(0.1):
        draw.copy("scan.nii.gz", "scan/more.nii.gz")
    if draw.chance(0.05):
        draw.copy(f"dicom/{draw.choice(files).name}", "scan/again.dcm")
    path = folder if draw.random.random() < 0.8 or not files[0].exists() else files[0]
    return segment(draw, path, "scan", refused=refused)


def place(draw):
    """Something else, or a strange name, where a scan is wanted."""
    kind = draw.choice(("nii", "nii.gz", "mgz", "nrrd"))
    path = draw.copy(f"scan.{kind}")
    way = 0 if draw.sound else draw.random.randrange(6)
    if way == 1:
        draw.other_file(path)
    elif way == 2:  # one format's name on another's contents
        other = path.with_name(
            "scan"
            + draw.choice(
                (".nii", ".nii.gz", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".seg.nrrd", ".txt", "")
            )
        )
        path = path.rename(other)
    elif way == 3:
        word = draw.word().replace("/", "_").replace("\0", "")
        name = (
            f"scan{word}.{kind}".encode("utf-8", "surrogatepass")
            if draw.random.random() < 0.7
            else b"scan\xff\xfe." + kind.encode()
        )
        if len(name) < 250:
            path = path.rename(os.fsdecode(os.path.join(os.fsencode(draw.given), name)))
        else:
            path = path.with_name(os.fsdecode(name))
    elif way == 4:
        folder = draw.given / "scan"
        folder.mkdir()
        path.rename(folder / draw.choice(("a.nii", "-o.nii", "b_labels.nii.gz", "c.txt", ".d.nii")))
        path = folder
    elif way == 5:
        path = draw.given / f"scan{draw.word()}"
    return segment(draw, path, "scan")


def outputs(draw):
    """Results that would be written over inputs or to strange places, and several scans of which one is bad."""
    scan, scans = draw.copy("scan.nii.gz"), ["given/scan.nii.gz"]
    (draw.given / "link.nii.gz").symlink_to("scan.nii.gz")
    os.link(scan, draw.given / "hard.nii.gz")
    way = 0 if draw.sound else draw.random.randrange(5)
    more = []
    if way == 0:
        output = draw.choice(("made", "made/l.nii", "made/l.mgz", "made/l.nrrd", "made/new/l.seg.nrrd"))
    elif way == 1:  # an input, by one of its names
        own = ("scan.nii.gz", "../given/scan.nii.gz", "./scan.nii.gz", "link.nii.gz", "hard.nii.gz", "weights.nii.gz")
        output = "given/" + draw.choice(own)
        (draw.given / "weights.nii.gz").symlink_to("tiny.safetensors")
    elif way == 2:  # an input, by a name that follows from another's
        output, more = "given", ["--seg-nrrd"]
        name, seed = draw.choice((("x.seg.nrrd", "scan.nrrd"), ("scan_labels.nii.gz", "scan.nii.gz")))
        scans = [draw.relative(draw.copy(seed, name)), *scans]
    elif way == 3:
        word = draw.word().replace("..", "_")
        strange = (f"made/{word}", f"made/{word}.nii.gz", "given/scan.nii.gz/x.nii", "/proc/x.nii", "/dev/null")
        output = draw.choice(strange)
    else:
        bad = draw.given / "bad.nrrd"
        bad.write_bytes(draw.bytes((draw.seeds / "scan.nrrd").read_bytes()))
        scans, output = [*scans, draw.relative(bad), draw.relative(draw.copy("scan.mgz", "last.mgz"))], "made"
    weights = draw.relative(draw.copy("tiny.safetensors"))
    words = ["segment", *scans, "--weights", weights, "--device", "cpu", "--no-mirror", "-o", output, *more]
    names = ("bad",) if way == 4 else ("scan", "made", "given", output)
    return Case(draw.command(*words), names, leaves=way == 4, refused=way in (1, 2))


KINDS = (nifti, mgh, nrrd, meta, dicom, place, outputs)
