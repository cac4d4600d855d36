"""The list of structures."""

from GaborSegLib.structures import named_structures, paper_structures

TABLE_1A = """Cerebral grey, 3rd ventricle, 4th ventricle, Brainstem, CVL I-V, CVL VI-VII, CVL VIII-X, Accumbens,
    Amygdala, Caudate, Cerebellar grey, Cerebellar white, Cerebral white, Hippocampus, Inf. lateral vent.,
    Lateral ventricle, Pallidum, Putamen, Thalamus"""


def test_the_papers_structures():
    structures = paper_structures()
    assert [structure.name for structure in structures] == [name.strip() for name in TABLE_1A.split(",")]
    assert [structure.label for structure in structures] == list(range(1, 20))


def test_colours():
    """Of a legend with every structure of the paper and twenty others: all different, and none is black."""
    paper = paper_structures()
    structures = named_structures([structure.name for structure in paper] + [f"Other {i}" for i in range(20)])
    assert structures[:19] == paper
    assert [structure.label for structure in structures] == list(range(1, 40))
    assert len({structure.colour for structure in named_structures([f"Other {i}" for i in range(255)])}) == 255
    colours = {structure.colour for structure in structures}
    assert len(colours) == 39
    assert all(0 <= value <= 255 and isinstance(value, int) for colour in colours for value in colour)
    assert all(max(colour) > 100 for colour in colours)


def test_labels_follow_the_order_of_the_names():
    first, second = named_structures(["Thalamus", "Cerebral grey"])
    assert (first.label, first.name, first.colour) == (1, "Thalamus", paper_structures()[18].colour)
    assert (second.label, second.name, second.colour) == (2, "Cerebral grey", paper_structures()[0].colour)
