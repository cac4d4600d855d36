"""What may happen to an input: damage to bytes, fields, text, JSON and paths, which every kind of input draws from."""

import bz2
import copy
import gzip
import json
import math
import os
import shutil
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path

NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 15, 17, 151, 255, 256, 700, 2000, 32767, 65535, 10**5, 10**6, 10**9, 10**18, 10**30),
    *(-3, -(2**31), 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**64, 0.5, 1.5, -0.5, 3e-7, 1e-300, 1e300),
    *(math.nan, math.inf, -math.inf),
)
WORDS = (
    *("", " ", "0", "-1", "1e999", "nan", "true", "null", "0x10", "%d%s%n", "%n%n%n%n", "%s" * 200, "x" * 300),
    *("x" * 5000, "..", "../../../etc/passwd", "/dev/zero", "=1+1", "@x", "+x", "-x", "\t=1", "a\nb", "a\rb", "\x00"),
    *("\x1b[31mred\x1b[0m", "ä", "名前", "a\u202eb", "\ud800", '"', "'", ",", ";", "#", "[", "{}", "$(id)", "`id`"),
)
NESTED = "[" * 100_000 + "]" * 100_000
# A gzip file of 64 MB of zeros in 64 kB, and a bz2 file of 45 MB in 50 bytes: such files one after the other are one.
_MEMBERS = {}


@dataclass
class Case:
    """One input and what is done with it.

    Args:
        arguments: of `gaborseg`, a list of strings; paths are relative to the case's folder.
        names: texts of which an error's message has to hold one, by default the folders of inputs and of outputs.
        same_as: path of the whole scan whose voxels must be read from the damaged one, if it is read at all.
        refused: there is no right result, so that it has to be refused.
        leaves: what was written stays after a refusal: results of other scans, a run that had begun.
        keeps: folder whose files may be renamed, but of which no content may be lost by a refusal.
    """

    arguments: list
    names: tuple = ("given", "made")
    same_as: Path | None = None
    refused: bool = False
    leaves: bool = False
    keeps: str | None = None


@dataclass
class Draw:
    """What a case is drawn with.

    Args:
        random: a seeded `random.Random`, from which alone everything follows.
        folder: of the case: inputs go into `given`, outputs into `made`.
        seeds: folder of the sound inputs, see `seeds.make_seeds`.
        sound: damage nothing, so that it has to work.
    """

    random: object
    folder: Path
    seeds: Path
    sound: bool = False
    given: Path = field(init=False)

    def __post_init__(self):
        self.given = self.folder / "given"

    def chance(self, probability):
        """Whether something is done that damages; never in a sound case."""
        return not self.sound and self.random.random() < probability

    def choice(self, options):
        return self.random.choice(list(options))

    def number(self):
        return self.choice(NUMBERS)

    def word(self):
        return self.choice(WORDS)

    def copy(self, name, target=None):
        """Copy a seed, a file or a folder, to the inputs; its new path. Paths of it in the case are relative."""
        source, target = self.seeds / name, self.given / (target or name)
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        return target

    def relative(self, path):
        return str(Path(path).relative_to(self.folder))

    def command(self, *words):
        """The arguments of a command, as an operating system can hand them over; every second one tells events."""
        words = [str(word).replace("\0", "").replace("\ud800", "\udcff") for word in words]
        return [*words, *["--json"] * self.random.getrandbits(1)]

    # Damage

    def bytes(self, data, start=0):
        """Bytes with one to three of them flipped, a part cut, grown, zeroed or moved, from `start` on."""
        if self.sound or len(data) <= start:
            return data
        data, random = bytearray(data), self.random
        first = random.randrange(start, len(data))
        # Headers are short, and most of what is wrong is wrong there.
        if random.random() < 0.4:
            first = random.randrange(start, min(len(data), start + 400))
        length = random.choice((1, 4, 16, 1000, len(data)))
        kind = random.choice(
            ("flip", "flip", "flip", "cut", "end", "insert", "zero", "ones", "repeat", "noise", "none")
        )
        if kind == "flip":
            for _ in range(random.choice((1, 1, 3))):
                data[min(first + random.randrange(length), len(data) - 1)] ^= 1 << random.randrange(8)
        elif kind == "cut":
            del data[first : first + length]
        elif kind == "end":
            del data[first:]
        elif kind == "insert":
            data[first:first] = random.randbytes(min(length, 5000))
        elif kind in ("zero", "ones"):
            part = data[first : first + length]
            data[first : first + length] = (b"\0" if kind == "zero" else b"\xff") * len(part)
        elif kind == "repeat":
            data[first:first] = data[first : first + length]
        elif kind == "noise":
            part = data[first : first + length]
            data[first : first + length] = random.randbytes(len(part))
        else:
            data.clear()
        return bytes(data)

    def fields(self, data, fields, order="<"):
        """Binary data with one to three fields of a header rewritten.

        Args:
            data: bytes.
            fields: dictionary from name to (offset, how many, format of `struct`).
            order: of bytes, `<` or `>`.
        """
        data = bytearray(data)
        for _ in range(0 if self.sound else self.choice((1, 1, 2, 3))):
            offset, count, kind = fields[self.choice(fields)]
            place = offset + self.random.randrange(count) * struct.calcsize(kind)
            struct.pack_into(order + kind, data, place, self._fitting(kind))
        return bytes(data)

    def _fitting(self, kind):
        """An absurd number as a field of a format can hold it."""
        number = self.number()
        if kind in "fd":
            limit = 3.4e38 if kind == "f" else math.inf
            return float(number) if abs(number) <= limit or number != number else math.copysign(math.inf, number)
        bits = 8 * struct.calcsize("<" + kind)
        value = (int(number) if math.isfinite(number) else 0) % (1 << bits)
        return value - (1 << bits) if kind.islower() and value >> (bits - 1) else value

    def text(self, text):
        """Text with a word of it replaced, a line doubled, dropped, made long, or bytes damaged; bytes."""
        data = text.encode("utf-8", "surrogatepass")
        if self.sound:
            return data
        lines = text.split("\n")
        place, kind = self.random.randrange(len(lines)), self.random.randrange(6)
        if kind < 3:
            words = lines[place].replace(",", " , ").split(" ")
            words[self.random.randrange(len(words))] = str(self.choice((self.word, self.number))())
            lines[place] = " ".join(words).replace(" , ", ",")
        elif kind == 3:
            lines[place : place + 1] = self.choice(([], [lines[place]] * 2, [lines[place] * 2], [self.word()]))
        elif kind == 4:
            lines[place] += "x" * self.choice((1000, 1_000_000))
        else:
            return self.bytes(data)
        return "\n".join(lines).encode("utf-8", "surrogatepass")

    def json(self, value):
        """A copy of what was read from JSON, with one to three values replaced, dropped, doubled or nested."""
        value = copy.deepcopy(value)
        for _ in range(0 if self.sound else self.choice((1, 1, 2, 3))):
            value = self._json(value)
        return value

    def _json(self, value):
        if isinstance(value, (dict, list)) and value and self.random.random() < 0.85:
            key = self.choice(value if isinstance(value, dict) else range(len(value)))
            kind = self.random.random()
            if kind < 0.12:
                del value[key]
            elif kind < 0.2 and isinstance(value, list):
                value *= self.choice((2, 20))
            elif kind < 0.2:
                value[self.word()] = value[key]
            else:
                value[key] = self._json(value[key])
            return value
        if isinstance(value, int) and not isinstance(value, bool) and self.random.random() < 0.6:
            return self.number()
        return self.choice(
            (self.number(), self.word(), self.word(), None, True, [], {}, [value], {"a": value}, ["a"] * 300)
        )

    def dump(self, value):
        """JSON as text, now and then nested deeper than readers can follow."""
        text = json.dumps(value)
        if self.chance(0.05):
            text = self.choice((NESTED, text[:-1] + ', "nested": ' + NESTED + "}", text[: len(text) // 2]))
        return text

    def other_file(self, path):
        """Put something into a file's place that is no file, or is another one."""
        if self.sound:
            return
        whole = path.read_bytes()
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        kind = self.random.randrange(9)
        if kind == 0:
            os.mkfifo(path)
        elif kind == 1:
            path.symlink_to(path.name)  # to itself
        elif kind == 2:
            path.symlink_to("nowhere")
        elif kind == 3:
            path.symlink_to(self.choice(("/dev/zero", "/dev/null", "/dev/tty", "/proc/self/mem")))
        elif kind == 4:
            path.mkdir()
        elif kind == 5:
            path.touch()
        elif kind == 6:
            with socket.socket(socket.AF_UNIX) as end:
                here = os.getcwd()
                os.chdir(path.parent)  # a socket's path has to be short
                end.bind(path.name)
                os.chdir(here)
        elif kind == 7:
            path.with_name("linked").write_bytes(whole)
            path.symlink_to("linked")
        else:
            path.write_bytes(self.random.randbytes(3000))


def bomb(kind):
    """Bytes of a gzip or bz2 stream of 3 GB of zeros."""
    if kind not in _MEMBERS:
        zeros = bytes(64 << 20 if kind == "gzip" else 16 << 20)
        _MEMBERS[kind] = gzip.compress(zeros, 9, mtime=0) if kind == "gzip" else bz2.compress(zeros, 9)
    return _MEMBERS[kind] * (48 if kind == "gzip" else 192)
