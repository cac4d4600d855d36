"""GaborSeg: brain structures from a T1 MRI with very small networks whose kernels are Gabor functions."""

__version__ = "0.1.0"

_PUBLIC = {
    "GaborConv3d": "model.gabor",
    "PCCLoss": "model.losses",
    "DiceLoss": "model.losses",
    "CrossEntropyLoss": "model.losses",
    "build_network": "model.network",
    "Segmenter": "inference.segmenter",
    "Segmentation": "inference.segmenter",
    "Grid": "scans.grid",
    "read_image": "scans.reading",
    "GaborSegError": "errors",
}
__all__ = list(_PUBLIC)


def __getattr__(name):
    """Import a public name when it is first used: torch takes seconds, and `gaborseg --help` does not need it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__():
    return [*globals(), *_PUBLIC]
