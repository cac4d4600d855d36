"""Parameters, time and memory of our networks on one cube, beside those that people use: `make bench`.

Every network runs in processes of its own, so that its peak memory is its own; "beyond start" is what inference adds to
Python, torch and the loaded network. The networks take turns, round by round, and times are medians over the rounds:
machines are noisy, and the ratio to the mixed network says more than the seconds. Where other work runs beside, take
--threads 1 and the ratio of the CPU seconds, which that hardly changes. All have one channel in and twenty
classes out; weights are not trained, which changes neither time nor memory. Ours run as `Segmenter` runs them.

The peers are MONAI's: UNet as in its tutorials (16 to 256 channels, two residual units), SegResNet with 16 initial
filters, DynUNet as nnU-Net plans it for this cube (six levels, kernels of 3, 32 to 320 filters), and VNet as it comes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OURS = ("conventional", "mixed", "gabor")
PEERS = ("UNet", "SegResNet", "DynUNet", "VNet")
BASE = "mixed"
CLASSES = 20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="edge of the cube (default: 128)")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each network (default: 3)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: all cores)")
    parser.add_argument("--networks", nargs="+", default=[*OURS, *PEERS], choices=[*OURS, *PEERS], metavar="NAME")
    parser.add_argument(
        "--keep-memory", action="store_true", help="let every network keep freed memory, as our command line does"
    )
    parser.add_argument("--measure", choices=[*OURS, *PEERS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.keep_memory:
        from GaborSegLib.environment import keep_freed_memory

        keep_freed_memory()
    if options.measure:
        print(json.dumps(measure(options.measure, options.size, options.threads)))
        return
    results = {name: [] for name in options.networks}
    for _ in range(options.rounds):
        for name in results:
            results[name].append(in_own_process(name, options))
            print(f"{name}: {results[name][-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
    facts = next(iter(results.values()))[0]
    print(
        f"One {options.size}^3 cube on the CPU, {facts['threads']} threads, torch {facts['torch']}"
        f"{', freed memory kept' if options.keep_memory else ''}\n"
    )
    print(table({name: middle(rounds) for name, rounds in results.items()}))


def in_own_process(name, options):
    command = [sys.executable, __file__, "--measure", name, "--size", str(options.size)]
    command += ["--threads", str(options.threads)] if options.threads else []
    command += ["--keep-memory"] if options.keep_memory else []
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(name, size, threads=None):
    import torch

    from GaborSegLib.timing import peak_mib

    if threads:
        torch.set_num_threads(threads)
    network = (our if name in OURS else peer)(name)
    start = peak_mib()
    cube = torch.rand(1, 1, size, size, size)
    with torch.inference_mode():
        for _ in range(2):  # the first one also sets things up
            began = time.perf_counter(), time.process_time()
            result = network(cube)
            seconds, cpu_seconds = time.perf_counter() - began[0], time.process_time() - began[1]
    assert result.shape == (1, CLASSES, size, size, size), result.shape
    return {
        "parameters": parameters(name) if name in OURS else sum(p.numel() for p in network.parameters()),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "start_mib": start,
        "peak_mib": peak_mib(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def our(name):
    """One of our networks as `Segmenter` runs it."""
    from GaborSegLib.inference.segmenter import Segmenter
    from GaborSegLib.model.network import build_network
    from GaborSegLib.model.weights import save_weights

    settings = {
        "conventional_kernel_size": 3,
        "gabor_kernel_size": 7,
        "in_channels": 1,
        "classes": CLASSES,
        "base_channels": 12,
    }
    names = [str(i) for i in range(1, CLASSES)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.safetensors"
        card = {"variant": name, **settings, "structures": names, "grid_size": 128, "field": "cube"}
        save_weights(path, build_network(name, **settings), card)
        return Segmenter(path, "cpu").network


def parameters(name):
    """How many one of ours has, before its kernels are computed."""
    import torch

    from GaborSegLib.model.network import build_network

    with torch.device("meta"):
        return sum(p.numel() for p in build_network(name, classes=CLASSES).parameters())


def peer(name):
    from monai.networks import nets

    if name == "UNet":
        network = nets.UNet(3, 1, CLASSES, channels=(16, 32, 64, 128, 256), strides=(2,) * 4, num_res_units=2)
    elif name == "SegResNet":
        network = nets.SegResNet(spatial_dims=3, init_filters=16, in_channels=1, out_channels=CLASSES)
    elif name == "DynUNet":
        strides, filters = [1, 2, 2, 2, 2, 2], (32, 64, 128, 256, 320, 320)
        network = nets.DynUNet(3, 1, CLASSES, [3] * 6, strides, strides[1:], filters=filters)
    else:
        network = nets.VNet(3, 1, CLASSES)
    return network.eval()


def middle(rounds):
    """The median of each number of some measurements of one network."""
    numbers = ("parameters", "seconds", "cpu_seconds", "start_mib", "peak_mib")
    return {key: statistics.median(result[key] for result in rounds) for key in numbers}


def table(rows):
    """Markdown: a line for each network, with ratios to the mixed one (or the first)."""
    base = rows.get(BASE) or next(iter(rows.values()))
    titles = ("network", "parameters", "seconds", "ratio", "CPU seconds", "ratio", "peak, MiB", "beyond start", "ratio")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, row in rows.items():
        beyond, base_beyond = (r["peak_mib"] - r["start_mib"] for r in (row, base))
        lines.append(
            f"| {name} | {row['parameters']:,.0f} | {row['seconds']:.2f} | {row['seconds'] / base['seconds']:.2f} "
            f"| {row['cpu_seconds']:.2f} | {row['cpu_seconds'] / base['cpu_seconds']:.2f} "
            f"| {row['peak_mib']:.0f} | {beyond:.0f} | {beyond / base_beyond:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
