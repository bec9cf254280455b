"""What we use of the libraries below: where it is, and that nothing else is used."""

import ast
import re

import pytest

from splicevi.nn import scvi_names
from splicevi.nn.scvi_names import MIXIN, MODEL, NAMES, moved

PUBLIC = {"_replace", "_fields", "_asdict", "_option_string_actions"}  # of named tuples; of argparse
BASES = (
    MODEL,
    MIXIN,
    "scvi.model.base:ArchesMixin",
    "scvi.model.base:VAEMixin",
    "scvi.module.base:BaseModuleClass",
    "scvi.train:AdversarialTrainingPlan",
    "scvi.dataloaders:DataSplitter",
    "scvi.dataloaders:AnnDataLoader",
    "scvi.data.fields:BaseAnnDataField",
    "lightning.pytorch:Callback",
)


def test_no_name_has_moved():
    "What the library borrows is where it was; the message says which name is not."
    assert not (gone := moved()), "\n".join(gone)


def test_a_name_that_moved_is_told(monkeypatch):
    "A method, an attribute of an object and a key of the registry that moved are each named with their use."
    from scvi.data import _constants
    from scvi.model.base import BaseModelClass
    from scvi.nn import FCLayers

    monkeypatch.delattr(BaseModelClass, "_make_data_loader")
    monkeypatch.setattr(_constants, "_STATE_REGISTRY_KEY", "state")
    start = FCLayers.__init__

    def renamed(self, *args, **kwargs):
        start(self, *args, **kwargs)
        self.layers = self._modules.pop("fc_layers")

    monkeypatch.setattr(FCLayers, "__init__", renamed)
    method, attribute, key = moved()
    assert method == f"{MODEL}._make_data_loader is not there any more (mini-batches of a prediction)"
    assert attribute.startswith("FCLayers.fc_layers is not there") and "'state', was 'state_registry'" in key


def private_names(*folders):
    "Private names that the modules define, and (module, name) of each that they read."
    own, used = set(), []
    for path in sorted(p for folder in folders for p in folder.rglob("*.py")):
        if path.stem == "_modidx":
            continue
        for n in ast.walk(ast.parse(path.read_text())):
            if isinstance(n, ast.FunctionDef | ast.ClassDef):
                own.add(n.name)
            elif isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store):
                own.add(n.id)
            elif isinstance(n, ast.Attribute):
                own |= {n.attr} if isinstance(n.ctx, ast.Store) else set()
                used.append((path.stem, n.attr))
            elif isinstance(n, ast.ImportFrom) and not n.level:
                used += [(path.stem, part) for part in n.module.split(".")]
    is_private = lambda name: re.match(r"_[a-z]", name, re.IGNORECASE)
    return set(filter(is_private, own)), [(m, n) for m, n in used if is_private(n)]


def test_private_names_are_asked_for_in_one_module(root):
    "Names with an underscore that the library does not define itself are read in `scvi_names` alone, and listed there."
    own, used = private_names(root / "splicevi")
    listed = {place.rsplit(".", 1)[-1] for place in NAMES}
    foreign = {(module, name) for module, name in used if name not in own | PUBLIC}
    assert {n for m, n in foreign if m == "scvi_names"} <= listed | {"_constants"}
    assert len(foreign) > 8 and {m for m, _ in foreign} == {"scvi_names"}, sorted(foreign)


def test_registries_are_read_in_one_module(root):
    "The keys of scvi-tools' registry appear in `scvi_names` alone."
    keys = set(scvi_names.REGISTRY.values())
    for path in (root / "splicevi").rglob("*.py"):
        if path.stem in ("_modidx", "scvi_names"):
            continue
        texts = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        assert not texts & keys, f"{path.name} reads {texts & keys} itself"


@pytest.mark.parametrize("base", BASES)
def test_hooks_that_are_overridden_are_listed(root, base):
    "A private name of a base class that the library defines anew is listed: the base has to use it still."
    own, _ = private_names(root / "splicevi" / "nn", root / "splicevi" / "model")
    found = scvi_names.find(base)
    listed = {place.rsplit(".", 1)[-1] for place in NAMES}
    assert {n for n in own if hasattr(found, n)} <= listed
