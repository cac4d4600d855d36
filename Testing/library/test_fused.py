"""The kernels for a GPU: compiled for two; and in Triton's interpreter, which needs none, beside Eq. (2) in float64.

Triton decides on its import whether it interprets, so those tests run in a process of their own, which the first
starts.
"""

import os
import subprocess
import sys

import pytest
import torch
from test_gabor import direct, random_parameters

from GaborSegLib.model import fast, gabor

pytest.importorskip(
    "triton", reason="needs Triton (285 MB; Linux alone, no GPU needed): pip install triton, then run this file again"
)
from GaborSegLib.model.fast import fused

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the process of test_in_the_interpreter")
compiled = pytest.mark.skipif(INTERPRETED, reason="ran in the process that started this one")


@compiled
def test_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout + done.stderr


@compiled
@pytest.mark.parametrize("capability", [75, 90])
def test_compiles_to_machine_code(capability):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    for program in (fused._make_kernels, fused._make_gradients):
        constants = {"k": 7, "size": 512, "block": fused.BLOCK}
        types = dict.fromkeys(program.arg_names, "i32") | dict.fromkeys(constants, "constexpr")
        types |= {name: "*fp32" for name in types if name in ("parameters", "taps", "gradient", "result")}
        source = ASTSource(fn=program, signature=types, constexprs=constants)
        assert compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]


@interpreted
@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("taps_first", [False, True])
def test_is_equation_2_with_its_gradients(k, taps_first):
    parameters = random_parameters(3, 2, seed=k)  # more kernels than a program does at a time, and no multiple of that
    torch.manual_seed(0)
    gradient = torch.randn(3, 2, k, k, k, dtype=torch.float64)
    expected = direct(*parameters, k)
    expected_gradients = torch.stack(torch.autograd.grad((expected * gradient).sum(), parameters)).flatten(1)

    rows = torch.stack([p.detach().flatten() for p in parameters]).float()
    kernels = fused.kernels(rows, k, taps_first).movedim(-1, 0)
    assert (kernels.movedim(0, -1) if taps_first else kernels).is_contiguous()
    torch.testing.assert_close(kernels.double(), expected.detach().flatten(0, 1), rtol=0, atol=1e-5)

    gradient = gradient.flatten(0, 1).float()
    if taps_first:
        gradient = gradient.movedim(0, -1).contiguous().movedim(-1, 0)
    found = fused.parameter_gradients(rows, gradient).double()
    torch.testing.assert_close(found, expected_gradients, rtol=0, atol=1e-5 * expected_gradients.abs().max().item())


@interpreted
def test_no_kernels():
    assert fused.kernels(torch.empty(8, 0), 3, False).shape == (3, 3, 3, 0)
    assert fused.parameter_gradients(torch.empty(8, 0), torch.empty(0, 3, 3, 3)).shape == (8, 0)


@interpreted
def test_is_taken_only_where_it_works(monkeypatch):
    """What is tried on a GPU before the functions are used there, on the CPU."""
    device, working = torch.device("cpu"), fast._working_fused.__wrapped__
    assert working(device) is fused

    kernels = fused.kernels
    monkeypatch.setattr(fused, "kernels", lambda *arguments: 1.001 * kernels(*arguments))
    assert working(device) is None

    def fails(*_):
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(fused, "kernels", fails)
    assert working(device) is None


@interpreted
def test_a_layer_computes_with_it(monkeypatch):
    torch.manual_seed(0)
    layer = gabor.GaborConv3d(3, 4)
    image, weights = torch.randn(1, 3, 6, 6, 6), torch.randn(1, 4, 6, 6, 6)

    def results():
        layer.zero_grad()
        output = layer(image)
        (output * weights).sum().backward()
        return [output.detach(), *(p.grad for p in layer.parameters())]

    plain = results()
    monkeypatch.setattr(fast, "_synthesis", lambda parameters: fused)
    torch.testing.assert_close(results(), plain, rtol=1e-4, atol=1e-4)
