"""How good weight files are, all in one run: the tables of docs/results.md and docs/robustness.md.

1. Dice of each structure beside the paper's Table 1b, on the cube and on the scans' own grids.
2. Brain-extracted scans against the same scans in heads that were built around them and never shown in training.
3. Repeatability: volumes of subjects that were scanned twice.
4. Agreement: Dice between both scans of one of these subjects, of the experts' labels and of the networks'.
5. Left and right: a mirrored scan against the scan.
6. Robustness (see robustness.py), and whether quality tells which of those segmentations are good.

    python Testing/benchmarks/accuracy.py mixed conventional --output results
"""

import argparse
import sys
from collections import defaultdict
from dataclasses import replace

import numpy as np
import torch
from agreement import agreement
from robustness import NONE, measure, robustness_table, write_rows
from scans import DATA, Network, Scans, add_options, markdown, saving

from GaborSegLib.data.heads import build_head, find_heads, show_tissues
from GaborSegLib.inference.volumes import structure_volumes
from GaborSegLib.scans.grid import Grid, normalise
from GaborSegLib.scans.image import Image
from GaborSegLib.scans.reading import read_image
from GaborSegLib.structures import named_structures, paper_structures

TABLES = ("dice", "heads", "repeatability", "agreement", "flip", "robustness")
# Table 1b of Wong & Moradi 2022, testing Dice in %, in the order of its structures, and the average that it gives.
PAPER = {
    ("conventional", "pcc"): ([88, 80, 85, 91, 84, 75, 80, 71, 77, 86, 90, 87, 90, 82, 65, 91, 81, 88, 90], 83),
    ("conventional", "dice"): ([87, 80, 85, 91, 83, 74, 80, 70, 76, 85, 89, 87, 88, 81, 64, 90, 81, 87, 89], 82),
    ("gabor", "pcc"): ([86, 78, 84, 88, 81, 71, 78, 68, 72, 84, 87, 85, 88, 78, 62, 89, 78, 85, 87], 80),
    ("gabor", "dice"): ([83, 78, 84, 88, 80, 72, 77, 67, 71, 84, 86, 85, 87, 78, 62, 89, 78, 85, 86], 80),
    ("mixed", "pcc"): ([87, 80, 85, 91, 83, 75, 81, 70, 77, 85, 90, 87, 89, 82, 65, 90, 81, 87, 89], 83),
    ("mixed", "dice"): ([86, 79, 85, 91, 83, 76, 80, 70, 75, 84, 89, 87, 88, 81, 64, 90, 80, 86, 88], 82),
}
# Structures that other programs do not give.
VERMIS = ("CVL I-V", "CVL VI-VII", "CVL VIII-X")
BRAIN_STEM = "Brainstem"
# Training takes the first sixteen head label maps.
UNSEEN_HEADS = 16
FIELD = 256  # mm, of a built head's scan, at 1 mm
PREPARED = 224  # voxels, a cube that holds every brain, which heads are built around
ABOVE = 25  # mm that the brain lies above the middle of the field, as necks are scanned too
LARGE = 3  # mL
CUBE = 128  # voxels along the edge of the paper's cube


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, metavar="T", help=", ".join(TABLES))
    parser.add_argument("--heads", nargs="+", metavar="FILE", help="head label maps (default: those after the 16th)")
    options = parser.parse_args()
    scans = Scans(options.data)
    networks = [Network(weights, options.device, scans.data) for weights in options.weights]
    held_out = {network: [scans[scan] for scan in options.scans or network.held_out()] for network in networks}
    with saving(options.output, "accuracy.md") as show:
        show(facts(held_out))
        if "dice" in options.tables:
            show(dice_tables(held_out))
        if "heads" in options.tables:
            files = options.heads or find_heads(DATA / "head-label-maps")[UNSEEN_HEADS:]
            show(heads_table(held_out, [read_head(file) for file in files]))
        if "repeatability" in options.tables:
            show(repeatability_table(networks, scans))
        if "agreement" in options.tables:
            show(agreement_table(networks, scans))
        if "flip" in options.tables:
            show(flip_table(held_out))
        if "robustness" in options.tables:
            rows = [row for network in networks for row in measure(network, held_out[network])]
            if options.output:
                write_rows(options.output / "robustness.csv", rows)
            show("## Robustness\n\n" + robustness_table(rows))
            show(quality_table(rows))


def facts(held_out):
    """What was measured: each weight file, and which part each scan had in making it."""
    rows = []
    for network, scans in held_out.items():
        splits = [f"{scan.id} ({network.split(scan.id)})" for scan in scans]
        rows.append([network.name, network.card["variant"], network.card["sha256"][:12], ", ".join(splits)])
    head = markdown(["Weights", "Kernels", "SHA-256", "Scans"], rows)
    return f"`python {' '.join(sys.argv)}`\n\n{head}"


def dice_tables(held_out):
    """Dice of each structure in %, on the cube with the paper's in brackets, and on the scans' own grids."""
    splits = dict.fromkeys(network.split(scan.id) for network, scans in held_out.items() for scan in scans)
    return "\n\n".join(dice_table(held_out, split) for split in splits)


def dice_table(held_out, split):
    names = next(iter(held_out)).structures
    common = np.array([name not in VERMIS for name in names])
    head, columns = ["Structure"], [[*names, "**Mean**", "**Mean without the vermis lobules**", "Worst scan"]]
    for network, scans in held_out.items():
        scans = [scan for scan in scans if network.split(scan.id) == split]
        if not scans:
            continue
        cube = 100 * np.array([dice_on_cube(network, scan) for scan in scans])
        own = 100 * np.array([network.dice(network.segmentation(scan).labels, scan.truth) for scan in scans])
        trained = network.card.get("training", {}).get("loss")
        paper, average = PAPER.get((network.card["variant"], trained), ([], None))
        beside = [*paper, average, round(np.mean(np.array(paper)[common]))] if len(paper) == len(names) else []
        head += [f"{network.name}, {CUBE}^3 (paper)", f"{network.name}, own grid"]
        for scores, brackets in ((cube, beside), (own, [])):
            means = np.nanmean(scores, axis=0)
            numbers = [*means, np.nanmean(means), np.nanmean(means[common]), np.nanmean(scores, axis=1).min()]
            texts = [f"{number:.1f}" for number in numbers]
            columns.append([f"{text} ({b})" for text, b in zip(texts, brackets)] + texts[len(brackets) :])
    return f"## Dice on {split} scans, %\n\n{markdown(head, zip(*columns))}"


def dice_on_cube(network, scan):
    """Dice of each structure in the paper's protocol: on a cube of its size over the whole scan, looked at once."""
    grid = Grid(scan.image.array.shape, scan.image.affine, CUBE)
    predicted = network.segmenter.predict(grid.image_to_cube(scan.image.array)).argmax(dim=0)
    expected = grid.labels_to_cube(scan.truth, network.card["classes"])
    return network.dice(predicted.byte().numpy(), expected.numpy())


def heads_table(held_out, heads):
    """Dice of brain-extracted scans and of the same scans in built heads, each scan in one of the heads."""
    rows = []
    for network, scans in held_out.items():
        pairs = []
        for number, scan in enumerate(scans):
            image, truth = put_in_head(scan, heads[number % len(heads)], seed=number)
            inside = network.dice(network.segment(image, f"{scan.id} in a head").labels, truth)
            alone = network.dice(network.segmentation(scan).labels, scan.truth)
            lost = alone - inside
            worst = int(np.nanargmax(lost))
            pairs.append((np.nanmean(alone), np.nanmean(inside)))
            rows.append(
                [
                    network.name,
                    f"{scan.id} ({network.split(scan.id)})",
                    *(f"{number:.3f}" for number in pairs[-1]),
                    f"{np.nanmean(lost):.3f}",
                    f"{network.structures[worst]}: {lost[worst]:.3f}",
                ]
            )
        alone, inside = np.mean(pairs, axis=0)
        rows.append([network.name, "**mean**", f"{alone:.3f}", f"{inside:.3f}", f"**{alone - inside:.3f}**", ""])
    head = ["Weights", "Scan", "Brain extracted", "In a built head", "Lost", "Most lost"]
    return f"## Heads that were never seen in training\n\n{markdown(head, rows)}"


def read_head(file):
    """A head label map as `build_head` takes it, axes z, y, x."""
    image = read_image(file)
    return np.ascontiguousarray(Grid(image.array.shape, image.affine).turn(image.array).T.astype(np.int32))


def stem_label():
    """The label of the brain stem, which heads are built without."""
    return next(structure.label for structure in paper_structures() if structure.name == BRAIN_STEM)


def put_in_head(scan, head, seed):
    """A brain-extracted scan of 1 mm (else ValueError) in a head built around it: (`Image`, label map), 256 mm at 1 mm.

    The brain stays as it is, but for noise on everything; the tissues around it get random intensities.
    """
    if not np.allclose(scan.image.spacing, 1, atol=0.01):
        raise ValueError(f"{scan.id}: got voxels of {scan.image.spacing} mm; heads are built around scans of 1 mm")
    low = [(PREPARED - n) // 2 for n in scan.image.array.shape]
    pad = [(a, PREPARED - a - n) for a, n in zip(low, scan.image.array.shape)]
    brain = normalise(torch.from_numpy(np.pad(scan.image.array, pad).T.copy())).numpy()
    truth = np.pad(scan.truth, pad).T
    codes = build_head(brain, truth, head, stem_label())[0]
    margin, start = (len(codes) - PREPARED) // 2, (len(codes) - FIELD) // 2
    window = tuple(slice(first, first + FIELD) for first in (start - ABOVE, start, start))
    codes, brain, truth = codes[window], np.pad(brain, margin)[window], np.pad(truth, margin)[window]
    tissue = show_tissues(torch.from_numpy(codes.copy()), torch.Generator().manual_seed(seed)).numpy()
    noise = 0.03 * np.random.default_rng(seed).standard_normal(tissue.shape)
    whole = 200 * (brain + tissue + noise).clip(0)
    affine = np.eye(4)
    affine[:3, 3] = -FIELD / 2
    return Image(np.ascontiguousarray(whole.T, dtype=np.float32), affine), np.ascontiguousarray(truth.T)


def repeatability_table(networks, scans):
    """Median over the subjects that were scanned twice of the difference in volume, % of the two scans' mean."""
    pairs = scanned_twice(scans.data.cases)
    experts = volumes_of(pairs, scans, lambda scan: scan.truth)
    mean = experts.mean(axis=(0, 1))
    differences = {"experts": relative_difference(experts)}
    notes = []
    for network in networks:
        found = relative_difference(volumes_of(pairs, scans, lambda scan: network.segmentation(scan).labels))
        differences[network.name] = found
        seen = [{network.split(scan) for scan in pair} for pair in pairs]
        new = ["training" not in parts for parts in seen]
        if any(new):
            differences[f"{network.name}, {sum(new)} not trained on"] = found[new]
        parts = ", ".join(f"{' and '.join(pair)} ({' and '.join(sorted(s))})" for pair, s in zip(pairs, seen))
        notes.append(f"- {network.name}: the scans {parts}")
    medians = {name: np.median(found, axis=0) for name, found in differences.items()}
    columns = [networks[0].structures, [f"{volume:.1f}" for volume in mean]]
    for name, median in medians.items():
        columns.append([f"**{m:.1f}**" if volume > LARGE else f"{m:.1f}" for m, volume in zip(median, mean)])
        large = median[mean > LARGE]
        notes.append(f"- {name}: {sum(large < 5)} of {len(large)} structures over {LARGE} mL (bold) are below 5 %")
    table = markdown(["Structure", "mL (experts)", *medians], zip(*columns))
    title = f"## Repeatability: {len(pairs)} subjects scanned twice, %"
    return f"{title}\n\n{table}\n\n" + "\n".join(notes)


def agreement_table(networks, scans):
    """Dice, %, between both scans of the subjects that were scanned twice, the second brought onto the first."""
    columns = []
    for first, second in scanned_twice(scans.data.cases):
        pair = scans[first], scans[second]
        maps = [tuple(scan.truth for scan in pair)]
        maps += [tuple(network.segmentation(scan).labels for scan in pair) for network in networks]
        columns.append(agreement(*pair, maps))
    mean = 100 * np.nanmean(columns, axis=0)
    structures = networks[0].structures
    others = [name not in VERMIS for name in structures]
    rows = [[name, *(f"{value:.1f}" for value in values)] for name, values in zip(structures, mean.T)]
    rows.append(["**Mean**", *(f"{values.mean():.1f}" for values in mean)])
    rows.append(["**Mean without the vermis lobules**", *(f"{values[others].mean():.1f}" for values in mean)])
    table = markdown(["Structure", "experts", *(network.name for network in networks)], rows)
    return f"## Agreement between both scans of {len(columns)} subjects, Dice, %\n\n{table}"


def volumes_of(pairs, scans, labels_of):
    """mL of each structure in both scans of each pair, (pairs, 2, structures)."""
    structures = named_structures(scans.data.table.names)

    def volumes(scan):
        return list(structure_volumes(labels_of(scan), scan.image.affine, structures).values())

    return np.array([[volumes(scans[scan]) for scan in pair] for pair in pairs])


def scanned_twice(cases):
    """Pairs of ids of the scans of one subject."""
    by_subject = defaultdict(list)
    for case in cases:
        by_subject[case.subject].append(case.id)
    return [tuple(ids) for ids in by_subject.values() if len(ids) == 2]


def relative_difference(volumes):
    """(subjects, 2, structures) volumes -> (subjects, structures): their difference in % of their mean."""
    mean = volumes.mean(axis=1)
    return 100 * np.divide(abs(volumes[:, 0] - volumes[:, 1]), mean, out=np.zeros_like(mean), where=mean > 0)


def flip_table(held_out):
    """Dice between the segmentation of a mirrored scan, mirrored back, and that of the scan."""
    rows = []
    for network, scans in held_out.items():
        means = []
        for scan in scans:
            mirrored = replace(scan.image, array=np.ascontiguousarray(scan.image.array[::-1]))
            labels = network.segment(mirrored, f"{scan.id} mirrored").labels[::-1]
            scores = network.dice(np.ascontiguousarray(labels), network.segmentation(scan).labels)
            lowest = int(np.nanargmin(scores))
            means.append(np.nanmean(scores))
            split = network.split(scan.id)
            rows.append(
                [
                    network.name,
                    f"{scan.id} ({split})",
                    f"{means[-1]:.3f}",
                    f"{network.structures[lowest]}: {scores[lowest]:.3f}",
                ]
            )
        rows.append([network.name, "**mean**", f"**{np.mean(means):.3f}**", ""])
    return f"## Left and right\n\n{markdown(['Weights', 'Scan', 'Dice', 'Lowest'], rows)}"


def quality_table(rows):
    """How well quality goes with true Dice, over the rows of `robustness.measure`; Pearson's correlation."""
    lines = []
    for name in dict.fromkeys(row["weights"] for row in rows):
        chosen = [row for row in rows if row["weights"] == name]
        pairs = np.array([[row["quality"], row["dice"]] for row in chosen])
        structures = [row["structure"] for row in chosen]
        segmentations = [f"{row['scan']} {row['degradation']} {row['strength']}" for row in chosen]
        plain = pairs[[row["degradation"] == NONE for row in chosen]].mean(axis=0)
        lines.append(
            [
                name,
                len(pairs),
                f"**{correlation(pairs):.2f}**",
                f"{correlation(pairs - group_means(pairs, structures)):.2f}",
                f"{correlation(np.unique(group_means(pairs, segmentations), axis=0)):.2f}",
                f"{plain[0]:.3f}, {plain[1]:.3f}",
            ]
        )
    head = ["Weights", "Pairs", "All pairs", "Within structures", "Whole segmentations", "Unchanged: quality, Dice"]
    text = (
        "A pair is one structure in one segmentation of a changed or unchanged scan. Within structures: without each "
        "structure's mean, so that it does not count that some are harder than others. Whole segmentations: means over "
        "the structures."
    )
    return f"## Does quality tell the true Dice? Correlations\n\n{markdown(head, lines)}\n\n{text}"


def group_means(values, groups):
    """For each row of (n, m) values the mean over the rows of its group."""
    _, index = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(index, column) for column in values.T], axis=1)
    return (sums / np.bincount(index)[:, None])[index]


def correlation(pairs):
    """Pearson's, of the two columns."""
    return np.corrcoef(pairs.T)[0, 1]


if __name__ == "__main__":
    main()
