"""Tables and plot of a study, with made-up measurements."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from engine.validation.study import SIZES, StudyFolder
from utils.plots import plot_studies


def test_sizes_are_those_of_the_specification():
    assert SIZES == (256, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1408, 1536)


def test_each_file_gets_a_table_also_when_two_have_one_name(tmp_path):
    study = StudyFolder(tmp_path / "exp", "coco")
    for factor, weights in ((1.0, "a/best.pt"), (2.0, "b/best.pt")):
        study.measure(weights, lambda size, f=factor: ((f, 0, size / 1e4, 0.5, 0, 0, 0), None, (0.1, f * size, 2)))
    study.finish()
    names = ["study_coco_best.txt", "study_coco_best-2.txt"]
    assert {file.name for file in (tmp_path / "exp").iterdir()} == {*names, "study.png", "study.zip"}
    table = np.loadtxt(tmp_path / "exp" / names[1])
    assert table.shape == (11, 10)
    np.testing.assert_allclose(table[:, 2], np.array(SIZES) / 1e4, rtol=1e-3)
    np.testing.assert_allclose(table[:, 8], 2 * np.array(SIZES))
    line = (tmp_path / "exp" / names[0]).read_text().splitlines()[0]
    assert line == " ".join(f"{x:>10}" for x in (1, 0, 0.0256, 0.5, 0, 0, 0, 0.1, 256, 2))
    assert zipfile.ZipFile(tmp_path / "exp/study.zip").namelist() == names
    assert np.asarray(Image.open(tmp_path / "exp/study.png").convert("L")).std() > 5
    with pytest.raises(ValueError, match=r"study_coco_best\.txt: a table of \(11, 10\)"):
        plot_studies([tmp_path / "exp" / names[0]], SIZES[:3], tmp_path / "x.png")
