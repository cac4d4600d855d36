"""Fig. 3, Table 1 and the sentences of Section 3.2 of Wong & Moradi 2022, from the table that study.py writes.

    python Testing/paper/figure3.py            # docs/images/paper-figure3.png, and Markdown for docs/paper.md

Where several splits were run, each point is their mean, with their spread. A run whose loss was no number any more
counts as Dice 0 in the figure and the tests, and is marked.
"""

import argparse
from pathlib import Path

import numpy as np
import study
from scans import markdown

from GaborSegLib.files import replacing
from GaborSegLib.structures import paper_structures

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "paper-figure3.png"
RATES = [f"{rate:.1e}" for rate in study.RATES]


class Results:
    """The rows of one scale: mean test Dice of (variant, loss, rate), an array over splits, NaN where it is not run."""

    def __init__(self, rows, scale):
        rows = [row for row in rows if row["scale"] == scale]
        self.splits = sorted({int(row["split"]) for row in rows})
        self.rows = {(row["variant"], row["loss"], row["rate"], int(row["split"])): row for row in rows}

    def dice(self, variant, loss, rate):
        return np.array([self._value(variant, loss, rate, split) for split in self.splits])

    def _value(self, *key):
        row = self.rows.get(key)
        if row is None:
            return np.nan
        return float(row["test_dice"]) if row.get("test_dice") else 0.0

    def mean(self, variant, loss, rate):
        found = self.dice(variant, loss, rate)
        return np.nan if np.isnan(found).all() else float(np.nanmean(found))

    def failures(self):
        return [key for key, row in self.rows.items() if row.get("failure")]


def draw(results, path):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
    for axis, variant in zip(axes, study.VARIANTS):
        for loss, style in zip(study.LOSSES, ("o-", "s--", "^:")):
            dice = np.array([results.dice(variant, loss, rate) for rate in RATES])
            found = ~np.isnan(dice).all(axis=1)
            if found.any():
                x, dice = np.array(study.RATES)[found], dice[found]
                spread = np.nanstd(dice, axis=1)
                axis.errorbar(x, np.nanmean(dice, axis=1), yerr=spread, fmt=style, capsize=3, label=loss)
        axis.set(title=variant, xscale="log", xlabel="learning rate", ylim=(0, 1))
    axes[0].set_ylabel("test Dice")
    axes[0].legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)


def rates_table(results):
    """Mean test Dice of every combination, as Markdown."""
    rows = [
        [variant, loss, *(percent(results.dice(variant, loss, rate)) for rate in RATES)]
        for variant in study.VARIANTS
        for loss in study.LOSSES
    ]
    return markdown(["Kernels", "Loss", *RATES], rows)


def structures_table(results, rate="1.0e-03"):
    """Table 1(b): Dice of each structure at one rate, in percent."""
    names = [structure.name for structure in paper_structures()]
    columns = [(variant, loss) for variant in study.VARIANTS for loss in ("pcc", "dice")]
    rows = []
    for name in (*names, "test_dice"):
        cells = []
        for variant, loss in columns:
            found = [results.rows.get((variant, loss, rate, split), {}).get(name) for split in results.splits]
            cells.append(percent(np.array([float(value) if value else np.nan for value in found])))
        rows.append(["**Mean**" if name == "test_dice" else name, *cells])
    return markdown(["Structure", *(f"{variant}, {loss}" for variant, loss in columns)], rows)


def percent(values):
    """`mean±std` in percent, of what is there."""
    values = 100 * values[~np.isnan(values)]
    if not len(values):
        return ""
    return f"{values.mean():.1f}" if len(values) == 1 else f"{values.mean():.1f}±{values.std():.1f}"


def sentences(results):
    """What Section 3.2 says, and what these runs say: rows (sentence, agrees, by how much)."""
    mean = results.mean
    best = {(v, s): np.nanmax([mean(v, s, r) for r in RATES]) for v in study.VARIANTS for s in study.LOSSES}
    lost = {
        key: best[key] - np.nanmean([mean(*key, rate) for rate in RATES]) for key in best
    }  # how far the mean over all rates is below the best rate
    low, middle, high = RATES[0], RATES[2], RATES[3:]

    def losses(variant, what):
        return {loss: what[variant, loss] for loss in study.LOSSES}

    rows = []
    robust = [min(losses(v, lost), key=losses(v, lost).get) == "pcc" for v in study.VARIANTS]
    by = [f"{v}: " + ", ".join(f"{k} {x:.2f}" for k, x in losses(v, lost).items()) for v in study.VARIANTS]
    rows.append(["PCC is the most robust to the rate", robust, "; ".join(by)])
    accurate = [max(losses(v, best), key=losses(v, best).get) == "pcc" for v in study.VARIANTS]
    by = [f"{v}: " + ", ".join(f"{k} {x:.3f}" for k, x in losses(v, best).items()) for v in study.VARIANTS]
    rows.append(["PCC is the most accurate", accurate, "; ".join(by)])
    drop = [mean(v, "dice", middle) - np.nanmean([mean(v, "dice", r) for r in high]) for v in study.VARIANTS]
    rows.append(["The Dice loss drops above 1e-3", [d > 0.05 for d in drop], _by_variant(drop)])
    drop = [mean(v, "cross-entropy", middle) - mean(v, "cross-entropy", high[0]) for v in study.VARIANTS]
    rows.append(["Cross-entropy is robust above 1e-3", [abs(d) < 0.05 for d in drop], _by_variant(drop)])
    behind = [best[v, "pcc"] - best[v, "cross-entropy"] for v in study.VARIANTS]
    rows.append(["Cross-entropy is less accurate than PCC", [b > 0 for b in behind], _by_variant(behind)])
    fall = [min(mean(v, s, middle) - mean(v, s, low) for s in study.LOSSES) for v in study.VARIANTS]
    rows.append(["All fall below 1e-3 (smallest fall to 1e-4)", [f > 0 for f in fall], _by_variant(fall)])
    more = [
        (mean(v, "dice", middle) - mean(v, "dice", low)) - (mean(v, "pcc", middle) - mean(v, "pcc", low))
        for v in study.VARIANTS
    ]
    rows.append(["The Dice loss falls more than PCC there", [m > 0 for m in more], _by_variant(more)])
    apart = best["conventional", "pcc"] - best["mixed", "pcc"]
    rows.append(["Conventional and mixed are alike with PCC", [abs(apart) < 0.02], f"{apart:+.3f}"])
    apart = best["mixed", "pcc"] - best["gabor", "pcc"]
    rows.append(["Gabor is 2 to 3 points behind", [0.01 < apart < 0.05], f"{apart:+.3f}"])
    if len(results.splits) > 1:
        spread = np.nanmax([np.nanstd(results.dice(v, "pcc", middle)) for v in study.VARIANTS])
        rows.append(["Splits differ by less than 1 % at 1e-3", [spread < 0.01], f"{spread:.3f}"])
    return rows


def _by_variant(values):
    return ", ".join(f"{variant} {value:+.3f}" for variant, value in zip(study.VARIANTS, values))


def sentences_table(results):
    rows = [[sentence, f"{sum(map(bool, agree))} of {len(agree)}", by] for sentence, agree, by in sentences(results)]
    return markdown(["The paper", "our runs agree", "by how much (Dice)"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=study.SCALES, default="small")
    parser.add_argument("--table", type=Path, default=Path(__file__).parent / "study.csv", metavar="CSV")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    results = Results(study.read_table(options.table), options.scale)
    draw(results, options.picture)
    parts = [rates_table(results), structures_table(results), sentences_table(results)]
    print("\n\n".join(parts))
    for key in results.failures():
        print(f"\nno number any more: {key}")


if __name__ == "__main__":
    main()
