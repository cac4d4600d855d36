"""What Wong & Moradi 2022 leave open, each as a small study: kernel sizes, what Eq. (2) is made of, initial values.

    python Testing/paper/open_questions.py                      # all: 16 runs, about three and a half hours on one core
    python Testing/paper/open_questions.py --questions parameters
    python Testing/paper/open_questions.py --questions          # none: the tables of what was run

Gabor networks at the small scale, PCC loss, rate 1e-3, split 0, two seeds each. The seed draws the initial values, the
order of the scans and how they are changed. "Real part" and "six parameters" are the same functions, as a cos(x) +
a sin(x) is a sqrt(2) cos(x - pi / 4): what these two differ in is what runs differ in.
"""

import argparse
import os
from dataclasses import replace

import study
from scans import markdown

SEEDS = (0, 1)
# Question: its answers, (name, Gabor kernel size, key of `gabor_layers.LAYERS`).
EIGHT = ("eight parameters, 7^3", 7, "")
QUESTIONS = {
    "sizes": [("3^3", 3, ""), ("5^3", 5, ""), EIGHT, ("9^3", 9, "")],
    "parameters": [
        EIGHT,
        ("six: equal frequencies, equal amplitudes", 7, "six"),
        ("real part alone", 7, "real"),
        ("fixed, not trained", 7, "fixed"),
    ],
    "initial": [EIGHT, ("uniform initial values", 7, "uniform")],
}


def runs(questions, base=None, variant="gabor"):
    """The runs of some questions; what several have in common once. `base`: `Options`, the small scale's by default."""
    base = base or study.SCALES["small"]
    answers = dict.fromkeys((size, layer) for question in questions for _, size, layer in QUESTIONS[question])
    return [
        study.Run(
            f"open/{variant}-{layer or 'eight'}-{size}-seed{seed}",
            {"variant": variant, "layer": layer or "eight", "kernel": str(size), "seed": str(seed)},
            replace(base, variant=variant, gabor_kernel_size=size, seed=seed),
            split=0,
            layer=layer,
        )
        for seed in SEEDS
        for size, layer in answers
    ]


def table(question, rows, variant="gabor"):
    """Test Dice of a question's answers in %, each seed and the mean, as Markdown."""
    lines = []
    for name, size, layer in QUESTIONS[question]:
        keys = {"variant": variant, "layer": layer or "eight", "kernel": str(size)}
        found = {row["seed"]: row for row in rows if keys.items() <= row.items()}
        dice = [found.get(str(seed), {}).get("test_dice") for seed in SEEDS]
        seconds = [found[seed]["seconds"] for seed in found if found[seed].get("seconds")]
        numbers = [100 * float(value) for value in dice if value]
        mean = f"{sum(numbers) / len(numbers):.1f}" if len(numbers) == len(SEEDS) else ""
        shown = [f"{100 * float(value):.1f}" if value else "not run yet" for value in dice]
        shown = ["diverged" if found.get(str(s), {}).get("failure") else text for s, text in zip(SEEDS, shown)]
        lines.append([name, *shown, mean, ", ".join(seconds)])
    return markdown([question, *(f"seed {seed}" for seed in SEEDS), "mean", "seconds"], lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", nargs="*", choices=QUESTIONS, default=list(QUESTIONS), metavar="Q")
    study.add_options(parser, "open_questions.csv")
    options = parser.parse_args()
    study.end(lambda: study.carry_out(runs(options.questions), options))
    rows = study.read_table(options.table)
    print("\n\n".join(table(question, rows) for question in QUESTIONS))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
