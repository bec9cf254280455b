"Offsets of batches in PSI: shrunk where batches do not differ, learned where they do."

import numpy as np
import pytest
import scvi

from splicevi import SPLICEVI
from splicevi.datasets import simulate, true_psi

QUICK = dict(lr=4e-3, enable_progress_bar=False, accelerator="cpu")


def trained(batch_effect_psi=0.0, epochs=60, **setup):
    scvi.settings.seed = 0
    mdata = simulate(
        n_cells=400,
        n_genes=40,
        n_junctions=200,
        n_cell_types=2,
        observed=0.3,
        batch_effect_psi=batch_effect_psi,
        seed=1,
    )
    mdata.obs["lab"] = np.where(np.arange(400) % 3, "a", "b")
    SPLICEVI.setup_mudata(mdata, **(setup or {"batch_key": "batch"}))
    model = SPLICEVI(mdata, n_latent=5)
    model.train(max_epochs=epochs, **QUICK)
    return mdata, model


def under_both(model):
    return (model.get_normalized_splicing(transform_batch=b, return_numpy=True) for b in ("batch_1", "batch_2"))


@pytest.fixture(scope="module")
def same():
    return trained()


@pytest.fixture(scope="module")
def other():
    return trained(1.0)


def test_batches_that_do_not_differ_are_decoded_alike(same):
    a, b = under_both(same[1])
    assert 0 < np.abs(a - b).mean() < 0.005  # 0.03 without a prior


def test_batches_that_differ_are_told_apart(other):
    mdata, model = other
    a, b = under_both(model)
    truth = mdata["splicing"].varm["psi_true_batch"].to_numpy().reshape(200, -1, 2)
    truth = truth[:, mdata.obs["cell_type"].cat.codes].transpose(2, 1, 0)
    d, d_true = b - a, truth[1] - truth[0]
    assert np.corrcoef(d.ravel(), d_true.ravel())[0, 1] > 0.9
    assert 0.75 < (d * d_true).sum() / (d_true**2).sum() < 1.1  # and are not drawn to nothing


def test_decoded_psi_of_batches_that_differ_are_near_the_truth(other):
    mdata, model = other
    own = model.get_normalized_splicing(return_numpy=True)
    row, col = (v.ravel() for v in np.indices(own.shape))
    truth = true_psi(mdata, row, col).reshape(own.shape)
    mean = sum(under_both(model)) / 2
    assert np.sqrt(((own - truth) ** 2).mean()) < 0.7 * np.sqrt(((mean - truth) ** 2).mean())


def test_other_covariates_have_a_scale_of_their_own():
    _, model = trained(1.0, 30, batch_key="batch", categorical_covariate_keys=["lab"])
    of_batch, of_lab = model.module.offset_scales
    assert of_batch > 0.5 and of_lab < 0.3  # labs do not differ
    batch, lab = (np.abs(d.detach().numpy()).mean() for d in model.module.splicing_decoder.offsets())
    assert lab < 0.3 * batch


def test_without_batches_there_is_no_prior():
    _, model = trained(epochs=1, size_factor_key=None)
    assert model.module.offset_scales == []
    assert model.module._offset_prior() == 0
