"""A citizen of scvi-tools: what its users do with any of its models works here, or says what to use instead."""

import os
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import scvi
import torch

from splicevi import SPLICEVI
from splicevi.datasets import simulate

QUICK = dict(max_epochs=3, batch_size=32, enable_progress_bar=False, check_val_every_n_epoch=1, accelerator="cpu")
pytestmark = pytest.mark.filterwarnings("ignore")


def has(name: str) -> bool:
    "Whether a package is installed."
    return find_spec(name) is not None


@pytest.fixture(scope="module")
def mdata():
    mdata = simulate(n_cells=120, n_genes=20, n_junctions=40, n_cell_types=3, observed=0.4, seed=0)
    SPLICEVI.setup_mudata(mdata, batch_key="batch")
    return mdata


@pytest.fixture
def fresh(mdata, tmp_path, monkeypatch):
    "A model that is not trained; what scvi-tools logs goes to an empty folder."
    monkeypatch.setattr(scvi.settings, "logging_dir", tmp_path / "logs")
    scvi.settings.seed = 0
    return SPLICEVI(mdata, n_latent=4, n_hidden=16)


@pytest.fixture(scope="module")
def model(mdata):
    scvi.settings.seed = 0
    model = SPLICEVI(mdata, n_latent=4, n_hidden=16)
    model.train(**QUICK | {"max_epochs": 20, "lr": 1e-2})
    return model


# ---------------------------------------------------------------- likelihoods and criticism
def test_elbo_reconstruction_and_marginal_likelihood(model):
    "The ELBO is the reconstruction and the KL divergence, and lies below the likelihood, which more points raise."
    elbo = float(model.get_elbo())
    rec = {k: float(v) for k, v in model.get_reconstruction_error().items()}
    assert set(rec) == {"expression", "splicing"} and 0 < sum(rec.values()) < abs(elbo)
    few, many = (model.get_marginal_ll(n_mc_samples=n, seed=0) for n in (5, 100))
    assert -abs(elbo) < few < many
    cells = model.get_marginal_ll(n_mc_samples=100, seed=0, return_mean=False, indices=[5, 3])
    assert cells.shape == (2,)
    with pytest.raises(TypeError, match="dataloader"):
        model.get_marginal_ll(dataloader=None)


@pytest.mark.parametrize("loss", ["dirichlet_multinomial", "beta_binomial", "binomial"])
@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_posterior_predictive_samples(mdata, loss, likelihood):
    "Whole counts of every kind of likelihood; no more reads than were observed, and none where nothing was."
    model = SPLICEVI(mdata, n_latent=2, n_hidden=8, splicing_loss_type=loss, gene_likelihood=likelihood)
    model.is_trained_ = True
    one = model.posterior_predictive_sample(indices=np.arange(7), seed=1)
    assert {k: v.shape for k, v in one.items()} == {"rna": (7, 20), "splicing": (7, 40)}
    more = model.posterior_predictive_sample(indices=np.arange(7), n_samples=20, seed=1)
    x, y = (more[k].todense() for k in ("rna", "splicing"))
    total = mdata["splicing"].layers["cell_by_cluster_matrix"].toarray()[:7, :, None]
    assert x.shape == (7, 20, 20) and (x == x.round()).all() and (x >= 0).all() and 0 < x.mean() < 1e3
    assert (y == y.round()).all() and (y <= total).all() and (y.std(2) > 0).any()
    again = model.posterior_predictive_sample(indices=np.arange(7), n_samples=20, seed=1)
    assert (again["rna"].todense() == x).all() and (again["splicing"].todense() == y).all()


def test_samples_of_concatenated_features(mdata):
    "An AnnData with genes and junctions gets one array with the same features."
    import anndata

    layer = "cell_by_junction_matrix"
    parts = [mdata["rna"].copy(), mdata["splicing"].copy()]
    parts[0].layers[layer], parts[1].X = parts[0].X * 0, parts[1].layers[layer]
    parts = [anndata.AnnData(p.X, p.obs[[]], p.var[[]], layers={layer: p.layers[layer]}) for p in parts]
    both = anndata.concat(parts, axis=1)
    both.var["event_id"] = pd.Series(mdata["splicing"].var["event_id"].astype(object)).reindex(both.var_names)
    SPLICEVI.setup_anndata(both)
    model = SPLICEVI(both, n_genes=20, n_junctions=40, n_latent=2, n_hidden=8)
    model.is_trained_ = True
    drawn = model.posterior_predictive_sample(n_samples=2, seed=0)
    assert drawn.shape == (120, 60, 2)
    reads = parts[1].layers[layer].toarray()
    assert drawn.todense()[:, 20:].sum() == pytest.approx(2 * reads.sum()) and drawn.todense()[:, :20].sum() > 0


@pytest.mark.parametrize("modality,layer", [("rna", None), ("splicing", "cell_by_junction_matrix")])
def test_posterior_predictive_check(model, mdata, modality, layer):
    "scvi-tools' check compares the model's draws with the counts; those of a trained model vary as the data do."
    from anndata import AnnData
    from scvi.criticism import PosteriorPredictiveCheck

    part = mdata[modality]
    counts = AnnData((part.layers[layer] if layer else part.X).toarray().astype(int), part.obs[[]], part.var[[]])
    check = PosteriorPredictiveCheck(counts, {"m": model}, modality=modality, n_samples=5)
    check.coefficient_of_variation("cells")
    found = check.metrics["cv_gene"]
    assert np.corrcoef(found["m"], found["Raw"])[0, 1] > 0.7 and list(found.index) == list(part.var_names)


# ---------------------------------------------------------------- latent space
def test_differential_abundance(model, mdata):
    "Cells are likely in their own type; the aggregated posterior is that of scvi-tools' formula; the data stay as is."
    before = set(mdata.obsm)
    table = model.differential_abundance(sample_key="cell_type", batch_size=50)
    own = table.to_numpy()[np.arange(120), table.columns.get_indexer(mdata.obs["cell_type"])]
    assert (
        own.mean() > table.to_numpy().mean()
        and set(mdata.obsm) == before
        and list(table.index) == list(mdata.obs_names)
    )
    rows = np.flatnonzero(mdata.obs["cell_type"] == "type_1")
    mixture = model.get_aggregated_posterior(indices=rows)
    z = torch.as_tensor(model.get_latent_representation())
    assert np.allclose(mixture.log_prob(z), table["type_1"], atol=1e-4)
    few = model.differential_abundance(sample_key="cell_type", num_cells_posterior=5, dof=3)
    assert not np.allclose(few, table) and np.isfinite(few).all().all()


def test_minified_data(model):
    "There is no minified mode, and the error says what to keep instead."
    with pytest.raises(NotImplementedError, match=r"get_latent_representation\(\) in obsm"):
        model.minify_adata()


# ---------------------------------------------------------------- training
def curves(logger) -> set[str]:
    "Names of the curves that a logger of Lightning wrote."
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    if isinstance(logger, CSVLogger):
        return set(pd.read_csv(os.path.join(logger.log_dir, "metrics.csv")))
    if isinstance(logger, TensorBoardLogger):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        return set(EventAccumulator(logger.log_dir).Reload().Tags()["scalars"])
    return set(logger.experiment.get_run(logger.run_id).data.metrics)


@pytest.mark.parametrize("name", ["CSVLogger", "TensorBoardLogger", "MLFlowLogger"])
def test_loggers(fresh, tmp_path, name):
    "Curves reach the logger, and `model.history` holds them as it does without one."
    if name == "MLFlowLogger" and not has("mlflow"):
        pytest.skip("mlflow is not installed (make test-latest installs it)")
    import lightning.pytorch.loggers as loggers

    place = {"tracking_uri": f"sqlite:///{tmp_path}/runs.db"} if name == "MLFlowLogger" else {"save_dir": tmp_path}
    logger = getattr(loggers, name)(**place)
    fresh.train(logger=logger, **QUICK)
    assert {"elbo_validation", "train_loss_epoch"} <= {
        c.replace("train_loss", "train_loss_epoch") for c in curves(logger)
    }
    assert (
        len(fresh.history["elbo_train"]) == 3
        and np.isfinite(fresh.history["elbo_validation"].astype(float)).all().all()
    )


def test_configs(fresh):
    "What is set in a config counts, arguments that were given win, and what was not set stays ours."
    import scvi.train

    if not hasattr(scvi.train, "TrainingPlanConfig"):
        plan, trainer = {"lr": 0.003, "max_kl_weight": 0.5}, {"max_epochs": 2, "enable_progress_bar": False}
    else:
        plan = scvi.train.TrainingPlanConfig(lr=0.003, max_kl_weight=0.5)
        trainer = scvi.train.TrainerConfig(max_epochs=2, enable_progress_bar=False)
    fresh.train(plan_config=plan, trainer_config=trainer, batch_size=32, eps=1e-7)
    made = fresh.trainer.lightning_module
    assert (made.lr, made.max_kl_weight, made.eps, made.weight_decay) == (0.003, 0.5, 1e-7, 1e-3)
    assert len(fresh.history["elbo_train"]) == 2 and made.n_epochs_kl_warmup == 50
    with pytest.raises(TypeError, match="plan_config=3 must be a dictionary or a config"):
        fresh.train(plan_config=3, **QUICK)


def test_save_checkpoint(fresh, mdata, tmp_path):
    "The best state is a saved model that loads, and it is put back at the end of training."
    from scvi.train import SaveCheckpoint

    keep = SaveCheckpoint(dirpath=str(tmp_path), monitor="elbo_validation", load_best_on_end=True)
    fresh.train(callbacks=[keep], enable_checkpointing=True, **QUICK | {"max_epochs": 6, "lr": 1e-2})
    best = SPLICEVI.load(keep.best_model_path, mdata)
    for k, v in best.module.state_dict().items():
        assert torch.equal(v, fresh.module.state_dict()[k]), k
    assert np.allclose(best.get_latent_representation(), fresh.get_latent_representation())


def test_checkpoints_of_lightning(fresh, tmp_path):
    "Lightning's own checkpoint holds the weights of the module."
    from lightning.pytorch.callbacks import ModelCheckpoint

    keep = ModelCheckpoint(dirpath=tmp_path)
    fresh.train(callbacks=[keep], enable_checkpointing=True, **QUICK)
    held = torch.load(keep.best_model_path, weights_only=False)["state_dict"]
    for k, v in fresh.module.state_dict().items():
        assert torch.equal(held[f"module.{k}"], v), k


def test_search_space():
    "A space is ready for run_autotune, and options that are fixed go where they belong."
    if not has("ray"):
        with pytest.raises(ImportError, match=r"splicevi\[scvi\]"):
            SPLICEVI.search_space()
        return
    space = SPLICEVI.search_space(n_latent=3, max_epochs=2)
    assert space["model_params"]["n_latent"] == 3 and space["train_params"]["max_epochs"] == 2
    assert space["train_params"]["lr"].sample() < 0.011


@pytest.mark.slow
def test_autotune(mdata, tmp_path):
    "scvi-tools' autotune trains models of the space and keeps their ELBO."
    if not has("ray"):
        pytest.skip("ray is not installed (make test-latest installs it)")
    from scvi.autotune import run_autotune

    done = run_autotune(
        SPLICEVI,
        data=mdata,
        metrics="elbo_validation",
        mode="min",
        search_space=SPLICEVI.search_space(n_hidden=8, max_epochs=2, check_val_every_n_epoch=1),
        num_samples=1,
        scheduler="fifo",
        searcher="random",
        resources={"cpu": 1},
        logging_dir=str(tmp_path),
    )
    assert np.isfinite(done.result_grid.get_dataframe()["elbo_validation"]).all()


# ---------------------------------------------------------------- sharing and mapping
def test_hub(model, tmp_path):
    "A folder of scvi.hub: the card has the training's facts, and the model that is loaded from it is the same."
    if not has("huggingface_hub"):
        with pytest.raises(ImportError, match=r"splicevi\[scvi\]"):
            model.to_hub(tmp_path / "hub", "cc-by-4.0")
        return
    from scvi.hub import HubModel

    model.to_hub(tmp_path / "hub", "cc-by-4.0", "Simulated cells.", save_anndata=True)
    again = HubModel(str(tmp_path / "hub"))
    text = str(again.model_card)
    assert "| epochs | 20 |" in text and "| n_latent | 4 |" in text and "license: cc-by-4.0" in text
    assert again.metadata.model_cls_name == "SPLICEVI"
    assert np.allclose(again.model.get_latent_representation(), model.get_latent_representation())
    with pytest.raises(ValueError, match="overwrite"):
        model.to_hub(tmp_path / "hub", "cc-by-4.0")


def test_query_data(model, mdata):
    "New batches, junctions in another order and junctions that are missing: the map to events travels with the model."
    from mudata import MuData

    some, rng = mdata["splicing"], np.random.default_rng(0)
    order = rng.permutation(some.n_vars)
    shuffled = MuData({"rna": mdata["rna"][:40].copy(), "splicing": some[:40, order].copy()})
    lacking = MuData({"rna": mdata["rna"][:40].copy(), "splicing": some[:40, order[:30]].copy()})
    for query in (shuffled, lacking):
        query.obs["batch"] = "new"
        del query["splicing"].var["event_id"]
    mapped = [SPLICEVI.load_query_data(query, model) for query in (shuffled, lacking)]
    for m in mapped:
        assert (m.junction_events == model.junction_events).all() and list(m.junction_names) == list(some.var_names)
        m.train(**QUICK)
        assert m.get_latent_representation().shape == (40, 4)
        assert m.get_normalized_splicing(silent=True).shape == (40, 40)
    reads = [m.reads().pairs for m in mapped]
    assert len(reads[1]) < len(reads[0]) == len(model.reads(mdata[:40].copy()).pairs)
