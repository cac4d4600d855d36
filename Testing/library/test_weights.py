"""Weight files: what is written comes back, and whatever is wrong with a file is said in one line that names it."""

import json
import os
import pickle
import secrets

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from GaborSegLib.errors import OutputError, WeightsError
from GaborSegLib.model.network import build_network
from GaborSegLib.model.weights import bundled_weights, load_weights, read_card, save_weights

NETWORK = {
    "variant": "mixed",
    "conventional_kernel_size": 3,
    "gabor_kernel_size": 5,
    "in_channels": 1,
    "classes": 3,
    "base_channels": 4,
}
CARD = {
    **NETWORK,
    "structures": ["Thalamus", "Nucléus"],
    "grid_size": 32,
    "field": "cube",
    "licence": "MIT",
    "scores": {"dice": 0.8},
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network(**NETWORK)


@pytest.fixture
def path(tmp_path, network):
    save_weights(tmp_path / "good.safetensors", network, CARD)
    return tmp_path / "good.safetensors"


def rewrite(path, tensors=None, **card):
    """Change a good file's tensors or its card; a value of None takes the entry out."""
    with safe_open(path, framework="pt") as file:
        old = json.loads(file.metadata()["gaborseg"])
    card = {key: value for key, value in {**old, **card}.items() if value is not None}
    save_file(load_file(path) if tensors is None else tensors, path, metadata={"gaborseg": json.dumps(card)})


# What comes back


def test_float16_roundtrip(path, network):
    """Each weight is the nearest float16: off by 2^-11 of itself, or by 2^-25 below the normal numbers."""
    loaded = load_weights(path)
    assert loaded.path == path
    assert not loaded.network.training
    expected = network.state_dict()
    found = loaded.network.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, expected[name], rtol=2**-11, atol=2**-25)
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}


def test_float32_roundtrip(tmp_path, network):
    """Exact, and of its own once it is loaded: what happens to the file does not matter any more."""
    path = tmp_path / "new folder" / "exact.safetensors"
    save_weights(path, network, CARD, dtype=torch.float32)
    loaded = load_weights(path).network
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(image), network.eval()(image))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_card(path):
    card = read_card(path)
    assert load_weights(path).card == card
    assert {key: card[key] for key in CARD} == CARD
    assert card["format"] == 1
    assert len(bytes.fromhex(card["sha256"])) == 32
    assert card.keys() == CARD.keys() | {"format", "sha256"}


def test_any_length_of_card(tmp_path, network):
    """A file starts with its header's length, which may be 0x80, as in a pickle, or "PK", as in a zip."""
    path = tmp_path / "a.safetensors"
    save_weights(path, network, CARD)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    for wanted in (length // 256 * 256 + 256 + 0x80, 0x14B50):
        save_weights(path, network, {**CARD, "comment": "x" * (wanted - length - len(r", \"comment\": \"\""))})
        assert int.from_bytes(path.read_bytes()[:8], "little") == wanted
        assert read_card(path)["comment"].startswith("x")


# What is refused


def replaced(write):
    """A file with other content."""

    def change(path, network):
        path.unlink()
        write(path, network)

    return change


def other_metadata(path, network):
    save_file(load_file(path), path, metadata={"format": "pt"})


def unreadable_card(path, network):
    save_file(load_file(path), path, metadata={"gaborseg": "{"})


def card_is_a_list(path, network):
    save_file(load_file(path), path, metadata={"gaborseg": "[1]"})


def changed_card(**card):
    return lambda path, network: rewrite(path, **card)


def missing_tensor(path, network):
    tensors = load_file(path)
    del tensors["outputs.0.weight"]
    rewrite(path, tensors)


def additional_tensor(path, network):
    rewrite(path, {**load_file(path), "other": torch.zeros(1)})


def wrong_shape(path, network):
    tensors = load_file(path)
    tensors["outputs.0.weight"] = tensors["outputs.0.weight"][:, :3].contiguous()
    rewrite(path, tensors)


def changed_bit(path, network):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def swapped_tensors(path, network):
    tensors = load_file(path)
    first, second = "up.3.layers.0.phase", "up.3.layers.0.theta_y"
    tensors[first], tensors[second] = tensors[second], tensors[first]
    rewrite(path, tensors)


def not_finite(value):
    """One of the weights is no number, and the checksum is right."""

    def change(path, network):
        broken = build_network(**NETWORK)
        broken.load_state_dict(network.state_dict())
        with torch.no_grad():
            broken.outputs[0].weight[0, 0] = value
        save_weights(path, broken, CARD)

    return change


def truncated(size):
    return lambda path, network: path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    "change, message",
    [
        (replaced(lambda path, network: None), "no such file"),
        (replaced(lambda path, network: path.mkdir()), "no such file"),
        (replaced(lambda path, network: path.write_text("weights\n" * 100)), "is not a safetensors file"),
        (replaced(lambda path, network: path.write_bytes(b"")), "is not a safetensors file"),
        (truncated(3), "is not a safetensors file, or is damaged"),
        (truncated(1000), "is not a safetensors file, or is damaged"),
        (truncated(-10), "is not a safetensors file, or is damaged"),
        (replaced(lambda path, network: torch.save(network.state_dict(), path)), "is a pickle"),
        (
            replaced(lambda path, network: torch.save(network, path, _use_new_zipfile_serialization=False)),
            "is a pickle",
        ),
        (changed_card(format=2), "got format 2, this program reads up to 1; install a newer"),
        (changed_card(format="new"), "got format new"),
        (other_metadata, "has no card"),
        (unreadable_card, "card cannot be read"),
        (card_is_a_list, "got format None"),
        (changed_card(sha256=None, grid_size=None), "card lacks sha256, grid_size"),
        (changed_card(field="head"), "field 'head'"),
        (changed_card(variant=None), "card lacks variant"),
        (changed_card(structures=["Thalamus"]), "has 1 structures for 3 classes"),
        (changed_card(structures=7), "has 0 structures for 3 classes"),
        (changed_card(variant="gobar"), "variant 'gobar'; this program knows"),
        (changed_card(in_channels=-1), "in_channels -1; wanted a whole number from 1 to 16"),
        (changed_card(gabor_kernel_size=[5]), r"gabor_kernel_size \[5\]; wanted a whole number"),
        (changed_card(variant="gabor"), "has [0-9]+ others"),
        (missing_tensor, "lacks 1 of the network's weights and has 0 others, such as outputs.0.weight"),
        (additional_tensor, "lacks 0 of the network's weights and has 1 others, such as other"),
        (wrong_shape, r"outputs.0.weight has the shape \(3, 3, 1, 1, 1\), .* needs \(3, 4, 1, 1, 1\)"),
        (changed_card(base_channels=8), "has the shape"),
        (changed_card(base_channels=1024), "has the shape"),  # much memory, if it were built first
        (changed_card(base_channels=40_000), "base_channels 40000; wanted"),
        (not_finite(float("nan")), "outputs.0.weight has NaN or infinity; its training failed, choose other weights"),
        (not_finite(float("-inf")), "outputs.0.weight has NaN or infinity"),
        (changed_bit, "checksum"),
        (swapped_tensors, "checksum"),
        (changed_card(sha256="0" * 64), "checksum"),
    ],
)
def test_refusals(path, network, change, message):
    change(path, network)
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_pickles_are_never_run(tmp_path):
    harmed = tmp_path / "harmed"
    evil = Malicious(harmed)
    files = [tmp_path / f"{i}.safetensors" for i in range(4)]
    torch.save(evil, files[0])
    torch.save(evil, files[1], _use_new_zipfile_serialization=False)
    files[2].write_bytes(pickle.dumps(evil, protocol=0))
    files[3].write_bytes(pickle.dumps(evil))
    for file in files:
        for opening in (read_card, load_weights):
            with pytest.raises(WeightsError):
                opening(file)
    assert not harmed.exists()
    pickle.loads(files[2].read_bytes())  # they are dangerous
    assert harmed.exists()


# Writing


def test_writing_is_atomic(path, network, monkeypatch):
    """Whatever fails, the older file stays, and nothing else lies beside it."""
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_weights(path, network, {**CARD, "not for JSON": object()})
    monkeypatch.setattr(secrets, "token_hex", lambda size: 300 * "a")  # too long a name to be written to
    with pytest.raises(OutputError, match=str(path)):
        save_weights(path, network, CARD)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_names(path, network):
    with pytest.raises(ValueError, match="ends in .safetensors"):
        save_weights(path.with_suffix(".pt"), network, CARD)
    with pytest.raises(OutputError):
        save_weights(path / "below a file.safetensors", network, CARD)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_others_may_read_the_file(path):
    plain = path.with_name("plain")
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("variant, path", bundled_weights().items())
def test_bundled_weights(variant, path):
    assert load_weights(path).card["variant"] == variant
