"""A made scan that tests share."""

import numpy as np


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
