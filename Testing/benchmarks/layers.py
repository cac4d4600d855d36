"""The Gabor layers' time and memory: kernels, training step, inference and the share of the machine, in Markdown.

Both sides of a comparison alternate in one run, and medians are compared, because machines are noisy; seconds are of
wall time, or of the processor with --cpu-time, which with one thread (OMP_NUM_THREADS=1) is what an idle core would
take. Memory is the peak of a process of its own beyond what it held before; on a GPU, of torch's tensors there. `make
bench` runs this on the CPU; `--device cuda --parts kernels,training` is for a GPU, where own convolutions are none.
"""

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict

import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from GaborSegLib.environment import keep_freed_memory
from GaborSegLib.model import fast
from GaborSegLib.model.fast import BakedConv3d
from GaborSegLib.model.gabor import PARAMETER_NAMES, GaborConv3d, bake_kernels, gabor_kernels
from GaborSegLib.model.losses import PCCLoss
from GaborSegLib.model.network import build_network

MIB = 2**20
clock = time.perf_counter
device = torch.device("cpu")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128, help="edge of the cubes (default: 128)")
    parser.add_argument(
        "--runs", type=int, default=3, help="timed runs of each side, after one that is not (default: 3)"
    )
    parser.add_argument(
        "--parts", default="kernels,training,inference,layers,levels,floor", help="which tables (default: all)"
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor, for a busy machine")
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="keep freed memory while timing, as the command line does (not where peaks are taken)",
    )
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.keep_memory:
        keep_freed_memory()
    global clock, device
    device = torch.device(options.device)
    if options.peak:
        print(json.dumps(peak_of(*options.peak.split(","), options.size)))
        return
    if options.cpu_time:
        clock = time.process_time
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(
        f"torch {torch.__version__}, {machine}, cubes of {options.size}^3"
        f"{', freed memory kept' if options.keep_memory else ''}\n"
    )
    for part in options.parts.split(","):
        globals()[f"{part}_table"](options.size, options.runs)
        print(flush=True)


def kernels_table(size, runs):
    """Forward and backward of 192 x 192 kernels of 7^3, beside autograd through the separated formula."""
    seconds = alternated({side: KERNELS[side]() for side in KERNELS}, runs)
    print("| kernels, 192 x 192 of 7^3, forward and backward | seconds | peak, MiB |\n|---|---|---|")
    print_rows("kernels", seconds, {side: own_peak("kernels", side, size) for side in KERNELS})


def training_table(size, runs):
    """A training step of the mixed network, beside the same network with plain 7^3 convolutions."""
    seconds = alternated({side: TRAINING[side](size) for side in TRAINING}, runs)
    print(f"| training step, mixed, {size}^3 | seconds | peak, MiB |\n|---|---|---|")
    print_rows("training", seconds, {side: own_peak("training", side, size) for side in TRAINING})


def inference_table(size, runs):
    """A cube through each variant with Gabor kernels, with and without the frequency domain."""
    print(f"| inference, {size}^3 | seconds | peak, MiB |\n|---|---|---|")
    for variant in ("mixed", "gabor"):
        sides = {side: inference(variant, side, size) for side in ("fast", "direct")}
        seconds = alternated(sides, runs)
        print_rows(variant, seconds, {side: own_peak(variant, side, size) for side in sides})


def layers_table(size, runs):
    """Each layer's seconds, the products of a direct convolution, and these a second as a share of the machine's rate.

    Above 1 a layer is faster than direct convolution can ever be.
    """
    rate = matrix_rate()
    print(f"Matrix products of 1024^3 in float32: {rate / 1e9:.0f} GMAC/s\n")
    print(
        "| layer | channels | voxels | direct, s | fast, s | direct / fast | direct GMAC | share of the rate, direct "
        "| fast |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for variant in ("mixed", "gabor"):
        network = bake_kernels(build_network(variant, dropout=0.0)).eval()
        for (name, module, shape), count in spatial_layers(network, size):
            if variant == "gabor" and module.in_channels >= 48:
                continue  # the mixed network's
            image = torch.randn(shape)
            padding = module.kernel_size[0] // 2
            sides = {"direct": lambda: functional.conv3d(image, module.weight, padding=padding)}
            if isinstance(module, BakedConv3d) and fast.choose_for_inference(image, module.out_channels, 7):
                sides["fast"] = lambda: module(image)
            with torch.inference_mode():
                seconds = alternated(sides, runs)
            taps = taps_that_meet_a_voxel(shape[2:], module.kernel_size[0])
            products = taps * module.in_channels * module.out_channels
            gain = seconds["direct"] / seconds["fast"] if "fast" in seconds else None
            cells = [
                f"{variant} {name} x{count}",
                f"{module.in_channels} to {module.out_channels}, {module.kernel_size[0]}^3",
                "x".join(map(str, shape[2:])),
                f"{seconds['direct']:.3f}",
                f"{seconds['fast']:.3f}" if gain else "",
                f"{gain:.1f}" if gain else "",
                f"{products / 1e9:.1f}",
                *[f"{products / seconds[side] / rate:.2f}" if side in seconds else "" for side in ("direct", "fast")],
            ]
            print("| " + " | ".join(cells) + " |", flush=True)
        del network


def levels_table(size, runs):
    """What stands between the spatial convolutions, by `fast` and by torch itself, in the network's sizes."""
    half = size // 2
    fine, coarse, upsampled = [
        torch.randn(1, *shape) for shape in ((12, *[size] * 3), (24, *[half] * 3), (20, *[half] * 3))
    ]
    weight, scores, layer = (
        torch.randn(20, 12, 1, 1, 1),
        torch.zeros(1, 20, *[size] * 3),
        nn.Conv3d(36, 12, 3, padding=1, bias=False),
    )

    def trilinear(x):
        return functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)

    pairs = {
        f"maxima of 2^3, 12 channels of {size}^3": (
            lambda: fast.max_pool(fine),
            lambda: functional.max_pool3d(fine, 2),
        ),
        f"upsampling 20 channels of {half}^3": (lambda: fast.upsample(upsampled), lambda: trilinear(upsampled)),
        f"projecting 12 channels of {size}^3 to 20 and adding": (
            lambda: fast.add_projection(scores, fine, weight),
            lambda: scores + functional.conv3d(fine, weight),
        ),
        f"upsampling 24 channels, joining 12, convolving with 3^3 to 12 channels of {size}^3": (
            lambda: fast.convolve_joined(layer, coarse, fine),
            lambda: layer(torch.cat([trilinear(coarse), fine], dim=1)),
        ),
    }
    print("| from level to level | own, s | torch, s | own / torch |\n|---|---|---|---|")
    for name, (own, torchs) in pairs.items():
        with torch.inference_mode():
            seconds = alternated({"own": own, "torch": torchs}, runs)
        print(f"| {name} | {seconds['own']:.3f} | {seconds['torch']:.3f} | {seconds['own'] / seconds['torch']:.2f} |")


def floor_table(size, runs):
    """What a cube through the mixed network costs by kind of operation, and the least that it could on this machine.

    The least is the larger of two: its multiplications at the rate of a large matrix product, and the bytes of its
    operands and results, once each, at the rate of a large copy.
    """
    rate, copying = matrix_rate(), copy_rate()
    print(
        f"Matrix products of 1024^3 in float32: {rate / 1e9:.0f} GMAC/s; copies of 256 MiB: {copying / 1e9:.1f} GB/s\n"
    )
    run = inference("mixed", "fast", size)
    run()
    counters = [Counter() for _ in range(runs)]
    for counter in counters:
        with counter:
            run()
    print(
        "| mixed, kind of operation | calls | GMAC | GB | least, s | measured, s | share |\n"
        "|---|---|---|---|---|---|---|"
    )
    rows = []
    for name, (calls, macs, moved, _) in counters[0].kinds.items():
        measured = statistics.median(counter.kinds[name][3] for counter in counters)
        rows.append((name, calls, macs / 1e9, moved / 1e9, max(macs / rate, moved / copying), measured))
    rows.sort(key=lambda row: -row[5])
    rows = [
        *(row for row in rows if row[5] >= 0.01),
        total("others", [row for row in rows if row[5] < 0.01]),
        total("all", rows),
    ]
    for name, calls, macs, moved, least, measured in rows:
        print(
            f"| {name} | {calls} | {macs:.1f} | {moved:.2f} | {least:.2f} | {measured:.2f} | {least / measured:.2f} |"
        )


def total(name, rows):
    return name, *(sum(row[i] for row in rows) for i in range(1, 6))


class Counter(TorchDispatchMode):
    """Counts what is computed: `kinds`, from an operation's name to its calls, multiplications, bytes and seconds.

    Views are left out.
    """

    def __init__(self):
        super().__init__()
        self.kinds = defaultdict(lambda: [0, 0, 0, 0.0])

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        began = clock()
        result = func(*args, **(kwargs or {}))
        seconds = clock() - began
        if not func.is_view:
            name = func.overloadpacket.__name__
            tensors = {id(t): t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)}
            moved = sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in tensors.values())
            row = self.kinds[KINDS.get(name, name)]
            for i, value in enumerate((1, multiplications(name, args, result), moved, seconds)):
                row[i] += value
        return result


def multiplications(name, args, result):
    if name.startswith("conv"):
        return result.numel() * args[1][0].numel()
    if name in ("mm", "bmm", "matmul"):
        return result.numel() * args[0].shape[-1]
    return result.numel() * args[1].shape[-1] if name.startswith("baddbmm") else 0


# Operations that are one kind.
KINDS = {
    **dict.fromkeys(("conv3d", "convolution"), "convolutions"),
    **dict.fromkeys(("mm", "bmm", "matmul", "baddbmm", "baddbmm_"), "matrix products"),
    **dict.fromkeys(
        ("copy_", "clone", "cat", "pad", "constant_pad_nd", "contiguous", "stack", "reshape", "flatten"), "copies"
    ),
    **dict.fromkeys(("add", "add_", "relu_", "maximum", "lerp"), "sums, maxima, interpolations"),
}


def print_rows(name, seconds, peaks):
    first, *others = seconds
    for side in seconds:
        print(f"| {name}, {side} | {seconds[side]:.2f} | {peaks[side]:.0f} |")
    for other in others:
        print(f"| {first} / {other} | {seconds[first] / seconds[other]:.2f} | {peaks[first] / peaks[other]:.2f} |")


def kernels_of(make):
    layer = GaborConv3d(192, 192).to(device)
    parameters = [getattr(layer, name) for name in PARAMETER_NAMES]
    gradient = torch.randn(192, 192, 7, 7, 7, device=device)

    def run():
        layer.zero_grad()
        make(*parameters, 7).backward(gradient)

    return run


def separated(sigma, theta_y, theta_z, amplitude_re, amplitude_im, frequency_re, frequency_im, phase, k):
    """Eq. (2), separated, as one writes it in torch, for autograd."""
    u = torch.arange(k, dtype=sigma.dtype, device=sigma.device) - k // 2
    envelope = torch.exp(-0.5 * (u / sigma[..., None]) ** 2)
    row = theta_y.sin(), -theta_y.cos() * theta_z.sin(), theta_y.cos() * theta_z.cos()
    result = 0
    for frequency, amplitude, shift in ((frequency_re, amplitude_re, 0), (frequency_im, amplitude_im, math.pi / 2)):
        z, y, x = [2 * math.pi * (frequency * part)[..., None] * u for part in row]
        z, y, x = [torch.polar(envelope, angle) for angle in (z, y, x + (phase - shift)[..., None])]
        plane = z[..., :, None] * y[..., None, :] * amplitude[..., None, None]
        result = result + plane.real[..., None] * x.real[..., None, None, :]
        result = result - plane.imag[..., None] * x.imag[..., None, None, :]
    return result


KERNELS = {"own": lambda: kernels_of(gabor_kernels), "autograd": lambda: kernels_of(separated)}


def training_step(network, size):
    network.train().to(device)
    image = torch.rand(1, 1, size, size, size, device=device)
    labels = torch.randint(0, 20, (1, size, size, size), device=device)
    criterion = PCCLoss()

    def run():
        network.zero_grad(set_to_none=True)
        criterion(network(image), labels).backward()

    return run


def with_plain_convolutions(network):
    """The network with an ``nn.Conv3d`` that is trained in the place of each `GaborConv3d`."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, GaborConv3d):
                plain = nn.Conv3d(child.in_channels, child.out_channels, child.kernel_size, padding="same", bias=False)
                setattr(module, name, plain)
    return network


TRAINING = {
    "Gabor layers": lambda size: training_step(build_network("mixed"), size),
    "plain 7^3": lambda size: training_step(with_plain_convolutions(build_network("mixed")), size),
}


def inference(variant, side, size):
    network = bake_kernels(build_network(variant, dropout=0.0)).eval()
    if side == "direct":
        for module in network.modules():
            if isinstance(module, BakedConv3d):
                module.__class__ = nn.Conv3d
    cube = torch.rand(1, 1, size, size, size)

    def run():
        with torch.inference_mode():
            network(cube)

    return run


def spatial_layers(network, size):
    """A network's convolutions of other kernels than 1^3, alike ones once: ((name, module, input's shape), count)."""
    found = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda module, inputs, name=name: found.setdefault(
                (module.in_channels, module.out_channels, *inputs[0].shape), []
            ).append((name, module, tuple(inputs[0].shape)))
        )
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1
    ]
    with torch.no_grad():  # in inference mode large layers are done in slabs
        network(torch.rand(1, 1, size, size, size))
    for hook in hooks:
        hook.remove()
    return [(layers[0], len(layers)) for layers in found.values()]


def taps_that_meet_a_voxel(size, k):
    """Taps over all voxels that stand on a voxel of the volume, and not beside it."""
    reach = k // 2
    return math.prod(sum(min(n, i + reach + 1) - max(0, i - reach) for i in range(n)) for n in size)


def matrix_rate():
    """Multiplications a second of a large matrix product, the best of several."""
    a = torch.randn(1024, 1024)
    times = []
    for _ in range(20):
        began = clock()
        a @ a
        times.append(clock() - began)
    return 1024**3 / min(times)


def copy_rate():
    """Bytes a second that a large copy reads and writes, the best of several."""
    a, b = torch.randn(2**26), torch.randn(2**26)
    times = []
    for _ in range(10):
        began = clock()
        b.copy_(a)
        times.append(clock() - began)
    return 2 * a.numel() * a.element_size() / min(times)


def alternated(sides, runs):
    """Median seconds of each side, run in turns after once without the clock."""
    times = {side: [] for side in sides}
    for turn in range(runs + 1):
        for side, run in sides.items():
            began = now()
            run()
            if turn:
                times[side].append(now() - began)
    return {side: statistics.median(values) for side, values in times.items()}


def now():
    """The clock, after all that the GPU was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


def own_peak(part, side, size):
    """Peak memory of two runs of a side beyond what there was before them, MiB, in a process of its own."""
    command = [sys.executable, __file__, "--size", str(size), "--device", str(device), "--peak", f"{part},{side}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_of(part, side, size):
    if part == "kernels":
        run = KERNELS[side]()
    elif part == "training":
        run = TRAINING[side](size)
    else:
        run = inference(part, side, size)
    before = peak()
    run()
    run()
    return (peak() - before) / MIB


def peak():
    """Bytes; of torch's tensors on a GPU; on Linux of this program alone: `getrusage` counts its parent's, too."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
