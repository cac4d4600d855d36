"""How the bundled weight files are made: trained in stages, scored on the scans held out, and written with their cards.

The stages stand in Resources/Recipes: mixed-cpu, conventional-cpu, gabor-cpu and gpu, finder, outline, sides
and icv.

Needs the labelled scans and head label maps of GABORSEG_DATA. A stage that was interrupted goes on where it was, and
one that is done is passed over, so the same command finishes the work after anything.

    python Testing/benchmarks/recipe.py mixed                         # what a CPU can do, in hours
    python Testing/benchmarks/recipe.py mixed --gpu --gpus 0,1        # the paper's 300 epochs on whole scans
    python Testing/benchmarks/recipe.py brain                         # what finds the brain in a scan with its skull
    python Testing/benchmarks/recipe.py outline                       # what finds its outline, from close by
    python Testing/benchmarks/recipe.py sides                         # what tells the left half from the right
    python Testing/benchmarks/recipe.py icv                           # what finds all inside of the skull
    python Testing/benchmarks/recipe.py mixed --bundle run/best.safetensors    # only score and bundle
    python Testing/benchmarks/recipe.py --cards                       # only write docs/models.md anew
"""

import argparse
import shutil
import sys
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import icv
import nibabel
import numpy as np
import sides
from accuracy import BRAIN_STEM, UNSEEN_HEADS, put_in_head, read_head, stem_label
from scans import DATA, SCANS, VALIDATION, Scans, markdown
from torch.nn import functional

from GaborSegLib import cli
from GaborSegLib.data.dataset import read_case
from GaborSegLib.data.heads import find_heads
from GaborSegLib.data.sources import find_data
from GaborSegLib.evaluation.evaluation import evaluate
from GaborSegLib.evaluation.metrics import dice
from GaborSegLib.events import Terminal
from GaborSegLib.files import replacing
from GaborSegLib.inference import finder
from GaborSegLib.inference.icv import WEIGHTS as ICV
from GaborSegLib.inference.segmenter import Segmenter
from GaborSegLib.inference.sides import WEIGHTS as SIDES
from GaborSegLib.model.weights import bundled_weights, load_weights, read_card, save_weights
from GaborSegLib.protocol import BEST, VARIANTS, read_recipe
from GaborSegLib.structures import resource_path
from GaborSegLib.training import trainer
from GaborSegLib.training.options import Options
from GaborSegLib.training.trainer import Trainer

DOCS = Path(__file__).parents[2] / "docs"
FACTS = DOCS / "oasis-card.json"
# Of the networks that find the brain in a scan, and its halves: their recipes.
HELPERS = {"brain": "finder", "outline": "outline", "sides": "sides", "icv": "icv"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", nargs="?", choices=[*VARIANTS, *HELPERS], default="mixed")
    parser.add_argument("--output", type=Path, default=Path("runs"), metavar="DIR", help="folder for the runs")
    parser.add_argument("--gpu", action="store_true", help="the recipe for GPUs")
    parser.add_argument("--bundle", type=Path, metavar="WEIGHTS", help="score and bundle these, train nothing")
    parser.add_argument("--average", type=Path, metavar="WEIGHTS", help="with --bundle: take the mean of the two files")
    parser.add_argument("--cards", action="store_true", help="write docs/models.md, train nothing")
    options, more = parser.parse_known_args()  # what is unknown goes to `gaborseg train`
    if options.cards:
        write_cards()
        return
    path = resource_path("Weights") / f"{options.variant}.safetensors"
    weights = options.bundle or train(options.variant, options.gpu, options.output, more)
    if options.variant == "icv":
        bundle_icv(weights, path)
    elif options.variant == "sides":
        bundle_sides(weights, path)
    elif options.variant in HELPERS:
        bundle_finder(weights, path)
    else:
        bundle(weights, path, options.average)
    write_cards()


def train(name, gpu, folder, more):
    """Run all stages of a variant, or of a helper, each from the best weights of the one before; the last path."""
    recipe = HELPERS.get(name) or ("gpu" if gpu else f"{name}-cpu")
    found = read_recipe(resource_path(f"Recipes/{recipe}.json"))
    data = SCANS
    if name == "sides":
        data = halves(folder / "halves")
        trainer.Trainer = SidesTrainer  # where `gaborseg train` takes it from
    elif name == "icv":
        data = icv.made_data(folder / "skulls", Scans(SCANS), found.stages[0].options["grid-size"])
    elif name in HELPERS:
        data = brains(folder / "brains")
    more = more if name in HELPERS else ["--variant", name, *more]
    weights = resource_path(f"Weights/{found.start}.safetensors") if found.start else None
    for number, stage in enumerate(found.stages, start=1):
        before, output = weights, folder / f"{name}-{number}"
        weights = run_stage(stage, ["--recipe", f"{recipe}:{number}", *more], data, weights, output)
        if stage.averaged:
            weights = averaged(weights, before, folder / f"{name}-{number}-mean.safetensors")
    return weights


def run_stage(stage, options, data, weights, output):
    """Train one stage from weights, or from nothing; returns the path of its best."""
    heads, cache = output.parent / "heads", output.parent / "cache"
    heads.mkdir(parents=True, exist_ok=True)
    for file in sorted((DATA / "head-label-maps").glob("*.nii.gz"))[:UNSEEN_HEADS]:
        if not (heads / file.name).exists():
            (heads / file.name).symlink_to(file.resolve())
    command = ["train", str(data), "-o", str(output), *options, "--resume"]
    command += ["--validation", ",".join(VALIDATION), "--cache", str(cache), "--facts", str(FACTS)]
    in_heads = {"--find-brain", "field", "close"} & {*stage.arguments, *options}
    command += ["--heads", str(heads)] if in_heads else []
    command += ["--init", str(weights)] if weights else []
    status = cli.main(command)
    if status:
        sys.exit(status)
    return output / BEST


def brains(folder):
    """The scans, in a folder with other label maps: the brain is all that is not 0.

    (Heads are built without its stem.)
    """
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    if not (folder / "T1w").exists():
        (folder / "T1w").symlink_to((SCANS / "T1w").resolve())
    shutil.copy(SCANS / "subjects.csv", folder)
    (folder / "structures.csv").write_text(f"label,structure,ids\n0,Background,0\n1,Brain,1\n2,{BRAIN_STEM},2\n")
    data = find_data(SCANS)
    for case in data.cases:
        image, labels = read_case(case, data.table)
        brain = np.where(labels == stem_label(), 2, image.array > 0).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(brain, image.affine), folder / "labels" / f"{case.id}.nii.gz")
    return folder


class SidesTrainer(Trainer):
    """Trains what tells the sides: the loss is of left against right alone, where the brain ends does not matter."""

    def configure_loss(self):
        return side_loss


def side_loss(scores, labels):
    """Cross-entropy of right against left, in the voxels that are on a side; 0 if there are none.

    Shape:
        scores (B, 3, D, H, W), labels (B, D, H, W), 1 is left and 2 right -> a number.
    """
    odds = scores.clamp(min=1e-7).log().diff(dim=1)[:, 1]
    lost = functional.binary_cross_entropy_with_logits(odds, (labels == 2).float(), reduction="none")
    return (lost * (labels > 0)).sum() / (labels > 0).sum().clamp(min=1)


def halves(folder):
    """The scans, whole and each half alone, in a folder with other label maps: 1 is the left half, 2 the right.

    What is in no paired structure (fluid, brain stem, vermis) is of the nearer half.
    """
    if (folder / "subjects.csv").is_file():  # written last
        return folder
    for name in ("T1w", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "structures.csv").write_text("label,structure,ids\n0,Background,0\n1,Left,1\n2,Right,2\n")
    rows = ["scan,subject"]
    data = find_data(SCANS)
    for case in data.cases:
        scan = sides.read(case, data.table)
        labels = (1 + sides.nearer_right(scan)) * (scan.image.array > 0)
        whole = replace(scan, truth=labels.astype(np.uint8))
        for part in (whole, *sides.halves(whole, sides.middle(scan))):
            rows.append(f"{part.id},{scan.subject}")
            for name, array in (("T1w", part.image.array.astype(np.int16)), ("labels", part.truth)):
                nibabel.save(nibabel.Nifti1Image(array, part.image.affine), folder / name / f"{part.id}.nii.gz")
    (folder / "subjects.csv").write_text("\n".join(rows) + "\n")
    return folder


def averaged(weights, others, path):
    """Write the mean of two files' weights, with the card of the first, for a cube between both; returns the path."""
    opened, before = load_weights(weights), load_weights(others)
    others = before.network.state_dict()
    mean = {name: (value + others[name]) / 2 for name, value in opened.network.state_dict().items()}
    opened.network.load_state_dict(mean)
    opened.card["grid_size"] = (opened.card["grid_size"] + before.card["grid_size"]) // 2
    opened.card["training"]["averaged"] = "the mean of these weights and of those of the stage before"
    save_weights(path, opened.network, opened.card)
    return path


def bundle(weights, path, average=None):
    """Score weights, or their mean with those of another file, on the held-out scans; write them with the scores."""
    if average:
        weights = averaged(weights, average, path)
    opened, data = load_weights(weights), find_data(SCANS)
    cases = [case for case in data.cases if case.id in VALIDATION]
    cube, own = evaluate(Segmenter(weights, "cpu"), cases, data.table, Terminal())
    size = opened.card["grid_size"]
    scores = {
        "scans": sorted(VALIDATION),
        "note": "the epoch and the recipe were chosen on these scans; averaged with the mirror image",
        "dice": means(cube, "dice"),
        "dice_scan_grid": means(own, "dice"),
        "hd95_mm_scan_grid": means(own, "hd95_mm"),
        "msd_mm_scan_grid": means(own, "msd_mm"),
    }
    scores["dice_mean"] = round(float(np.mean(list(scores["dice"].values()))), 4)
    scores["dice_mean_scan_grid"] = round(float(np.mean(list(scores["dice_scan_grid"].values()))), 4)
    save_weights(path, opened.network, {**opened.card, "scores": {"validation": scores}})
    print(f"{path}: Dice {scores['dice_mean']} on {size}^3, {scores['dice_mean_scan_grid']} on the scans' own grids")


def bundle_finder(weights, path):
    """Write weights of the finder, with how well it finds the validation scans' brains in unseen heads."""
    opened = load_weights(weights)
    save_weights(path, opened.network, opened.card)
    scans, heads = Scans(SCANS), [read_head(file) for file in find_heads(DATA / "head-label-maps")[UNSEEN_HEADS:]]
    found = [dice_of_brain(scans[scan], heads[i % len(heads)], i) for i, scan in enumerate(sorted(VALIDATION))]
    mean = round(float(np.mean(found)), 4)
    scores = {
        "scans": sorted(VALIDATION),
        "note": "by both looks, each in a head built from one of the label maps that were not used in training",
        "dice": {"Brain": mean},
        "dice_mean": mean,
    }
    save_weights(path, opened.network, {**opened.card, "scores": {"validation": scores}})
    print(f"{path}: Dice {mean}, {found}")


def bundle_sides(weights, path):
    """Write weights that tell the sides, with how well they do on the experts' labels of the validation scans."""
    opened = load_weights(weights)
    save_weights(path, opened.network, opened.card)
    data = find_data(SCANS)
    scans = [sides.read(case, data.table) for case in data.cases if case.id in VALIDATION]
    found = np.mean([sides.shares(scan.image, scan.truth) for scan in scans], axis=0)
    scores = {
        "scans": sorted(VALIDATION),
        "note": "the loss, and how long to train, were decided with 1002 and 1122 in view",
        "share": {part.name: round(float(share), 5) for part, share in zip(sides.PAIRED, found)},
        "share_mean": round(float(found[-1]), 5),
    }
    save_weights(path, opened.network, {**opened.card, "scores": {"validation": scores}})
    print(f"{path}: {scores['share_mean']} on the right side, {scores['share']}")


def bundle_icv(weights, path):
    """Write weights that find the inside of the skull, with their errors in heads that were never seen."""
    opened = load_weights(weights)
    save_weights(path, opened.network, opened.card)
    errors = np.abs([error for _, error in icv.heads_errors(*icv.unseen()).values()])
    scores = {
        **opened.card["scores"]["validation"],
        "scans": sorted(VALIDATION),
        "note": "in heads built from the label maps that were not used in training; the epoch was chosen on such heads",
        "icv_error_percent": {"median": round(float(np.median(errors)), 2), "largest": round(float(errors.max()), 2)},
    }
    save_weights(path, opened.network, {**opened.card, "scores": {"validation": scores}})
    print(f"{path}: {scores['icv_error_percent']}")


def dice_of_brain(scan, head, seed):
    """Dice of the brain that `find_brain` finds in a built head, on the grid it was found on; 0 for none."""
    brain = np.where(scan.truth == stem_label(), stem_label(), scan.image.array > 0)
    image, truth = put_in_head(replace(scan, truth=brain), head, seed)
    found = finder.find_brain(image.array, image.affine)
    if found is None:
        return 0.0
    expected = found.grid.image_to_cube((truth > 0).astype(np.float32)) > 0.5
    return round(float(dice(found.mask.byte().numpy(), expected.byte().numpy(), [1])[0]), 4)


def write_cards():
    """Write what the cards of the bundled weight files say into docs/models.md."""
    paths = [*bundled_weights().values(), *map(resource_path, [*finder.WEIGHTS, SIDES, ICV])]
    intro = (
        "# Model cards\n\nWhat the bundled weight files say about themselves (`gaborseg info FILE` shows all of it). "
        "Written by "
        "`python Testing/benchmarks/recipe.py --cards`."
    )
    with replacing(DOCS / "models.md") as temporary:
        temporary.write_text("\n\n".join([intro, *map(card_text, paths)]) + "\n", encoding="utf-8")


def card_text(path):
    """One card as Markdown."""
    card = read_card(path)
    training, validation = card["training"], card["scores"]["validation"]
    stages = [*training.get("earlier_stages", []), training]
    rows = [
        ["Kernels", f"{card['variant']}, {len(card['structures'])} structures, cube of {card['grid_size']}^3"],
        ["SHA-256 of the weights", card["sha256"]],
        *(
            [title, card[key]]
            for title, key in (
                ("Training data", "data_description"),
                ("Credits", "credits"),
                ("Licence", "licence"),
                ("Limits", "limits"),
            )
            if key in card
        ),
        ["Trained on the scans", ", ".join(training["scans"])],
        *([f"Stage {number}", stage_text(stage)] for number, stage in enumerate(stages, start=1)),
        [
            "Held out",
            ", ".join(validation["scans"]) + "".join(f" ({validation[k]})" for k in ["note"] if k in validation),
        ],
        measured(validation),
    ]
    scores = {
        key: validation[key]
        for key in ("dice", "dice_scan_grid", "hd95_mm_scan_grid", "msd_mm_scan_grid", "share")
        if key in validation
    }
    titles = {
        "dice": "Dice, cube",
        "dice_scan_grid": "Dice, own grid",
        "hd95_mm_scan_grid": "95 % Hausdorff, mm",
        "msd_mm_scan_grid": "mean surface distance, mm",
        "share": "share on the right side",
    }
    names = list(next(iter(scores.values())))
    table = markdown(
        ["Structure", *(titles[key] for key in scores)],
        [[name, *(values[name] for values in scores.values())] for name in names],
    )
    return f"## {path.stem}\n\n{markdown(['', ''], rows)}\n\n{table}"


def measured(validation):
    """Title and text of what a card says of the scans held out as a whole."""
    if "share_mean" in validation:
        return ["Voxels of paired structures on the right side", f"{100 * validation['share_mean']:.2f} %"]
    if "icv_error_percent" in validation:
        error = validation["icv_error_percent"]
        return ["Error of intracranial volume, %", f"median {error['median']}, largest {error['largest']}"]
    own = [f", {validation[key]} on the scans' own grids" for key in ["dice_mean_scan_grid"] if key in validation]
    return ["Mean Dice on them", f"{validation['dice_mean']} on the cube" + "".join(own)]


def stage_text(stage):
    """The options of a stage as `gaborseg train` takes them, but for those that are its defaults."""
    default = asdict(Options())
    options = [
        f"--{'lr' if key == 'learning_rate' else key.replace('_', '-')} {value}"
        for key, value in stage.items()
        if key in default and value != default[key] and value is not True and key != "heads"
    ]
    options += [f"--{key.replace('_', '-')}" for key, value in stage.items() if value is True]
    options += [f"--heads ({stage['heads']} label maps)"] if stage.get("heads") else []
    mean = f"; {stage['averaged']}" if "averaged" in stage else ""
    return f"`{' '.join(options) or 'the defaults'}`; kept: epoch {stage['epoch']}{mean}"


def means(rows, key):
    """The mean over the scans of each structure."""
    values = defaultdict(list)
    for row in rows:
        values[row["structure"]].append(row[key])
    return {name: round(float(np.nanmean(found)), 4) for name, found in values.items()}


if __name__ == "__main__":
    main()
