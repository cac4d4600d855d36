"""A data set's prepared scans in one file, to train from on a machine that has neither the scans nor what reads them.

A zip file: `index.json` (format, name, grid size, label table, cases) and for each case `N.image.npy` (float16) and
`N.labels.npy` (uint8), both (size, size, size), as `dataset.prepare` makes
them, with soft labels also `N.shares.npy`, and `N.0.head.npy` and so on, as
`heads.prepare_heads` makes them. Zip keeps a checksum of each.
"""

import json
import os
import struct
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from numpy.lib.format import open_memmap

from ..errors import DataError
from ..events import silent
from ..files import check_output, regular_file, replacing
from ..protocol import check_names, check_number, parse_json, printable
from .dataset import kinds
from .sources import Case, DataSet
from .tables import LabelTable

FORMAT = 1
LONGEST_INDEX = 64 << 20  # bytes
MOST_HEADS = 100  # around one scan
# A head has two numbers for each voxel of a cube half again as long, a scan two bytes for each of its cube.
BYTES_PER_VOXEL, LONGEST_NPY_HEADER = 8, 1024
EXTENSIONS = (".zip", ".npz")
TYPES = {"image": "<f2", "labels": "|u1", "shares": "|u1"}


def is_packed(path):
    """Whether a path names a packed data set and not a folder or a table."""
    return Path(path).suffix.lower() in EXTENSIONS


def pack(data, path, cache, size, report=silent, find_brain=False, heads=(), soft_labels=False):
    """Prepare all scans of a data set and write them into one file.

    Args:
        data: a `DataSet`.
        path: a name that ends in .zip or .npz.
        cache: folder for prepared scans.
        size: edge of the network's cube, voxels.
        report: takes events.
        find_brain: see `dataset.prepare`.
        heads: head label maps, see `heads.find_heads`; heads are built around all the scans.
        soft_labels: see `dataset.prepare`.

    Raises:
        DataError: a scan cannot be used.
        OutputError: the file cannot be written.
    """
    check_output(path, EXTENSIONS)
    stems = data.prepare(data.cases, cache, size, find_brain, soft_labels, report)
    built = data.prepare_heads(data.cases, stems, heads, cache, report) or [[]] * len(stems)
    rows = zip(data.table.names, data.table.ids, data.table.counts_as[1:])
    table = [{"name": name, "ids": sorted(ids), "counts_as": label} for name, ids, label in rows]
    index = {
        "format": FORMAT,
        "name": os.path.basename(os.path.realpath(data.folder)),
        "grid_size": size,
        "find_brain": find_brain,
        "soft_labels": soft_labels,
        "heads": len(heads),
        "heads_each": len(built[0]) if built else 0,
        "structures": table,
        "cases": [{"id": case.id, "subject": case.subject} for case in data.cases],
    }
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr("index.json", json.dumps(index, indent=1))
        for number, stem in enumerate(stems):
            report({"event": "progress", "stage": "Packing", "done": number, "total": len(stems)})
            for kind in kinds(soft_labels):
                file.write(f"{stem}.{kind}.npy", f"{number}.{kind}.npy")
            for place, head in enumerate(built[number]):
                file.write(head, f"{number}.{place}.head.npy")
    report({"event": "progress", "stage": "Packing", "done": len(stems), "total": len(stems)})


def open_packed(path):
    """Open a packed data set: `PackedData`.

    Raises:
        DataError: the file is missing, is damaged, or is no packed data set.
    """
    with _open(path) as file:
        try:
            if file.getinfo("index.json").file_size > LONGEST_INDEX:
                raise ValueError(f"its index is longer than {LONGEST_INDEX >> 20} MiB")
            index = parse_json(file.read("index.json"))
            if index["format"] > FORMAT:
                raise DataError(
                    f"{path}: got format {index['format']}, this program reads up to {FORMAT}; get a newer one"
                )
            _check_index(index, file)
            rows = index["structures"]
            merged = tuple((i, row["counts_as"]) for i, row in enumerate(rows, start=1) if row["counts_as"] != i)
            ids = tuple(frozenset(row["ids"]) for row in rows)
            table = LabelTable(tuple(row["name"] for row in rows), ids, within=merged)
            # All that a case has is in this one file.
            cases = tuple(Case(case["id"], case["subject"], Path(path), Path(path)) for case in index["cases"])
            return PackedData(
                Path(printable(index["name"])),
                cases,
                table,
                path=Path(path),
                grid_size=index["grid_size"],
                find_brain=index["find_brain"],
                soft_labels=index.get("soft_labels", False),
                heads=index["heads"],
                heads_each=index["heads_each"],
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"{path}: is no packed data set ({error}); gaborseg pack makes one") from error


def _check_index(index, file):
    """Check that an index fits itself and the entries of its file; ValueError or KeyError says what does not."""
    structures, cases, each = index["structures"], index["cases"], index["heads_each"]
    check_number("grid_size", index["grid_size"])
    check_names([row["name"] for row in structures])
    flags = index["find_brain"], index.get("soft_labels", False)
    if (
        not all(type(flag) is bool for flag in flags)
        or type(index["heads"]) is not int
        or each not in range(MOST_HEADS + 1)
    ):
        raise ValueError("its find_brain, soft_labels, heads or heads_each is none")
    if any(row["counts_as"] not in range(len(structures) + 1) for row in structures):
        raise ValueError("a structure counts as one that is not in it")
    texts = [case[key] for case in cases for key in ("id", "subject")]
    if not all(isinstance(text, str) for text in texts) or len(set(texts[::2])) < len(cases):
        raise ValueError("a case has no id of its own, or no subject")
    for number in range(len(cases)):
        for kind in (*kinds(index.get("soft_labels")), *(f"{place}.head" for place in range(each))):
            size = file.getinfo(f"{number}.{kind}.npy").file_size
            if size > BYTES_PER_VOXEL * index["grid_size"] ** 3 + LONGEST_NPY_HEADER:
                raise ValueError(f"{number}.{kind}.npy has {size} bytes, too many for its grid_size")


@dataclass(frozen=True)
class PackedData(DataSet):
    """A data set whose prepared scans lie in one file; `folder` is the name of the one it was made from.

    `heads` label maps were taken to build `heads_each` heads around every scan.
    """

    path: Path = Path()
    grid_size: int = 0
    find_brain: bool = False
    soft_labels: bool = False
    heads: int = 0
    heads_each: int = 0

    def prepare(self, cases, cache, size, find_brain=False, soft_labels=False, report=silent):
        """Unpack cases into a folder: a stem for each, as `dataset.prepare` gives.

        Raises:
            DataError: the file is damaged or was made for cubes of another size.
            OutputError: the folder cannot be written to.
        """
        if size != self.grid_size:
            raise DataError(
                f"{self.path}: holds cubes of {self.grid_size}^3 voxels, the run wants {size}^3; train with "
                f"--grid-size {self.grid_size}, or pack the scans again"
            )
        if find_brain != self.find_brain:
            how = [("without", "with")[flag] + " --find-brain" for flag in (self.find_brain, find_brain)]
            raise DataError(f"{self.path}: was packed {how[0]}, the run is {how[1]}; pack the scans again")
        if soft_labels and not self.soft_labels:
            raise DataError(f"{self.path}: was packed without --soft-labels, the run is with; pack the scans again")
        stems = []
        with _open(self.path) as file:
            for number in self._numbers(cases, "Unpacking scans", report):
                entries = [f"{number}.{kind}.npy" for kind in kinds(soft_labels)]
                # Named by their checksums: what another file left there is not mistaken for this one's.
                stem = Path(cache) / "".join(f"{file.getinfo(entry).CRC:08x}" for entry in entries)
                for entry, kind in zip(entries, kinds(soft_labels)):
                    shape = (2, 3, size, size, size) if kind == "shares" else (size,) * 3
                    _unpack(file, entry, Path(f"{stem}.{kind}.npy"), TYPES[kind], shape)
                highest = open_memmap(f"{stem}.labels.npy", mode="r").max()
                if highest > len(self.table.names):
                    raise ValueError(f"{entries[1]} has the label {highest} of {len(self.table.names)} structures")
                stems.append(stem)
        return stems

    def prepare_heads(self, cases, stems, head_maps, cache, report=silent):
        """Unpack the heads built around cases, whatever head maps are here; raises as `prepare`."""
        if not self.heads_each:
            return []
        built, larger = [], self.grid_size + 2 * (self.grid_size // 4)  # see `heads.LARGER`
        with _open(self.path) as file:
            for number in self._numbers(cases, "Unpacking heads", report):
                entries = [f"{number}.{place}.head.npy" for place in range(self.heads_each)]
                paths = [Path(cache) / f"{file.getinfo(entry).CRC:08x}-{number}.head.npy" for entry in entries]
                for entry, path in zip(entries, paths):
                    _unpack(file, entry, path, "|u1", (2, larger, larger, larger))
                built.append(paths)
        return built

    def _numbers(self, cases, stage, report):
        """Yield, for each case, its number among the packed ones, and report how far it got."""
        place = {case.id: number for number, case in enumerate(self.cases)}
        for done, case in enumerate(cases):
            report({"event": "progress", "stage": stage, "done": done, "total": len(cases)})
            yield place[case.id]
        report({"event": "progress", "stage": stage, "done": len(cases), "total": len(cases)})


def _unpack(file, entry, path, dtype, shape):
    """Unpack an array, which has to be of this type and shape."""
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_bytes(file.read(entry))
            # Mapped, so that a header that claims more than there is is refused, and takes no memory.
            found = _type_and_shape(open_memmap(temporary, mode="r"))
            if found != (dtype, shape):
                raise ValueError(f"{entry} has the shape {found[1]} of {found[0]}, wanted {shape} of {dtype}")


def _type_and_shape(array):
    return array.dtype.str, array.shape


@contextmanager
def _open(path):
    """Context that gives an open zip file; what is wrong with it becomes a `DataError`."""
    try:
        with zipfile.ZipFile(regular_file(path, DataError)) as file:
            yield file
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OSError) as error:
        if getattr(error, "filename", None):
            raise
        raise DataError(f"{path}: is damaged or incomplete ({error!s:.200}); copy it again") from error
