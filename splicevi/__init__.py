"""Joint latent space of gene expression and alternative splicing in single cells.

`import splicevi` loads nothing else: the model's dependencies take seconds to import, so submodules
(`splicevi.data`, `splicevi.model`, ...) and the names below are loaded on first use.
"""
from typing import TYPE_CHECKING as _TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["SPLICEVI", "SPLICEVAE"]

if _TYPE_CHECKING:
    from splicevi.model import SPLICEVI
    from splicevi.module import SPLICEVAE

_home = {"SPLICEVI": "model", "SPLICEVAE": "module"}


def __getattr__(name):
    "Import the submodule `name`, or the submodule that holds the public name, on first use."
    import sys
    from importlib import import_module, util

    if name in _home:
        value = globals()[name] = getattr(import_module(f"{__name__}.{_home[name]}"), name)
        return value
    if not name.startswith("_") and util.find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])


def __dir__():
    "Public names and submodules, loaded or not (for tab completion)."
    from pkgutil import iter_modules

    return sorted({*__all__, "__version__", *(m.name for m in iter_modules(__path__) if not m.name.startswith("_"))})
