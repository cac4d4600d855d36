"""Small made data that tests share: balls in a box, in the form of a data set, and tiny weight files."""

import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from made import REPOSITORY, made_scan

# Small tensors gain nothing from more threads, and sums depend on how many share them: runs that are compared must
# agree.
torch.set_num_threads(1)

REAL_DATA = Path(os.environ.get("GABORSEG_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def memory_is_given_back():
    """A command keeps what its process frees; here that process runs all tests, some of which limit its memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("GaborSegLib.cli.status.keep_freed_memory", lambda: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def write_curves():
    """The function that draws curves.png, which training does not call here: it takes longer than an epoch."""
    from GaborSegLib.training import journal

    with pytest.MonkeyPatch.context() as patch:
        drawing = journal.write_curves
        patch.setattr(journal, "write_curves", lambda path, rows: None)
        yield drawing


@pytest.fixture
def curves(write_curves, monkeypatch):
    """For a test that looks at curves.png: it is drawn."""
    monkeypatch.setattr("GaborSegLib.training.journal.write_curves", write_curves)


@pytest.fixture
def data_set(made_data, tmp_path):
    """Folder of a data set of six made scans of five subjects, for this test to change."""
    return shutil.copytree(made_data, tmp_path / "data")


@pytest.fixture(scope="session")
def made_data(tmp_path_factory):
    """The same folder, for tests that only read it."""
    folder = tmp_path_factory.mktemp("made") / "data"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    for seed in range(6):
        scan, ids = made_scan(seed)
        nibabel.save(nibabel.Nifti1Image(scan, affine), folder / "images" / f"s{seed}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(ids, affine), folder / "labels" / f"s{seed}.nii.gz")
    rows = ["label,structure,source_ids", "1,Shell,10", "2,Core,20-22", "3,Left ball,30 31"]
    (folder / "structures.csv").write_text("\n".join(rows) + "\n")
    subjects = ["scan,subject", "s0,A", "s1,B", "s2,C", "s3,D", "s4,E", "s5,A"]
    (folder / "subjects.csv").write_text("\n".join(subjects) + "\n")
    return folder


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    """Path of a mixed weight file, 4 base channels, a 32^3 cube, not trained: its labels are noise, but fixed."""
    from GaborSegLib.model.network import build_network
    from GaborSegLib.model.weights import save_weights
    from GaborSegLib.structures import paper_structures

    torch.manual_seed(1)
    card = {
        "variant": "mixed",
        "conventional_kernel_size": 3,
        "gabor_kernel_size": 3,
        "in_channels": 1,
        "classes": 20,
        "base_channels": 4,
        "structures": [structure.name for structure in paper_structures()],
        "grid_size": 32,
        "field": "cube",
        "paired": [],  # noise has no sides, and to look for them takes time
    }
    network = build_network("mixed", gabor_kernel_size=3, base_channels=4)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, network, card)
    return path


@pytest.fixture(scope="session")
def real_data():
    """Folder of the labelled OASIS scans, named by GABORSEG_DATA; the test is skipped where it is not."""
    folder = REAL_DATA / "oasis-neuromorphometrics"
    if not folder.is_dir():
        pytest.skip(f"no labelled scans in {folder}; set GABORSEG_DATA to the folder that holds them")
    return folder
