"""A trained network for other runtimes: ONNX or TorchScript, with plain convolution kernels and what they stand for."""

import io
import json
import warnings

import torch
from torch import nn

from ..environment import memory_lack, memory_needed
from ..errors import GaborSegError, WeightsError
from ..files import replacing, split_extension
from .gabor import bake_kernels
from .weights import load_weights

EXTENSIONS = (".onnx", ".pt")
OPSET = 17  # of ONNX, of the year 2022: old enough for every runtime
STEP = 16  # sizes that need no padding: four times halved
SPATIAL_AXES = {2: "depth", 3: "height", 4: "width"}
INPUT = (
    "float32 (1, channels, depth, height, width), each size a multiple of 16. The axes run to superior, anterior and "
    "right; voxels are isotropic, in a cube of grid_size voxels as long as the longest side of the scan. Divide the "
    "intensities by the mean of what exceeds a tenth of their 99th percentile, and clip them to 0 to 10. If field is "
    "content, give only the box around what exceeds 0.1 then, with a voxel around it; outside of it all is background"
)
OUTPUT = "float32 (1, classes, depth, height, width): scores that sum to 1 over the classes"


class _WithoutPadding(nn.Module):
    """The scores of a network for sizes that are multiples of `STEP`."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network._logits(image).softmax(dim=1)


def export(weights, path):
    """Write the network of a weight file for other runtimes, as ``gaborseg export`` does.

    The file takes an image of any size whose edges are multiples of 16, and says in its metadata what the network was
    given in training (`INPUT`), the names of the classes in order, and all of the weight file's card. Finding the
    brain, the mirror image and the way to the scan's grid are not in it.

    Args:
        weights: path of a weight file.
        path: .onnx, which needs the package onnx, or .pt (TorchScript; the metadata is the extra file gaborseg.json).

    Raises:
        WeightsError: the weight file cannot be opened, or its kernels need more memory than there is.
        GaborSegError: onnx is not installed.
        OutputError: the file cannot be written.
    """
    opened = load_weights(weights)
    lack = memory_lack(memory_needed(0, 2 * STEP, opened.card))
    if lack:
        raise WeightsError(f"{weights}: {lack}; choose weights of a smaller network, or a larger machine")
    network = _WithoutPadding(bake_kernels(opened.network)).eval()
    example = torch.zeros(1, opened.card["in_channels"], *[2 * STEP] * 3)
    facts = metadata(opened.card)
    write = _write_onnx if split_extension(path)[1] == ".onnx" else _write_torchscript
    with torch.no_grad(), warnings.catch_warnings(), replacing(path) as temporary:
        # Both go through torch's tracing. Its successor (torch.export) took twenty times as long for the same ONNX file
        # and needs one more package; the day that tracing is gone, it takes its place here.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of group_norm, which asks if there is but one voxel
        write(network, example, facts, temporary)


def metadata(card):
    """What an exported file says of itself: a dictionary of strings, JSON where it is more than text.

    Example::

        >>> card = {"structures": ["Thalamus"], "grid_size": 128, "field": "cube"}
        >>> metadata(card)["classes"]
        '["Background", "Thalamus"]'
    """
    return {
        "input": INPUT,
        "output": OUTPUT,
        "classes": json.dumps(["Background", *card["structures"]], ensure_ascii=False),
        "grid_size": str(card["grid_size"]),
        "field": card["field"],
        "find_brain": json.dumps(bool(card.get("find_brain"))),
        "gaborseg": json.dumps(card, ensure_ascii=False),
    }


def _write_onnx(network, example, facts, path):
    try:
        import onnx
    except ImportError as error:
        raise GaborSegError(
            "onnx is not installed, which .onnx files are written with; pip install onnx, or write a .pt file"
        ) from error
    file = io.BytesIO()
    torch.onnx.export(
        network,
        (example,),
        file,
        dynamo=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["scores"],
        dynamic_axes={"image": SPATIAL_AXES, "scores": SPATIAL_AXES},
    )
    model = onnx.load_from_string(file.getvalue())
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path)


def _write_torchscript(network, example, facts, path):
    traced, file = torch.jit.trace(network, example), io.BytesIO()
    # Not to the path: where a disk is full, torch's own writer ends the process.
    torch.jit.save(traced, file, {"gaborseg.json": json.dumps(facts, ensure_ascii=False)})
    path.write_bytes(file.getbuffer())
