"""What a run is made of: the snapshot that it goes on from, recipes, entries for the card, and its options."""

import argparse
import json
import os
import socket

from GaborSegLib.cli.main import build_parser
from GaborSegLib.protocol import RECIPE_OPTIONS

from .damage import NESTED, Case
from .seeds import TRAIN
from .weights import joined, read


def resume(draw):
    """A run's folder in which something is damaged, or whose data have changed meanwhile."""
    data, run = draw.copy("data"), draw.copy("run")
    way = 0 if draw.sound else draw.random.random()
    files = sorted(run.iterdir())
    if 0 < way < 0.35:
        for file in draw.random.sample(files, draw.choice((1, 1, 2))):
            file.write_bytes(draw.bytes(file.read_bytes()))
    elif 0 < way < 0.6:
        path = draw.choice((run / "last.safetensors", run / "previous.safetensors"))
        path = path if path.exists() else run / "last.safetensors"
        header, body = read(path.read_bytes())
        if draw.random.getrandbits(1):
            facts = json.loads(header["__metadata__"]["facts"])
            header["__metadata__"]["facts"] = draw.dump(draw.json(facts))
        else:
            header = draw.json(header)
        path.write_bytes(joined(draw.dump(header).encode("utf-8", "surrogatepass"), body))
    elif 0 < way < 0.7:
        draw.other_file(draw.choice(files))
    elif 0 < way < 0.8:
        owner = {"pid": os.getppid(), "host": socket.gethostname(), "started": "?", "command": "gaborseg"}
        text = draw.choice(
            (draw.dump(draw.json(owner)), NESTED, "", "\x00", json.dumps({**owner, "command": "\x1b[31m"}))
        )
        (run / "run.lock").write_bytes(text.encode("utf-8", "surrogatepass"))
    elif 0 < way < 0.9:  # other structures by the same labels, or of other ids
        table = data / "structures.csv"
        changes = (("1,Shell", "1,Core"), ("2,Core", "2,Shell")), (("20-22", "20-21"),), (("3,Ball", "3,Bowl"),)
        for old, new in draw.choice(changes):
            table.write_text(table.read_text().replace(old, new))
    elif way:  # scans or label maps by others' names
        one, other = draw.random.sample(sorted((data / draw.choice(("images", "labels"))).iterdir()), 2)
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
    words = ["train", draw.relative(data), "-o", draw.relative(run), *TRAIN, "--resume"]
    return Case(draw.command(*words), refused=way >= 0.8, leaves=True, keeps="given/run")


def recipe(draw):
    """A recipe, or the entries for the card."""
    data = draw.relative(draw.copy("data"))
    words = ["train", data, "-o", "made/run", *TRAIN, "--epochs", "1"]
    if draw.random.getrandbits(1):
        path = draw.given / "facts.json"
        facts = {"data": "made", "licence": "none", "credits": ["a", "b"], "training": {"scans": 3}}
        path.write_bytes(draw.dump(draw.json(facts)).encode("utf-8", "surrogatepass"))
        words += ["--facts", draw.relative(path)]
    else:
        path = draw.given / "own.json"
        chosen = {"loss": "dice", "lr": 0.001, "seed": 3, "dropout": 0.1}
        if draw.chance(0.6):
            name, value = draw.choice(RECIPE_OPTIONS), draw.choice((draw.number(), draw.word(), None, [], {}, True))
            chosen[name] = 1 if _harmless([f"--{name}"], str(value)) == "1" else value
        content = {"description": "own", "stages": [{"options": chosen, "note": "n"}]}
        content = draw.json(content) if draw.chance(0.5) else content
        path.write_bytes(draw.dump(content).encode("utf-8", "surrogatepass"))
        words += ["--recipe", draw.relative(path) + ("" if draw.sound else draw.choice(("", "", ":1", ":2", ":0")))]
    if draw.chance(0.1):
        draw.other_file(path)
    return Case(draw.command(*words), ("given", "made", "--"), leaves=True)


# What a command needs, and options that keep it short: they stand last and win.
COMMANDS = {
    "segment": (("given/scan.nii.gz", "--weights", "given/tiny.safetensors", "-o", "made"), ("--device", "cpu")),
    "check": (("given/scan.nii.gz", "--weights", "given/tiny.safetensors"), ()),
    "train": (("given/data", "-o", "made/run", *TRAIN), ("--epochs", "1")),
    "data": (("given/data",), ()),
    "pack": (("given/data", "-o", "made/p.zip", "--grid-size", "16"), ()),
    "evaluate": (("given/balls.safetensors", "given/data", "-o", "made"), ()),
    "export": (("given/tiny.safetensors", "-o", "made/w.pt"), ()),
    "info": (("given/tiny.safetensors",), ()),
    "environment": ((), ()),
}
# Each starts a Python of its own; --resume and --gpus with nothing to go on with are tried elsewhere.
LEFT_OUT = ("--help", "--processes", "--debug", "--profile", "--overview")
# What is right, and takes longer than a case may.
LONG = {"--workers": range(3, 10**30), "--grid-size": range(33, 1025), "--base-channels": range(33, 2000)}


def options(draw):
    """Options of every command with absurd values; new options are tried because the parser has them."""
    for name in ("scan.nii.gz", "tiny.safetensors", "balls.safetensors", "data"):
        draw.copy(name)
    command = draw.choice(COMMANDS)
    needed, last = COMMANDS[command]
    actions = _actions(command)
    words = []
    for action in [] if draw.sound else draw.random.sample(actions, min(len(actions), draw.choice((1, 1, 2, 3)))):
        words.append(draw.choice(action.option_strings))
        if action.nargs != 0:
            value = str(draw.random.choice((draw.number(), draw.number(), draw.word(), *(action.choices or ()))))
            words.append(_harmless(action.option_strings, value))
    if draw.chance(0.1):
        words.append(draw.word())
    words_told = (word if len(word) > 2 else f"{word}:" for word in words)
    names = ("given", "made", "--", command, "unrecognized arguments", *words_told)
    return Case(draw.command(command, *needed, *words, *last), names, leaves=command == "train")


def _actions(command):
    """The optional arguments of a command."""
    commands = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    actions = commands.choices[command]._actions
    return [a for a in actions if a.option_strings and not set(LEFT_OUT) & set(a.option_strings)]


def _harmless(option, value):
    """An option's value that keeps the case short, and what it writes in the case's folder."""
    if set(option) & {"--output", "--cache"}:
        return "made/" + value.replace("..", "_")
    return "1" if any(_is_long(name, value) for name in option) else value


def _is_long(option, value):
    try:
        return int(float(value)) in LONG.get(option, ())
    except (ValueError, OverflowError):
        return False


KINDS = (resume, recipe, options)
