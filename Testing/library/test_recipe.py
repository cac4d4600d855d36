"""`gaborseg train --recipe`: whose options count, what is refused, and that the bundled ones are what was run."""

import json
from dataclasses import asdict

import pytest

from GaborSegLib import cli
from GaborSegLib.cli.main import build_parser
from GaborSegLib.cli.recipe import bundled_recipes, find_stage
from GaborSegLib.errors import GaborSegError
from GaborSegLib.model.weights import bundled_weights, read_card
from GaborSegLib.protocol import RECIPE_OPTIONS, read_recipe
from GaborSegLib.structures import resource_path
from GaborSegLib.training.options import Options

SMALL = {"variant": "conventional", "epochs": 1, "grid-size": 32, "base-channels": 4, "augmentation": "none"}


class Taken(GaborSegError):
    """Ends a run where its trainer would begin."""


@pytest.fixture
def trained(data_set, tmp_path, monkeypatch):
    """A function that gives what a command line has trained: dictionary of `Options` and more of the trainer's."""
    found = {}

    def trainer(*arguments, recipe):
        found.update(asdict(arguments[2]), precision=arguments[12], workers=arguments[8], recipe=recipe)
        raise Taken

    def run(*arguments):
        found.clear()
        monkeypatch.setattr("GaborSegLib.training.trainer.Trainer", trainer)
        monkeypatch.setattr("GaborSegLib.cli.train._device", lambda *_: None)  # recipes for GPUs are taken, too
        cli.main(["train", str(data_set), "-o", str(tmp_path / "run"), *map(str, arguments)])
        return dict(found)

    return run


@pytest.fixture
def written(tmp_path):
    """A function that writes a recipe of some stages' options and gives its path."""

    def write(*stages, name="own"):
        path = tmp_path / f"{name}.json"
        content = {"description": "made", "stages": [{"options": options} for options in stages]}
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write


def test_without_a_recipe_the_defaults_are_the_papers(trained):
    expected = {**asdict(Options()), "precision": "float32", "workers": 0, "recipe": None}
    assert trained() == expected
    assert expected["epochs"] == 300 and expected["learning_rate"] == 1e-3 and expected["find_brain"] is False


def test_a_recipe_stands_for_the_options_that_the_user_does_not_give(trained, written):
    path = written({"lr": 0.25, "epochs": 7, "find-brain": True, "workers": 2, "precision": "tf32", "decay": 1})
    taken = trained("--recipe", path)
    expected = {"learning_rate": 0.25, "epochs": 7, "find_brain": True, "workers": 2, "precision": "tf32", "decay": 1.0}
    assert taken == {**asdict(Options()), **expected, "recipe": "own"}
    # Wherever the user's options stand, and even where they are the defaults.
    for arguments in (
        ["--recipe", path, "--lr", "1e-3", "--no-find-brain"],
        ["--lr", "1e-3", "--no-find-brain", "--recipe", path],
    ):
        assert trained(*arguments) == {**taken, "learning_rate": 1e-3, "find_brain": False}


def test_find_brain_is_of_the_user_then_of_the_weights_to_start_from(trained, tiny_weights, monkeypatch):
    assert not trained("--init", tiny_weights)["find_brain"]
    monkeypatch.setattr("GaborSegLib.model.weights.read_card", lambda path: {"find_brain": True})
    assert trained("--init", tiny_weights)["find_brain"]
    assert not trained("--init", tiny_weights, "--no-find-brain")["find_brain"]


def test_a_bundled_recipe_and_its_stages(trained):
    assert trained("--recipe", "cpu") == {
        **asdict(Options()),
        **{"patch": 64, "augmentation": "strong", "dropout": 0.0, "epochs": 60, "decay": 0.4, "validate_every": 10},
        **{"precision": "float32", "workers": 0, "recipe": "cpu"},
    }
    assert trained("--recipe", "cpu:1")["recipe"] == "cpu"
    third = trained("--recipe", "conventional-cpu:3")
    assert (third["recipe"], third["variant"], third["seed"]) == ("conventional-cpu:3", "conventional", 2)


@pytest.mark.slow
def test_the_card_names_the_recipe(data_set, tmp_path, written):
    path, out = written({"epochs": 9}, SMALL, name="twice"), tmp_path / "run"
    command = ["train", str(data_set), "-o", str(out), "--recipe", f"{path}:2", "--seed", "3", "--device", "cpu"]
    assert cli.main(command) == 0
    training = read_card(out / "best.safetensors")["training"]
    assert (training["recipe"], training["epochs"], training["seed"]) == ("twice:2", 1, 3)
    assert cli.main([*command, "--resume"]) == 0


@pytest.mark.processes
def test_processes_that_are_started_have_the_recipe_too(data_set, tmp_path, written, monkeypatch):
    written({"epochs": 9}, SMALL)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    assert cli.main(["train", str(data_set), "-o", str(out), "--recipe", "own.json:2", "--processes", "2"]) == 0
    training = read_card(out / "best.safetensors")["training"]
    assert (training["recipe"], training["epochs"], training["images_per_step"]) == ("own:2", 1, 2)


def refused(capsys, *arguments):
    """The one line that a command is refused with."""
    assert cli.main(["train", "no-data", "-o", "no-run", *map(str, arguments)]) == 2
    text, error = capsys.readouterr()
    assert text == "" and len(error.splitlines()) == 1
    return error


def test_which_stage_has_to_be_said(capsys, written):
    error = refused(capsys, "--recipe", "gabor-cpu")
    assert "got 'gabor-cpu'" in error and "gabor-cpu:1, gabor-cpu:2" in error
    for number in (0, 3):
        assert "gabor-cpu:1, gabor-cpu:2" in refused(capsys, "--recipe", f"gabor-cpu:{number}")
    assert "choose one of its stages, cpu:1" in refused(capsys, "--recipe", "cpu:2")
    path = written(SMALL, SMALL)
    assert f"{path}:1, {path}:2" in refused(capsys, "--recipe", path)


def test_an_unknown_recipe_is_refused_with_those_that_there_are(capsys, tmp_path):
    error = refused(capsys, "--recipe", "fast")
    assert "'fast'" in error and "fine-tune-cpu" in error and ".json" in error
    assert str(tmp_path / "none.json") in refused(capsys, "--recipe", tmp_path / "none.json")


@pytest.mark.parametrize(
    "options, says",
    [
        ({"lr": "fast"}, "--lr: must be a number, got fast"),
        ({"epochs": 0}, "must be from 1 to 1000000, got 0"),
        ({"variant": "gobar"}, "invalid choice: 'gobar'"),
        ({"patch": True, "lr": 1e-3}, "--patch: expected one argument"),
        ({"find-brain": "yes"}, "unrecognized arguments: yes"),
        ({"patch": 40}, "must be a multiple of 16"),
        ({"output": "elsewhere"}, "'output'"),
        ({"lr": None}, "None for lr"),
    ],
)
def test_mistakes_in_a_recipe_name_its_file(options, says, capsys, written):
    path = written({**SMALL, **options})
    error = refused(capsys, "--recipe", path)
    assert str(path) in error and says in error


def test_what_is_no_recipe_is_refused(capsys, tmp_path):
    path = tmp_path / "list.json"
    for content in ("[1, 2]", "{", '{"description": "none", "stages": []}'):
        path.write_text(content, encoding="utf-8")
        assert str(path) in refused(capsys, "--recipe", path)


def test_a_mistake_in_a_recipe_is_an_event_with_json(capsys):
    assert cli.main(["train", "no-data", "-o", "no-run", "--recipe", "fast", "--json"]) == 2
    event = json.loads(capsys.readouterr().out)
    assert (event["event"], event["code"]) == ("error", "training") and "fast" in event["message"]


def test_the_help_names_the_bundled_recipes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    text = capsys.readouterr().out
    names = {path.stem for path in resource_path("Recipes").iterdir()}
    assert set(bundled_recipes()) == names and len(names) >= 10
    assert all(name in text for name in names)


def test_a_recipe_can_set_what_the_command_line_says_it_can():
    defaults = build_parser().parse_args(["train", "DATA", "-o", "DIR"]).defaults
    names = {"learning_rate" if name == "lr" else name.replace("-", "_") for name in RECIPE_OPTIONS}
    assert set(defaults) == names


@pytest.mark.parametrize("name", bundled_recipes())
def test_every_stage_of_the_bundled_recipes_can_be_trained(name, trained):
    recipe = read_recipe(resource_path(f"Recipes/{name}.json"))
    for number, stage in enumerate(recipe.stages, start=1):
        taken = trained("--recipe", f"{name}:{number}")
        for option, value in stage.options.items():
            assert taken["learning_rate" if option == "lr" else option.replace("-", "_")] == value


@pytest.mark.parametrize(
    "weights, recipe, stages",
    [
        ("conventional", "conventional-cpu", (0, 1, 2, 3)),
        ("mixed", "mixed-cpu", (0, 1, 2, 3, 4, 6, 7, 8)),  # the sixth of its nine was ended early, see the notes
        ("gabor", "mixed-cpu", (0, 1, 2, 3)),
        ("gabor", "gabor-cpu", (4, 5)),
    ],
)
def test_the_recipes_are_those_that_the_bundled_weights_say_of_themselves(weights, recipe, stages):
    training = read_card(bundled_weights()[weights])["training"]
    done = [*training["earlier_stages"], training]
    for number, index in enumerate(stages, start=1):
        _, _, stage = find_stage(f"{recipe}:{number}")
        said = {"lr" if key == "learning_rate" else key.replace("_", "-"): value for key, value in done[index].items()}
        expected = {**{"find-brain": False, "patch": None}, **said}
        options = {"find-brain": False, "patch": None, "lr": 1e-3, "seed": 0, "grid-size": 128, **stage.options}
        assert options == {key: expected[key] for key in options}
        assert stage.averaged == ("averaged" in done[index])
