"""Label tables: what they may say, and the bundled ones against what is known of their sources."""

import csv

import numpy as np
import pytest

from GaborSegLib.data.tables import open_table, read_label_table
from GaborSegLib.errors import DataError

# Left and right of FreeSurfer's aseg, by the names that FreeSurferColorLUT.txt gives them.
ASEG = {
    (2, 41): "Cerebral-White-Matter",
    (3, 42): "Cerebral-Cortex",
    (4, 43): "Lateral-Ventricle",
    (5, 44): "Inf-Lat-Vent",
    (7, 46): "Cerebellum-White-Matter",
    (8, 47): "Cerebellum-Cortex",
    (10, 49): "Thalamus",
    (11, 50): "Caudate",
    (12, 51): "Putamen",
    (13, 52): "Pallidum",
    (14,): "3rd-Ventricle",
    (15,): "4th-Ventricle",
    (16,): "Brain-Stem",
    (17, 53): "Hippocampus",
    (18, 54): "Amygdala",
    (26, 58): "Accumbens-area",
    (77,): "WM-hypointensities",
    (251, 252, 253, 254, 255): "CC",
}
SAME = {
    "Cerebral-White-Matter": "Cerebral white",
    "Cerebral-Cortex": "Cerebral grey",
    "Inf-Lat-Vent": "Inf. lateral vent.",
    "Lateral-Ventricle": "Lateral ventricle",
    "Cerebellum-White-Matter": "Cerebellar white",
    "Cerebellum-Cortex": "Cerebellar grey",
    "Brain-Stem": "Brainstem",
    "3rd-Ventricle": "3rd ventricle",
    "4th-Ventricle": "4th ventricle",
    "Accumbens-area": "Accumbens",
    "WM-hypointensities": "Cerebral white",
    "CC": "Cerebral white",
}


@pytest.fixture
def table(tmp_path):
    def written(text):
        path = tmp_path / "table.csv"
        path.write_text(text)
        return read_label_table(path)

    return written


def test_maps_ids(table):
    read = table("label,structure,x_ids\n2,B,7 9\n1,A,100-103\n")
    assert read.names == ("A", "B") and read.absent == () and not read.complete
    mapped = read.apply(np.array([[99, 100, 103, 104], [7, 8, 9, -1]]))
    assert mapped.dtype == np.uint8 and mapped.tolist() == [[0, 1, 1, 0], [2, 0, 2, 0]]


def test_a_table_that_lists_its_background_is_complete(table):
    read = table("label,structure,ids\n1,A,5\n0,nothing,7-9\n")
    assert read.complete and read.background == {0, 7, 8, 9} and read.listed == {0, 5, 7, 8, 9}
    read = table("label,structure,ids\n0,nothing,7 *\n1,A,5\n")
    assert not read.complete and read.background == {0, 7} and read.names == ("A",)


def test_absent_structures_count_as_what_the_source_calls_them(table):
    read = table("label,structure,ids,within\n1,A,,C\n2,B,,Background\n3,C,5,\n")
    assert read.absent == ("A", "B")
    assert read.counts_as == (0, 3, 0, 3)
    assert table("label,structure,ids\n1,A,1\n2,B,2\n").counts_as == (0, 1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,structure\n1,A\n", "ends in ids"),
        ("label,structure,ids\n", "no rows"),
        ("", "columns none"),
        ("label,structure,ids\n1,A,x\n", "whole numbers"),
        ("label,structure,ids\n1,A,*\n", "whole numbers"),
        ("label,structure,ids\n1,A,1\n3,B,2\n", "count from 1"),
        ("label,structure,ids\n0,A,1\n", "count from 1"),
        ("label,structure,ids\n1,A,1-5\n2,B,4\n", r"\[4\]"),
        ("label,structure,ids\n0,-,4\n1,B,4\n", r"\[4\]"),
        ("label,structure,ids\n1,A,1\n2,A,2\n", "name of its own"),
        ("label,structure,ids\n1,A,1\n2,,2\n", "name of its own"),
        ("label,structure,ids\n1,A\n", "A has 0 ids"),
        ("label,structure,ids,within\n1,A,,B\n2,B,,A\n", "within 'B'"),
        ("label,structure,ids,within\n1,A,1,B\n2,B,2,\n", "A has 1 ids"),
        ("label,structure,ids\n" + "".join(f"{i},S{i},{i}\n" for i in range(1, 256)), "255 structures"),
        ("label,structure,ids\n1,A,1-100000000\n", "got 1-100000000; a structure has at most 100000 ids"),
        ("label,structure,ids\n1,A," + " ".join(f"{i}0000-{i}9999" for i in range(11)) + "\n", "at most 100000 ids"),
        ("label,structure,ids\n1,A,9999999999\n", "none above 2147483648"),
        ("label,structure,ids\n1,A,1-1" + 400 * "0" + "\n", "at most 100000 ids"),
        ("label,structure,ids\n1,A\x1b[2J,1\n", r"'A\\x1b\[2J'; each needs a name of its own"),
        ("label,structure,ids\n1,loss,1\n", "'loss'; each needs a name of its own"),
        ("label,structure,ids\n1,A,1-90000\n2,B,1-90000\n", r"the ids \[1, 2, .{,300}stand with more than one"),
    ],
)
def test_wrong_tables_are_refused(text, message, table):
    with pytest.raises(DataError, match=message):
        table(text)


def test_tables_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"nothing.csv: not found.*\(freesurfer, neuromorphometrics, sides\)"):
        open_table(tmp_path / "nothing.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="binary.csv: cannot be read as CSV"):
        open_table(tmp_path / "binary.csv")


def test_freesurfer_by_its_colour_table():
    read = open_table("freesurfer")
    for ids, name in ASEG.items():
        expected = read.names.index(SAME.get(name, name)) + 1
        assert read.apply(np.array(ids)).tolist() == [expected] * len(ids), name
    assert set(read.names) - {SAME.get(name, name) for name in ASEG.values()} == set(read.absent)
    assert read.absent == ("CVL I-V", "CVL VI-VII", "CVL VIII-X")
    cerebellum = read.names.index("Cerebellar grey") + 1
    assert [read.counts_as[read.names.index(name) + 1] for name in read.absent] == [cerebellum] * 3
    # Ventral diencephalon, vessel, CSF, optic chiasm, 5th ventricle.
    assert read.apply(np.array([28, 60, 30, 62, 24, 85, 72])).tolist() == [0] * 7
    assert {28, 60, 30, 62, 24, 85, 72} <= read.background
    # Regions of the cortex of aparc+aseg, and of the white matter of wmparc.
    assert read.apply(np.array([1001, 2035, 12175, 3001, 5002])).tolist() == [1, 1, 1, 13, 13]


@pytest.mark.real
def test_neuromorphometrics_by_the_released_ids(real_data):
    read = open_table("neuromorphometrics")
    with open(real_data / "structures.csv", newline="") as file:
        for row in csv.DictReader(file):
            for part in row["neuromorphometrics_ids"].split():
                ends = [int(end) for end in part.split("-")]
                assert read.apply(np.array(ends)).tolist() == [int(row["label"])] * len(ends)
    assert read.ids == open_table(real_data / "structures.csv").ids
