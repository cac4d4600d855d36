"""The report of a cohort: one HTML file that works from a disk with no network, beside its thumbnails."""

import hashlib
import json
import platform
import statistics
from datetime import datetime
from pathlib import Path

from .. import __version__
from ..files import replacing
from ..structures import resource_path
from .group import STANDS_OUT, structures_of

REPORT = "report.html"


def write_report(rows, output, variant, title):
    """Write `report.html` from the rows of `read_group`."""
    from jinja2 import Environment

    template = resource_path("Report/report.html.j2").read_text(encoding="utf-8")
    names = structures_of(rows)
    data = {
        "key": hashlib.sha256(str(Path(output).resolve()).encode()).hexdigest()[:16],
        "structures": names,
        "standsOut": STANDS_OUT,
        "medians": [_median(row.volumes.get(name) for row in rows) for name in names],
        "scans": [_scan(row, names, Path(output), variant) for row in rows],
    }
    text = (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            title=title,
            subtitle=f"GaborSeg {__version__}, {datetime.now():%d %B %Y %H:%M}, {platform.node()}",
            facts=_facts(rows),
            stands_out=STANDS_OUT,
            data=_embedded(data),
        )
    )
    with replacing(Path(output) / REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _embedded(data):
    """JSON that can stand in a script element: nothing in it ends that."""
    from markupsafe import Markup

    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _median(values):
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _scan(row, names, output, variant):
    """What the page knows of a scan."""
    item, record = row.item, row.record
    pictures = {kind: item.file(kind, variant).as_posix() for kind in ("thumbnail", "overview")}
    facts = {"scan": str(item.path)}
    if record:
        icv = record.get("IntracranialMl")
        facts["intracranial volume"] = (
            str(record.get("IntracranialMissing") or "not known") if icv is None else f"{icv:.0f} mL"
        )
        facts["weights"] = f"{record.get('Weights')} ({record['Settings']['sha256'][:12]})"
        facts["versions"] = f"GaborSeg {record.get('Version')}, torch {record.get('Torch')}"
        facts["time"] = f"{record.get('Seconds')} s on {record.get('Device')}"
    return {
        "id": item.id,
        "status": row.status,
        "failure": row.failure,
        "reasons": row.reasons,
        "quality": round(row.quality, 4) if record else None,
        "volumes": [row.volumes.get(name) for name in names],
        "z": [None if row.z.get(name) is None else round(row.z[name], 2) for name in names],
        "sides": [[row.sides.get(name, {}).get(key) for key in ("left", "right", "asymmetry")] for name in names],
        "qualities": [record.get("Quality", {}).get(name) for name in names],
        "facts": facts,
        **{kind: name if record and (output / name).is_file() else None for kind, name in pictures.items()},
    }


def _facts(rows):
    """(what, value) pairs for the head of the page."""
    done = [row for row in rows if row.record]
    failed = sum(row.failure is not None for row in rows)
    looked = sum(bool(row.reasons) for row in rows)
    seconds = [row.record.get("Seconds") for row in done if row.record.get("Seconds")]
    weights = sorted({f"{row.record.get('Weights')} {row.record['Settings']['sha256'][:8]}" for row in done})
    return [
        ("scans", len(rows)),
        ("done", len(done)),
        ("failed", failed),
        ("worth a look", looked),
        ("seconds a scan, median", f"{statistics.median(seconds):.0f}" if seconds else "unknown"),
        ("weights", ", ".join(weights) or "none"),
    ]
