"""The errors a user can do something about.

Each message says what was got, what was wanted and what to do, and names the file. The command line prints it as one
line and exits with status 2; anything that is not a `GaborSegError` is a defect of this program.
"""


class GaborSegError(Exception):
    """Base of every error with a remedy; `code` is the word that goes into the `error` event."""

    code = "error"


class ImageError(GaborSegError):
    """A scan that cannot be read or segmented."""

    code = "image"


class WeightsError(GaborSegError):
    """A weight file that cannot be opened."""

    code = "weights"


class DataError(GaborSegError):
    """A training data set that cannot be used."""

    code = "data"


class OutputError(GaborSegError):
    """Results that cannot be written where the user asked for them."""

    code = "output"


class TrainingError(GaborSegError):
    """A training run that cannot start or go on."""

    code = "training"


class ToldElsewhere(GaborSegError):
    """The error of another process of the same run, which is the one that tells it."""
