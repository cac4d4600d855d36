"""Time and memory of each variant on one 128^3 cube: `make bench`.

Each variant runs in a process of its own, so that its peak memory is its own; "beyond start" is what inference adds to
Python, torch and the loaded network. Times are ratios to the conventional variant of the same run: machines are noisy.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

VARIANTS = ("conventional", "mixed", "gabor")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128, help="edge of the cube (default: 128)")
    parser.add_argument("--runs", type=int, default=3, help="timed runs, after one that is not (default: 3)")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options.size, options.runs)))
        return
    rows = {variant: in_own_process(variant, options) for variant in VARIANTS}
    base = rows["conventional"]["seconds"]
    print(f"One {options.size}^3 cube on the CPU, {rows['mixed']['threads']} threads, torch {rows['mixed']['torch']}")
    print(f"{'variant':<14}{'parameters':>12}{'seconds':>10}{'ratio':>8}{'peak MiB':>10}{'beyond start':>14}")
    for variant, row in rows.items():
        print(
            f"{variant:<14}{row['parameters']:>12,}{row['seconds']:>10.2f}{row['seconds'] / base:>8.2f}"
            f"{row['peak_mib']:>10.0f}{row['peak_mib'] - row['start_mib']:>14.0f}"
        )


def in_own_process(variant, options):
    command = [sys.executable, __file__, "--variant", variant, "--size", options.size, "--runs", options.runs]
    return json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout)


def measure(variant, size, runs):
    import torch

    from GaborSegLib.gabor import bake_kernels
    from GaborSegLib.network import build_network

    network = build_network(variant, dropout=0.0).eval()
    parameters = sum(p.numel() for p in network.parameters())
    bake_kernels(network)
    start = peak_mib()
    cube = torch.rand(1, 1, size, size, size)
    times = []
    with torch.inference_mode():
        for _ in range(runs + 1):
            began = time.perf_counter()
            network(cube)
            times.append(time.perf_counter() - began)
    return {
        "parameters": parameters,
        "seconds": statistics.median(times[1:]),
        "start_mib": start,
        "peak_mib": peak_mib(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
