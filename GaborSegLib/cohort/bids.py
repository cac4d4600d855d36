"""BIDS: the T1 scans of a data set, and the files that make a folder of results a derivatives data set.

Paths are found with the standard library; pybids would bring 26 packages for it.
"""

import json
import os
import re
from pathlib import Path

from .. import __version__
from ..errors import DataError
from ..files import replacing
from ..protocol import parse_json, read_text
from ..structures import resource_path
from .items import Item

VERSION = "1.10.0"
SCAN_NAME = re.compile(r"(?P<entities>sub-[0-9a-zA-Z+]+(?:_[a-zA-Z]+-[0-9a-zA-Z+]+)*)_T1w\.nii(?:\.gz)?")
# What the validator is to leave out: pictures, reports, and volumes, for which BIDS has no name of its own yet.
IGNORED = "*.html\nlogs\nfigures\nthumbnails\ngroup_*\n*_morph.tsv\nrun.lock\n"
# The tissue of each structure in BIDS's own list (Derivatives, "Standard"): what other tools know these numbers by.
MAPPING = {
    "Cerebral white": 2,
    **dict.fromkeys(("3rd ventricle", "4th ventricle", "Inf. lateral vent.", "Lateral ventricle"), 3),
    "Cerebral grey": 8,
    **dict.fromkeys(("Accumbens", "Amygdala", "Caudate", "Hippocampus", "Pallidum", "Putamen", "Thalamus"), 9),
    "Brainstem": 10,
    **dict.fromkeys(("CVL I-V", "CVL VI-VII", "CVL VIII-X", "Cerebellar grey", "Cerebellar white"), 11),
}
COLUMNS = {
    "Description": "Brain structures by GaborSeg",
    "SpatialReference": "orig",
    "snomed_ct": {"Description": "code of the structure in SNOMED CT"},
}


def find_bids(folder, participants=(), sessions=(), wanted=None):
    """The T1-weighted scans of a BIDS data set, as items.

    Args:
        folder: of the data set.
        participants, sessions: labels, with or without `sub-` and `ses-`; all by default.
        wanted: entities that a scan's name must have, from name to value or list of values; the part `t1w` of a filter
            file as fMRIPrep takes it.

    Raises:
        DataError: no scan fits, or a participant or session that was named is not there.
    """
    folder = Path(folder)
    participants = {label.removeprefix("sub-") for label in participants}
    sessions = {label.removeprefix("ses-") for label in sessions}
    items, known = [], {"sub": set(), "ses": set()}
    for path in _t1_scans(folder):
        match = SCAN_NAME.fullmatch(path.name)
        entities = dict(part.split("-", 1) for part in match["entities"].split("_"))
        for key in known:
            known[key].add(entities.get(key))
        if participants and entities["sub"] not in participants:
            continue
        if sessions and entities.get("ses") not in sessions:
            continue
        if all(_fits(entities.get(_SHORT.get(key, key)), value) for key, value in (wanted or {}).items()):
            items.append(_item(folder, path, match["entities"], entities))
    for key, labels in (("sub", participants), ("ses", sessions)):
        missing = sorted(labels - known[key])
        if missing:
            raise DataError(f"{folder}: has no T1w scan of {key}-{missing[0]}; it has {_some(known[key], key)}")
    if not items:
        raise DataError(f"{folder}: no T1w scan fits; wanted sub-*/[ses-*/]anat/*_T1w.nii[.gz]")
    return items


# Names of entities in filter files, as pybids has them, and in file names.
_SHORT = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "reconstruction": "rec",
    "ceagent": "ce",
}
# Of a filter file: what is true of every scan that is looked for, or no part of a name.
_KNOWN = {
    "datatype": ["anat"],
    "suffix": ["T1w"],
    "extension": [".nii", ".nii.gz", [".nii", ".nii.gz"], [".nii.gz", ".nii"]],
    "scope": ["raw"],
}


def read_filter(path):
    """The part `t1w` of a BIDS filter file (JSON), without what holds for every T1-weighted scan.

    Raises:
        DataError: it cannot be read, or asks for what GaborSeg cannot do.
    """
    try:
        found = parse_json(read_text(path))
        wanted = dict(found.get("t1w", {}))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f'{path}: cannot be read as a BIDS filter file ({error}); wanted {{"t1w": {{...}}}}') from error
    for key in _KNOWN.keys() & wanted.keys():
        value = wanted.pop(key)
        if value not in _KNOWN[key]:
            raise DataError(f"{path}: got {key} {value}; GaborSeg segments T1w scans of anat alone")
    return wanted


def _t1_scans(folder):
    """Paths of T1w files, sorted; what is named otherwise than BIDS wants is left out."""
    paths = [*folder.glob("sub-*/anat/*_T1w.nii*"), *folder.glob("sub-*/ses-*/anat/*_T1w.nii*")]
    return sorted(path for path in paths if SCAN_NAME.fullmatch(path.name) and path.is_file())


def _item(folder, path, name, entities):
    uri = path.relative_to(folder).as_posix()
    session = f"ses-{entities['ses']}" if "ses" in entities else ""
    return Item(name, path.absolute(), os.path.dirname(uri), f"sub-{entities['sub']}", session, uri)


def _fits(found, wanted):
    """Whether an entity's value is what a filter file asks for: a value, one of several, or none."""
    if isinstance(wanted, list):
        return any(_fits(found, one) for one in wanted)
    if isinstance(found, str) and found.isdigit() and str(wanted).isdigit():
        return int(found) == int(wanted)  # run-01 is run 1
    return found == (None if wanted in (None, False) else str(wanted))


def _some(labels, key):
    labels = sorted(label for label in labels if label)
    more = f" and {len(labels) - 8} more" if len(labels) > 8 else ""
    return ", ".join(f"{key}-{label}" for label in labels[:8]) + more if labels else "none"


def write_dataset(output, source, weights, structures):
    """Write what a derivatives data set has at its root: description, `dseg.tsv`, what validators are to leave out.

    Args:
        output: folder of results.
        source: folder of the BIDS data set.
        weights: what they are called, for the description.
        structures: list of `Structure`.
    """
    output, source = Path(output).absolute(), Path(source).absolute()
    description = {
        "Name": "GaborSeg: brain structures from T1-weighted scans",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "License": "as that of the source data set",
        "GeneratedBy": [{"Name": "GaborSeg", "Version": __version__, "Description": f"weights {weights}"}],
        "SourceDatasets": [{"URL": source.as_uri()}],
        "DatasetLinks": {"raw": source.as_uri()},
    }
    _write(output / "dataset_description.json", json.dumps(description, indent=2) + "\n")
    _write(output / ".bidsignore", IGNORED)
    _write(output / "README.md", README)
    write_structures(output / "dseg.tsv", structures)
    _write(output / "dseg.json", json.dumps(COLUMNS, indent=2) + "\n")


README = """# Brain structures by GaborSeg

Made by `gaborseg bids`. Label maps are `*_dseg.nii.gz`, on the grid of their scan; what their numbers mean stands in
`dseg.tsv`. Volumes of each scan are `*_morph.tsv`, of all scans `group_volumes.tsv`. `report.html` opens in a browser.
For research, not for diagnosis.
"""


def write_structures(path, structures):
    """Write what the numbers of a label map mean: index, name, abbreviation, color, mapping, code of SNOMED CT."""
    codes = snomed_codes()
    rows = ["index\tname\tabbreviation\tcolor\tmapping\tsnomed_ct", "0\tBackground\tBG\t#000000\t0\tn/a"]
    for structure in structures:
        colour = "#{:02x}{:02x}{:02x}".format(*structure.colour)
        name, codes_of_it = structure.name, (MAPPING.get(structure.name, "n/a"), codes.get(structure.name, "n/a"))
        rows.append("\t".join(map(str, (structure.label, name, abbreviation(name), colour, *codes_of_it))))
    _write(path, "\n".join(rows) + "\n")


def snomed_codes():
    """The SNOMED CT codes of structures, a dictionary from name, as Slicer has them."""
    terms = json.loads(resource_path("GaborSeg.term.json").read_text(encoding="utf-8"))
    categories = terms["SegmentationCodes"]["Category"]
    return {
        name: kind["CodeValue"] for category in categories for kind in category["Type"] for name in kind["structures"]
    }


def abbreviation(name):
    """A name without what is neither letter nor digit: CerebralGrey for Cerebral grey."""
    return "".join(word[:1].upper() + word[1:] for word in re.findall(r"[A-Za-z0-9]+", name))


def _write(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
