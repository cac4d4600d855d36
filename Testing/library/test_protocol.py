"""What panel and command line agree on: the reader of cards, recipes, locks, and the words that the library has too."""

import json
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
        (json.dumps({**CARD, "classes": 4}), "names 2 structures for 4 classes; there must be one class more"),
        (json.dumps({**CARD, "structures": "two"}), "names 0 structures for 3 classes"),
        (json.dumps({**CARD, "field": None}), "field None; this program knows cube and content"),
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
        (b"\xff\xfe\x00", None),
        (DEEP.encode(), None),
        (b"[]", None),
        (b"7", None),
    ],
)
def test_damaged_headers_are_refused(tmp_path, header, length):
    with pytest.raises(ValueError, match="^is not a safetensors file, or is damaged$"):
        read_card(with_header(tmp_path / "a", header, length))


@pytest.mark.parametrize("content", [b"", b"abc", b"\x80\x04K\x01."])
def test_short_files_are_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="^is not a safetensors file, or is damaged$"):
        read_card(tmp_path / "a")


@pytest.mark.parametrize("header", [b'{"__metadata__": 7}', b'{"__metadata__": ["gaborseg"]}', b'{"a": {}}'])
def test_odd_metadata_are_none(tmp_path, header):
    with pytest.raises(ValueError, match="has no card"):
        read_card(with_header(tmp_path / "a", header))


def test_a_card_that_is_no_text_is_refused(tmp_path):
    header = json.dumps({"__metadata__": {"gaborseg": CARD}}).encode()
    with pytest.raises(ValueError, match="its card cannot be read"):
        read_card(with_header(tmp_path / "a", header))


def test_a_missing_file_is_an_os_error(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(OSError):
            read_card(path)


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
