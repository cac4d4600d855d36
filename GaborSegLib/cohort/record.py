"""The record of a scan: its sidecar, a JSON file written last, which says what was made of what and by what.

Files hold the state of a cohort. A scan is done when its record is there, fits the scan, the weights and the options,
and all that it names is there. So whatever ends a run, the next one does the rest.
"""

import hashlib
import json
from pathlib import Path

from .. import __version__
from ..errors import ImageError
from ..files import regular_file, replacing
from ..protocol import parse_json, read_text

FAILED = "logs"  # folder of what is known of scans that failed


def source_of(path):
    """What tells whether a scan is still the same: size, time of change, and a digest of its bytes.

    Of a folder, as of a DICOM series, the sum, the latest, and a digest of its files' names, sizes and times.
    """
    size, changed = _status(Path(path))
    return {"Path": str(path), "Size": size, "MTimeNs": changed, "SHA256": digest_of(path)}


def _status(path):
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [file.stat() for file in files]
    return sum(status.st_size for status in found), max((status.st_mtime_ns for status in found), default=0)


def digest_of(path):
    """SHA-256, as text; see `source_of`."""
    path, digest = Path(path), hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.iterdir()):
            digest.update(repr((file.name, file.stat().st_size, file.stat().st_mtime_ns)).encode())
        return digest.hexdigest()
    regular_file(path, ImageError)
    with open(path, "rb") as file:
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
    size, changed = _status(path)
    if source.get("Size") != size:
        return False
    return source.get("MTimeNs") == changed or source.get("SHA256") == digest_of(path)


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
