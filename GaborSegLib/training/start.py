"""How a run begins: from nothing, from a weight file, or from its own snapshot, if it is still the same run."""

from dataclasses import asdict

import torch

from ..environment import memory_lack, memory_needed
from ..errors import TrainingError
from ..events import silent
from ..inference.segmenter import memory_of
from ..model.fitting import fit_gabor_layers
from ..model.network import build_network
from ..model.weights import load_weights
from ..protocol import BEST, CARD_KEYS, CardError, check_card, has_snapshot
from .options import Options
from .snapshot import load_snapshot

# What a resumed run must have as before, beside options and scans: name in the snapshot, and what messages call it.
SAME = {"precision": "--precision", "augment_on": "--augment-on", "table": "label table", "heads": "heads"}


def identity(options, batches, table, precision):
    """What identifies a run, a dictionary for JSON: a run is resumed only if all of it is as it was.

    Args:
        options: `Options`.
        batches: `Batches`; what it has of digests is there once the scans are prepared.
        table: `LabelTable`.
        precision: of the computation.
    """
    return {
        "options": asdict(options),
        "images_per_step": batches.images_per_step,
        "training": [case.id for case in batches.training],
        "validation": [case.id for case in batches.validation],
        "precision": precision,
        "augment_on": batches.augment_on,
        "table": table.digest,
        **batches.digests,
    }


def check_identity(output, before, now, report=silent):
    """Refuse to go on with a run that was another one.

    Args:
        output: folder of the run.
        before: identity that its snapshot tells; what older versions did not note is reported, and not compared.
        now: the present `identity`.
        report: takes events.

    Raises:
        TrainingError: they differ.
    """
    _check_options(output, before, now)
    if any(before[key] != now[key] for key in ("training", "validation")):
        raise TrainingError(f"{output}: the run was started with other training or validation scans")
    if "table" in before and before["table"] != now["table"]:
        raise TrainingError(
            f"{output}: the run was started with another label table; bring that back, or start anew in another folder"
        )
    for key in ("precision", "augment_on"):
        if key in before and before[key] != now[key]:
            raise TrainingError(
                f"{output}: the run was started with {SAME[key]} {before[key]}, now it is {now[key]}; a resumed run "
                "needs the options it was started with"
            )
    _check_data(output, before, now)
    unknown = [key for key in (*SAME, "scans") if key in now and key not in before]
    if unknown and "scans" in now:
        names = ", ".join(SAME.get(key, key) for key in unknown)
        message = f"{output}: an older version began this run, and did not note its {names}; these are not compared"
        report({"event": "warning", "message": message})


def _check_options(output, before, now):
    # What an older version did not have yet was as the default is.
    before = {**asdict(Options()), **before["options"], "batch_size": before["images_per_step"]}
    now = {**now["options"], "batch_size": now["images_per_step"]}
    different = [key for key in now if before.get(key) != now[key]]
    if different:
        key = different[0]
        name = "images a step (batch size times processes)" if key == "batch_size" else key
        raise TrainingError(
            f"{output}: the run was started with {name} {before.get(key)}, now it is {now[key]}; "
            "a resumed run needs the options it was started with"
        )


def _check_data(output, before, now):
    """Compare digests of prepared scans and heads, where both are known."""
    scans = before.get("scans", {})
    changed = [name for name, digest in now.get("scans", {}).items() if scans.get(name, digest) != digest]
    if changed:
        raise TrainingError(
            f"{output}: the scans or label maps of {', '.join(changed)} are not those that the run was started with; "
            f"bring them back, or start anew in another folder (with --init {output / BEST}, if that is there)"
        )
    if "heads" in before and "heads" in now and before["heads"] != now["heads"]:
        raise TrainingError(
            f"{output}: the run was started with other head label maps; bring them back, or start anew in another "
            "folder"
        )


def read_snapshot(output, resume, now, report=silent):
    """The snapshot in a run's folder, checked to be of this run as far as that is known before scans are prepared.

    Args:
        output: the folder.
        resume: whether a run that is there may be gone on with.
        now: the present `identity`.
        report: takes events.

    Returns:
        (network, optimiser, facts), see `snapshot.load_snapshot`, or None for a new run.

    Raises:
        TrainingError: there is a run and it is not to be resumed, or is another one, or no snapshot of it is good.
    """
    if not has_snapshot(output):
        return None
    if not resume:
        raise TrainingError(f"{output}: holds a run already; choose another folder, or go on with it by --resume")
    found = load_snapshot(output, report)
    check_identity(output, found[2], now)
    return found


def check_start(output, card, facts, options, device):
    """Refuse at once what would end a run later.

    Args:
        output: folder of the run.
        card: as the run's weights will have it, but for `format` and `sha256`.
        facts: what a person has added to it.
        options: `Options`.
        device: torch device.

    Raises:
        TrainingError: the card could not be read again, or the memory does not suffice.
    """
    taken = sorted({*CARD_KEYS, "find_brain"} & facts.keys())
    if taken:
        raise TrainingError(f"--facts: has {', '.join(taken)}, which the run itself says of its weights; take it out")
    try:
        check_card(card)
    except CardError as error:
        raise TrainingError(
            f"{output}: the weights of this run could not be opened again: {error}; correct that, or --facts"
        ) from error
    edge = options.patch or options.grid_size
    lack = memory_lack(memory_needed(options.grid_size**3, edge, card), memory_of(device))
    if lack:
        raise TrainingError(
            f"{output}: {lack}, for cubes of {edge}^3 voxels and {options.base_channels} channels; take a smaller "
            "--patch, --grid-size, --base-channels or kernel size"
        )


def new_network(options, classes):
    """The network of a run, with its first weights: they follow from the seed alone."""
    torch.manual_seed(options.seed)
    return build_network(
        options.variant,
        options.conventional_kernel_size,
        options.gabor_kernel_size,
        classes=classes,
        base_channels=options.base_channels,
        dropout=options.dropout,
    )


def start_from(path, network, names, variant, report=silent):
    """Take from a weight file what fits: all of the same variant, the layers that two variants have in common.

    Gabor layers whose layer in the file is conventional get the kernels nearest to its.

    Args:
        path: of the weight file.
        network: the run's, changed in place.
        names: of the run's structures; the last layer is taken if they are the file's.
        variant: the run's.
        report: takes events.

    Returns:
        What the card is to tell of these weights, see `inherited`.

    Raises:
        WeightsError: the file cannot be opened.
        TrainingError: too little of it fits.
    """
    weights = load_weights(path)
    loaded, own = weights.network.state_dict(), network.state_dict()
    kept_output = list(names) == weights.card["structures"]
    fitting = {
        name: value
        for name, value in loaded.items()
        if name in own and own[name].shape == value.shape and (kept_output or not name.startswith("outputs."))
    }
    fitted = fit_gabor_layers(network, loaded, report)
    fitting.update(fitted)
    lost = [name for name in own if name not in fitting and not name.startswith("outputs.")]
    _check_fit(path, weights.card["variant"], variant, own, fitting, lost)
    network.load_state_dict({**own, **fitting})
    for message in _what_was_not_taken(weights.card["variant"], variant, fitted, lost, kept_output):
        report({"event": "warning", "message": f"{path}: {message}"})
    return inherited(weights.card)


def _check_fit(path, found, variant, own, fitting, lost):
    if found == variant and lost:
        raise TrainingError(f"{path}: {lost[0]} has another shape here; channels and kernel sizes must agree")
    if sum(own[name].numel() for name in lost) > sum(own[name].numel() for name in fitting):
        raise TrainingError(
            f"{path}: has {found} kernels, the run {variant}, and most layers differ; start from weights with "
            f"{variant} kernels"
        )


def _what_was_not_taken(found, variant, fitted, lost, kept_output):
    if fitted:
        yield f"has {found} kernels where the run has Gabor kernels; those start as near to them as they can"
    if lost:
        yield f"has {found} kernels, the run {variant}; only the layers that both have are used"
    if not kept_output:
        yield "other structures; its last layer is not used"


def inherited(card):
    """What the card of weights that started from others says of these: how they were trained, whose scans they saw."""
    stage = dict(card.get("training", {}))
    earlier = stage.pop("earlier_stages", [])
    rights = {key: card[key] for key in ("licence", "credits") if key in card}
    return {"earlier_stages": [*earlier, stage], **rights}
