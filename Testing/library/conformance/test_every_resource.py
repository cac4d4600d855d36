"""Conformance: what every recipe, label table and weight file that comes with the program must be."""

import numpy as np
import pytest
from made import told

from GaborSegLib import protocol
from GaborSegLib.data.tables import bundled_tables, open_table
from GaborSegLib.model.weights import bundled_weights, load_weights
from GaborSegLib.structures import paper_structures, resource_path


def each(folder, pattern):
    return pytest.mark.parametrize("path", sorted(resource_path(folder).glob(pattern)), ids=lambda path: path.stem)


@each("Recipes", "*.json")
def test_recipe_is_taken_by_the_command_line(path, tmp_path, capsys):
    """Every stage's options get as far as a data set that is not there."""
    recipe = protocol.read_recipe(path)
    assert recipe.name == path.stem and len(recipe.description) > 20
    assert not recipe.start or (resource_path("Weights") / f"{recipe.start}.safetensors").is_file()
    assert not recipe.stages[0].averaged  # with what?
    for stage in recipe.stages:
        status, events = told(capsys, "train", tmp_path / "missing", "-o", tmp_path / "run", *stage.arguments)
        assert status == protocol.REFUSED and str(tmp_path / "missing") in events[-1]["message"]
    assert list(tmp_path.iterdir()) == []


@each("Tables", "*.csv")
def test_bundled_table_has_the_papers_structures(path):
    table = open_table(path.stem)
    assert table.path == bundled_tables()[path.stem] == path
    assert list(table.names) == [structure.name for structure in paper_structures()]
    # Other programs label more than these structures; this one does not.
    assert table.complete if path.stem == "sides" else not table.complete and len(table.background) > 5
    for label, ids in enumerate(table.ids, start=1):
        assert table.apply(np.array(sorted(ids), dtype=np.int64)).tolist() == [label] * len(ids)
        assert ids or label in dict(table.within)
    assert not table.apply(np.array(sorted(table.background))).any()


@each("Weights", "*.safetensors")
def test_bundled_weights_can_be_opened(path):
    """By both readers; those named like a variant are of it, and of the paper's structures."""
    opened = load_weights(path)
    assert protocol.read_card(path) == opened.card
    if path.stem in protocol.VARIANTS:
        assert bundled_weights()[path.stem] == path and opened.card["variant"] == path.stem
        assert opened.card["structures"] == [structure.name for structure in paper_structures()]


def test_there_is_something_of_each_kind():
    """A folder of another name would have no tests."""
    assert len(bundled_weights()) == len(protocol.VARIANTS)
    assert len(bundled_tables()) > 1 and len(list(resource_path("Recipes").iterdir())) > 5
