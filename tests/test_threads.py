"""PyTorch's threads, those of compiled code and the one that reads ahead leave each other their cores."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from splicevi import SPLICEVI
from splicevi.datasets import simulate
from splicevi.model.run import Stopper, TrainingRun
from splicevi.nn import threads
from splicevi.nn.loader import TrainingLoader

TASKS = Path("/proc/self/task")
needs_openmp = pytest.mark.skipif(
    threads.openmp() is None or not TASKS.exists(), reason="PyTorch does not bring a new OpenMP of GNU's along here"
)


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def running() -> set[str]:
    "Threads of this process that the system knows."
    return set(os.listdir(TASKS))


@needs_openmp
def test_who_reads_ahead_has_no_threads_of_pytorch():
    "An epoch of many cells is shuffled by a large operation, which used to leave three threads behind."
    data = simulate(n_cells=60, n_genes=20, n_junctions=40, seed=0)
    SPLICEVI.setup_mudata(data)
    manager = SPLICEVI(data, n_latent=3).adata_manager
    torch.ones(100_000).exp()
    rows = np.resize(np.arange(60), 70_000)
    loader = TrainingLoader(manager, indices=rows, batch_size=64, shuffle=True)
    before = running()
    batches = iter(loader)
    next(batches)
    assert len(running() - before) == 1
    batches.close()
    assert torch.get_num_threads() == 4


@pytest.fixture
def nothing_told(monkeypatch):
    "Nobody has said how threads are to wait."
    for name in threads.TOLD:
        monkeypatch.delenv(name, raising=False)
    if threads._busy.crowd:  # of a test before, where other programs were at work
        threads._busy.crowd.join(30)


@needs_openmp
def test_threads_that_wait_end_before_a_training_in_the_background(nothing_told):
    torch.ones(100_000).exp()
    before, seen = running(), []
    run = TrainingRun(lambda: seen.append(running()), Stopper())
    run._thread.join()
    assert run.error is None and len(before & seen[0]) == len(before) - 3


@needs_openmp
@pytest.mark.parametrize("also", ["before", "after"])
def test_work_in_parts_beside_pytorch(nothing_told, also):
    "Threads end and start again, and everything is right."
    x, out = np.arange(200_000.0), np.empty(200_000)

    def square(first, last):
        out[first * 1000 : last * 1000] = x[first * 1000 : last * 1000] ** 2

    for _ in range(50):
        if also == "before":
            assert torch.ones(200_000).mul(2).sum() == 400_000
        out[:] = 0
        threads.in_parts(square, np.arange(201) * 1000)
        if also == "after":
            assert torch.ones(200_000).mul(2).sum() == 400_000
        np.testing.assert_array_equal(out, x**2)


@needs_openmp
def test_where_others_are_at_work_threads_are_a_crowd(nothing_told, monkeypatch):
    "For a while; then it is looked again. Who said how threads are to wait is obeyed."
    monkeypatch.setattr(threads, "LONG", 0.0)
    monkeypatch.setattr(threads, "CROWDED", 0.5)
    monkeypatch.setattr(threads._busy, "long", 0)
    for _ in range(threads.IN_A_ROW):
        assert threads._busy.crowd is None or not threads._busy.crowd.is_alive()
        threads.end_waiting()
    crowd = threads._busy.crowd
    assert crowd.is_alive()
    torch.ones(100_000).exp()
    before = running()
    threads.end_waiting()
    assert running() >= before and threads._busy.crowd is crowd
    crowd.join(30)
    threads.end_waiting()
    assert len(running() & before) < len(before) - len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    for _ in range(2 * threads.IN_A_ROW):
        threads.end_waiting()
    assert threads._busy.crowd is crowd


SPIN = """
import time, torch
from splicevi.nn import threads
torch.set_num_threads(2)
x = torch.ones(100_000)

def turning():
    spent = []
    for _ in range(40):
        x.exp()
        start = time.process_time()
        time.sleep(0.02)
        spent.append(time.process_time() - start)
    return max(spent)  # on cores that others use, most threads have turned enough before this one is looked at

alone = turning()
threads.crowd(threads.openmp())
time.sleep(0.5)
print(alone, turning())
"""


@needs_openmp
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_in_a_crowd_no_thread_keeps_a_core_while_it_waits():
    env = {k: v for k, v in os.environ.items() if k not in threads.TOLD}
    out = subprocess.run([sys.executable, "-c", SPIN], env=env, capture_output=True, text=True, check=True).stdout
    alone, crowded = map(float, out.split())
    assert crowded < 0.5e-3 < alone


def in_fork(send) -> None:
    "Work in parts in a process that was forked."
    out = np.zeros(100)
    threads.in_parts(lambda first, last: out[first:last].fill(1), np.arange(101) * 1000)
    send.send(out.sum())


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_forked_process_has_threads_of_its_own():
    torch.ones(100_000).exp()
    threads.in_parts(lambda first, last: None, np.arange(101) * 1000)
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=in_fork, args=(send,))
    process.start()
    assert receive.poll(30) and receive.recv() == 100
    process.join(30)
    assert process.exitcode == 0


LATE = """
import multiprocessing, torch

def child():
    import os
    os.environ.pop("OMP_WAIT_POLICY", None), os.environ.pop("GOMP_SPINCOUNT", None)
    torch.set_num_threads(THREADS)
    from splicevi.nn import threads
    threads.end_waiting()

torch.set_num_threads(4)
torch.ones(200_000).exp()
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join(60)
print(process.exitcode)
process.kill()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("n", [1, 4])
def test_a_forked_process_that_imports_late_does_not_wait_for_threads_of_another(n):
    out = subprocess.run(
        [sys.executable, "-c", LATE.replace("THREADS", str(n))], capture_output=True, text=True, check=False
    )
    assert out.stdout.strip() == "0", out.stderr


def test_what_fails_in_a_part_is_heard():
    "Parts at work end before the error is raised; others are not begun."
    begun, ended = [], []

    def work(first, last):
        begun.append(first)
        try:
            if first == 0:
                raise ValueError("the first part")
            time.sleep(0.5)
        finally:
            ended.append(first)

    with pytest.raises(ValueError, match="the first part"):
        threads.in_parts(work, np.arange(101) * 1000)
    assert sorted(begun) == sorted(ended) and len(begun) < 16


@pytest.mark.parametrize("of_pytorch", [4, 8, 16])
def test_who_reads_ahead_has_a_quarter_for_compiled_code(of_pytorch):
    torch.set_num_threads(of_pytorch)

    def at_work(_):
        seen = set()

        def work(first, last):
            seen.add(threading.get_ident())
            time.sleep(0.05)

        threads.in_parts(work, np.arange(101) * 1000)
        return len(seen)

    assert list(threads.one_ahead(map(at_work, range(2)))) == [min(of_pytorch // 4, os.cpu_count() + 1)] * 2


def test_without_the_library_nothing_changes(monkeypatch):
    monkeypatch.setattr(threads, "openmp", lambda: None)
    seen = []
    threads.in_parts(lambda first, last: seen.extend(range(first, last)), np.arange(101) * 1000)
    assert sorted(seen) == list(range(100)) and list(threads.one_ahead(iter("ab"))) == ["a", "b"]
