"""Weight files that say what they are: one `.safetensors` with a card in its metadata, never a pickle."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import WeightsError
from ..files import replacing
from ..protocol import CARD_FORMAT, CARD_KEY, NETWORK_KEYS, VARIANTS, parse_card
from ..structures import resource_path
from .network import build_network


@dataclass(frozen=True)
class Weights:
    """An opened weight file: the network (float32, in evaluation mode), its card, and where it came from."""

    network: torch.nn.Module
    card: dict
    path: Path


def bundled_weights():
    """The weight files that come with the program: dictionary from variant to path.

    Example::

        >>> weights = load_weights(bundled_weights()["mixed"])
        >>> weights.card["classes"], len(weights.card["structures"])
        (20, 19)
    """
    files = {variant: resource_path("Weights") / f"{variant}.safetensors" for variant in VARIANTS}
    return {variant: path for variant, path in files.items() if path.is_file()}


def is_bundled(card):
    """Whether a card is that of weights that come with the program, from whatever file it was read."""
    path = bundled_weights().get(card["variant"])
    return path is not None and read_card(path)["sha256"] == card["sha256"]


def save_weights(path, network, card, dtype=torch.float16):
    """Write a network and its card into one file, atomically.

    Args:
        path: a name that ends in `.safetensors`.
        network: from `build_network`.
        card: dictionary with `structures` (names in order), `grid_size`, `field` (see `network.cube_scores`) and
            `protocol.NETWORK_KEYS`; whatever else it holds (training, licence, scores, versions) is kept. `format` and
            `sha256` are filled in.
        dtype: how the weights are stored; float16 halves the file.

    Raises:
        ValueError: the path does not end in `.safetensors`.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a weight file's name ends in .safetensors")
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in network.state_dict().items()}
    card = {**card, "format": CARD_FORMAT, "sha256": checksum(tensors)}
    with replacing(path) as temporary:
        # Not safetensors' own `save_file`: its errors are no OSError, and its files are for their owner alone.
        temporary.write_bytes(save(tensors, {CARD_KEY: json.dumps(card, ensure_ascii=False)}))


def checksum(tensors):
    """SHA-256 over the names, types, shapes and bytes of a dictionary of tensors, hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def read_card(path):
    """Read a weight file's card alone.

    Raises:
        WeightsError: the file is missing, is not a weight file of this program, or is of a newer format.
    """
    with _open(path) as file:
        return _card(path, file)


def load_weights(path):
    """Open a weight file, check it, and build its network: a `Weights`.

    Raises:
        WeightsError: as `read_card`, and for missing, additional or wrongly shaped weights or a wrong checksum.
    """
    with _open(path) as file:
        card = _card(path, file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    try:
        with torch.device("meta"):  # shapes without memory: a wrong card may ask for a network of any size
            network = build_network(**{key: card[key] for key in NETWORK_KEYS}, dropout=0.0)
    except (ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: its card describes no network that this program can build: {error}; get the file again"
        ) from error
    _check_tensors(path, tensors, network.state_dict())
    if checksum(tensors) != card["sha256"]:
        raise WeightsError(f"{path}: the weights do not have the card's checksum; the file is damaged, get it again")
    # Copies, because what was read from a float32 file may still be mapped to that file.
    tensors = {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}
    odd = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if odd:
        raise WeightsError(f"{path}: {odd} has NaN or infinity; its training failed, choose other weights")
    network.load_state_dict(tensors, assign=True)
    return Weights(network.eval(), card, Path(path))


@lru_cache(maxsize=8)
def open_bundled(name, device):
    """The `Weights` of a bundled file, such as `Weights/brain.safetensors`, on a device; each is opened once."""
    opened = load_weights(resource_path(name))
    opened.network.to(device)
    return opened


def _open(path):
    path = Path(path)
    try:
        if not path.is_file():
            raise WeightsError(f"{path}: no such file; a weight file's name ends in .safetensors")
        return safe_open(path, framework="pt")
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "out of memory"
        raise WeightsError(
            f"{path}: cannot be read ({reason}); check the permissions, the disk and the memory"
        ) from error
    except SafetensorError as error:
        # Only now, because a good file may start with the same bytes: those of its header's length.
        if _starts_as_pickle(path):
            message = "is a pickle, which can run code when it is opened; a .safetensors file is wanted"
        else:
            message = "is not a safetensors file, or is damaged; get it again, or choose another"
        raise WeightsError(f"{path}: {message}") from error


def _starts_as_pickle(path):
    try:
        with open(path, "rb") as file:
            start = file.read(2)
    except OSError:
        return False
    return start == b"PK" or start[:1] == b"\x80"


def _card(path, file):
    try:
        return parse_card(file.metadata())
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


def _check_tensors(path, tensors, expected):
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise WeightsError(
            f"{path}: lacks {len(missing)} of the network's weights and has {len(unknown)} others, "
            f"such as {(missing + unknown)[0]:.100}; its card does not fit, get the file again"
        )
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise WeightsError(
                f"{path}: {name} has the shape {tuple(tensors[name].shape)}, "
                f"the card's network needs {tuple(tensor.shape)}; get the file again"
            )
