"""What is there to compute with: packages, devices and their memory."""

import ctypes
import os
import sys
from importlib import metadata

from .errors import GaborSegError
from .protocol import REQUIREMENTS, is_enough

OPTIONAL = ("tqdm", "matplotlib")  # for a terminal and for pictures
# Largest memory of a run, measured at 128^3 with the conventional, mixed and gabor networks (the last): 1.7 GiB beyond
# Python and torch; see Testing/benchmarks.
CUBE_MIB = 1700
CUBE_SIZE = 128
PROGRAM_MIB = 500
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
    total, free = _main_memory()
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


def memory_needed(voxels, cube_size=CUBE_SIZE):
    """An estimate of the memory that segmenting a scan of so many voxels takes, MiB."""
    return round(PROGRAM_MIB + CUBE_MIB * (cube_size / CUBE_SIZE) ** 3 + BYTES_PER_SCAN_VOXEL * voxels / 2**20)


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


def _main_memory():
    """Total and free main memory, MiB; None where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            kib = {line.split(":")[0]: int(line.split()[1]) for line in file}
        return kib["MemTotal"] >> 10, kib["MemAvailable"] >> 10
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20, None
    except (AttributeError, OSError, ValueError):
        return None, None
