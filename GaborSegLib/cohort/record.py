"""The record of a scan: its sidecar, a JSON file written last, which says what was made of what and by what.

Files hold the state of a cohort. A scan is done when its record is there, fits the scan, the weights and the options,
and all that it names is there. So whatever ends a run, the next one does the rest.
"""

import hashlib
import json
from pathlib import Path

from .. import __version__
from ..files import replacing
from ..protocol import parse_json, read_text

FAILED = "logs"  # folder of what is known of scans that failed


def source_of(path):
    """What tells whether a scan is still the same: size, time of change, and a digest of its bytes."""
    status = Path(path).stat()
    return {
        "Path": str(path),
        "Size": status.st_size,
        "MTimeNs": status.st_mtime_ns,
        "SHA256": digest_of(path),
    }


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file):  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def read_record(output, item, variant):
    """The record of an item in a folder of results, a dictionary; None if there is none that can be read."""
    try:
        found = parse_json(read_text(Path(output) / item.file("sidecar", variant)))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("GaborSeg"), dict) else None


def is_done(output, item, settings):
    """Whether an item's results are there, whole, and of this scan, these weights, this version and these options."""
    record = read_record(output, item, settings.variant)
    if record is None or record["GaborSeg"].get("Settings") != settings.identity():
        return False
    if record["GaborSeg"].get("Version") != __version__:
        return False
    sizes = record["GaborSeg"].get("Outputs", {})
    try:
        whole = all((Path(output) / name).stat().st_size == size for name, size in sizes.items())
        return bool(sizes) and whole and _is_same(record["GaborSeg"].get("Source", {}), item.path)
    except (OSError, TypeError):
        return False


def _is_same(source, path):
    status = path.stat()
    if source.get("Size") != status.st_size:
        return False
    return source.get("MTimeNs") == status.st_mtime_ns or source.get("SHA256") == digest_of(path)


def write_record(output, item, settings, record):
    """Write an item's record, and forget that it failed before."""
    with replacing(Path(output) / item.file("sidecar", settings.variant)) as temporary:
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    failure_path(output, item).unlink(missing_ok=True)


def failure_path(output, item):
    return Path(output) / FAILED / f"{item.id}.json"


def write_failure(output, item, reason):
    """Keep why a scan failed; the next run tries it again."""
    facts = {"Scan": str(item.path), "Id": item.id, "Reason": reason, "Version": __version__}
    with replacing(failure_path(output, item)) as temporary:
        temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_failure(output, item):
    """Why an item failed in the last run, text; None if it did not."""
    try:
        return str(parse_json(read_text(failure_path(output, item)))["Reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
