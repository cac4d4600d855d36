"""Weight files: their bytes, their headers, what their cards say, and numbers that are none."""

import hashlib
import json
import pickle
import struct

import numpy as np

from .damage import NESTED, Case
from .seeds import TRAIN


def read(data):
    """(header, bytes of the tensors) of a safetensors file."""
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def checksum(header, body):
    """As the card has it, computed from the file alone: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(header.keys() - {"__metadata__"}):
        entry = header[name]
        kind = {"F16": "torch.float16", "F32": "torch.float32"}[entry["dtype"]]
        digest.update(f"{name} {kind} {tuple(entry['shape'])}\n".encode())
        digest.update(body[slice(*entry["data_offsets"])])
    return digest.hexdigest()


CARD = {
    "structures": (["x"] * 300, ["", ""], [1, 2], ["\ud800"], ["=1+1"] * 20, ["a\x1b[31m"] * 20, "abc", {"a": 1}),
    "gabor_kernel_size": (151, 4, 0, -1, 3.0, "3", 10**6, True),
    "conventional_kernel_size": (151, 4, 0, -1, 3.0, "3", 10**6),
    "grid_size": (700, 10**6, 17, 0, -16, 15, 16.5, "16", None, 1 << 70),
    "base_channels": (100_000, 5, 0, -4, "4", 10**9),
    "classes": (0, 1, 300, 10**9, -1, 20.0, "20"),
    "in_channels": (2, 0, 10**9, -1, 1.0),
    "variant": ("x", None, 3, ["mixed"], "MIXED"),
    "field": ("x", None, "content", ["cube"]),
    "find_brain": (True, "yes", 3, None, []),
    "format": (0, 2, -1, "1", None, 1.0, True),
    "sha256": ("", None, 3, "0" * 64),
    "licence": ("\x1b[31m", ["x"], None, "x" * 100_000),
    "training": ("x", None, [], {"earlier_stages": "x"}, {"earlier_stages": {}}),
}


def _card(draw, header, body):
    card = json.loads(header["__metadata__"]["gaborseg"])
    if draw.chance(0.6):
        key = draw.choice(CARD)
        card[key] = draw.random.choice(CARD[key])
        if key == "structures" and draw.random.getrandbits(1):
            card["classes"] = len(card["structures"]) + 1
    elif not draw.sound:
        card = draw.json(card)
    header["__metadata__"]["gaborseg"] = draw.dump(card)
    return joined(header, body)


def _numbers(draw, header, body):
    """(a file with NaN, infinite or very large weights and the right checksum, whether some are no numbers)."""
    values = np.frombuffer(body, "<f2").copy()
    first, number = draw.random.randrange(len(values)), draw.choice((np.nan, np.inf, -np.inf, 65504))
    values[first : first + draw.choice((1, 100, len(values)))] = number
    body = values.tobytes()
    card = json.loads(header["__metadata__"]["gaborseg"])
    header["__metadata__"]["gaborseg"] = json.dumps({**card, "sha256": checksum(header, body)})
    return joined(header, body), not np.isfinite(number)


def _other(draw):
    """What is no such file at all."""
    way = draw.random.randrange(4)
    if way == 0:
        return pickle.dumps({"a": 1})
    if way == 1:
        return joined(NESTED.encode(), b"")
    if way == 2:
        return struct.pack("<Q", draw.choice((0, 1, 10**9, 2**63, 2**64 - 1))) + b"{}"
    return b"PK\x03\x04" + draw.random.randbytes(100)


def weights(draw):
    """A weight file, for every command that takes one."""
    path = draw.copy(draw.choice(("tiny.safetensors", "balls.safetensors")), "weights.safetensors")
    data = path.read_bytes()
    header, body = read(data)
    refused = False
    way = draw.random.random()
    if way < 0.25 or draw.sound:
        data = draw.bytes(data)
    elif way < 0.35:
        data = joined(draw.dump(draw.json(header)).encode("utf-8", "surrogatepass"), body)
    elif way < 0.75:
        data = _card(draw, header, body)
    elif way < 0.85:
        data, refused = _numbers(draw, header, body)
    elif way < 0.9:
        data = _other(draw)
    path.write_bytes(data)
    if way >= 0.9:
        draw.other_file(path)
    case = _use(draw, path)
    case.refused = refused and case.arguments[0] != "info"  # which reads the card alone
    return case


def _use(draw, path):
    word, names = draw.relative(path), ("weights", "unwritable")
    command = draw.choice(("info", "segment", "segment", "segment", "check", "export", "train", "evaluate"))
    if command == "info":
        return Case(draw.command("info", word), names)
    if command == "export":
        return Case(draw.command("export", word, "-o", draw.choice(("made/w.pt", "made/w.pt"))), names)
    if command in ("segment", "check"):
        scan = draw.relative(draw.copy("scan.nii.gz"))
        words = [command, scan, "--weights", word, "--device", "cpu"]
        words += ["-o", "made", "--no-mirror", "--seg-nrrd", "--volumes"] if command == "segment" else []
        return Case(draw.command(*words), names)
    data = draw.relative(draw.copy("data"))
    if command == "evaluate":
        if draw.sound:  # its structures are those of the data
            path.write_bytes((draw.seeds / "balls.safetensors").read_bytes())
        return Case(draw.command("evaluate", word, data, "-o", "made", "--device", "cpu"), names)
    return Case(
        draw.command("train", data, "-o", "made/run", *TRAIN, "--epochs", "1", "--init", word), names, leaves=True
    )


KINDS = (weights,)
