"""What every test shares: few threads (before torch is loaded), the project's root, real data where they are."""

import os
import random
import sys

threads = 1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1)
for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(key, str(threads))
# on busy cores, threads that spin while they wait cost a factor of ten
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from operator import attrgetter  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# no example fails because the machine is busy; where HYPOTHESIS_PROFILE=ci the same examples are drawn in every run
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "here"))

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    """Tests of a file stay together when several workers share the work, as they share trained models.

    Each notebook is a piece of its own. They come last, so that no worker is left with a long file at the end.
    """
    items.sort(key=lambda item: item.path.name == "test_notebooks.py")
    for item in items:
        if item.path.name != "test_notebooks.py":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(autouse=True)
def seeds():
    "Global random numbers start at the same place in every test, whatever ran before it."
    random.seed(0)
    for name, start in (("numpy", "random.seed"), ("torch", "manual_seed")):
        if name in sys.modules:
            attrgetter(start)(sys.modules[name])(0)


@pytest.fixture(scope="session")
def root():
    "Folder that holds settings.ini."
    return ROOT


@pytest.fixture(scope="session")
def real_data():
    "Folder of the real data sets, or a skip that says why."
    folder = Path(os.environ.get("SPLICEVI_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not here ({folder}); SPLICEVI_REAL_DATA says where they are")
    return folder
