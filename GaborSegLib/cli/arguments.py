"""Types and texts of arguments that several commands take."""

import argparse

WEIGHTS = "mixed, gabor, conventional, or a weight file"
DEVICE = "auto, cpu, cuda or cuda:N (default: auto)"


def names(text):
    """A list of what stands between commas."""
    return [name for name in text.split(",") if name]


def gpu_numbers(text):
    """A list of different numbers from 0."""
    numbers = [int(number) for number in text.split(",")]
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"must be different numbers from 0, such as 0,1, got {text}")
    return numbers


def share(text):
    """A number from 0 to less than 1."""
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and less than 1, got {text}")
    return float(text)


def at_least(lowest):
    """The type of a whole number that is not less than another."""

    def number(text):
        if int(text) < lowest:
            raise argparse.ArgumentTypeError(f"must be at least {lowest}, got {text}")
        return int(text)

    return number
