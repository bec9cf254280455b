"Published data sets that are not part of the library: read from a folder, or an error that says where they are from."

import shutil

import pytest

from splicevi import datasets
from splicevi.data import check_mudata


@pytest.fixture
def nowhere(monkeypatch):
    monkeypatch.delenv("SPLICEVI_REAL_DATA", raising=False)


@pytest.mark.parametrize(
    "load,source", [(datasets.scmixology, "mritchielab/FLAMES"), (datasets.lung, "SpliZ_pipeline")]
)
def test_an_error_says_where_it_is_from(load, source, nowhere, tmp_path):
    with pytest.raises(FileNotFoundError, match="its place is not known.*" + source):
        load()
    with pytest.raises(FileNotFoundError, match="there is no .*" + source):
        load(tmp_path)
    with pytest.raises(TypeError, match="path=3"):
        load(3)


def test_another_file_is_told(nowhere, tmp_path):
    (tmp_path / "lung_spliz.h5ad").write_text("no table")
    with pytest.raises((ValueError, OSError), match="lung_spliz.h5ad"):
        datasets.lung(tmp_path)


def test_cell_lines(real_data, nowhere, monkeypatch, tmp_path):
    mdata = datasets.scmixology(real_data)
    assert mdata.shape == (470, 2514) and set(mdata.obs["cell_type"]) == {"A549", "H1975", "H2228", "H838", "HCC827"}
    assert not (check_mudata(mdata, raise_errors=False)["level"] == "error").any()
    shutil.copy(real_data / "scmixology.h5mu", tmp_path / "mine.h5mu")
    assert datasets.scmixology(str(tmp_path / "mine.h5mu")).shape == mdata.shape
    monkeypatch.setenv("SPLICEVI_REAL_DATA", str(real_data))
    assert datasets.scmixology().shape == mdata.shape


def test_lung(real_data, nowhere):
    cells = datasets.lung(real_data)
    assert cells.shape == (28539, 53)
    assert set(cells.var["gene_name"][cells.var["is_known"]]) == set(datasets.KNOWN_IN_LUNG)
