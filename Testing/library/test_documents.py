"""The documents against the tree: links, names of files, commands with their options, addresses."""

import json
import re
import shlex
from pathlib import Path

import pytest

from GaborSegLib.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), REPOSITORY / "Testing/host/README.md"])
WRITTEN_BY_A_PROGRAM = ("models.md",)
README = REPOSITORY / "README.md"
FOLDERS = "GaborSegLib|GaborSegPanel|GaborSeg|Resources|Testing|docs|.ci"
# Files with the options that scripts share.
SHARED_OPTIONS = {"benchmarks": ["benchmarks/scans.py"], "paper": ["paper/study.py", "paper/schedule.py"]}
HOME = {"GaborSeg/runs", "GaborSeg/corrections"}  # of the user's home folder


def read(path):
    return path.read_text(encoding="utf-8")


def links(document):
    """(path that a link or picture leads to, anchor or "") of a document, without those to other sites."""
    found = re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', read(document))
    for target in (a or b for a, b in found):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            yield ((document.parent / path).resolve() if path else document), anchor


def anchors(document):
    """What links can name in a document: its headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", read(document), flags=re.DOTALL | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(document):
    """The command lines in a document: of its blocks for a shell, and in the text between back quotes."""
    text = read(document)
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        yield from (line.strip() for line in block.replace("\\\n", " ").splitlines())
    yield from re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL).replace("\n", " "))


def words(command):
    return shlex.split(command, comments=True)


def of_every_document(test):
    return pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())(
        test
    )


@of_every_document
def test_links_lead_somewhere(document):
    for path, anchor in links(document):
        assert path.exists(), f"{document.name}: {path}"
        assert not anchor or anchor in anchors(path), f"{document.name}: {path.name} has no heading #{anchor}"


@of_every_document
def test_files_that_are_named_exist(document):
    for name in re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./-]*\w", read(document)):
        assert name in HOME or (REPOSITORY / name).exists(), f"{document.name}: {name}"
    here = {path.name for folder in FOLDERS.split("|") for path in (REPOSITORY / folder).rglob("*.py")}
    for name in re.findall(r"`(\w+\.py)\b", read(document)):
        assert name in here, f"{document.name}: {name}"


@of_every_document
def test_commands_of_gaborseg_have_these_options(document, capsys):
    helps = {}
    for command in commands(document):
        if not command.startswith("gaborseg "):
            continue
        name, *rest = words(command)[1:]
        if name.startswith("-") or name.isupper():
            continue
        if name not in helps:
            with pytest.raises(SystemExit) as ended:
                main([name, "--help"])
            assert ended.value.code == 0, f"{document.name}: {command}"
            helps[name] = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", capsys.readouterr().out))
        options = {word for word in rest if re.match(r"--?[a-z]", word)}
        assert options <= helps[name] | {"--help"}, f"{document.name}: {command}"


@of_every_document
def test_recipes_and_make_targets_that_are_named_exist(document):
    recipes = {path.stem: len(json.loads(read(path))["stages"]) for path in REPOSITORY.glob("Resources/Recipes/*.json")}
    targets = set(re.findall(r"^([\w-]+):", read(REPOSITORY / "Makefile"), re.M))
    for command in commands(document):
        for name, number in re.findall(r"--recipe ([a-z][\w-]*)(?::(\d+))?", command):
            assert int(number or 1) <= recipes.get(name, 0), f"{document.name}: {command}"
            assert number or recipes[name] == 1, f"{document.name}: {command} has several stages"
        target = re.match(r"make ([a-z][\w-]*)", command)
        assert not target or target[1] in targets, f"{document.name}: {command}"


@of_every_document
def test_options_of_the_benchmarks_exist(document, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    of_training = capsys.readouterr().out
    for command in commands(document):
        if file := re.search(r"Testing/(benchmarks|paper)/\w+\.py", command):
            own = read(REPOSITORY / file[0])
            common = "".join(read(REPOSITORY / "Testing" / path) for path in SHARED_OPTIONS[file[1]])
            for option in re.findall(r"(?<!\S)--[a-z-]+", command):
                handed_on = "parse_known_args" in own and f"{option} " in of_training
                assert f'"{option}"' in own + common or handed_on, f"{document.name}: {command}"


def test_the_readme_is_short_and_leads_to_every_document_and_every_picture_is_shown():
    assert len(read(README).splitlines()) <= 150
    reached, ahead = set(), [README]
    while ahead:
        document = ahead.pop()
        reached.add(document)
        if document.suffix == ".md":
            ahead += [path for path, _ in links(document) if path.is_file() and path not in reached]
    wanted = {path for path in DOCUMENTS if path.parent != REPOSITORY or path.name == "CONTRIBUTING.md"}
    assert wanted | set(REPOSITORY.glob("docs/images/*")) <= reached


@of_every_document
def test_lines_are_wrapped(document):
    if document.name not in WRITTEN_BY_A_PROGRAM:
        long = [line for line in read(document).splitlines() if len(line) > 120 and not line.startswith(("|", '  "$'))]
        assert not long


# Publishing


def extension(text):
    """Values that CMakeLists.txt gives, as the Extensions Index reads them: the first of each, as text."""
    return dict(reversed(re.findall(r'set\s*\(EXTENSION_(\w+)\s*"([^"]+)"', text)))


def test_the_addresses_follow_from_one_line():
    text = read(REPOSITORY / "CMakeLists.txt")
    assert len(re.findall(r"set\(GABORSEG_REPOSITORY ", text)) == 1
    values = extension(text.replace("${GABORSEG_REPOSITORY}", "OWNER/SlicerGaborSeg"))
    assert re.fullmatch(r"https://github.com/[\w-]+/SlicerGaborSeg", values["HOMEPAGE"])
    pictures = [values["ICONURL"], *values["SCREENSHOTURLS"].split()]
    assert len(pictures) > 1
    for address in pictures:
        _, path = re.fullmatch(
            r"https://raw.githubusercontent.com/([\w-]+/SlicerGaborSeg)/main/(\S+)", address
        ).groups()
        assert (REPOSITORY / path).is_file(), path


def test_the_catalogs_entry_agrees_with_cmake():
    text = read(REPOSITORY / "CMakeLists.txt")
    (entry,) = re.findall(r"```json\n(.*?)```", read(REPOSITORY / "docs/publishing.md"), re.DOTALL)
    entry, values = json.loads(entry), extension(text)
    assert entry["category"] == values["CATEGORY"]
    assert entry["build_dependencies"] == values["DEPENDS"].split()
    assert set(entry) == {"$schema", "category", "scm_url", "scm_revision", "build_dependencies", "tier"}
    assert re.search(r"project\((\w+)\)", text)[1] == "GaborSeg"  # the entry's file is GaborSeg.json
