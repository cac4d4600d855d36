"""How many parameters the networks of Wong & Moradi 2022 have: the paper's numbers (Section 3.2), and ours.

    python Testing/paper/sizes.py

The V-Net is MONAI's, where that is installed, which is smaller than what the paper says of the V-Net. Seconds and
memory are measured by Testing/benchmarks/peers.py.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from peers import CLASSES, peer
from scans import markdown

from GaborSegLib.model.network import build_network

# Variant, size of its conventional kernels, millions of parameters in the paper.
PAPER = (
    ("conventional", 3, 4.99),
    ("conventional", 5, 22.84),
    ("gabor", 3, 1.53),
    ("mixed", 3, 1.60),
    ("mixed", 5, 1.95),
)
VNET = 71


def parameters(variant, conventional_kernel_size):
    with torch.device("meta"):
        network = build_network(variant, conventional_kernel_size, classes=CLASSES)
    return sum(parameter.numel() for parameter in network.parameters())


def table():
    rows = []
    for variant, size, millions in PAPER:
        kernels = {"conventional": f"{size}^3", "gabor": "7^3 Gabor", "mixed": f"{size}^3 and 7^3 Gabor"}[variant]
        rows.append([variant, kernels, f"{parameters(variant, size):,}", f"{millions:.2f} million"])
    rows.append(["V-Net", "5^3", vnet(), f"{VNET} million"])
    return markdown(["Network", "Kernels", "Parameters", "Paper"], rows)


def vnet():
    try:
        with torch.device("meta"):
            return f"{sum(parameter.numel() for parameter in peer('VNet').parameters()):,} (MONAI's)"
    except ImportError:
        return "MONAI is not installed"


if __name__ == "__main__":
    print(table())
