"""Data sets in every layout, label tables, and packed data sets."""

import gzip
import io
import json
import shutil
import struct
import zipfile

import numpy as np

from .damage import Case, bomb
from .scans import NIFTI
from .seeds import TRAIN

CELLS = (
    "0-100000000",
    "5-3",
    "-1--5",
    "10 10",
    "1e3",
    "*",
    "10-",
    "999999999999",
    "٣",
    "1,2",
    "",
    "Background",
    "Shell",
    "=1+1",
)


def use(draw, path, *more, names=("given",)):
    """The case of a data set: it is looked through, packed, or trained on for an epoch."""
    command = draw.random.choice(("data", "data", "pack", "train"))
    word = draw.relative(path)
    if command == "data":
        return Case(draw.command("data", word, *more), names)
    if command == "pack":
        return Case(draw.command("pack", word, *more, "-o", "made/p.zip", "--grid-size", "16"), names)
    return Case(
        draw.command("train", word, *more, "-o", "made/run", *TRAIN, "--epochs", "1"), (*names, "made"), leaves=True
    )


def table(draw):
    """A label table, `structures.csv` or one by another name."""
    data = draw.copy("data")
    path = data / "structures.csv"
    text = path.read_text()
    if draw.chance(0.5):
        rows = [row.split(",") for row in text.split("\n")]
        row = draw.choice(rows[:4])
        row[draw.random.randrange(len(row))] = str(draw.choice((*CELLS, draw.word(), draw.number())))
        if draw.chance(0.1):
            rows += [[str(i), f"S{i}", str(1000 + i)] for i in range(4, draw.choice((20, 256, 300, 5000)))]
        path.write_bytes("\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass"))
    else:
        path.write_bytes(draw.text(text))
    if draw.chance(0.1):
        draw.other_file(path)
    if draw.random.random() < 0.3:
        path = path.rename(draw.given / "table.csv")
        return use(draw, data, "--table", draw.relative(path))
    return use(draw, data)


def _as_bids(data):
    for i in range(4):
        folder = data / f"sub-{i}" / "anat"
        folder.mkdir(parents=True)
        (data / "images" / f"s{i}.nii.gz").rename(folder / f"sub-{i}_T1w.nii.gz")
        (data / "labels" / f"s{i}.nii.gz").rename(folder / f"sub-{i}_dseg.nii.gz")
    for name in ("images", "labels"):
        shutil.rmtree(data / name)  # what another file is a link to may be left


def _as_nnunet(draw, data):
    for old, new, ending in (("images", "imagesTr", "_0000"), ("labels", "labelsTr", "")):
        (data / new).mkdir()
        for file in sorted((data / old).iterdir()):
            file.rename(data / new / file.name.replace(".nii", f"{ending}.nii"))
        (data / old).rmdir()
    labels = {"background": 0, "Shell": 10, "Core": [20, 21, 22], "Ball": [30, 31]}
    facts = {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": 4, "file_ending": ".nii.gz"}
    path = data / "dataset.json"
    if draw.random.random() < 0.7:
        (data / "structures.csv").unlink()
    path.write_bytes(draw.dump(draw.json(facts)).encode("utf-8", "surrogatepass"))
    if draw.chance(0.1):
        draw.other_file(path)


def _as_csv(draw, data):
    path = data / "paths.csv"
    rows = ["image,labels,subject"] + [f"images/s{i}.nii.gz,labels/s{i}.nii.gz,{'ABCD'[i]}" for i in range(4)]
    path.write_bytes(draw.text("\n".join(rows) + "\n"))
    if draw.chance(0.1):
        draw.other_file(path)
    return path


def _label_map(draw, path):
    """A label map with other numbers, another shape or another type."""
    data = gzip.decompress(path.read_bytes())
    header = draw.fields(data[:352], NIFTI) if draw.random.getrandbits(1) else data[:352]
    values = np.frombuffer(data[352:], "<i2").copy()
    if draw.random.getrandbits(1):
        values[draw.random.randrange(len(values)) :] = draw.random.choice((0, -5, 32767, 20, 255))
    body = values.tobytes()
    if draw.chance(0.3):
        header = bytearray(header)
        struct.pack_into("<hh", header, 70, 16, 32)
        body = (values * draw.choice((1, 0.5, np.nan, 1e30))).astype("<f4").tobytes()
    path.write_bytes(gzip.compress(bytes(header) + body, mtime=0))


def data_set(draw):
    """A data set in one of its layouts, with something wrong in one of its files or names."""
    data = draw.copy("data")
    layout = draw.random.choice(("pairs", "bids", "nnunet", "csv"))
    files = sorted(path for path in data.rglob("*.nii.gz"))
    if draw.chance(0.8):
        way, file = draw.random.randrange(7), draw.choice(files)
        if way == 0:
            file.write_bytes(draw.bytes(file.read_bytes()))
        elif way == 1:
            _label_map(draw, draw.choice(files[4:]))
        elif way == 2:
            draw.other_file(file)
        elif way == 3:
            file.write_bytes(gzip.compress(draw.fields(gzip.decompress(file.read_bytes()), NIFTI), mtime=0))
        elif way == 4:
            file.write_bytes(draw.choice(files).read_bytes())
        elif way == 5:
            path = data / "subjects.csv"
            path.write_bytes(draw.text(path.read_text()))
        else:
            file.write_bytes(file.read_bytes() + bomb("gzip"))
    if layout == "bids":
        _as_bids(data)
    elif layout == "nnunet":
        _as_nnunet(draw, data)
    path = _as_csv(draw, data) if layout == "csv" else data
    if draw.chance(0.1):
        draw.choice(path for path in sorted(data.rglob("*.nii.gz")) if not path.is_dir()).unlink()
    if draw.chance(0.1):
        word = draw.word().replace("/", "_").replace("\0", "").replace("\ud800", "\udcff")[:200]
        folders = [path for path in sorted(data.rglob("*")) if path.is_dir() and not path.suffix]
        shutil.copyfile(draw.seeds / "scan.nii.gz", draw.choice(folders) / f"s{word}.nii.gz")
    return use(draw, path)


def heads(draw):
    """A folder of head label maps, damaged."""
    data, folder = draw.copy("data"), draw.given / "heads"
    folder.mkdir()
    path = folder / "head.nii.gz"
    path.write_bytes(_head(draw))
    if draw.chance(0.5):
        path.write_bytes(draw.bytes(path.read_bytes()))
    elif draw.chance(0.3):
        draw.other_file(path)
    elif not draw.sound:
        _label_map(draw, path)
    command = draw.random.choice(("pack", "train"))
    words = [command, draw.relative(data), "--heads", draw.relative(folder)]
    if command == "pack":
        return Case(draw.command(*words, "-o", "made/p.zip", "--grid-size", "16"))
    return Case(draw.command(*words, "-o", "made/run", *TRAIN, "--epochs", "1"), leaves=True)


def _head(draw):
    """A head label map of the scans' grid: a brain (numbers below 500) in two tissues."""
    data = gzip.decompress((draw.seeds / "data" / "labels" / "s0.nii.gz").read_bytes())
    ids = np.frombuffer(data[352:], "<i2").copy()
    place = np.arange(len(ids))
    ids = np.where(ids > 0, 2, np.where(place % 3 == 0, 0, 500 + place % 17)).astype("<i2")
    return gzip.compress(data[:352] + ids.tobytes(), mtime=0)


def _member(draw, name, data):
    """A member of a packed data set, damaged."""
    if name == "index.json":
        return draw.dump(draw.json(json.loads(data))).encode("utf-8", "surrogatepass")
    way = draw.random.randrange(5)
    array = np.load(io.BytesIO(data))
    if way == 0:
        return draw.bytes(data)
    if way == 1:
        array = array.astype(draw.choice(("<f8", "<i4", "<c16", "<U5", ">f2")))
    elif way == 2:
        array = array[: draw.choice((0, 1, 15))] if draw.random.getrandbits(1) else array.ravel()
    elif way == 3:
        array = np.full_like(array, draw.choice((0, 255, 4)))
    else:
        text = b"{'descr': '<f2', 'fortran_order': False, 'shape': (%d, %d, 16), }\n" % (
            10**6,
            draw.random.randrange(10**6),
        )
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def packed(draw):
    """A packed data set: its index, its members, its bytes."""
    path = draw.copy("packed.zip")
    way = 0 if draw.sound else draw.random.random()
    if 0 < way < 0.65:
        with zipfile.ZipFile(path) as file:
            members = {name: file.read(name) for name in file.namelist()}
        chosen = "index.json" if way < 0.4 else draw.choice(members)
        members[chosen] = _member(draw, chosen, members[chosen])
        if draw.chance(0.1):
            members[draw.choice(("../out.npy", "/abs.npy", "0.image.npy ", "x" * 5000))] = b"x"
        if draw.chance(0.05):
            members[chosen] = bytes(300 << 20)
        if draw.chance(0.1):
            del members[draw.choice(members)]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            for name, data in members.items():
                file.writestr(name, data)
    elif 0 < way < 0.9:
        path.write_bytes(draw.bytes(path.read_bytes()))
    elif way:
        draw.other_file(path)
    if draw.random.random() < 0.2:
        path = path.rename(path.with_suffix(".npz"))
    words = ["train", draw.relative(path), "-o", "made/run", *TRAIN, "--epochs", "1"]
    return Case(draw.command(*words), ("packed", "made"), leaves=True)


KINDS = (table, data_set, heads, packed)
