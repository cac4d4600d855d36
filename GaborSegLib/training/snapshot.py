"""Snapshots of a training run: at every moment a good one is there.

A snapshot is two files, so that each is small enough to be carried about: `last.safetensors` holds the weights and the
place in the run and names `optimiser-<sha256>.safetensors`, which holds the optimiser's state. The second is written
first and under a name of its own, so that renaming the first makes the pair good at one moment. The pair before stays
as `previous.safetensors` until the next is good. Everything is checked by SHA-256 when it is read.
"""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import TrainingError
from ..events import silent
from ..files import replacing
from ..model.weights import checksum
from ..protocol import DAMAGED, OPTIMISER, PREVIOUS, SNAPSHOT, parse_json


def save_snapshot(folder, network, optimiser, facts):
    """Write a snapshot, so that at every moment a good one is there.

    Args:
        folder: of the run.
        network, optimiser: dictionaries of tensors.
        facts: dictionary that can be written as JSON.

    Raises:
        OutputError: the disk is full or the folder cannot be written to; the snapshot before is kept.
    """
    folder = Path(folder)
    state = save(optimiser)
    digest = hashlib.sha256(state).hexdigest()
    facts = {"optimiser": digest, **facts}
    metadata = {"facts": json.dumps(facts), "sha256": _checksum(network, facts)}
    _write(folder / OPTIMISER.format(digest[:12]), state)
    with replacing(folder / SNAPSHOT) as temporary:
        _write_through(temporary, save(network, metadata))
        with suppress(FileNotFoundError):
            os.replace(folder / SNAPSHOT, folder / PREVIOUS)
    _remove_unused(folder, digest)


def load_snapshot(folder, report=silent):
    """Read the last good snapshot of a run.

    Where the last is damaged, a warning is reported, it is put aside, and the one before is read.

    Returns:
        (network, optimiser, facts), see `save_snapshot`.

    Raises:
        TrainingError: none is good.
    """
    folder = Path(folder)
    problems = []
    for name in (SNAPSHOT, PREVIOUS):
        try:
            snapshot = _read(folder / name)
        except FileNotFoundError as error:
            problems.append(f"{error.filename}: is missing")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            problems.append(f"{folder / name}: is damaged, or is no snapshot of this program: {error}")
        else:
            for problem in problems:
                report({"event": "warning", "message": f"{problem}; going on from {PREVIOUS}, the snapshot before it"})
            if problems:
                # Else the next snapshot would take its place as the one before, and the good one would go.
                with suppress(OSError):
                    os.replace(folder / SNAPSHOT, folder / DAMAGED)
            return snapshot
    raise TrainingError(
        f"{'; '.join(problems)}. Copy the run's folder from a backup, or start anew in another folder (with --init "
        f"{folder / 'best.safetensors'}, if that is there)"
    )


def _read(path):
    if not path.exists():
        raise FileNotFoundError(2, "No such file", str(path))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        # Copied, because what is read may be mapped to the file, which the next snapshot replaces.
        network = {name: file.get_tensor(name).clone() for name in file.keys()}
    facts = parse_json(metadata["facts"])
    if _checksum(network, facts) != metadata["sha256"]:
        raise ValueError("it does not have its checksum")
    second = path.with_name(OPTIMISER.format(facts["optimiser"][:12]))
    if hashlib.sha256(second.read_bytes()).hexdigest() != facts["optimiser"]:
        raise ValueError(f"{second} does not have its checksum")
    with safe_open(second, framework="pt") as file:
        return network, {name: file.get_tensor(name).clone() for name in file.keys()}, facts


def _checksum(tensors, facts):
    return hashlib.sha256(f"{checksum(tensors)} {json.dumps(facts, sort_keys=True)}".encode()).hexdigest()


def _write(path, data):
    with replacing(path) as temporary:
        _write_through(temporary, data)


def _write_through(path, data):
    """Write a file to the disk itself: a rename may get there before what was written does."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _remove_unused(folder, digest):
    """Remove the optimisers' states that belong to neither of the two snapshots."""
    used = {OPTIMISER.format(digest[:12])}
    with (
        suppress(SafetensorError, OSError, KeyError, TypeError, ValueError),
        safe_open(folder / PREVIOUS, framework="pt") as file,
    ):
        used.add(OPTIMISER.format(parse_json(file.metadata()["facts"])["optimiser"][:12]))
    for path in folder.glob(OPTIMISER.format("*")):
        if path.name not in used:
            with suppress(OSError):
                path.unlink()


def optimiser_tensors(network, optimiser):
    """An optimiser's state as a dictionary of tensors, named by the network's parameters."""
    names = [name for name, _ in network.named_parameters()]
    return {
        f"{names[index]}.{key}": value.contiguous()
        for index, state in optimiser.state_dict()["state"].items()
        for key, value in state.items()
    }


def restore(network, optimiser, network_tensors, tensors):
    """Put a snapshot's tensors (see `optimiser_tensors`) into a network and its optimiser."""
    network.load_state_dict(network_tensors)
    state = optimiser.state_dict()
    for index, (name, _) in enumerate(network.named_parameters()):
        values = _with_prefix(tensors, f"{name}.")
        if values:
            state["state"][index] = values
    optimiser.load_state_dict(state)
    _leave_counters_on_cpu(optimiser, state["state"])


def _leave_counters_on_cpu(optimiser, loaded):
    """Give an optimiser the single numbers of its state (`step`, NAdam's `mu_product`) as they were loaded.

    It computes with them on the CPU unless it is `capturable` or `fused`, but `load_state_dict` brings all but `step`
    to the parameters' device, where every step would wait for each of them.
    """
    groups = [group for group in optimiser.param_groups for _ in group["params"]]
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for index, values in loaded.items():
        if not any(groups[index].get(name) for name in ("capturable", "fused")):
            numbers = {name: value for name, value in values.items() if value.dim() == 0}
            optimiser.state[parameters[index]].update(numbers)


def _with_prefix(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
