"""What identifies a run: a resumed one needs the same data and ways of computing, and is told what is not."""

import json
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from safetensors import safe_open

from GaborSegLib.data.sources import find_data
from GaborSegLib.errors import TrainingError
from GaborSegLib.protocol import SNAPSHOT
from GaborSegLib.training.options import Options
from GaborSegLib.training.snapshot import load_snapshot, save_snapshot
from GaborSegLib.training.trainer import Trainer

SMALL = Options(
    variant="conventional", epochs=1, augmentation="none", grid_size=32, base_channels=4, validate_every=2, dropout=0.0
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """(folder of a data set, folder of a run of it that is done); copied by the tests that change them."""
    folder = tmp_path_factory.mktemp("begun")
    data = folder / "data"
    for name in ("images", "labels"):
        (data / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(3):
        labels = np.zeros((24, 24, 24), dtype=np.uint8)
        labels[6:18, 6:18, 6:18] = 1
        labels[9 : 14 + number, 9:14, 9:14] = 2
        scan = 100.0 * labels + generator.normal(0, 3, labels.shape) * (labels > 0)
        for kind, array in (("images", scan.astype(np.float32)), ("labels", labels)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), data / kind / f"s{number}.nii.gz")
    (data / "structures.csv").write_text("label,structure,ids\n1,Shell,1\n2,Core,2\n")
    Trainer(find_data(data), folder / "run", SMALL, ["s1"]).run()
    return data, folder / "run"


@pytest.fixture
def copies(begun, tmp_path):
    """Copies of both, to be changed."""
    return [shutil.copytree(folder, tmp_path / folder.name) for folder in begun]


def resume(data, run, options=SMALL, report=lambda event: None, **more):
    return Trainer(find_data(data), run, replace(options, epochs=1), ["s1"], resume=True, report=report, **more).run()


def test_the_same_data_in_another_place_and_another_cache_go_on(copies, tmp_path):
    data, run = copies
    moved, events = data.rename(tmp_path / "moved"), []
    assert resume(moved, run, cache=tmp_path / "cache", report=events.append).epoch == 1
    assert not [event for event in events if event["event"] == "warning"]


@pytest.mark.parametrize(
    "rows", ["1,Shell,2 2,Core,1", "1,Core,1 2,Shell,2", "2,Shell,1 1,Core,2"], ids=["ids", "names", "labels"]
)
def test_a_label_table_with_something_swapped_is_refused(rows, copies):
    data, run = copies
    (data / "structures.csv").write_text("label,structure,ids\n" + rows.replace(" ", "\n") + "\n")
    with pytest.raises(TrainingError, match="another label table"):
        resume(data, run)


def test_the_order_of_a_label_tables_rows_means_nothing(copies):
    data, run = copies
    (data / "structures.csv").write_text("label,structure,ids\n2,Core,2\n1,Shell,1\n")
    assert resume(data, run).epoch == 1


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_scan_with_other_voxels_is_refused_by_its_name(kind, copies):
    data, run = copies
    path = data / kind / "s2.nii.gz"
    image = nibabel.load(path)
    array = np.asanyarray(image.dataobj).copy()
    array[8:12] = array[12:16] if kind == "images" else 2
    array[10, 10, 10] = 0
    nibabel.save(nibabel.Nifti1Image(array, image.affine), path)
    with pytest.raises(TrainingError, match="scans or label maps of s2 are not those"):
        resume(data, run)


def exchange(first, second):
    first.rename(first.with_name("swapped")), second.rename(first), first.with_name("swapped").rename(second)


@pytest.mark.parametrize("kind", ["images", "labels", "both"])
def test_exchanged_scans_are_refused(kind, copies):
    data, run = copies
    for folder in ("images", "labels") if kind == "both" else (kind,):
        exchange(*(data / folder / f"{name}.nii.gz" for name in ("s0", "s2")))
    with pytest.raises(TrainingError, match="scans or label maps of s0, s2 are not those"):
        resume(data, run)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("precision", "tf32", "--precision float32, now it is tf32"),
        ("augment_on", "device", "--augment-on cpu, now it is device"),
    ],
)
def test_another_way_of_computing_is_refused(option, value, message, copies):
    with pytest.raises(TrainingError, match=message):
        resume(*copies, **{option: value})


def test_other_and_exchanged_heads_are_refused(copies, tmp_path):
    data, run = copies
    with_heads = replace(SMALL, heads=2)
    head = np.zeros((24, 24, 24), dtype=np.int16)
    head[4:20, 4:20, 4:20], head[7:17, 7:17, 7:17] = 507, 3
    one, two, third = paths = [tmp_path / f"{name}.nii.gz" for name in ("one", "two", "third")]
    for axis, path in enumerate(paths):
        nibabel.save(nibabel.Nifti1Image(np.roll(head, 1, axis), np.eye(4)), path)
    shutil.rmtree(run)
    Trainer(find_data(data), run, with_heads, ["s1"], heads=[one, two]).run()
    assert resume(data, run, with_heads, heads=[one, two]).epoch == 1
    with pytest.raises(TrainingError, match="other head label maps"):
        resume(data, run, with_heads, heads=[one, third])
    exchange(one, two)
    with pytest.raises(TrainingError, match="other head label maps"):
        resume(data, run, with_heads, heads=[one, two])


def test_a_run_of_an_older_version_goes_on_with_a_warning(copies):
    """It noted options, scans and images a step only."""
    data, run = copies
    network, optimiser, facts = load_snapshot(run)
    for key in ("precision", "augment_on", "table", "scans", "heads"):
        del facts[key]
    save_snapshot(run, network, optimiser, facts)
    events = []
    assert resume(data, run, report=events.append).epoch == 1
    (warning,) = [event["message"] for event in events if event["event"] == "warning"]
    assert "older version" in warning and "label table" in warning and "scans" in warning
    with pytest.raises(TrainingError, match="other training or validation scans"):
        Trainer(find_data(data), run, SMALL, ["s2"], resume=True)


def test_a_snapshot_tells_what_it_is_of(begun):
    with safe_open(begun[1] / SNAPSHOT, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
    assert sorted(facts["scans"]) == ["s0", "s1", "s2"] and len(set(facts["scans"].values())) == 3
    assert (facts["training"], facts["validation"]) == (["s0", "s2"], ["s1"])
    assert (facts["precision"], facts["augment_on"]) == ("float32", "cpu")
