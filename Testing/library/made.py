"""What tests share: made scans, affines and label maps, and how commands are run and refusals looked at."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from GaborSegLib import cli
from GaborSegLib.errors import ImageError
from GaborSegLib.scans.checking import check_image
from GaborSegLib.scans.reading import read_image

REPOSITORY = Path(__file__).resolve().parents[2]
SHAPE = (17, 18, 20)  # of what is made for reading and writing
VOXEL = (3, 11, 5)  # one of them
RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


def made_scan(seed, shape=(36, 40, 32)):
    """(scan float32, ids int16): a head-like shell with a core and an off-centre ball, a little different each time."""
    random = np.random.default_rng(seed)
    centre = np.array(shape) / 2 + random.uniform(-1.5, 1.5, 3)
    place = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    distance = np.linalg.norm((place - centre) / np.array(shape), axis=-1)
    ball = np.linalg.norm(place - centre - [-6, 3, 2], axis=-1) < 3.5
    ids = np.zeros(shape, dtype=np.int16)
    ids[distance < 0.42] = 10
    ids[distance < 0.25] = 20
    ids[ball] = 31
    intensity = np.array([0, 80, 140, 110, 0])[np.searchsorted([0, 10, 20, 31], ids)]
    return (intensity + random.normal(0, 4, shape) * (ids > 0)).astype(np.float32), ids


def oblique(seed=0, hand=-1):
    """An affine with random right-angled axes, right- (1) or left-handed (-1), and three different spacings."""
    random = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(random.normal(size=(3, 3)))
    if np.linalg.det(axes) * hand < 0:
        axes[:, 0] *= -1
    affine = np.eye(4)
    affine[:3, :3] = axes * (0.9, 1.3, 2.1)
    affine[:3, 3] = random.uniform(-90, 90, 3)
    return affine


def millimetres(affine, voxel=VOXEL):
    return affine[:3, :3] @ voxel + affine[:3, 3]


def some_labels():
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[2:9, 4:15, 3:10] = np.random.default_rng(1).integers(0, 19, (7, 11, 7))  # 19, the thalamus, is absent
    return labels


def bright_ball():
    """A bright ball with noise in a dark background, which passes all checks without a warning."""
    random = np.random.default_rng(2)
    distance = np.linalg.norm(np.indices(SHAPE) - np.reshape(SHAPE, (3, 1, 1, 1)) / 2, axis=0)
    return ((distance < 7) * 900 + random.uniform(0, 20, SHAPE)).astype(np.int16)


def save_nifti(path, array=None, affine=None):
    nibabel.save(
        nibabel.Nifti1Image(bright_ball() if array is None else array, np.eye(4) if affine is None else affine), path
    )
    return path


def refusal(path):
    """The message with which a file is refused, after checking that it is one line that names the file."""
    with pytest.raises(ImageError) as caught:
        check_image(read_image(path))
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


def told(capsys, *arguments):
    """(exit status, events) of a command with --json; whatever else it prints to standard output is no event."""
    capsys.readouterr()
    status = cli.main([*map(str, arguments), "--json"])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]
