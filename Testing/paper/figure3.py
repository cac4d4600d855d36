"""Fig. 3, Table 1 and the sentences of Section 3.2 of Wong & Moradi 2022, from the table that study.py writes.

    python Testing/paper/figure3.py --document docs/paper.md   # docs/images/paper-figure3.png, and its tables there

Where several splits were run, each point is their mean, with their spread. A run whose loss was no number any more
counts as Dice 0 in the figure and the tests, and is named at the end.
"""

import argparse
import re
from math import comb
from pathlib import Path

import numpy as np
import study
from accuracy import PAPER
from scans import markdown

from GaborSegLib.files import replacing
from GaborSegLib.structures import paper_structures

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "paper-figure3.png"
RATES = [f"{rate:.1e}" for rate in study.RATES]
LOW, MIDDLE, HIGH = slice(0, 2), 2, slice(3, 5)  # of the rates: below 1e-3, 1e-3, above it


class Results:
    """The rows of one scale."""

    def __init__(self, rows, scale):
        rows = [row for row in rows if row["scale"] == scale]
        self.splits = sorted({int(row["split"]) for row in rows})
        self.rows = {(row["variant"], row["loss"], row["rate"], int(row["split"])): row for row in rows}

    def dice(self, variant, loss, rate):
        """Test Dice over the splits; NaN for what was not run."""
        return np.array([self._value(variant, loss, rate, split) for split in self.splits])

    def _value(self, *key):
        row = self.rows.get(key)
        if row is None:
            return np.nan
        return float(row["test_dice"]) if row.get("test_dice") else 0.0

    def curves(self, variant, split):
        """Test Dice over the rates: dictionary from loss to array."""
        return {loss: np.array([self._value(variant, loss, rate, split) for rate in RATES]) for loss in study.LOSSES}

    def failures(self):
        return [row for row in self.rows.values() if row.get("failure")]


def draw(results, path):
    from matplotlib.figure import Figure  # and not pyplot, which takes whatever window system is there

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for axis, variant in zip(axes, study.VARIANTS):
        for loss, style in zip(study.LOSSES, ("o-", "s--", "^:")):
            dice = np.array([results.dice(variant, loss, rate) for rate in RATES]).reshape(len(RATES), -1)
            found = (~np.isnan(dice)).any(axis=1)
            if found.any():
                x, dice = np.array(study.RATES)[found], dice[found]
                spread = np.nanstd(dice, axis=1)
                axis.errorbar(x, np.nanmean(dice, axis=1), yerr=spread, fmt=style, capsize=3, label=loss)
        axis.set(title=variant, xscale="log", xlabel="learning rate", xlim=(7e-5, 1.4e-2), ylim=(0, 1))
    axes[0].set_ylabel("test Dice")
    axes[0].legend(*next((h for axis in axes if (h := axis.get_legend_handles_labels())[0]), ([], [])))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def rates_table(results):
    """Mean test Dice of every combination, as Markdown."""
    rows = [
        [variant, loss, *(percent(results.dice(variant, loss, rate)) or "not run yet" for rate in RATES)]
        for variant in study.VARIANTS
        for loss in study.LOSSES
    ]
    return markdown(["Kernels", "Loss", *RATES], rows)


def structures_table(results, rate=RATES[MIDDLE]):
    """Table 1(b): Dice of each structure at one rate, in percent, with the paper's in brackets."""
    names = [structure.name for structure in paper_structures()]
    columns = [(variant, loss) for variant in study.VARIANTS for loss in ("pcc", "dice")]
    rows = []
    for place, name in enumerate([*names, "test_dice"]):
        cells = []
        for column in columns:
            found = [results.rows.get((*column, rate, split), {}).get(name) for split in results.splits]
            ours = percent(np.array([float(value) if value else np.nan for value in found]))
            figures, average = PAPER[column]
            cells.append(f"{ours} ({[*figures, average][place]})".strip())
        rows.append(["**Mean**" if name == "test_dice" else name, *cells])
    return markdown(["Structure", *(f"{variant}, {loss}" for variant, loss in columns)], rows)


def percent(values):
    """`mean±std` in percent, of what is there."""
    values = 100 * values[~np.isnan(values)]
    if not len(values):
        return ""
    return f"{values.mean():.1f}" if len(values) == 1 else f"{values.mean():.1f}±{values.std():.1f}"


# The sentences of Section 3.2


def lost(dice):
    """How far the mean over the rates is below the best rate."""
    return dice.max() - dice.mean()


# Sentence, what it is measured by (from the curves of one variant and split), from where to where that agrees.
ANY = np.inf
OF_EACH_VARIANT = [
    (
        "PCC is the most robust to the rate (loses least from its best rate to the mean of all; by how much less than "
        "the next)",
        lambda c: min(lost(c["dice"]), lost(c["cross-entropy"])) - lost(c["pcc"]),
        (0, ANY),
    ),
    (
        "PCC is the most accurate (at its best rate, ahead of the next)",
        lambda c: c["pcc"].max() - max(c["dice"].max(), c["cross-entropy"].max()),
        (0, ANY),
    ),
    (
        "The Dice loss drops abruptly above 1e-3 (by more than 0.05 on average)",
        lambda c: c["dice"][MIDDLE] - c["dice"][HIGH].mean(),
        (0.05, ANY),
    ),
    (
        "Cross-entropy is robust, too (falls by less than 0.05 above 1e-3)",
        lambda c: c["cross-entropy"][MIDDLE] - c["cross-entropy"][HIGH].mean(),
        (-ANY, 0.05),
    ),
    (
        "Cross-entropy is less accurate than PCC (best rates)",
        lambda c: c["pcc"].max() - c["cross-entropy"].max(),
        (0, ANY),
    ),
    (
        "The Dice loss is better than cross-entropy up to 1e-3 (mean of the rates)",
        lambda c: c["dice"][: MIDDLE + 1].mean() - c["cross-entropy"][: MIDDLE + 1].mean(),
        (0, ANY),
    ),
    (
        "All losses fall below 1e-3 (from there to 1e-4, the one that falls least)",
        lambda c: min(c[loss][MIDDLE] - c[loss][0] for loss in study.LOSSES),
        (0, ANY),
    ),
    (
        "There the Dice loss falls more than PCC (by)",
        lambda c: (c["dice"][MIDDLE] - c["dice"][LOW].mean()) - (c["pcc"][MIDDLE] - c["pcc"][LOW].mean()),
        (0, ANY),
    ),
]
BETWEEN_VARIANTS = [
    ("Conventional and mixed are alike with PCC at 1e-3 (within 0.01)", "conventional", "mixed", (-0.01, 0.01)),
    ("Gabor is 2 to 3 points behind mixed (PCC at 1e-3; 0.01 to 0.04)", "mixed", "gabor", (0.01, 0.04)),
]


def sentences(results):
    """What Section 3.2 says, and what these runs say.

    Returns:
        Rows (sentence, dictionary from variant to values over the splits, (from, to) that agrees). Values that would
        need a run that is not there are NaN.
    """
    curves = {(v, split): results.curves(v, split) for v in study.VARIANTS for split in results.splits}
    rows = []
    for text, measure, agrees in OF_EACH_VARIANT:
        values = {v: np.array([measure(curves[v, split]) for split in results.splits]) for v in study.VARIANTS}
        rows.append((text, values, agrees))
    for text, one, other, agrees in BETWEEN_VARIANTS:
        values = results.dice(one, "pcc", RATES[MIDDLE]) - results.dice(other, "pcc", RATES[MIDDLE])
        rows.append((text, {f"{one} - {other}": values}, agrees))
    if len(results.splits) > 1:
        spread = {v: np.array([np.std(results.dice(v, "pcc", RATES[MIDDLE]))]) for v in study.VARIANTS}
        rows.append(("Splits differ by less than 1 % (PCC at 1e-3, deviation)", spread, (-ANY, 0.01)))
    return rows


def sentences_table(results):
    """As Markdown: how many comparisons agree, by how much, and how often coins would agree so well."""
    lines = []
    for text, values, (low, high) in sentences(results):
        known = {name: found[~np.isnan(found)] for name, found in values.items()}
        everything = np.concatenate(list(known.values()))
        agree = int(((everything > low) & (everything < high)).sum())
        by = ", ".join(f"{name} {found.mean():+.3f}" for name, found in known.items() if len(found))
        sure = ""
        if (low, high) == (0, ANY) and len(everything):
            sure = f"{100 * by_chance(agree, len(everything)):.0f} %"
        lines.append([text, f"{agree} of {len(everything)}" if len(everything) else "not run yet", by, sure])
    return markdown(["The paper", "our runs agree", "by how much (Dice)", "coins would"], lines)


def by_chance(agree, count):
    """The probability that of so many coins at least so many agree."""
    return sum(comb(count, number) for number in range(agree, count + 1)) / 2**count


def state(results):
    """How many runs there are, in a sentence."""
    count, failed = len(results.rows), len(results.failures())
    hours = sum(float(row.get("seconds") or 0) for row in results.rows.values()) / 3600
    whole = len(study.runs("small", results.splits or [0]))
    splits = ", ".join(map(str, results.splits))
    return f"{count} of {whole} runs of split {splits} are done, {failed} diverged; {hours:.1f} hours on the clock."


def fill(path, parts):
    """Put texts into a document, each between its marks: `<!-- name -->` and `<!-- end -->`, lines of their own."""
    text = path.read_text(encoding="utf-8")
    for name, part in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(?=<!-- end -->)"
        text, count = re.subn(pattern, lambda found: f"{found[1]}{part}\n", text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{path}: has {count} times <!-- {name} --> with its <!-- end -->; wanted once")
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=study.SCALES, default="small")
    parser.add_argument("--table", type=Path, default=Path(__file__).parent / "study.csv", metavar="CSV")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--document", type=Path, metavar="MD", help="put the tables in their places there")
    options = parser.parse_args()
    results = Results(study.read_table(options.table), options.scale)
    draw(results, options.picture)
    parts = {
        "state": state(results),
        "rates": rates_table(results),
        "structures": structures_table(results),
        "sentences": sentences_table(results),
    }
    print("\n\n".join(parts.values()))
    if options.document:
        fill(options.document, parts)
    for row in results.failures():
        print(f"\n{row['variant']}, {row['loss']}, {row['rate']}, split {row['split']}: {row['failure']}")


if __name__ == "__main__":
    main()
