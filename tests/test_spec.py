"""The public interface: names, arguments in order and defaults of `splicevi.SPLICEVI`."""

import inspect

import pytest

REQUIRED = inspect.Parameter.empty

INIT = dict(
    adata=REQUIRED, modality_weights="equal", modality_penalty="Jeffreys", gene_likelihood="zinb", dispersion="gene",
    splicing_encoder_architecture="partial", splicing_decoder_architecture="linear", expression_architecture="linear",
    n_hidden=None, n_latent=None, n_layers_encoder=2, n_layers_decoder=2, dropout_rate=0.1, use_batch_norm="none",
    use_layer_norm="both", latent_distribution="normal", deeply_inject_covariates=False, encode_covariates=False,
    splicing_loss_type="dirichlet_multinomial", splicing_concentration=None, dm_concentration="atse",
    encoder_hidden_dim=128, code_dim=16, h_hidden_dim=64, pool_mode="mean", max_nobs=-1, n_genes=None, n_junctions=None,
    initialize_embeddings_from_pca=False, fully_paired=False,
)  # fmt: skip
DECODED = dict(use_z_mean=True, n_samples=1, batch_size=None, return_mean=True, return_numpy=False, silent=True)
CELLS = dict(adata=None, indices=None, n_samples_overall=None, transform_batch=None)
DIFFERENTIAL = lambda delta: dict(
    adata=None, groupby=None, group1=None, group2=None, idx1=None, idx2=None, mode="change", delta=delta,
    batch_size=None, all_stats=True, batch_correction=False, batchid1=None, batchid2=None, fdr_target=0.05,
    silent=False,
)  # fmt: skip

METHODS = dict(
    get_latent_representation=dict(adata=None, modality="joint", indices=None, give_mean=True, batch_size=None),
    get_library_size_factors=dict(adata=None, indices=None, batch_size=128),
    get_normalized_expression=CELLS | dict(gene_list=None) | DECODED,
    get_normalized_splicing=CELLS | dict(junction_list=None) | DECODED,
    get_normalized_splicing_DM=CELLS | dict(junction_list=None) | DECODED,
    setup_anndata=dict(
        adata=REQUIRED, layer=None, junc_ratio=None, cell_by_junction_matrix=None, cell_by_cluster_matrix=None,
        psi_mask_layer=None, batch_key=None, size_factor_key=None, categorical_covariate_keys=None,
        continuous_covariate_keys=None,
    ),
    setup_mudata=dict(
        mdata=REQUIRED, rna_layer=None, junc_ratio_layer=None, atse_counts_layer=None, junc_counts_layer=None,
        psi_mask_layer=None, batch_key=None, size_factor_key=None, categorical_covariate_keys=None,
        continuous_covariate_keys=None, idx_layer=None, modalities=None,
    ),
    train=dict(
        max_epochs=500, lr=0.0001, accelerator="auto", devices="auto", train_size=None, validation_size=None,
        shuffle_set_split=True, batch_size=128, weight_decay=0.001, eps=1e-08, early_stopping=True,
        early_stopping_patience=50, check_val_every_n_epoch=None, n_steps_kl_warmup=None, n_epochs_kl_warmup=50,
        adversarial_mixing=True, lr_scheduler_type="plateau", reduce_lr_on_plateau=False, lr_factor=0.6, lr_patience=30,
        lr_threshold=0.0, lr_scheduler_metric="elbo_validation", step_size=10, gradient_clipping=True,
        gradient_clipping_max_norm=5.0, datasplitter_kwargs=None, plan_kwargs=None,
    ),
    differential_expression=DIFFERENTIAL(0.25),
    differential_splicing=DIFFERENTIAL(0.1) | dict(norm_splicing_function="dm_posterior_mean"),
)  # fmt: skip
WITH_KWARGS = {"setup_anndata", "setup_mudata", "train", "differential_expression", "differential_splicing"}


def arguments(function) -> tuple[dict, bool]:
    "Arguments without self and cls, name to default, and whether it takes `**kwargs`."
    parameters = list(inspect.signature(function).parameters.values())
    takes_kwargs = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {
        p.name: p.default
        for p in parameters
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name not in ("self", "cls")
    }
    return named, takes_kwargs


def compare(found: dict, wanted: dict) -> None:
    "The wanted arguments come first and in order, with their defaults; what is ours comes after and is optional."
    assert list(found)[: len(wanted)] == list(wanted)
    assert {k: found[k] for k in wanted} == wanted
    # 1 == True and 0 == False: the kind counts too
    assert {k: type(found[k]) for k in wanted} == {k: type(v) for k, v in wanted.items()}
    assert all(v is not REQUIRED for k, v in found.items() if k not in wanted)


@pytest.fixture(scope="module")
def cls():
    "The model class."
    from splicevi import SPLICEVI

    return SPLICEVI


def test_constructor(cls):
    "Every constructor argument, and what else is given goes to the module."
    found, kwargs = arguments(cls.__init__)
    wanted = INIT
    if found.get("adata", REQUIRED) is None:  # scvi-tools ≥ 1.1 models may be made without data
        wanted = INIT | dict(adata=None)
    compare(found, wanted)
    assert kwargs


@pytest.mark.parametrize("name", METHODS)
def test_method(cls, name):
    "Every argument of the method, in order, with its default."
    found, kwargs = arguments(getattr(cls, name))
    compare(found, METHODS[name])
    if name in WITH_KWARGS:
        assert kwargs


def explained(doc: str) -> set[str]:
    "Arguments with an entry in the section Parameters of a rendered docstring."
    lines = doc.partition("Parameters\n----------\n")[2].splitlines()
    end = next((i for i, line in enumerate(lines) if line.startswith("---")), len(lines) + 1) - 1
    entries = [line for line in lines[:end] if line and not line.startswith(" ")]
    return {name.strip(" *") for line in entries for name in line.split(",")}


OTHERS = (
    "aligned",
    "reads",
    "feature_table",
    "has_modality",
    "need",
    "concentration",
    "smooth",
    "programs",
    "markers",
)  # beyond the spec


@pytest.mark.parametrize("name", [*METHODS, *OTHERS])
def test_method_is_documented(cls, name):
    "The rendered docstring explains every argument, ours too, and no shared part is left out of it."
    method = getattr(cls, name)
    doc, (named, kwargs) = inspect.getdoc(method) or "", arguments(method)
    assert "%(" not in doc and "%%" not in doc
    assert explained(doc) - {"kwargs"} == named.keys() and ("kwargs" in explained(doc)) == kwargs


def test_class_is_documented(cls):
    "The class's docstring explains every constructor argument."
    doc, (named, _) = inspect.getdoc(cls) or "", arguments(cls.__init__)
    assert "%(" not in doc
    assert explained(doc) == named.keys() | {"model_kwargs"}


def test_bases(cls):
    "It is a scvi-tools model, with that library's mixins."
    from scvi.model.base import ArchesMixin, BaseModelClass, UnsupervisedTrainingMixin, VAEMixin

    assert issubclass(cls, BaseModelClass) and issubclass(cls, ArchesMixin) and issubclass(cls, VAEMixin)
    assert issubclass(cls, UnsupervisedTrainingMixin)


@pytest.mark.parametrize("name", ["save", "load", "load_query_data", "history", "is_trained", "view_anndata_setup"])
def test_inherited(cls, name):
    "What every scvi-tools model offers."
    assert hasattr(cls, name)


@pytest.mark.parametrize("name", ["setup_mudata", "setup_anndata"])
def test_setup_is_a_classmethod(cls, name):
    "Setting up needs no instance."
    assert inspect.ismethod(getattr(cls, name)) and getattr(cls, name).__self__ is cls


def test_module_is_public():
    "The module class stands beside the model."
    import torch

    from splicevi import SPLICEVAE

    assert issubclass(SPLICEVAE, torch.nn.Module)


def test_module_has_the_same_options():
    "What the model passes on has the same default in the module."
    from splicevi import SPLICEVAE

    found, _ = arguments(SPLICEVAE)
    shared = {name: default for name, default in INIT.items() if name in found}
    assert len(shared) == 25 and {name: found[name] for name in shared} == shared
