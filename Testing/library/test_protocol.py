"""What panel and command line agree on: the reader of cards, recipes, locks, and the words that the library has too."""

import json
import math
import os
import struct
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file

from GaborSegLib import protocol
from GaborSegLib.data.augmentation import AUGMENTATIONS
from GaborSegLib.model.losses import LOSSES
from GaborSegLib.model.weights import bundled_weights, load_weights
from GaborSegLib.protocol import is_alive, read_card, read_lock, read_recipe

CARD = {
    "format": 1,
    "sha256": "0" * 64,
    "structures": ["Thalamus", "Nucléus"],
    "grid_size": 32,
    "field": "content",
    "variant": "mixed",
    "conventional_kernel_size": 3,
    "gabor_kernel_size": 7,
    "in_channels": 1,
    "classes": 3,
    "base_channels": 4,
    "licence": "MIT",
}
DEEP = 100_000 * "[" + 100_000 * "]"


def test_the_library_has_what_the_protocol_names():
    assert tuple(LOSSES) == protocol.LOSSES
    assert tuple(AUGMENTATIONS) == protocol.AUGMENTATIONS
    assert set(bundled_weights()) == set(protocol.VARIANTS)


# Cards


def written(path, metadata):
    save_file({"a": torch.zeros(2)}, path, metadata=metadata)
    return path


def with_header(path, header, length=None):
    """A file that starts as a safetensors file does, with any header."""
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header)
    return path


def test_a_card_comes_back_as_it_was_written(tmp_path):
    assert read_card(written(tmp_path / "a", {"gaborseg": json.dumps(CARD), "format": "pt"})) == CARD


@pytest.mark.parametrize("path", bundled_weights().values(), ids=list(bundled_weights()))
def test_both_readers_of_cards_agree(path):
    assert read_card(path) == load_weights(path).card


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "its card cannot be read"),
        (DEEP, "its card cannot be read"),
        ("[1]", "got format None, this program reads up to 1; install a newer GaborSeg"),
        (json.dumps({**CARD, "format": 2}), "got format 2"),
        (json.dumps({**CARD, "format": "1"}), "got format 1"),
        (json.dumps({"format": 1, "sha256": ""}), "its card lacks structures, grid_size, field, variant"),
        (json.dumps({**CARD, "variant": "gobar"}), "variant 'gobar'; this program knows conventional, gabor, mixed"),
        (json.dumps({**CARD, "variant": ["mixed"]}), r"variant \['mixed'\]"),
        (
            json.dumps({**CARD, "note": 60 * [[]], "in_channels": 0}),
            "in_channels 0; wanted a whole number from 1 to 16",
        ),
        (
            json.dumps({**CARD, "gabor_kernel_size": 6}),
            "gabor_kernel_size 6; wanted a whole number from 1 to 31 in steps of 2",
        ),
        (
            json.dumps({**CARD, "gabor_kernel_size": 151}),
            "gabor_kernel_size 151; wanted a whole number from 1 to 31 in steps of 2",
        ),
        (json.dumps({**CARD, "conventional_kernel_size": True}), "size True; wanted a whole number"),
        (
            json.dumps({**CARD, "base_channels": 6}),
            "base_channels 6; wanted a whole number from 4 to 1024 in steps of 4",
        ),
        (json.dumps({**CARD, "grid_size": 10**6}), "grid_size 1000000; wanted a whole number from 16 to 1024"),
        (json.dumps({**CARD, "grid_size": 32.0}), "grid_size 32.0; wanted a whole number"),
        (json.dumps({**CARD, "classes": 301, "structures": 300 * ["a"]}), "classes 301; wanted .* from 2 to 255"),
        (json.dumps({**CARD, "structures": ["A", "A"]}), "structure 'A'; each needs a name of its own"),
        (
            json.dumps({**CARD, "structures": ["A", "Background"]}),
            "structure 'Background'; each needs a name of its own",
        ),
        (json.dumps({**CARD, "structures": ["A", "loss"]}), "structure 'loss'; each needs a name of its own"),
        (json.dumps({**CARD, "structures": ["A", " "]}), "has the structure ' '; each needs a name of its own"),
        (json.dumps({**CARD, "structures": ["A", 7]}), "has the structure 7; each needs"),
        (json.dumps({**CARD, "structures": ["A", "\x1b[2J"]}), r"structure '\\x1b\[2J'; each needs"),
        (json.dumps({**CARD, "structures": ["A", "a\nb"]}), r"structure 'a\\nb'; each needs"),
        (json.dumps({**CARD, "structures": ["A", "\ud800"]}), r"structure '\\ud800'; each needs"),
        (json.dumps({**CARD, "structures": ["A", 201 * "b"]}), "text of at most 200 letters"),
        (json.dumps({**CARD, "licence": "\ud800"}), r"has a text that is not UTF-8: .*\\ud800"),
        (json.dumps({**CARD, "find_brain": "no"}), "find_brain 'no'; wanted a bool"),
        (json.dumps({**CARD, "training": [1]}), r"training \[1\]; wanted a dict"),
        (json.dumps({**CARD, "training": {"earlier_stages": 7}}), "earlier_stages of its training that are no list"),
        (json.dumps({**CARD, "scores": math.nan}), "its card cannot be read: it has the number NaN"),
        (json.dumps(CARD).replace('"MIT"', "1e999"), "its card cannot be read: it has the number 1e999"),
        (json.dumps(CARD).replace('"MIT"', 51 * "[" + 51 * "]"), "its card cannot be read: it is nested too deep"),
        (json.dumps({**CARD, "classes": 4}), "has 2 structures for 4 classes; there must be one class more"),
        (json.dumps({**CARD, "structures": "two"}), "has 0 structures for 3 classes"),
        (json.dumps({**CARD, "field": None}), "field None; this program knows cube, content"),
        (json.dumps({**CARD, "paired": ["Knee"]}), r"paired structures \['Knee'\]; wanted a list of names"),
        (json.dumps({**CARD, "paired": "two"}), "paired structures 'two'; wanted a list of names"),
    ],
)
def test_bad_cards_are_refused_in_one_line(tmp_path, text, message):
    path = written(tmp_path / "a", {"gaborseg": text})
    with pytest.raises(ValueError, match=message) as caught:
        read_card(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_file_of_another_program_has_no_card(tmp_path, metadata):
    with pytest.raises(ValueError, match="has no card of this program; it was not made by GaborSeg"):
        read_card(written(tmp_path / "a", metadata))


@pytest.mark.parametrize(
    "header, length",
    [
        (b"", None),
        (b"{}", 3 << 40),  # more than the format allows, and than there is memory
        (b'{"__metadata__": {"gaborseg": "', 10_000),  # the file ends before its header does
        (b"no JSON", None),
        (b'{"__metadata__": {}, "a": NaN}', None),
        (b"\xff\xfe\x00", None),
        (DEEP.encode(), None),
        (b"[]", None),
        (b"7", None),
    ],
)
def test_damaged_headers_are_refused(tmp_path, header, length):
    with pytest.raises(ValueError, match="^is not a safetensors file, or is damaged; get it again"):
        read_card(with_header(tmp_path / "a", header, length))


@pytest.mark.parametrize("content", [b"", b"abc", b"\x80\x04K\x01."])
def test_short_files_are_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="^is not a safetensors file, or is damaged; get it again"):
        read_card(tmp_path / "a")


@pytest.mark.parametrize("header", [b'{"__metadata__": 7}', b'{"__metadata__": ["gaborseg"]}', b'{"a": {}}'])
def test_odd_metadata_are_none(tmp_path, header):
    with pytest.raises(ValueError, match="has no card"):
        read_card(with_header(tmp_path / "a", header))


def test_a_card_that_is_no_text_is_refused(tmp_path):
    header = json.dumps({"__metadata__": {"gaborseg": CARD}}).encode()
    with pytest.raises(ValueError, match="its card cannot be read"):
        read_card(with_header(tmp_path / "a", header))


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_card, read_recipe, protocol.read_text):
        with pytest.raises(OSError, match="no regular file"):
            read(tmp_path / "pipe")
    assert protocol.read_json(tmp_path / "pipe") == {}


def test_a_text_is_read_to_a_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + 7 * b"x")
    assert protocol.read_text(tmp_path / "a", 10) == "xxxxxxx"
    with pytest.raises(ValueError, match="longer than"):
        protocol.read_text(tmp_path / "a", 9)


def test_a_card_may_be_as_large_as_the_limits(tmp_path):
    names = [f"{i} {chr(0x6D77)}" for i in range(254)]
    sizes = {"gabor_kernel_size": 31, "base_channels": 1024, "grid_size": 1024, "classes": 255, "structures": names}
    card = {**CARD, **sizes, "training": {"earlier_stages": [{}]}, "deep": json.loads(48 * "[" + 48 * "]")}
    assert read_card(written(tmp_path / "a", {"gaborseg": json.dumps(card)})) == card


def test_a_missing_file_is_an_os_error(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(OSError):
            read_card(path)


# Texts for a terminal and for a spreadsheet


@pytest.mark.parametrize(
    "text, shown",
    [
        ("scan 1 (µ, 海馬, نیم\u200cکر).nii", "scan 1 (µ, 海馬, نیم\u200cکر).nii"),
        ("\x1b]0;title\x07\r\n\t\x9b2J", r"\x1b]0;title\x07\r\n\t\x9b2J"),
        ("a\u202eb\u2028c\udcff", r"a\u202eb\u2028c\udcff"),
    ],
)
def test_what_a_terminal_would_obey_is_an_escape(text, shown):
    assert protocol.printable(text) == shown


@pytest.mark.parametrize(
    "text, cell",
    [
        ("=1+1", "'=1+1"),
        (" =1+1", "' =1+1"),
        ("+A1", "'+A1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\rx", "'\rx"),
        ("\uff1d1", "'\uff1d1"),
        ("'=1", "''=1"),
        ("''=1", 3 * "'" + "=1"),
        ("'s", "'s"),
        ("a=1", "a=1"),
        ("", ""),
        ("-0.5", "-0.5"),
        ("+1e-3", "+1e-3"),
        ("-inf", "'-inf"),
        ("-1-1", "'-1-1"),
        ("-.5", "-.5"),
    ],
)
def test_no_cell_is_a_formula_and_all_come_back(text, cell):
    assert protocol.csv_cell(text) == cell
    assert protocol.csv_text(cell) == text


def test_numbers_stay_numbers():
    assert [protocol.csv_cell(value) for value in (-1, -0.5, None)] == [-1, -0.5, None]


# Recipes


def test_a_recipe(tmp_path):
    stages = [{"options": {"lr": 0.001, "find-brain": True}, "note": "first"}, {"options": {}, "averaged": True}]
    (tmp_path / "two.json").write_text(json.dumps({"description": "Two", "stages": stages, "start": "mixed"}))
    recipe = read_recipe(tmp_path / "two.json")
    assert (recipe.name, recipe.description, recipe.start) == ("two", "Two", "mixed")
    first, second = recipe.stages
    assert first.arguments == ["--lr", "0.001", "--find-brain"] and first.note == "first" and not first.averaged
    assert second.arguments == [] and second.averaged


def one_stage(**options):
    return json.dumps({"description": "", "stages": [{"options": options}]})


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is no recipe; wanted JSON with description and stages, each with options"),
        ("[]", "is no recipe"),
        (DEEP, "is no recipe"),
        ('{"stages": []}', "is no recipe"),
        ('{"description": "", "stages": 7}', "is no recipe"),
        ('{"description": "", "stages": ["lr"]}', "is no recipe"),
        ('{"description": "", "stages": [{"note": ""}]}', "is no recipe"),
        ('{"description": "", "stages": [{"options": [1]}]}', "is no recipe"),
        ('{"description": "", "stages": []}', "has no stage"),
        (one_stage(device="cpu"), "got the option 'device'; a recipe can have variant, loss, lr, epochs"),
        (one_stage(lr=[0.1]), r"got \[0.1\] for lr; wanted a number, a word or true"),
        (one_stage(seed=None), "got None for seed; wanted a number, a word or true"),
    ],
)
def test_bad_recipes_are_refused(tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(tmp_path / "bad.json")


def test_a_missing_recipe_is_an_os_error(tmp_path):
    with pytest.raises(OSError):
        read_recipe(tmp_path / "missing.json")


# Runs


def test_the_owner_of_a_lock(tmp_path):
    assert read_lock(tmp_path) is None
    owner = {"pid": 12, "host": "here", "started": "now", "command": "train"}
    (tmp_path / "run.lock").write_text(json.dumps(owner))
    assert read_lock(tmp_path) == owner
    (tmp_path / "run.lock").write_text('{"pid": "12", "host": "here"}')
    assert read_lock(tmp_path) == {"pid": 12, "host": "here", "started": "?", "command": "?"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12",
        DEEP,
        "{}",
        '{"pid": 12}',
        '{"pid": "x", "host": "a"}',
        '{"pid": [], "host": ""}',
        '{"pid": 1e999, "host": ""}',
    ],
)
def test_what_is_no_lock_has_no_owner(tmp_path, text):
    (tmp_path / "run.lock").write_text(text)
    assert read_lock(tmp_path) is None


def test_a_run_that_was_begun(tmp_path):
    assert not protocol.has_snapshot(tmp_path) and not protocol.has_snapshot(tmp_path / "missing")
    (tmp_path / "previous.safetensors").touch()
    assert protocol.has_snapshot(tmp_path)


def test_the_epoch_in_the_words_of_a_stage():
    assert protocol.epoch_of(protocol.EPOCH_STAGE.format(epoch=7, epochs=300)) == 7
    assert protocol.epoch_of("Epoch 12 of 12") == 12
    for other in ("Epoch 7", "Epoch x of 3", "Reading", "Epoch 7 of 3 ", ""):
        assert protocol.epoch_of(other) is None


def test_processes_that_live_and_that_do_not():
    assert is_alive(os.getpid())
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert is_alive(process.pid)
    process.stdin.close()
    process.stdout.read()  # until it has ended
    end = time.monotonic() + 10
    while is_alive(process.pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert process.returncode is None and not is_alive(process.pid)  # ended, and nobody has asked for its status yet
    process.wait()
    assert not is_alive(process.pid)


@pytest.mark.parametrize("pid", [2**22 + 7, 2**40, 0, -1])
def test_a_process_that_never_was(pid):
    """Beyond the largest number that Linux gives, beyond that of any system, and what means a group of processes."""
    assert not is_alive(pid)
