"""What is there to compute with: packages, devices and their memory."""

import ctypes
import os
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from .errors import GaborSegError
from .protocol import REQUIREMENTS, is_enough

OPTIONAL = ("tqdm", "matplotlib")  # for a terminal and for pictures
# Largest memory of a run, measured at 128^3 with the conventional, mixed and gabor networks (the last): 1.7 GiB beyond
# Python and torch; see Testing/benchmarks.
CUBE_MIB = 1700
CUBE_SIZE = 128
PROGRAM_MIB = 500
# What that was measured with: channels of the finest level, classes, kernel size; and the largest number of kernels.
CHANNELS, CLASSES, KERNEL_SIZE, KERNELS = 12, 20, 7, 182_172
# Of a kernel's voxel, with its making; of a voxel of the cube and a class, with the mirror image and the scan's grid.
BYTES_PER_KERNEL_VOXEL, BYTES_PER_SCORE = 8, 12
# How OpenMP's threads are to wait for each other: for every runtime; for GCC's (torch on Linux), whose 1000 tries are
# 0.02 ms (as it comes it has 300,000); for LLVM's and Intel's (macOS, Windows), milliseconds.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
# From malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
# A scan in float32, turned and as read, and its labels.
BYTES_PER_SCAN_VOXEL = 16


def environment():
    """What is installed and which devices there are; works without torch.

    Returns:
        Dictionary: python (version), executable, versions (name to version, or None if it is not installed), missing
        (names needed to segment that are not installed, or in too old a version), devices (list of id, name, total_mib,
        free_mib; the CPU first).

    Raises:
        GaborSegError: torch is installed and cannot be loaded.
    """
    versions = {name: _version(name) for name in (*REQUIREMENTS, *OPTIONAL)}
    missing = missing_packages()
    total, free = main_memory()
    devices = [{"id": "cpu", "name": "CPU", "total_mib": total, "free_mib": free}]
    if "torch" not in missing:
        devices += _gpus(versions["torch"])
    return {
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "versions": versions,
        "missing": missing,
        "devices": devices,
    }


def missing_packages():
    """Names of what segmenting needs and is not installed, or in too old a version; nothing is imported for that."""
    return [name for name, oldest in REQUIREMENTS.items() if not is_enough(_version(name), oldest)]


def wait_asleep():
    """Have the threads of OpenMP sleep soon when they wait for each other; to be called before torch is imported.

    As they come they try again and again for milliseconds, and on a busy machine take the core from the very thread
    that they wait for. Where a user has set one of these variables, all stay as they are. Processes that are started
    inherit them.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ.update(WAITING)


def keep_freed_memory():
    """Let this process keep the memory that it frees, for its next tensors; Linux with glibc only, elsewhere nothing.

    As it comes, glibc takes every large tensor from the system anew, a page at a time, each of which the system first
    fills with zeros. In a network at full size that took a third of the time. It is meant for a process of our own: the
    command line, not Slicer.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_ARENA_MAX, 1)  # what one thread freed is there for the others; other arenas have no large blocks


def memory_needed(voxels, cube_size=CUBE_SIZE, network=None):
    """An estimate of the memory that segmenting a scan takes, MiB; training takes more.

    Args:
        voxels: of the scan.
        cube_size: edge of the network's cube, voxels.
        network: a card, or a dictionary of `protocol.NETWORK_KEYS`; one of the paper's sizes by default.
    """
    network = network or {}
    channels, classes = network.get("base_channels", CHANNELS) / CHANNELS, network.get("classes", CLASSES)
    sizes = {"conventional": ["conventional"], "gabor": ["gabor"]}.get(
        network.get("variant"), ["conventional", "gabor"]
    )
    kernel = max(network.get(f"{name}_kernel_size", KERNEL_SIZE) for name in sizes)
    cube = CUBE_MIB * (cube_size / CUBE_SIZE) ** 3 * max(1, channels)
    more = [
        (KERNELS * (channels**2 * kernel**3 - KERNEL_SIZE**3)) * BYTES_PER_KERNEL_VOXEL,
        (classes - CLASSES) * cube_size**3 * BYTES_PER_SCORE,
    ]
    scan = BYTES_PER_SCAN_VOXEL * voxels
    return round(PROGRAM_MIB + cube + (scan + sum(bytes for bytes in more if bytes > 0)) / 2**20)


def memory_lack(needed, beside=0):
    """What to say where more memory is needed than there is, in one clause, else None.

    Args:
        needed: MiB.
        beside: MiB of a GPU that may be taken in the place of main memory.
    """
    most, _ = main_memory()
    if most is None or needed <= max(most, beside):
        return None
    return f"about {needed} MiB of memory are needed, there are {max(most, beside)} MiB"


def is_out_of_memory(error):
    """Whether an error says that the memory of a GPU or of the computer ran out."""
    import torch

    # Of the CPU, where torch, its allocator, oneDNN and ITK have words of their own for it.
    words = ("not enough memory", "allocate memory", "could not create a memory", "out of memory", "bad_alloc")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpus(version):
    try:
        import torch
    except (ImportError, OSError) as error:  # such as a DLL that does not go with those of the application
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GaborSegError(
            f"torch {version}: is installed and cannot be loaded ({reason}); install another version, "
            f"{REQUIREMENTS['torch']} or later (in 3D Slicer: module PyTorch Utils)"
        ) from error
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found.append({"id": f"cuda:{index}", "name": name, "total_mib": total >> 20, "free_mib": free >> 20})
    return found


def main_memory():
    """Total and free main memory, MiB: what this process may have of it; None where the system does not tell."""
    total = free = None
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            kib = {line.split(":")[0]: int(line.split()[1]) for line in file}
        total, free = kib["MemTotal"] >> 10, kib["MemAvailable"] >> 10
    except (OSError, KeyError, ValueError):
        with suppress(AttributeError, OSError, ValueError):
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    limits = [limit for limit in (total, *_memory_limits()) if limit is not None]
    return min(limits, default=None), free


def _memory_limits():
    """Yield limits of this process's memory, MiB: of its container, and its own (`ulimit -v`)."""
    with suppress(OSError, ValueError):  # a container without a limit says "max"
        yield int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")) >> 20
    with suppress(ImportError, OSError):
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            yield soft >> 20
