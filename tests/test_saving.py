"""A saved model is data, comes back as it was, and is there as a whole or not at all."""

import importlib.util
import io
import json
import pickle
import warnings
import zipfile
from contextlib import nullcontext
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch
from anndata import AnnData

from splicevi import SPLICEVI
from splicevi.datasets import simulate
from splicevi.model.plain import JSON_NAME, PlainFile, packed
from splicevi.nn.scvi_names import kept_attributes

QUIET = dict(enable_progress_bar=False, accelerator="cpu")
GOLDEN = Path(__file__).parent / "data" / "golden_model"


@pytest.fixture(scope="module")
def mdata():
    "60 cells in two batches."
    return simulate(n_cells=60, n_genes=20, n_junctions=30, n_cell_types=2, n_batches=2, seed=0)


@pytest.fixture(scope="module")
def model(mdata):
    scvi.settings.seed = 0
    mdata.obs["plate"] = np.arange(60) % 3  # whole numbers
    mdata.obs["smoker"] = np.arange(60) % 2 == 0
    SPLICEVI.setup_mudata(mdata, batch_key="batch", categorical_covariate_keys=["plate", "smoker"])
    out = SPLICEVI(mdata, n_latent=4)
    out.train(max_epochs=2, batch_size=32, **QUIET)
    return out


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "m")
    return tmp_path / "m"


# ---------------------------------------------------------------- what comes back

VALUES = {
    "none": None,
    "plain": [True, 1, -(2**70), 0.1, -0.0, "ü\u2028\x00</script>", [], {}],
    "not finite": [float("nan"), float("inf"), -float("inf")],
    "kinds of lists": [(1, (2,)), [1, [2]], {1, "a"}, frozenset({(1, 2)}), range(3), slice(None, 2)],
    "keys": {1: "int", True + 1: "two", "1": "text", None: 0, (1, 2): 3, 0.5: 4, np.int64(7): 5, "!": "tag"},
    "bytes and complex": [b"\x00\xff", 1 + 2j],
    "numpy": [
        np.int8(-3),
        np.uint64(2**63),
        np.float16(0.1),
        np.float32(0.1),
        np.bool_(True),
        np.str_("é"),
        np.bytes_(b"a"),
    ],
    "dates": [np.datetime64("2020-01-01T00:00", "s"), np.datetime64("NaT", "ns"), np.timedelta64(3, "h")],
    "complex of numpy": np.complex64(1 - 2j),
    "arrays": [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.ones((2, 2), "f4")),
        np.zeros((0, 3)),
        np.array(["a", "bc"]),
    ],
    "scalars in arrays": [np.array(5), np.array([True]), np.array(["2020"], "M8[D]"), np.array([1.5], ">f8")],
    "objects": np.array([["a", None], [1, np.float32(2)]], object),
    "pandas": [pd.NA, pd.NaT, pd.Timestamp("2020-01-01", tz="Europe/Berlin"), pd.Timedelta("1h")],
    "dtypes": [np.dtype("i4"), torch.float16, torch.device("cpu")],
    "tensors": [torch.arange(3), torch.zeros(2, 0), torch.tensor(True), torch.ones(2, 2, dtype=torch.bfloat16).T],
}
INDICES = [
    pd.Index(["a", "b"], name="x"),
    pd.Index([1, "b", None], dtype=object),
    pd.Index([3, 1], dtype="int32"),
    pd.Index([True, False]),
    pd.RangeIndex(1, 7, 2, name=("a", 1)),
    pd.CategoricalIndex(["b", None, "a"], categories=["b", "a", "c"], ordered=True),
    pd.DatetimeIndex(["2020-01-01", None]),
    pd.DatetimeIndex(["2020-01-01", None], tz="UTC"),
    pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["l", None]),
    pd.Index(pd.array([1, None], dtype="Int64")),
    pd.Index(["a", None], dtype="string"),
]


def there_and_back(value, folder):
    path = Path(folder, "v.pt")
    path.write_bytes(packed({"value": value}, {}))
    with PlainFile(path) as file:
        return file.read()["value"]


def same(a, b) -> bool:
    "Whether two values are of the same type and hold the same bits."
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool((a.cpu() == b.cpu()).all())
    if isinstance(a, np.ndarray):
        objects = a.dtype.hasobject
        return (
            a.dtype == b.dtype
            and a.shape == b.shape
            and (same(a.tolist(), b.tolist()) if objects else a.tobytes() == b.tobytes())
        )
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    return repr(a) == repr(b)


def plain_dicts(value):
    "Dictionaries of other types as such."
    return {k: plain_dicts(v) for k, v in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_as_they_were(name, tmp_path):
    assert same(there_and_back(VALUES[name], tmp_path), VALUES[name])


def test_tables_come_back_as_they_were(tmp_path):
    for index in INDICES:
        back = there_and_back(index, tmp_path)
        pd.testing.assert_index_equal(back, index, exact=True)
        assert type(back) is type(index) and same(back.name, index.name)
        n = len(index)
        columns = {"f": np.linspace(0, 1, n, dtype="f4"), 2: [None] * n, "i": pd.array([1] * n, dtype="Int8")}
        table = pd.DataFrame(columns, index=index) if index.is_unique else None
        pd.testing.assert_frame_equal(there_and_back(table, tmp_path), table)
        pd.testing.assert_series_equal(there_and_back(table[2], tmp_path), table[2])
    empty = pd.DataFrame(index=pd.RangeIndex(2))
    pd.testing.assert_frame_equal(there_and_back(empty, tmp_path), empty)


def test_a_model_comes_back_as_it_was(model, saved, mdata):
    "All that is kept of a model has the same types and bits after loading; the registry too."
    back = SPLICEVI.load(saved, mdata)
    before, after = kept_attributes(model), kept_attributes(back)
    assert {*before} == {*after} and {"history_", "train_indices_", "is_trained_", "init_params_"} <= {*before}
    for k in before:
        if k == "history_":
            assert list(after[k]) == list(before[k])
            for n in before[k]:
                pd.testing.assert_frame_equal(after[k][n], before[k][n], check_exact=True)
        elif k != "registry_":
            assert same(before[k], after[k]), k
    assert same(SPLICEVI.load_registry(saved), plain_dicts(model.registry_))
    weights, loaded = model.module.state_dict(), back.module.state_dict()
    assert list(weights) == list(loaded) and all(same(weights[k], loaded[k]) for k in weights)
    plates = back.registry_["field_registries"]["extra_categorical_covs"]["state_registry"]["mappings"]
    assert plates["plate"].dtype.kind == "i" and plates["smoker"].dtype.kind == "b"
    assert np.array_equal(back.get_latent_representation(), model.get_latent_representation())


def test_what_a_file_cannot_hold_is_named(model, tmp_path):
    model.own_ = {"f": [1, print]}
    try:
        with pytest.raises(TypeError, match=r"attributes\['own_'\]\['f'\]\[1\] is a builtin_function"):
            model.save(tmp_path / "m")
        assert not list(tmp_path.iterdir())
    finally:
        del model.own_


# ---------------------------------------------------------------- nothing is run


class Bomb:
    "Writes a file when it is unpickled."

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (exec, (f"open({self.path!r}, 'w').write('boom')",))


def readers(folder, mdata):
    "Every way to read a saved model from a folder."
    return {
        "load": lambda: SPLICEVI.load(folder, mdata),
        "load without data": lambda: SPLICEVI.load(folder, False),
        "load_registry": lambda: SPLICEVI.load_registry(folder),
        "view_setup_args": lambda: SPLICEVI.view_setup_args(folder),
        "load_query_data": lambda: SPLICEVI.load_query_data(mdata.copy(), folder),
        "load_query_data of a registry": lambda: SPLICEVI.load_query_data(None, str(folder), registry={}),
        "prepare_query_mudata": lambda: SPLICEVI.prepare_query_mudata(mdata.copy(), str(folder)),
        "convert_legacy_save": lambda: SPLICEVI.convert_legacy_save(str(folder), str(folder / "new")),
    }


READERS = list(readers(None, None))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("how", ["torch", "pickle", "beside ours", "legacy"])
def test_a_pickle_is_not_run(saved, mdata, tmp_path, reader, how):
    "Neither a model of scvi-tools' format, nor a bare pickle, nor one put into a file of ours runs."
    path, bomb = saved / "model.pt", {"attr_dict": Bomb(tmp_path / "boom"), "model_state_dict": {}}
    if how == "torch":
        torch.save(bomb, path)
    elif how == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif how == "legacy":
        path.unlink()
        torch.save(bomb, saved / "model_params.pt")
        (saved / "attr.pkl").write_bytes(pickle.dumps(bomb))
        (saved / "var_names.csv").write_text("a")
    else:
        rewrite(path, {"archive/data.pkl": pickle.dumps(bomb)})
    readable = how == "beside ours" and reader not in ("convert_legacy_save", "load_query_data of a registry")
    with nullcontext() if readable else pytest.raises((ValueError, NotImplementedError, KeyError)):
        readers(saved, mdata)[reader]()
    assert not (tmp_path / "boom").exists()
    if how == "torch":  # the bomb is one
        torch.load(path, weights_only=False)
        assert (tmp_path / "boom").exists()


def rewrite(path, new: dict, drop=()):
    "Put other bytes into entries of an archive."
    with zipfile.ZipFile(path) as old:
        entries = {n: old.read(n) for n in old.namelist() if n not in drop}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
        for name, content in (entries | new).items():
            out.writestr(name, content)


def edit_json(path, change):
    "Change the JSON of a saved model."
    with zipfile.ZipFile(path) as old:
        content = json.loads(old.read(JSON_NAME))
    change(content)
    rewrite(path, {JSON_NAME: json.dumps(content)})


def test_scvi_tools_own_format_on_request(model, mdata, tmp_path):
    "A model that scvi-tools saved is read with allow_pickle=True, with a warning, and only then."
    scvi.model.base.BaseModelClass.save(model, str(tmp_path / "m"))
    with pytest.raises(ValueError, match="allow_pickle=True"):
        SPLICEVI.load(tmp_path / "m", mdata)
    with pytest.warns(UserWarning, match="what is in it is run"):
        back = SPLICEVI.load(tmp_path / "m", mdata, allow_pickle=True)
    assert np.array_equal(back.get_latent_representation(), model.get_latent_representation())
    with pytest.warns(UserWarning, match="what is in it is run"):
        assert SPLICEVI.load_registry(tmp_path / "m", allow_pickle=True)["model_name"] == "SPLICEVI"


def test_our_files_are_read_by_torch_and_scvi_tools(model, saved):
    "torch reads the weights without running anything; scvi-tools' hub and its callback find what they look for."
    from scvi.model.base._save_load import _load_saved_files

    held = torch.load(saved / "model.pt", weights_only=True)
    assert all(same(held["model_state_dict"][k], v) for k, v in model.module.state_dict().items())
    attributes, _, weights, _ = _load_saved_files(str(saved), load_adata=False, map_location="cpu")
    registry = attributes["registry_"]
    assert registry["model_name"] == "SPLICEVI" and registry["setup_args"]["batch_key"] == "batch"
    assert scvi.data.AnnDataManager._get_summary_stats_from_registry(registry)["n_batch"] == 2
    assert (
        attributes["init_params_"]["non_kwargs"]["n_latent"] == 4 and weights.keys() == held["model_state_dict"].keys()
    )


def test_best_weights_of_a_checkpoint_callback(mdata, tmp_path):
    from scvi.train import SaveCheckpoint

    SPLICEVI.setup_mudata(mdata)
    model = SPLICEVI(mdata, n_latent=4)
    keep = SaveCheckpoint(str(tmp_path), monitor="elbo_validation", load_best_on_end=True, save_top_k=2)
    model.train(max_epochs=3, callbacks=[keep], **QUIET)
    back = SPLICEVI.load(keep.best_model_path, mdata)
    assert np.array_equal(back.get_latent_representation(), model.get_latent_representation())


# ---------------------------------------------------------------- files that lie


def weight_shape(shape):
    "A first weight that claims another shape."
    return lambda p: edit_json(p, lambda c: next(iter(c["content"]["weights"].values()))["value"].__setitem__(2, shape))


def argument(**given):
    "Other arguments of the constructor."
    return lambda p: edit_json(p, lambda c: c["content"]["attributes"]["init_params_"]["non_kwargs"].update(given))


def first_array(content: bytes):
    return lambda p: rewrite(p, {"archive/splicevi/0.npy": content})


def npy(shape) -> bytes:
    "Two numbers under a header that claims a shape."
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, np.lib.format.header_data_from_array_1_0(np.zeros(2)) | {"shape": shape})
    return out.getvalue() + bytes(16)


def pickled_array() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([Bomb("boom")]), allow_pickle=True)
    return out.getvalue()


def packed_json(path):
    "JSON of 50 MB that takes 50 kB."
    rewrite(path, {}, drop=[JSON_NAME])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as out:
        out.writestr(JSON_NAME, b'{"format": 1, "x": "' + b" " * 50_000_000 + b'"}')


LIES = {
    "100,000 entries": lambda p: rewrite(p, {f"archive/x/{i}": b"" for i in range(100_000)}),
    "deep": lambda p: rewrite(p, {JSON_NAME: b'{"format": 1, "content": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"}),
    "tensor of 4 TB": weight_shape([10**6, 10**6]),
    "negative shape": weight_shape([-1, -20]),
    "array of 8 TB": first_array(npy((10**12,))),
    "objects in an array": first_array(pickled_array()),
    "packed": packed_json,
    "many layers": argument(n_layers_encoder=10**9),
    "wide layers": argument(n_hidden=50_000),
    "unknown tag": lambda p: edit_json(
        p, lambda c: c["content"]["attributes"].update(run_id_={"!": "os.system", "value": "ls"})
    ),
    "no registry": lambda p: edit_json(p, lambda c: c["content"]["attributes"].pop("registry_")),
    "other weights": lambda p: edit_json(p, lambda c: c["content"]["weights"].popitem()),
    "text": lambda p: p.write_text("hello"),
    "empty": lambda p: p.write_bytes(b""),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_file_that_lies_is_refused(saved, mdata, kind):
    "The error names the file, and comes before memory is asked for."
    LIES[kind](saved / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt is damaged or was cut short"):
        SPLICEVI.load(saved, mdata)


def test_names_of_entries_lead_nowhere(saved, mdata, tmp_path):
    "Entries whose names leave the archive are not unpacked: nothing appears, and the model loads."
    outside = ("../../evil.txt", "/tmp/splicevi-evil.txt", "archive/../../evil2.txt")
    rewrite(saved / "model.pt", dict.fromkeys(outside, b"x"))
    before = sorted(tmp_path.rglob("*"))
    SPLICEVI.load(saved, mdata)
    assert sorted(tmp_path.rglob("*")) == before and not Path("/tmp/splicevi-evil.txt").exists()


def test_attributes_that_are_none_of_a_model_are_left_out(saved, mdata):
    edit_json(saved / "model.pt", lambda c: c["content"]["attributes"].update({"module": 1, "__class__": 2, "x y_": 3}))
    edit_json(saved / "model.pt", lambda c: c["content"]["attributes"].update({f"__x{i}": i for i in range(100_000)}))
    back = SPLICEVI.load(saved, mdata)
    assert back.module is not None and not hasattr(back, "__x7") and not hasattr(back, "x y_")


def test_every_cut_and_every_flipped_byte_is_seen(saved, mdata):
    "A file cut anywhere, or with a byte changed in what is read, does not load as if it were whole."
    path = saved / "model.pt"
    raw, rng = path.read_bytes(), np.random.default_rng(0)
    for end in [*rng.integers(1, len(raw), 25), len(raw) - 1]:
        path.write_bytes(raw[:end])
        with pytest.raises(ValueError, match=r"model\.pt is damaged or was cut short"):
            SPLICEVI.load(saved, False)
    with zipfile.ZipFile(io.BytesIO(raw)) as z:
        read = [
            i for i in z.infolist() if i.file_size and (i.filename.startswith(("archive/data/", "archive/splicevi")))
        ]
    for entry in [*read[:3], *read[-3:]]:
        at = entry.header_offset + 30 + len(entry.filename.encode())
        at += int.from_bytes(raw[entry.header_offset + 28 : entry.header_offset + 30], "little")
        flipped = bytearray(raw)
        flipped[at + entry.file_size // 2] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"model\.pt is damaged or was cut short"):
            SPLICEVI.load(saved, False)


def test_a_later_format_is_named(saved, mdata):
    edit_json(saved / "model.pt", lambda c: c.update(format=2, versions={"splicevi": "0.9"}))
    with pytest.raises(ValueError, match=r"has format 2, of splicevi 0\.9; this one reads up to 1\. Update"):
        SPLICEVI.load(saved, mdata)
    edit_json(saved / "model.pt", lambda c: c.update(format="1"))
    with pytest.raises(ValueError, match="does not say its format"):
        SPLICEVI.load(saved, mdata)


def test_another_class_and_no_model(saved, mdata, tmp_path):
    class Other(SPLICEVI):
        pass

    with pytest.raises(ValueError, match="holds a SPLICEVI, not a Other"):
        Other.load(saved, mdata)
    Other.load(saved, False, allowed_classes_names_list=["SPLICEVI"])
    with pytest.raises(ValueError, match="There is no saved model"):
        SPLICEVI.load(tmp_path, mdata)
    with pytest.raises(ValueError, match="it has model.pt, which prefix= chooses"):
        SPLICEVI.load(saved, mdata, prefix="first_")
    with pytest.raises(TypeError, match="save_kwargs has no meaning"):
        SPLICEVI.load(saved, False).save(tmp_path / "n", save_kwargs={"pickle_protocol": 4})


# ---------------------------------------------------------------- later releases


def golden():
    "The recipe of the golden model's data."
    spec = importlib.util.spec_from_file_location("golden_model", GOLDEN.parent / "golden_model.py")
    out = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(out)
    return out


def test_the_golden_model_loads():
    "A model that the first release saved says today what it said then."
    model = SPLICEVI.load(GOLDEN, golden().cells(), accelerator="cpu")
    said = np.load(GOLDEN / "said.npz", allow_pickle=False)
    close = dict(rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.get_latent_representation(), said["latent"], **close)
    np.testing.assert_allclose(model.get_normalized_splicing(return_numpy=True), said["psi"], **close)
    np.testing.assert_allclose(model.get_normalized_expression(return_numpy=True), said["expression"], **close)
    np.testing.assert_array_equal(model.history["elbo_train"].to_numpy(float).ravel(), said["elbo_train"])
    np.testing.assert_array_equal(model.train_indices, said["train_indices"])
    assert model.is_trained and model.registry_["setup_args"]["batch_key"] == "batch"
    assert sum(f.stat().st_size for f in GOLDEN.iterdir()) < 150_000


# ---------------------------------------------------------------- data beside the model


def columns(data) -> dict:
    "Types and values of all tables of a data set."
    parts = {"": data} | getattr(data, "mod", {})
    return {(k, t): getattr(part, t).copy() for k, part in parts.items() for t in ("obs", "var")}


@pytest.mark.parametrize("kind", ["mudata", "anndata", "backed"])
def test_saved_data_leave_the_users_as_they_were(mdata, tmp_path, kind):
    "Columns of text stay text; what is beside the model loads without being named, and is a data set of its own."
    data = mdata.copy()
    data["rna"].obs["note"] = pd.Series([f"n{i % 4}" for i in range(60)], data.obs_names, dtype=object)
    data["splicing"].var["text"] = pd.Series("t", data["splicing"].var_names, dtype=object)
    data.obs["more"] = pd.Series([f"m{i % 3}" for i in range(60)], data.obs_names, dtype=object)
    sizes = {}
    if kind == "anndata":
        rna, junctions = data["rna"], data["splicing"]
        wide = lambda m: sp.hstack([sp.csr_matrix(rna.shape, dtype=np.float32), m]).tocsr()
        layers = {
            k: wide(junctions.layers[k]) for k in ("cell_by_junction_matrix", "psi_mask") if k in junctions.layers
        }
        var = pd.concat([rna.var[[]], junctions.var[["event_id", "text"]]])
        x = sp.hstack([rna.X, sp.csr_matrix(junctions.shape, dtype=np.float32)]).tocsr()
        data, sizes = AnnData(x, obs=data.obs.copy(), var=var, layers=layers), dict(n_genes=20, n_junctions=30)
        data.raw = data.copy()
    if kind == "backed":
        data.write(tmp_path / "d.h5mu")
        data = mudata.read_h5mu(tmp_path / "d.h5mu", backed="r")
    (SPLICEVI.setup_anndata if kind == "anndata" else SPLICEVI.setup_mudata)(data, batch_key="batch")
    model = SPLICEVI(data, n_latent=4, **sizes)
    model.train(max_epochs=1, **QUIET)
    before = columns(data)
    model.save(tmp_path / "m", save_anndata=True, compression="gzip")
    for k, table in columns(data).items():
        pd.testing.assert_frame_equal(table, before[k])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        back = SPLICEVI.load(tmp_path / "m")
    for k, table in columns(back.adata).items():
        text = lambda frame: frame.astype(object).where(frame.notna(), "none").astype(str)
        pd.testing.assert_frame_equal(text(table[[*before[k]]]), text(before[k]))
    assert np.array_equal(back.get_latent_representation(), model.get_latent_representation())
    assert np.array_equal(model.get_latent_representation(), model.get_latent_representation(data))
    model.train(max_epochs=1, **QUIET)  # its data are still its own
