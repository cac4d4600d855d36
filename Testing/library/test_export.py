"""Exported networks give in other runtimes what they give here, at any size, and say what they are."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from GaborSegLib import cli
from GaborSegLib.model.network import VARIANTS, build_network
from GaborSegLib.model.weights import load_weights, save_weights
from GaborSegLib.structures import paper_structures

SIZES = ((32, 32, 32), (16, 48, 32))  # the second is none that was traced


@pytest.fixture(scope="module", params=VARIANTS)
def weights(request, tmp_path_factory):
    """A weight file of a small network, not trained."""
    torch.manual_seed(3)
    names = [structure.name for structure in paper_structures()]
    sizes = {"conventional_kernel_size": 3, "gabor_kernel_size": 5}
    settings = {**sizes, "in_channels": 1, "classes": 20, "base_channels": 4}
    card = {"variant": request.param, **settings, "structures": names, "grid_size": 32, "field": "cube", "note": "µ"}
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, build_network(request.param, **settings), card)
    return path


def check_facts(facts, weights):
    card = load_weights(weights).card
    assert json.loads(facts["gaborseg"]) == card
    assert json.loads(facts["classes"]) == ["Background", *card["structures"]]
    assert (facts["grid_size"], facts["field"], facts["find_brain"]) == ("32", "cube", "false")


def images():
    return [torch.rand(1, 1, *size, generator=torch.manual_seed(0)) for size in SIZES]


@pytest.mark.slow
def test_onnxruntime_gives_the_networks_scores(weights, tmp_path):
    path = tmp_path / "new" / "model.onnx"
    assert cli.main(["export", str(weights), "-o", str(path)]) == 0
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    # Kernels are baked: what is left of a Gabor layer is a convolution, and nothing is computed for it.
    assert not {"Sin", "Cos", "Exp"} & {node.op_type for node in model.graph.node}
    check_facts({entry.key: entry.value for entry in model.metadata_props}, weights)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    network = load_weights(weights).network  # with its Gabor layers
    for image in images():
        scores = session.run(["scores"], {"image": image.numpy()})[0]
        with torch.no_grad():
            expected = network(image).numpy()
        assert scores.shape == (1, 20, *image.shape[2:]) and expected.std() > 1e-3
        np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.slow
def test_torchscript_gives_the_networks_scores(weights, tmp_path):
    path = tmp_path / "model.pt"
    assert cli.main(["export", str(weights), "-o", str(path)]) == 0
    files = {"gaborseg.json": ""}
    script = torch.jit.load(str(path), _extra_files=files)
    check_facts(json.loads(files["gaborseg.json"]), weights)
    network = load_weights(weights).network
    with torch.no_grad():
        for image in images():
            torch.testing.assert_close(script(image), network(image), atol=1e-4, rtol=0)


def test_what_cannot_be_exported_is_said_in_one_line(tiny_weights, tmp_path, capsys, monkeypatch):
    def error_of(*arguments):
        assert cli.main(["export", *map(str, arguments)]) == 2
        assert not list(tmp_path.iterdir())
        return capsys.readouterr().err

    assert ".onnx, .pt" in error_of(tiny_weights, "-o", tmp_path / "model.tflite")
    assert "none.safetensors" in error_of("none.safetensors", "-o", tmp_path / "model.pt")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install onnx" in error_of(tiny_weights, "-o", tmp_path / "model.onnx")
