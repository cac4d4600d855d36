"""Which scans are said to be no T1: real T1, T1 changed as scanners do, and other contrasts that are made.

Other contrasts are not at hand as real scans. They are made from label maps: the experts' of brains, and whole heads.
Each tissue gets the signal of the sequence's equation for typical relaxation times at 1.5 to 3 T; times, densities and
the sequence's settings are drawn within the ranges below. T1 is made in the same way, to see what making alone does.

Prints a Markdown table. Rows are appended to a file of the output folder, and what is in it is not measured again.

    python Testing/benchmarks/contrasts.py mixed conventional gabor --output contrasts
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from degradations import DEGRADATIONS, RIGHT, SUPERIOR, Degradation, cut, degraded
from scans import DATA, VALIDATION, Network, Scans, add_options, markdown, saving

from GaborSegLib.data.heads import blur, find_heads
from GaborSegLib.inference.quality import LEAST_OF_T1, mean_quality
from GaborSegLib.scans.reading import read_image

GROUPS = ("T1", "part of T1", "changed T1", "made", "inverted")
COLUMNS = ("weights", "group", "contrast", "scan", "quality")
# T1 and T2 in ms, density of protons, diffusion in 1e-3 mm²/s.
TISSUES = {
    "air": (1000, 50, 0.0, 0.0),
    "white": (700, 75, 0.70, 0.7),
    "grey": (1100, 95, 0.82, 0.8),
    "nuclei": (950, 85, 0.78, 0.75),
    "pallidum": (850, 65, 0.75, 0.75),
    "stem": (800, 80, 0.74, 0.75),
    "fluid": (4000, 500, 1.0, 3.0),
    "muscle": (1100, 45, 0.8, 1.5),
    "fat": (300, 80, 0.9, 0.1),
    "bone": (500, 20, 0.1, 0.1),
}
# A person's tissue differs by up to these shares from the table.
SPREAD = np.array([0.1, 0.1, 0.05, 0.1])
# Of the paper's structures by their labels; what else is in a brain is fluid if it is dark in the T1 scan, else grey.
BRAIN = {
    "white": (12, 13),
    "grey": (1, 5, 6, 7, 8, 9, 10, 11, 14, 18),
    "nuclei": (19,),
    "pallidum": (17,),
    "stem": (4,),
    "fluid": (2, 3, 15, 16),
}
# Of the head label maps by their numbers; what else is in a brain is grey, what else is around it muscle.
HEAD = {
    "white": (2, 7, 41, 46, 85),
    "nuclei": (10, 28, 49, 60),
    "pallidum": (13, 52),
    "stem": (16,),
    "fluid": (4, 5, 14, 15, 24, 30, 43, 44, 62),
    "fat": (511,),
    "bone": (515, 516),
}
FIRST_AROUND = 500


def inversion_recovery(random, t1, t2, density, diffusion):
    """T1 by a prepared gradient echo, as MP-RAGE; inversion time 900 to 1000 ms."""
    ti, tr = random.uniform(900, 1000), random.uniform(2000, 2300)
    return density * abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1))


def spin_echo(random, t1, t2, density, diffusion, tr, te):
    """Between the limits of the repetition and of the echo time (ms)."""
    return density * (1 - np.exp(-random.uniform(*tr) / t1)) * np.exp(-random.uniform(*te) / t2)


def flair(random, t1, t2, density, diffusion):
    """T2 without fluid: the inversion time is where its mean T1 has no signal."""
    tr, te, fluid = random.uniform(8000, 11000), random.uniform(90, 140), TISSUES["fluid"][0]
    ti = fluid * np.log(2 / (1 + np.exp(-tr / fluid)))
    return density * abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1)) * np.exp(-te / t2)


def diffusion_weighted(random, t1, t2, density, diffusion, b):
    """Echo-planar, with fat suppressed; b in s/mm²."""
    signal = spin_echo(random, t1, t2, density, diffusion, (5000, 8000), (70, 100)) * np.exp(-b / 1000 * diffusion)
    return np.where(t1 < 400, 0, signal)


CONTRASTS = {
    "T1 inversion recovery": inversion_recovery,
    "T1 spin echo": partial(spin_echo, tr=(450, 650), te=(8, 15)),
    "T2": partial(spin_echo, tr=(3000, 6000), te=(80, 110)),
    "PD": partial(spin_echo, tr=(2000, 3000), te=(10, 30)),
    "FLAIR": flair,
    "diffusion b0": partial(diffusion_weighted, b=0),
    "diffusion b1000": partial(diffusion_weighted, b=1000),
}


# More than a field of view loses by mistake.
PARTS = [
    Degradation("lowest third missing", "0.35", partial(cut, axis=SUPERIOR, share=0.35)),
    Degradation("left half missing", "0.5", partial(cut, axis=RIGHT, share=0.5)),
]


@dataclass(frozen=True)
class Case:
    """A scan to be segmented, made when it is asked for."""

    group: str
    contrast: str
    scan: str
    image: Callable


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS, metavar="G", help=", ".join(GROUPS))
    parser.add_argument("--heads", nargs="*", type=Path, metavar="FILE", help="head label maps (default: the last two)")
    parser.add_argument("--real-heads", nargs="*", type=Path, metavar="FILE", help="T1 scans with their skull")
    parser.set_defaults(output=Path("contrasts"))
    options = parser.parse_args()
    heads = find_heads(DATA / "head-label-maps")[-2:] if options.heads is None else options.heads
    real = find_heads(DATA / "heads") if options.real_heads is None else options.real_heads
    scans = Scans(options.data)
    path = options.output / "contrasts.csv"
    for weights in options.weights:
        network = Network(weights, options.device, scans.data)
        chosen = cases(scans, options.scans or VALIDATION, heads, real)
        measure(network, [case for case in chosen if case.group in options.groups], path)
    with saving(options.output, "contrasts.md") as show:
        show(contrasts_table(read_rows(path)))


def cases(scans, ids, heads, real):
    """Yield every `Case`: of labelled scans by their ids, of head label maps and of T1 scans with their skull."""
    for name in ids:
        yield Case("T1", "T1", name, lambda name=name: scans[name].image)
        yield Case("inverted", "inverted T1", name, lambda name=name: inverted(scans[name].image))
    for file in real:
        yield Case("T1", "T1 with skull", file.name, lambda file=file: read_image(file))
        yield Case("inverted", "inverted T1 with skull", file.name, lambda file=file: inverted(read_image(file)))
    for contrast in CONTRASTS:
        for name in ids:
            yield Case("made", f"{contrast}, brain", name, partial(made_brain, scans, name, contrast))
        for file in heads:
            yield Case("made", f"{contrast}, head", file.name, partial(made_head, file, contrast))
    for group, changes in (("part of T1", PARTS), ("changed T1", DEGRADATIONS)):
        for change in changes:
            for name in ids:
                yield Case(group, f"{change.name}: {change.strength}", name, partial(changed, change, scans, name))


def changed(change, scans, name):
    """A labelled scan as a scanner changes it."""
    return degraded(change, scans[name].image, scans[name].truth, name)[0]


def made_brain(scans, name, contrast):
    """A labelled scan's brain in another contrast, an `Image`."""
    scan = scans[name]
    return replace(scan.image, array=shown(brain_codes(scan.truth, scan.image.array), contrast, name))


def made_head(file, contrast):
    """A head label map in a contrast, an `Image`."""
    head = read_image(file)
    return replace(head, array=shown(head_codes(head.array), contrast, file.name))


def brain_codes(labels, t1):
    """Codes of the tissues of a brain by its label map and its T1 scan."""
    fluid, grey = (t1[np.isin(labels, BRAIN[tissue])].mean() for tissue in ("fluid", "grey"))
    return _codes(labels, BRAIN, {"air": t1 <= 0, "fluid": t1 < (fluid + grey) / 2}, "grey")


def head_codes(labels):
    """Codes of the tissues of a head label map."""
    return _codes(labels, HEAD, {"air": labels == 0, "grey": labels < FIRST_AROUND}, "muscle")


def _codes(labels, tissues, others, rest):
    masks = [*(np.isin(labels, numbers) for numbers in tissues.values()), *others.values()]
    return np.select(masks, [code_of(tissue) for tissue in (*tissues, *others)], code_of(rest))


def code_of(tissue):
    return list(TISSUES).index(tissue)


def shown(codes, contrast, name):
    """Intensities of a map of codes of tissues: uneven by 5 %, blurred at the borders, with noise of 3 %."""
    seed = np.frombuffer(f"{name} {contrast}".encode(), dtype=np.uint8)
    random = np.random.default_rng(seed)
    properties = np.array(list(TISSUES.values())) * (1 + SPREAD * random.uniform(-1, 1, (len(TISSUES), 4)))
    signal = CONTRASTS[contrast](random, *properties.T)
    signal = torch.from_numpy(signal / signal[code_of("white")]).float()
    texture = torch.from_numpy(random.standard_normal((1, 1, 12, 12, 12))).float()
    texture = torch.nn.functional.interpolate(texture, size=codes.shape, mode="trilinear")[0, 0]
    image = blur(signal[torch.from_numpy(codes).long()] * (1 + 0.05 * texture), 0.25)
    if contrast.startswith("diffusion"):  # larger voxels
        image = blur(blur(image, 0.25), 0.25)
    noise = 0.03 * random.standard_normal(codes.shape, dtype=np.float32)
    return (1000 * (image.numpy() + noise)).clip(0).astype(np.float32) * (codes > 0)


def inverted(image):
    """A T1 scan with dark and bright exchanged where there is tissue."""
    array = image.array.astype(np.float32)
    top = np.percentile(array[array > 0], 99.5)
    return replace(image, array=np.where(array > 0.05 * top, (1.05 * top - array).clip(0), 0).astype(np.float32))


def measure(network, chosen, path):
    """Segment the cases that are not in a CSV file yet, and append a line of `COLUMNS` of each to it."""
    done = {(row["weights"], row["contrast"], row["scan"]) for row in read_rows(path)}
    for case in chosen:
        if (network.name, case.contrast, case.scan) not in done:
            quality = network.segment(case.image(), f"{case.contrast}, {case.scan}").quality
            append(path, [network.name, case.group, case.contrast, case.scan, f"{mean_quality(quality):.4f}"])


def append(path, row):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([row] if file.tell() else [COLUMNS, row])


def read_rows(path):
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contrasts_table(rows):
    """Markdown: the lowest and highest `mean_quality` of each contrast, and how many scans are said to be no T1."""
    names = list(dict.fromkeys(row["weights"] for row in rows))
    found = defaultdict(list)
    for row in rows:  # of changes by a scanner all strengths together
        found[row["group"], row["contrast"].partition(":")[0], row["weights"]].append(float(row["quality"]))
    lines = []
    for group in GROUPS:
        for contrast in dict.fromkeys(contrast for of_group, contrast, _ in found if of_group == group):
            line = [group, contrast]
            for name in names:
                line += _cells(found[group, contrast, name])
            lines.append(line)
    return markdown(
        ["Scans", "Contrast", *(f"{name}: {what}" for name in names for what in ("quality", "no T1"))], lines
    )


def _cells(qualities):
    if not qualities:
        return "", ""
    low, high = (f"{end(qualities):.2f}" for end in (min, max))
    said = sum(quality < LEAST_OF_T1 for quality in qualities)
    return low if low == high else f"{low} to {high}", f"{said} of {len(qualities)}"


if __name__ == "__main__":
    main()
