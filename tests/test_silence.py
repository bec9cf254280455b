"""What a user sees who did not ask for anything: nothing that is not ours."""

import logging
import os
import subprocess
import sys

import pytest

from splicevi import SPLICEVI
from splicevi.datasets import simulate

SCRIPT = """
import logging, sys, warnings
import splicevi
from splicevi import SPLICEVI

folder = sys.argv[1]
LOGGERS = ("", "scvi", "lightning.pytorch", "lightning.fabric", "splicevi")
settings = lambda: [(n, logging.getLogger(n).level, len(logging.getLogger(n).handlers)) for n in LOGGERS]
import scvi, lightning.pytorch
SPLICEVI  # noqa: B018  what is loaded on first use is loaded
before, filters = settings(), list(warnings.filters)
mdata = splicevi.datasets.simulate(n_cells=120, n_genes=30, n_junctions=60, n_cell_types=3, observed=0.3, seed=0)
mdata.obsm["X_library_size"] = mdata["rna"].X.toarray().sum(1, keepdims=True) + 1.0
train, held = splicevi.data.hold_out(mdata)
SPLICEVI.setup_mudata(train, batch_key="batch", size_factor_key="X_library_size")
model = SPLICEVI(train, n_latent=4, n_hidden=16)
options = dict(batch_size=32, enable_progress_bar=False)
model.train(max_epochs=2, **options)
model.train(max_epochs=1, train_size=1.0, early_stopping=False, **options)
model.train(max_epochs=1, background=True, **options).wait()
model.get_latent_representation(), model.get_normalized_expression(silent=True), model.get_elbo()
model.get_normalized_splicing(silent=True)
pair = dict(groupby="cell_type", group1="type_1", group2="type_2", silent=True)
model.differential_splicing(**pair), model.differential_expression(**pair)
model.save(folder + "/model")
model.save(folder + "/with_data", save_anndata=True)
SPLICEVI.load(folder + "/model", mdata).get_latent_representation()
SPLICEVI.load(folder + "/with_data").get_latent_representation()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the copy is made by mudata for the user, not for us
    query = mdata[:60].copy()
query.obs["batch"] = "new"
mapped = SPLICEVI.load_query_data(query, folder + "/model")
mapped.train(max_epochs=1, **options)
mapped.get_latent_representation()
assert settings() == before, settings()
assert warnings.filters == filters, [f for f in warnings.filters if f not in filters]
"""


def test_nothing_is_shown_that_is_not_ours(tmp_path):
    "From the import to query mapping nothing is printed or warned of: no advertisement, device, seed or deprecation."
    env = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    command = [sys.executable, "-W", "default::FutureWarning", "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")


@pytest.fixture(scope="module")
def model():
    "A small model, untrained."
    mdata = simulate(n_cells=60, n_genes=10, n_junctions=20, n_cell_types=2, observed=0.4, seed=0)
    SPLICEVI.setup_mudata(mdata, batch_key="batch")
    return SPLICEVI(mdata, n_latent=2, n_hidden=8)


def test_lightning_speaks_to_who_asks(model, caplog, monkeypatch):
    "A user who sets Lightning's logger to DEBUG hears of devices; one who did not doesn't; its level stays as it was."
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    monkeypatch.setattr(logging.getLogger("lightning.pytorch.utilities.rank_zero"), "level", logging.NOTSET)
    for wanted in (logging.INFO, logging.DEBUG):
        log.setLevel(wanted)
        caplog.clear()
        log.addHandler(caplog.handler)
        try:
            model.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
        finally:
            log.removeHandler(caplog.handler)
            assert log.level == wanted
            log.setLevel(level)
        assert any("GPU available" in m for m in caplog.messages) == (wanted == logging.DEBUG)


VIEW = """
import sys, warnings
warnings.simplefilter("ignore")
from splicevi import SPLICEVI
from splicevi.datasets import simulate
if sys.modules.pop("rich.pretty", None):
    del sys.modules["rich"].pretty
mdata = simulate(n_cells=60, n_genes=10, n_junctions=20, n_cell_types=2, observed=0.4, seed=0)
SPLICEVI.setup_mudata(mdata, batch_key="batch")
SPLICEVI(mdata, n_latent=2, n_hidden=8).view_anndata_setup()
"""


def test_setup_is_shown_by_its_name():
    "`view_anndata_setup` works where nothing has imported rich.pretty, and a MuData was set up by `setup_mudata`."
    done = subprocess.run([sys.executable, "-c", VIEW], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Setup via `SPLICEVI.setup_mudata` with arguments" in done.stdout and "'batch_key': 'batch'" in done.stdout
    assert "setup_anndata" not in done.stdout
