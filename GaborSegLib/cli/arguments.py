"""Types and texts of arguments that several commands take."""

import argparse
import math

from ..protocol import check_number

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
    if not 0 <= _number(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and less than 1, got {text}")
    return float(text)


def part(text):
    """A number from 0 to 1."""
    if not 0 <= _number(text) <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {text}")
    return float(text)


def positive(text):
    """A number above 0."""
    if not 0 < _number(text) < math.inf:
        raise argparse.ArgumentTypeError(f"must be more than 0, and finite, got {text}")
    return float(text)


def _number(text):
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a number, got {text}") from error


def between(lowest, highest):
    """The type of a whole number in a range."""

    def number(text):
        if not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"must be from {lowest} to {highest}, got {text}")
        return int(text)

    return number


def network_size(key):
    """The type of one of the numbers of `protocol.LIMITS`."""

    def number(text):
        value = int(text)
        try:
            check_number(key, value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"got {error}") from error
        return value

    return number
