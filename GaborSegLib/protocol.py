"""What the panel in 3D Slicer and the library's command line agree on: words, names of files, and how to read them.

Standard library only: Slicer reads this file before anything is installed, by its path and without the rest of the
library, so it imports nothing of its own package either.
"""

import ctypes
import json
import os
import re
import struct
import sys
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
AUGMENTATIONS = ("paper", "strong", "scanner", "artefacts", "balanced", "field", "close", "none")
PRECISIONS = ("float32", "tf32", "bfloat16")

# The files of a training run's folder. The optimiser's state has its SHA-256 in its name.
BEST, METRICS, CURVES = "best.safetensors", "metrics.csv", "curves.png"
SNAPSHOT, PREVIOUS, DAMAGED = "last.safetensors", "previous.safetensors", "damaged.safetensors"
OPTIMISER = "optimiser-{}.safetensors"
LOCK, STOP = "run.lock", "stop"
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
# The stage of `progress` events while an epoch's steps are done.
EPOCH_STAGE = "Epoch {epoch} of {epochs}"

# Of weight files: the card's format number, its key in the metadata, what it has to hold for the network to be built,
# and all that it has to hold. What else it holds is for people.
CARD_FORMAT = 1
CARD_KEY = "gaborseg"
NETWORK_KEYS = (
    "variant",
    "conventional_kernel_size",
    "gabor_kernel_size",
    "in_channels",
    "classes",
    "base_channels",
)
CARD_KEYS = ("format", "sha256", "structures", "grid_size", "field", *NETWORK_KEYS)
# What a network sees of a scan, see `model.network.cube_scores`.
FIELDS = ("cube", "content")
LONGEST_HEADER = 100 << 20  # bytes; the limit of the safetensors format

# Options of `gaborseg train` that a recipe may set: how to train, not on what nor where. True is for a flag.
RECIPE_OPTIONS = (
    "variant",
    "loss",
    "lr",
    "epochs",
    "batch-size",
    "augmentation",
    "find-brain",
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


# Weight files


class CardError(ValueError):
    """A weight file has a card of this program, which this copy cannot use."""


def read_card(path):
    """The card in a weight file: what it says about itself, a dictionary.

    A .safetensors file starts with the length of a header (8 bytes, little endian), then the header: JSON, whose
    metadata hold the card as text.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no weight file of this program (see `parse_card`), or of a variant that this one lacks.
    """
    with open(path, "rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LONGEST_HEADER:
                raise ValueError("it has no header")
            metadata = json.loads(file.read(length)).get("__metadata__")
        except (struct.error, ValueError, AttributeError, RecursionError) as error:
            raise ValueError("is not a safetensors file, or is damaged") from error
    card = parse_card(metadata)
    if card["variant"] not in VARIANTS:
        raise ValueError(f"its card has the variant {card['variant']!r}; this program knows {', '.join(VARIANTS)}")
    return card


def parse_card(metadata):
    """The card in the metadata of a weight file (dictionary of strings, or None), checked.

    Whether there is such a network is left to whoever builds it.

    Raises:
        CardError: it is of a newer program, or not whole; says what is wrong and what to do.
        ValueError: there is none, or it is not as this program writes it; says so.
    """
    text = metadata.get(CARD_KEY) if isinstance(metadata, dict) else None
    if text is None:
        raise ValueError("has no card of this program; it was not made by GaborSeg")
    try:
        card = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"its card cannot be read: {error}") from error
    number = card.get("format") if isinstance(card, dict) else None
    if not isinstance(number, int) or number > CARD_FORMAT:
        raise CardError(f"got format {number}, this program reads up to {CARD_FORMAT}; install a newer GaborSeg")
    missing = [key for key in CARD_KEYS if key not in card]
    if missing:
        raise CardError(f"its card lacks {', '.join(missing)}; the file is damaged or was changed by hand")
    count = len(card["structures"]) if isinstance(card["structures"], list) else 0
    if card["classes"] != count + 1:
        raise CardError(
            f"its card names {count} structures for {card['classes']} classes; there must be one class more, the "
            "background"
        )
    if card["field"] not in FIELDS:
        raise CardError(f"its card has the field {card['field']!r}; this program knows {' and '.join(FIELDS)}")
    return card


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
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        stages = tuple(
            Stage(dict(stage["options"]), stage.get("note", ""), stage.get("averaged", False) is True)
            for stage in content["stages"]
        )
        recipe = Recipe(Path(path).stem, str(content["description"]), stages, str(content.get("start", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_lock(folder, name=LOCK):
    """Who says that the run's folder is theirs: dictionary with pid, host, started and command, or None."""
    owner = read_json(Path(folder) / name)
    try:
        return {"started": "?", "command": "?", **owner, "pid": int(owner["pid"]), "host": str(owner["host"])}
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


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
