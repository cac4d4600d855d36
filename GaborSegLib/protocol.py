"""What the panel in 3D Slicer and the library's command line agree on: words, names of files, and how to read them.

Standard library only: Slicer reads this file before anything is installed, by its path and without the rest of the
library, so it imports nothing of its own package either.
"""

import ctypes
import errno
import json
import math
import os
import re
import secrets
import stat
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# The oldest Python that the program runs in; pyproject.toml says the same. This file, `__init__.py` and `__main__.py`
# load in older ones, too, so that there is somebody to say so.
OLDEST_PYTHON = (3, 10)
# What segmenting needs, and the oldest version of each; pyproject.toml has the same, and what a terminal wants besides.
REQUIREMENTS = {"torch": "2.5", "numpy": "1.24", "nibabel": "5", "SimpleITK": "2.2", "safetensors": "0.4"}

# Exit statuses of a command: done; a defect of this program; an error with a remedy; cancelled (Ctrl-C).
DONE, DEFECT, REFUSED, CANCELLED = 0, 1, 2, 130

# What a command writes with --json: one event a line, each a dictionary with the key `event`, see `events`.
PROGRESS, EPOCH, WARNING, RESULT, ERROR = "progress", "epoch", "warning", "result", "error"
# The `kind` of a `warning` that puts all of a result in doubt: the scan does not look like a T1.
NOT_T1 = "not-t1"

# What `gaborseg train` offers, in the order of its help.
VARIANTS = ("conventional", "gabor", "mixed")
LOSSES = ("pcc", "dice", "cross-entropy", "pcc+cross-entropy")
AUGMENTATIONS = ("paper", "strong", "scanner", "artefacts", "balanced", "field", "close", "sides", "skull", "none")
PRECISIONS = ("float32", "tf32", "bfloat16")

# The files of a training run's folder. The optimiser's state has its SHA-256 in its name.
BEST, METRICS, CURVES = "best.safetensors", "metrics.csv", "curves.png"
SNAPSHOT, PREVIOUS, DAMAGED = "last.safetensors", "previous.safetensors", "damaged.safetensors"
OPTIMISER = "optimiser-{}.safetensors"
LOCK, STOP = "run.lock", "stop"
# A run touches its lock so often, seconds; on another computer, where no process can be asked for, it counts as over
# when that did not happen for the second.
BEAT, OVERDUE = 30, 300
# Columns of metrics.csv, which those of the structures follow.
METRIC_COLUMNS = (
    "epoch",
    "epochs",
    "loss",
    "learning_rate",
    "seconds",
    "images_per_second",
    "memory_mib",
    "seconds_left",
    "dice_mean",
    "best_dice",
    "best_epoch",
)
# The halves of a paired structure, those of the patient; and what segments can be called with them.
SIDES = ("left", "right")
OWN_NAMES = "gaborseg"
NAMES = (OWN_NAMES, "freesurfer")
# The stage of `progress` events while an epoch's steps are done.
EPOCH_STAGE = "Epoch {epoch} of {epochs}"

# Of weight files: the card's format number, its key in the metadata, what it has to hold for the network to be built,
# and all that it has to hold. What else it holds is for people.
CARD_FORMAT = 1
CARD_KEY = "gaborseg"
NETWORK_KEYS = ("variant", "conventional_kernel_size", "gabor_kernel_size", "in_channels", "classes", "base_channels")
CARD_KEYS = ("format", "sha256", "structures", "grid_size", "field", *NETWORK_KEYS)
# What a network sees of a scan, see `model.network.cube_scores`.
FIELDS = ("cube", "content")
# What its whole numbers can be. Kernels have a voxel in the middle, group normalisation has four groups of channels.
LIMITS = {
    "conventional_kernel_size": range(1, 32, 2),
    "gabor_kernel_size": range(1, 32, 2),
    "in_channels": range(1, 17),
    "classes": range(2, 256),
    "base_channels": range(4, 1025, 4),
    "grid_size": range(16, 1025),
}
MOST_STRUCTURES = 254
LONGEST_NAME = 200  # letters
BACKGROUND = "Background"
# Bytes: the limit of the safetensors format for its header; of any other text that is read here.
LONGEST_HEADER, LONGEST_TEXT = 100 << 20, 64 << 20
DEEPEST = 50  # lists and dictionaries in each other, in JSON that is read

# Options of `gaborseg train` that a recipe may set: how to train, not on what nor where. True is for a flag.
RECIPE_OPTIONS = (
    "variant",
    "loss",
    "lr",
    "epochs",
    "batch-size",
    "augmentation",
    "find-brain",
    "soft-labels",
    "patch",
    "decay",
    "dropout",
    "validate-every",
    "precision",
    "workers",
    "seed",
    "grid-size",
    "base-channels",
    "conventional-kernel-size",
    "gabor-kernel-size",
)


def has_snapshot(folder):
    """Whether a folder holds a run that was begun."""
    return any((Path(folder) / name).exists() for name in (SNAPSHOT, PREVIOUS))


def epoch_of(stage):
    """The number of the epoch, from 1, that a `progress` event's stage names, or None if it names none."""
    match = re.fullmatch(EPOCH_STAGE.format(epoch=r"(\d+)", epochs=r"\d+"), stage)
    return int(match[1]) if match else None


def is_enough(version, oldest):
    """Whether a version, or None for what is not installed, is at least the oldest one; texts such as "2.5.1+cu124"."""
    if version is None:
        return False
    found, wanted = ([int(number) for number in re.findall(r"\d+", text)] for text in (version, oldest))
    return found[: len(wanted)] >= wanted


def half_name(structure, side):
    """What half of a structure is called, such as Left hippocampus; abbreviations keep their capitals."""
    return f"{side.capitalize()} {structure if structure[1:2].isupper() else structure[:1].lower() + structure[1:]}"


# Texts from outside

# What a terminal obeys (control characters), what ends a line, what turns the direction of writing, and halves of
# characters, which stand for the bytes of names that are not UTF-8.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What a spreadsheet takes for a formula, and runs: a cell that begins so and is no number; the same with ' before it.
FORMULA = re.compile("(?![-+]?[0-9.]+(e[-+]?[0-9]+)?\\Z)(?:'*\\s*[=+\\-@\uff1d\uff0b\uff0d\uff20]|'*[\t\r\n])")


def printable(text):
    """A text as one line that can be shown: what is `UNPRINTABLE` in it stands as an escape, such as \\x1b or \\n."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def csv_cell(value):
    """A value as it is written into a CSV file: a text that a spreadsheet would run gets a ' before it."""
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def csv_text(cell):
    """What `csv_cell` was given for the text of a cell."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def read_text(path, longest=LONGEST_TEXT):
    """The text of a file, UTF-8.

    Raises:
        OSError: it cannot be read, or is no regular file; a pipe would be waited for.
        ValueError: it is no text, or longer than so many bytes.
    """
    with _open(path) as file:
        content = file.read(longest + 1)
    if len(content) > longest:
        raise ValueError(f"it is longer than {longest >> 20} MiB")
    return content.decode("utf-8-sig")


def _open(path):
    """A regular file, opened for reading bytes; OSError for anything else."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return open(path, "rb")


def parse_json(text):
    """What JSON stands for, as `json.loads` gives it.

    Raises:
        ValueError: it is no JSON, is nested too deep, or has a number that is none (NaN) or too large for one.
    """
    try:
        content = json.loads(text, parse_float=_number, parse_constant=_number)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    level = [content]
    for _ in range(DEEPEST):
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list)))
        level = [item for items in inner for item in items]
    if level:
        raise ValueError("it is nested too deep")
    return content


def _number(word):
    if not math.isfinite(float(word)):
        raise ValueError(f"it has the number {word:.20}")
    return float(word)


# Weight files


class CardError(ValueError):
    """A weight file has a card of this program, which this copy cannot use."""


def read_card(path):
    """The card in a weight file: what it says about itself, a dictionary.

    A .safetensors file starts with the length of a header (8 bytes, little endian), then the header: JSON, whose
    metadata hold the card as text.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no weight file of this program, or not one that this copy can use; see `parse_card`.
    """
    with _open(path) as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(LONGEST_HEADER, os.fstat(file.fileno()).st_size):
                raise ValueError("it has no header")
            metadata = parse_json(file.read(length)).get("__metadata__")
        except (struct.error, ValueError, AttributeError) as error:
            raise ValueError("is not a safetensors file, or is damaged; get it again, or choose another") from error
    return parse_card(metadata)


def parse_card(metadata):
    """The card in the metadata of a weight file (dictionary of strings, or None), checked by `check_card`.

    Raises:
        CardError: it is of a newer program, or not whole; says what is wrong and what to do.
        ValueError: there is none, or it is not as this program writes it; says so.
    """
    text = metadata.get(CARD_KEY) if isinstance(metadata, dict) else None
    if text is None:
        raise ValueError("has no card of this program; it was not made by GaborSeg, choose another file")
    try:
        card = parse_json(text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"its card cannot be read: {error}; get the file again") from error
    number = card.get("format") if isinstance(card, dict) else None
    if not isinstance(number, int) or number > CARD_FORMAT:
        raise CardError(f"got format {number!s:.20}, this program reads up to {CARD_FORMAT}; install a newer GaborSeg")
    missing = [key for key in CARD_KEYS if key not in card]
    if missing:
        raise CardError(f"its card lacks {', '.join(missing)}; the file is damaged or was changed by hand")
    try:
        check_card(card)
    except CardError as error:
        raise CardError(f"{error}; get the file again, or a newer GaborSeg") from error
    return card


def check_card(card):
    """Check a card that has all of `CARD_KEYS`; `format` and `sha256`, which saving fills in, may be missing yet.

    Raises:
        CardError: its network cannot be built, or its results not be named by it, or it cannot be read once written.
    """
    try:
        for key, choices in (("variant", VARIANTS), ("field", FIELDS)):
            if card[key] not in choices:
                raise ValueError(f"{key} {card[key]!r:.60}; this program knows {', '.join(choices)}")
        for key in LIMITS:
            check_number(key, card[key])
        names = card["structures"] if isinstance(card["structures"], list) else []
        if card["classes"] != len(names) + 1:
            raise ValueError(
                f"{len(names)} structures for {card['classes']} classes; there must be one class more, the background"
            )
        check_names(names)
        for key, kind in (("find_brain", bool), ("training", dict), ("scores", dict)):
            if not isinstance(card.get(key, kind()), kind):
                raise ValueError(f"{key} {card[key]!r:.60}; wanted a {kind.__name__}")
        paired = card.get("paired", [])
        if not isinstance(paired, list) or not all(name in names for name in paired):
            raise ValueError(f"the paired structures {paired!r:.60}; wanted a list of names of its structures")
        if not isinstance(card.get("training", {}).get("earlier_stages", []), list):
            raise ValueError("earlier_stages of its training that are no list")
        text = json.dumps(card, ensure_ascii=False, allow_nan=False)
        parse_json(text)
        odd = re.search("[\ud800-\udfff]", text)
        if odd:
            raise ValueError(f"a text that is not UTF-8: {printable(text[max(0, odd.start() - 30) : odd.end()])}")
    except (ValueError, TypeError, RecursionError) as error:
        raise CardError(f"its card has {error}") from error


def check_number(key, value):
    """Check one of the numbers of `LIMITS`; ValueError says what was got and what is wanted."""
    numbers = LIMITS[key]
    if type(value) is not int or value not in numbers:
        steps = f" in steps of {numbers.step}" if numbers.step > 1 else ""
        raise ValueError(f"{key} {value!r:.60}; wanted a whole number from {numbers[0]} to {numbers[-1]}{steps}")


def check_names(names):
    """Check the names of structures, a sequence; ValueError says what was got and what is wanted."""
    if not 1 <= len(names) <= MOST_STRUCTURES:
        raise ValueError(f"{len(names)} structures; wanted 1 to {MOST_STRUCTURES}")
    taken = {BACKGROUND, *METRIC_COLUMNS}
    for name in names:
        is_text = isinstance(name, str) and name.strip() and not UNPRINTABLE.search(name)
        if not is_text or len(name) > LONGEST_NAME or name in taken:
            raise ValueError(
                f"the structure {name!r:.60}; each needs a name of its own, text of at most {LONGEST_NAME} letters "
                "without control characters"
            )
        taken.add(name)


# Terms


def terminology_tags(path, side=""):
    """Dictionary from structure name to the text by which 3D Slicer keeps what a segment is.

    Args:
        path: of the file of terms, GaborSeg.term.json.
        side: of `SIDES`, for terms with this modifier, of structures that are paired; "" for terms without one.
    """
    terms = json.loads(Path(path).read_text(encoding="utf-8"))
    category = terms["SegmentationCodes"]["Category"][0]
    tags = {}
    for kind in category["Type"]:
        modifiers = [_code(entry) for entry in kind.get("Modifier", ()) if entry["CodeMeaning"] == side.capitalize()]
        if bool(side) == bool(modifiers):
            codes = (_code(category), _code(kind), *(modifiers or ["^^"]))
            parts = (terms["SegmentationCategoryTypeContextName"], *codes, "", "^^", "^^")
            tags.update((name, "~".join(parts)) for name in kind["structures"])
    return tags


def _code(entry):
    return "^".join(entry[key] for key in ("CodingSchemeDesignator", "CodeValue", "CodeMeaning"))


# Recipes


@dataclass(frozen=True)
class Stage:
    """One training run of a recipe.

    Args:
        options: dictionary from names of `RECIPE_OPTIONS` to values, True for a flag.
        note: what there is to say about it, for people.
        averaged: the next stage, or the result, is the mean of this stage's weights and of those of the stage before.
    """

    options: dict
    note: str = ""
    averaged: bool = False

    @property
    def arguments(self):
        """The options as `gaborseg train` takes them, a list of strings."""
        words = []
        for name, value in self.options.items():
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return words


@dataclass(frozen=True)
class Recipe:
    """How to train: stages, each from the best weights of the one before; most recipes have one.

    Args:
        name: of its file, without .json.
        description: what it is for.
        stages: tuple of `Stage`.
        start: name of the bundled weights that the first stage starts from, or "".
    """

    name: str
    description: str
    stages: tuple
    start: str = ""


def read_recipe(path):
    """Read a recipe: JSON with `description`, `stages` (each with `options`; `note`, `averaged`), and perhaps `start`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no recipe; says what is wrong and what to do.
    """
    try:
        content = parse_json(read_text(path))
        stages = tuple(
            Stage(dict(stage["options"]), stage.get("note", ""), stage.get("averaged", False) is True)
            for stage in content["stages"]
        )
        recipe = Recipe(Path(path).stem, str(content["description"]), stages, str(content.get("start", "")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("is no recipe; wanted JSON with description and stages, each with options") from error
    options = {name: value for stage in stages for name, value in stage.options.items()}
    unknown = [name for name in options if name not in RECIPE_OPTIONS]
    if unknown:
        raise ValueError(f"got the option {unknown[0]!r}; a recipe can have {', '.join(RECIPE_OPTIONS)}")
    odd = [name for name, value in options.items() if value is not True and not isinstance(value, (int, float, str))]
    if odd or not stages:
        raise ValueError(
            f"got {options[odd[0]]!r} for {odd[0]}; wanted a number, a word or true" if odd else "has no stage"
        )
    return recipe


# Processes


def read_json(path):
    """The dictionary in a file; {} if there is none that can be read."""
    try:
        found = parse_json(read_text(path))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_lock(folder, name=LOCK):
    """Who says that the run's folder is theirs: dictionary with pid, host, started and command, or None."""
    owner = read_json(Path(folder) / name)
    try:
        return {"started": "?", "command": "?", **owner, "pid": int(owner["pid"]), "host": str(owner["host"])}
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def lock_age(folder):
    """Seconds since a run's lock was touched; None if there is none, or the folder cannot be written to.

    Clocks of computers differ, so it is compared with a file that the disk stamps now.
    """
    probe = Path(folder) / f".{LOCK}-{secrets.token_hex(4)}"
    try:
        with open(Path(folder) / LOCK, "rb") as file:  # opened, so that a shared disk is asked for its present state
            touched = os.fstat(file.fileno()).st_mtime
        with open(probe, "xb") as file:
            return os.fstat(file.fileno()).st_mtime - touched
    except OSError:
        return None
    finally:
        with suppress(OSError):
            probe.unlink()


def is_overdue(folder, lock):
    """Whether the lock of another computer was not touched for so long that its run must be over."""
    if "beat" not in lock:  # of an older version, which does not touch it
        return False
    with suppress(OSError):
        if abs(time.time() - (Path(folder) / LOCK).stat().st_mtime) < OVERDUE / 2:
            return False  # without a file being written, for who asks often
    return (lock_age(folder) or 0) > OVERDUE


def is_alive(pid):
    """Whether a process of this computer runs; one that has ended, and that nobody has asked about yet, does not."""
    if not 0 < pid < 2**31:  # no process has such a number
        return False
    if sys.platform == "win32":
        return _is_alive_on_windows(pid)
    with suppress(OSError, IndexError):
        if Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()[0] == "Z":
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _is_alive_on_windows(pid):
    query_limited_information, still_active = 0x1000, 259
    kernel, code = ctypes.windll.kernel32, ctypes.c_ulong()
    handle = kernel.OpenProcess(query_limited_information, False, pid)
    if not handle:
        return False
    known = kernel.GetExitCodeProcess(handle, ctypes.byref(code))
    kernel.CloseHandle(handle)
    return bool(known) and code.value == still_active
