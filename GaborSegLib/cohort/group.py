"""A cohort's results in one table, and the scans that stand out in it."""

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from ..files import replacing, write_csv
from .record import read_failure, read_record

Z = "its logarithm's distance from the median, over 1.4826 median absolute deviations"
# Columns of a paired structure: key, meaning, units.
HALVES = (
    ("left", "volume of the left half", {"Units": "mL"}),
    ("right", "volume of the right half", {"Units": "mL"}),
    ("asymmetry", "2 (left - right) / (left + right)", {}),
)
TABLE, MEANINGS = "group_volumes.tsv", "group_volumes.json"
# Standard deviations from the median, robustly estimated, beyond which a value stands out; Iglewicz and Hoaglin (1993)
# name 3.5.
STANDS_OUT = 3.5
# Where scans are as alike as this, nobody need look: of a volume's logarithm and of an asymmetry, about what two scans
# of one person differ by; of a quality.
LEAST_SPREAD, LEAST_QUALITY_SPREAD = 0.02, 0.01
# A structure that was not found counts as so large, mL.
LEAST = 0.001
# With fewer scans a median and the spread around it say little.
FEWEST = 8
# 1.4826 times the median absolute deviation is the standard deviation of normally distributed values.
MAD_TO_SD = 1.4826


@dataclass
class Row:
    """A scan of the group.

    Args:
        item: the `Item`.
        record: what its sidecar has under `GaborSeg`; empty if it failed or is not done.
        failure: why it failed, or None.
        z: dictionary from structure to the robust z of its volume's logarithm.
        asymmetry_z: the same of its asymmetry, for paired structures.
        reasons: why it is worth a look, in words.
    """

    item: object
    record: dict
    failure: str | None = None
    z: dict = field(default_factory=dict)
    asymmetry_z: dict = field(default_factory=dict)
    reasons: list = field(default_factory=list)

    @property
    def status(self):
        """`done`, `failed`, or `missing` where nothing was tried yet."""
        return "failed" if self.failure else "done" if self.record else "missing"

    @property
    def volumes(self):
        return self.record.get("VolumesMl", {})

    @property
    def sides(self):
        """Dictionary from a paired structure to its left, right (mL) and asymmetry."""
        return self.record.get("SidesMl", {})

    @property
    def quality(self):
        """The mean over the structures, NaN if there is none."""
        values = self.record.get("Quality", {}).values()
        return statistics.fmean(values) if values else float("nan")


def read_group(items, output, variant):
    """The rows of a cohort's items, with robust z and reasons; structures in the order of the records."""
    rows = []
    for item in items:
        record = read_record(output, item, variant)
        failure = read_failure(output, item)
        rows.append(Row(item, record["GaborSeg"] if record and not failure else {}, failure))
    done = [row for row in rows if row.record]
    for name in structures_of(rows):
        # Sizes differ by factors: among the old, twice as large a ventricle is as usual as half as large a one.
        logarithms = [math.log(max(row.volumes[name], LEAST)) if name in row.volumes else None for row in done]
        for row, z in zip(done, robust_z(logarithms, LEAST_SPREAD)):
            row.z[name] = z
        asymmetries = [row.sides.get(name, {}).get("asymmetry") for row in done]
        for row, z in zip(done, robust_z(asymmetries, LEAST_SPREAD)):
            row.asymmetry_z[name] = z
    quality = robust_z([row.quality for row in done], LEAST_QUALITY_SPREAD)
    for row, z in zip(done, quality):
        row.reasons = reasons(row, z)
    return rows


def structures_of(rows):
    return list(dict.fromkeys(name for row in rows for name in row.volumes))


def paired_of(rows):
    return list(dict.fromkeys(name for row in rows for name in row.sides))


def robust_z(values, least=0.0):
    """How many standard deviations each value is from the median, both estimated robustly; None where it is not known.

    The standard deviation is 1.4826 times the median absolute deviation, but not less than `least`.
    """
    known = [value for value in values if value is not None]
    if len(known) < FEWEST:
        return [None] * len(values)
    median = statistics.median(known)
    spread = max(least, MAD_TO_SD * statistics.median(abs(value - median) for value in known))
    if not spread:
        return [None] * len(values)
    return [None if value is None else (value - median) / spread for value in values]


def reasons(row, quality_z):
    """Why a scan is worth a look, in words: warnings, the quality, then what is furthest from the others."""
    found = []
    for name, z in row.z.items():
        if _stands_out(z):
            how = "larger" if z > 0 else "smaller"
            found.append((z, f"{name} is {how} than in the others: {row.volumes[name]:.2f} mL"))
    for name, z in row.asymmetry_z.items():
        if _stands_out(z):
            side, asymmetry = "left" if z > 0 else "right", row.sides[name]["asymmetry"]
            found.append((z, f"{name} is larger on the {side} than in the others: {asymmetry:+.2f}"))
    far = [f"{text}, robust z {z:+.1f}" for z, text in sorted(found, key=lambda one: -abs(one[0]))]
    low = quality_z is not None and quality_z < -STANDS_OUT
    first = [f"its quality, {row.quality:.2f}, is far below that of the others"] if low else []
    return [*row.record.get("Warnings", []), *first, *far]


def _stands_out(z):
    return z is not None and abs(z) > STANDS_OUT


def write_group(rows, output):
    """Write the table of all scans, and what its columns mean."""
    names, paired = structures_of(rows), paired_of(rows)
    columns = {
        "scan": {"Description": "what the scan is called"},
        "participant_id": {"Description": "subject, of a BIDS data set"},
        "session_id": {"Description": "session, of a BIDS data set"},
        "status": {"Description": "done or failed, or missing where nothing was tried yet"},
        "quality": {"Description": "mean over the structures of how far the network trusts its result, 0 to 1"},
        "reasons": {"Description": "why the scan is worth a look, or why it failed"},
        "ICV mL": {"Description": "intracranial volume, where the skull is in the scan", "Units": "mL"},
        **{f"{name} mL": {"Description": f"volume of {name}", "Units": "mL"} for name in names},
        **{
            f"{name} {key}": {"Description": f"{text} of {name}", **units}
            for name in paired
            for key, text, units in HALVES
        },
        **{f"{name} z": {"Description": f"robust z of the volume of {name} in this group; {Z}"} for name in names},
    }
    write_csv(
        Path(output) / TABLE, [list(columns), *([*_facts(row), *_numbers(row, names, paired)] for row in rows)], "\t"
    )
    with replacing(Path(output) / MEANINGS) as temporary:
        temporary.write_text(json.dumps(columns, indent=2) + "\n", encoding="utf-8")


def _facts(row):
    quality = f"{row.quality:.4f}" if row.record else "n/a"
    told = [row.failure] if row.failure else row.reasons
    item = row.item
    return [item.id, item.subject or "n/a", item.session or "n/a", row.status, quality, "; ".join(told) or "n/a"]


def _numbers(row, names, paired):
    volumes = [row.volumes.get(name) for name in names]
    halves = [row.sides.get(name, {}).get(key) for name in paired for key, _, _ in HALVES]
    z = [row.z.get(name) for name in names]
    return [*_texts([row.record.get("IntracranialMl"), *volumes, *halves], 4), *_texts(z, 2)]


def _texts(values, digits):
    return ["n/a" if value is None else f"{value:.{digits}f}" for value in values]
