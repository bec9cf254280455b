"""The training dashboard: what it records and shows, how training is stopped, and that watching changes nothing."""

import copy
import pickle
import queue
import re
import signal
import sys
import threading
import time
from itertools import pairwise
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback

from splicevi import SPLICEVI
from splicevi.data.build import hold_out
from splicevi.datasets import simulate
from splicevi.model import record as recorder
from splicevi.model.record import LatentMap, RecordingCallback
from splicevi.model.run import TrainingRun
from splicevi.views.dashboard import dashboard
from splicevi.views.dashboard.contents import demo_record, headline, metrics, panels
from splicevi.views.dashboard.dashboard import TrainingDashboard
from splicevi.views.dashboard.display import HTMLView, WidgetView, choose_view
from splicevi.views.dashboard.html import body_html, page_html, title_html

SVG = "{http://www.w3.org/2000/svg}"
QUICK = dict(batch_size=32, n_epochs_kl_warmup=4, lr=2e-3)
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:lightning")


@pytest.fixture(scope="module")
def data():
    "Training data of two batches, and held-out reads."
    mdata, held = hold_out(
        simulate(n_cells=120, n_genes=50, n_junctions=80, n_cell_types=3, observed=0.4, n_batches=2, seed=0),
        0.25,
        seed=0,
    )
    SPLICEVI.setup_mudata(mdata, batch_key="batch")
    return mdata, held


@pytest.fixture
def model(data):
    "An untrained model, always the same one."
    scvi.settings.seed = 0
    return SPLICEVI(data[0], n_latent=5)


@pytest.fixture
def shown(monkeypatch):
    "What the HTML view displays in place of a front end: list of (what, HTML)."
    out = []

    class Handle:
        def update(self, bundle, raw):
            out.append(("update", bundle["text/html"]))

    def display(bundle, raw=False, display_id=False):
        if raw:
            out.append(("display", bundle["text/html"]))
        return Handle() if display_id else None

    monkeypatch.setattr("IPython.display.display", display)
    return out


@pytest.fixture
def widget_views(monkeypatch):
    "The widget views that are opened, and what takes the place of their output."
    views, updates = [], []
    open_view = WidgetView.open
    handle = SimpleNamespace(update=lambda bundle, raw: updates.append(bundle))
    monkeypatch.setattr("IPython.display.display", lambda *args, **kwargs: handle)
    monkeypatch.setattr(WidgetView, "open", lambda self, rec: (views.append(self), open_view(self, rec)))
    return views, updates


@pytest.fixture
def one_thread():
    "Sums in a fixed order: with several threads torch's own training differs in the last bits from run to run."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def interruptible():
    "Ctrl-C as in a terminal: a shell that starts the tests in the background has them ignore it."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Raises(Callback):
    "Fails in an epoch."

    def __init__(self, epoch=1):
        self.epoch = epoch

    def on_train_batch_start(self, trainer, *args):
        if trainer.current_epoch == self.epoch:
            raise FloatingPointError("loss is <NaN>")


class At(Callback):
    "Does something at the start of a mini-batch."

    def __init__(self, action, epoch=1, batch=1):
        self.action, self.when = action, (epoch, batch)

    def on_train_batch_start(self, trainer, plan, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.when:
            self.action()


def interrupt():
    signal.raise_signal(signal.SIGINT)


def weights(model):
    return {k: v.clone() for k, v in model.module.state_dict().items()}


# --- the record


def test_record_is_the_history(model):
    "The recorder holds what `model.history` holds, and how fast it was."
    dash = TrainingDashboard("console")
    model.train(max_epochs=6, check_val_every_n_epoch=2, callbacks=[dash], **QUICK)
    rec, table = dash.recorder, dash.recorder.to_frame()
    assert (rec.phase, rec.epoch, rec.max_epochs, rec.n_cells, rec.n_batches) == ("finished", 6, 6, 108, 4)
    for name, values in model.history.items():
        np.testing.assert_allclose(table[name].dropna(), values.iloc[:, 0].astype(float), rtol=1e-5)
    every = model.trainer.check_val_every_n_epoch  # 1 with early stopping in scvi-tools 1.4.1
    assert list(table["elbo_validation"].dropna().index) == list(range(every - 1, 6, every))  # not repeated in between
    assert {
        "reconstruction_expression_train",
        "reconstruction_splicing_validation",
        "kl_z_train",
        "alignment_penalty_train",
        "adversarial_loss_train",
        "learning_rate",
        "kl_weight",
        "seconds",
    } <= set(table)
    assert table["learning_rate"].tolist() == pytest.approx([2e-3] * 6)
    assert rec.warmup == 4 and table["kl_weight"].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    assert rec.cells_per_second == pytest.approx(108 / table["seconds"].median(), rel=1e-6) and rec.eta == 0
    assert 1e8 < rec.memory < 1e12 and rec.facts["junctions"] == 80


def test_learning_rate_follows_the_schedule(model):
    "The learning rate of each epoch is in the history."
    model.train(max_epochs=5, lr_scheduler_type="step", step_size=2, lr_factor=0.5, enable_progress_bar=False, **QUICK)
    assert model.history["learning_rate"].iloc[:, 0].astype(float).tolist() == pytest.approx(
        [2e-3, 2e-3, 1e-3, 1e-3, 5e-4]
    )


def test_record_survives_pickling(model):
    "A record, and a dashboard with its record, can be pickled after a run."
    dash = TrainingDashboard("console", map_every=1)
    model.train(max_epochs=2, dashboard=dash, **QUICK)
    rec, again = (pickle.loads(pickle.dumps(x)) for x in (dash.recorder, dash))
    pd.testing.assert_frame_equal(rec.to_frame(), dash.recorder.to_frame())
    assert len(rec.maps) == 2 and np.array_equal(rec.maps[1].coords, dash.recorder.maps[1].coords)
    assert again.recorder.phase == "finished" and list(again.recorder.labels) == list(dash.recorder.labels)
    again.recorder = rec
    model.train(max_epochs=1, dashboard=again, **QUICK)  # and used again
    assert again.recorder.epoch == 1


def test_a_second_run_starts_a_new_record(model):
    "One dashboard can watch several runs; each has its own record."
    dash = TrainingDashboard("console")
    model.train(max_epochs=2, dashboard=dash, **QUICK)
    first = dash.recorder
    model.train(max_epochs=3, dashboard=dash, **QUICK)
    assert (first.epoch, dash.recorder.epoch, len(model.history["elbo_train"])) == (2, 3, 5)


# --- why it ended


def test_early_stopping_says_so(model):
    "Early stopping is named, with the best epoch and the patience that was lost."
    dash = TrainingDashboard("console")
    model.train(
        max_epochs=400, early_stopping_patience=3, dashboard=dash, batch_size=32, n_epochs_kl_warmup=None, lr=5e-2
    )
    rec, elbo = dash.recorder, model.history["elbo_validation"].iloc[:, 0].astype(float)
    assert rec.phase == "early stopping" and rec.epoch < 400
    assert rec.best_epoch == elbo.idxmin() == rec.epoch - 4
    assert (rec.waited, rec.patience_left, rec.best) == (3, 0, pytest.approx(elbo.min()))
    assert "ended by early stopping: elbo_validation has not improved for 3 checks" in headline(rec)


def test_interrupt_keeps_the_model(model, shown):
    "An interrupt ends training after the mini-batch, with a trained model, its history and the reason."
    before, batches = signal.getsignal(signal.SIGINT), []
    count = At(lambda: None)
    count.on_train_batch_end = lambda trainer, plan, out, batch, i: batches.append((trainer.current_epoch, i))
    dash = TrainingDashboard("html")
    model.train(max_epochs=50, dashboard=dash, callbacks=[count, At(interrupt, epoch=2, batch=1)], **QUICK)
    assert batches[-1] == (2, 1)  # the current mini-batch was the last
    assert model.is_trained and len(model.history["elbo_train"]) == len(model.history["elbo_validation"]) == 3
    assert np.isfinite(model.get_latent_representation()).all()
    assert dash.recorder.phase == "stopped" and "stopped by you · epoch 3 / 50" in shown[-1][1]
    assert signal.getsignal(signal.SIGINT) == before


def test_interrupt_without_a_dashboard(model):
    "The same without a dashboard: a warning says what happened; a least number of epochs does not keep it going."
    with pytest.warns(UserWarning, match="interrupted and ended after 2 epochs"):
        model.train(max_epochs=50, min_epochs=20, callbacks=[At(interrupt)], enable_progress_bar=False, **QUICK)
    assert model.is_trained and len(model.history["elbo_train"]) == 2


def test_second_interrupt_raises(model):
    "Who interrupts twice means it; the handler is put back."
    before, dash = signal.getsignal(signal.SIGINT), TrainingDashboard("console")
    twice = lambda: (interrupt(), interrupt())
    with pytest.raises(KeyboardInterrupt):
        model.train(max_epochs=5, dashboard=dash, callbacks=[At(twice)], **QUICK)
    assert signal.getsignal(signal.SIGINT) == before and model.is_trained  # it has learnt something, and can be asked
    assert np.isfinite(model.get_latent_representation()).all()
    assert dash.recorder.phase == "stopped" and "in the middle of a mini-batch" in headline(dash.recorder)
    model.train(max_epochs=1, enable_progress_bar=False, **QUICK)  # it is free again
    assert model.is_trained


def test_error_is_shown_with_its_place(model, shown):
    "An error is raised as ever, and the view's last state says what and where."
    with pytest.raises(FloatingPointError):
        model.train(max_epochs=5, dashboard=TrainingDashboard("html"), callbacks=[Raises(epoch=1)], **QUICK)
    last = shown[-1][1]
    assert (
        "FloatingPointError: loss is &lt;NaN&gt;" in last
        and "test_dashboard.py:" in last
        and "epoch 2, mini-batch 1" in last
    )
    ElementTree.fromstring(last)
    assert not model.is_trained


def test_another_callback_may_stop(model):
    "A stop that nobody asked for is not called the user's."

    class Stops(Callback):
        def on_train_epoch_end(self, trainer, *args):
            trainer.should_stop = True

    dash = TrainingDashboard("console")
    model.train(max_epochs=5, dashboard=dash, callbacks=[Stops()], **QUICK)
    assert "stopped by a callback" in headline(dash.recorder)


# --- watching changes nothing


@pytest.mark.parametrize("view", ["html", "widget", "console"])
def test_weights_are_the_same(data, view, shown, one_thread):
    "The same seed gives the same bits, watched or not, with latent maps and a held-out score in every epoch."
    out = []
    for dash in (False, TrainingDashboard(view, map_every=1, held_out=data[1], interval=0)):
        scvi.settings.seed = 3
        model = SPLICEVI(data[0], n_latent=5)
        model.train(max_epochs=4, dashboard=dash, enable_progress_bar=False, **QUICK)
        out.append((weights(model), model.history["elbo_validation"].to_numpy(float), torch.get_rng_state()))
    (a, elbo_a, rng_a), (b, elbo_b, rng_b) = out
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert np.array_equal(elbo_a, elbo_b) and torch.equal(rng_a, rng_b)
    assert len(dash.recorder.maps) == 4 and np.isfinite(dash.recorder.last("held_out_correlation"))


def test_given_callbacks_are_left_alone(model):
    "The user's list of callbacks is not added to."
    mine = [RecordingCallback()]
    model.train(max_epochs=1, callbacks=mine, dashboard=TrainingDashboard("console"), **QUICK)
    assert len(mine) == 1 and mine[0].recorder.phase == "finished"


@pytest.mark.timed
def test_little_time_goes_into_watching(monkeypatch):
    """At an update per second the dashboard's own share of training is at most 2 %.

    Both are measured in the same run by the thread's own clock, which stands still when other programs run.
    """
    mdata = simulate(n_cells=1000, n_genes=600, n_junctions=1500, n_cell_types=4, observed=0.15, seed=0)
    SPLICEVI.setup_mudata(mdata)
    for module in (recorder, dashboard):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=time.thread_time))
    monkeypatch.setattr(recorder._Timed, "clock", staticmethod(time.thread_time))
    monkeypatch.setattr(HTMLView, "open", lambda self, rec: None)
    monkeypatch.setattr(HTMLView, "update", lambda self, rec: sizes.append(len(self.bundle(rec)["text/html"])))
    dash, sizes, model = TrainingDashboard("html"), [], SPLICEVI(mdata)
    model.train(max_epochs=20, dashboard=dash)
    rec = dash.recorder
    assert rec.elapsed > 1 and len(sizes) >= rec.elapsed / 1.5 and len(rec.maps) == 2  # it did draw
    assert max(sizes) < 100_000
    assert 0 < rec.overhead <= 0.02 * rec.elapsed, (rec.overhead, rec.elapsed)


def test_a_failing_view_does_not_end_training(model, monkeypatch):
    "A view that fails is switched off with a warning."
    monkeypatch.setattr(HTMLView, "open", lambda self, rec: None)
    monkeypatch.setattr(HTMLView, "update", lambda self, rec: 1 / 0)
    with pytest.warns(UserWarning, match="dashboard failed and is off; training goes on. ZeroDivisionError"):
        model.train(max_epochs=3, dashboard=TrainingDashboard("html"), **QUICK)
    assert model.is_trained and len(model.history["elbo_train"]) == 3


# --- views


def with_map(rec, n=200):
    "The record with a latent map."
    rng = np.random.default_rng(0)
    rec.labels, rec.label_name = rng.choice(["immune", "B & <T>"], n), "cell_type"
    rec.maps.append(LatentMap(rec.epoch, rng.normal(size=(n, 2)).astype(np.float32)))
    return rec


@pytest.mark.parametrize(
    "n_epochs, phase",
    [
        (0, "waiting"),
        (0, "training"),
        (1, "training"),
        (2, "training"),
        (71, "training"),
        (120, "finished"),
        (96, "early stopping"),
        (30, "stopped"),
        (0, "error"),
        (12, "error"),
    ],
)
def test_html_is_well_formed(n_epochs, phase):
    "At every stage the view is XML without NaN, holds its numbers and needs no script."
    rec = demo_record(n_epochs, phase=phase)
    rec.message, rec.where = ("a < b & c", "train.py:3 in f") if phase == "error" else ("by you", "")
    if n_epochs:
        with_map(rec)
    html = body_html(rec, "view")
    tree = ElementTree.fromstring(html)
    assert len(list(tree.iter(SVG + "svg"))) == len(re.findall("<svg", html)) - html.count('<svg width="18"')
    assert (
        "nan" not in html.lower().replace("nanum", "")
        and "<script" not in page_html(rec, "view")
        and "onclick" not in page_html(rec, "view")
    )
    text = " ".join(tree.itertext())
    assert headline(rec) in text
    for m in metrics(rec):
        assert m.value in text
    if n_epochs:
        assert (
            sum(len(p.get("d").split("M")) - 1 for p in tree.iter(SVG + "path") if p.get("stroke-opacity") == "0.72")
            == 200
        )
    assert len(html) < 80_000


def drawn_values(tree, chart: str, name: str) -> np.ndarray:
    "The values of a curve, from its pixels and the labels of the linear axis."
    svg = next(s for s in tree.iter(SVG + "svg") if s.get("aria-label") == chart)
    number = re.compile(r"-?[\d,]*\.?\d+")
    labels = [t for t in svg.iter(SVG + "text") if t.get("text-anchor") == "end" and number.fullmatch(t.text)]
    (v1, y1), *_, (v2, y2) = [(float(t.text.replace(",", "")), float(t.get("y")) - 3.6) for t in labels]
    path = next(p for p in svg.iter(SVG + "path") if p.findtext(SVG + "title").startswith(name + ": "))
    y = np.array([float(point.split(",")[1]) for point in path.get("d")[1:].split("L")])
    return v1 + (y - y1) / (y2 - y1) * (v2 - v1)


def test_curves_are_drawn_where_they_are():
    "The pixels of the ELBO are its values on the axis that the ticks describe."
    rec = demo_record(71)
    tree = ElementTree.fromstring(body_html(rec, "view"))
    for split in ("train", "validation"):
        name = f"ELBO, {'training' if split == 'train' else split}"
        drawn, values = drawn_values(tree, "ELBO per cell", name), list(rec.curves[f"elbo_{split}"].values())
        np.testing.assert_allclose(drawn, values, rtol=2e-3)  # the first are far outside the axis
        np.testing.assert_allclose(drawn[20:], values[20:], atol=1)


def test_first_epochs_do_not_squeeze_the_axis():
    "A first loss a hundred times the others is off the linear axis, and on the logarithmic one."
    rec = demo_record(40)
    rec.curves["elbo_train"][0] = 1e6
    tree = ElementTree.fromstring(body_html(rec, "view"))
    linear, log = (s for s in tree.iter(SVG + "svg") if s.get("aria-label") == "ELBO per cell")
    top = lambda s: max(
        float(t.text.replace(",", ""))
        for t in s.iter(SVG + "text")
        if t.get("text-anchor") == "end" and re.fullmatch(r"[\d,]+", t.text)
    )
    assert top(linear) < 3000 and top(log) > 50_000


def test_switch_works_without_a_script():
    "The checkbox is in the title, which is displayed once; a rule with its name applies to the view."
    title, body = title_html(demo_record(), "v1"), body_html(demo_record(), "v1")
    rule = ":is(body,.splicevi-view):has(#v1-log:checked) .v1 .svi-log{display:block}"
    assert 'type="checkbox" id="v1-log"' in title and rule in title
    assert "checkbox" not in body and body.count('class="svi-lin"') == body.count('class="svi-log"') == 3
    assert body.startswith('<div class="svi v1">')


def test_what_is_displayed(model, shown):
    "A title and a view are displayed once; then the view is updated, and ends with the reason."
    model.train(max_epochs=3, dashboard=TrainingDashboard("html", interval=0, color_by="batch"), **QUICK)
    kinds = [k for k, _ in shown]
    assert kinds[:2] == ["display"] * 2 and set(kinds[2:]) == {"update"} and len(kinds) > 8
    assert "120 cells · 50 genes · 80 junctions" in shown[0][1] and "preparing" in shown[1][1]
    assert "finished · epoch 3 / 3" in shown[-1][1] and "by batch" in shown[-1][1] and "batch_1" in shown[-1][1]
    assert any("epoch 0 / 3" in h for _, h in shown)  # before the first is done


def test_updates_keep_their_distance(model, shown):
    "With the usual interval a run shorter than a second is drawn at its start and its end."
    model.train(max_epochs=2, dashboard=TrainingDashboard("html", interval=60), **QUICK)
    assert [k for k, _ in shown] == ["display", "display", "update", "update"]


def test_widget_state_without_a_browser(model, widget_views):
    "The widgets hold the curves, the map and the reason; in the end a static copy takes their place in the notebook."
    views, updates = widget_views
    dash = TrainingDashboard("widget", map_every=1, interval=0)
    model.train(max_epochs=3, dashboard=dash, **QUICK)
    (view,) = views
    tree, table = ElementTree.fromstring(view.charts.value), dash.recorder.to_frame()
    drawn = drawn_values(tree, "ELBO per cell", "ELBO, training")
    np.testing.assert_allclose(drawn, table["elbo_train"], atol=0.01 * np.ptp(table["elbo_train"]))
    titles = [p.findtext(SVG + "title") or "" for p in tree.iter(SVG + "path")]
    names = {t.rpartition(": ")[0] for t in titles}
    assert {"reconstruction of splicing, validation", "KL of z, training", "learning rate"} <= names
    assert f"best at {dash.recorder.best_epoch + 1}" in titles
    cells = {p.findtext(SVG + "title"): p.get("d").count("M") for p in tree.iter(SVG + "path") if "h0M" in p.get("d")}
    assert sum(cells.values()) == 120 and set(cells) == set(dash.recorder.labels)
    assert "finished" in view.head.value and "interrupt the kernel" in view.hint
    assert view.button.layout.display == "none"  # a blocking cell's button could not work
    (copy,) = updates
    grid = view.charts.value.partition('<div class="svi-grid">')[2]
    assert "finished" in copy["text/html"] and grid in copy["text/html"]


def test_automatic_choice(monkeypatch):
    "Console without a kernel (a script, IPython in a terminal), HTML in a notebook's cell, widgets in its background."
    shell = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert choose_view("auto", False) == choose_view("auto", True) == "console"
    shell.kernel = object()
    assert (choose_view("auto", False), choose_view("auto", True)) == ("html", "widget")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_view("auto", True) == "html"
    monkeypatch.delitem(sys.modules, "IPython")
    assert choose_view("auto", False) == "console"
    assert choose_view("html", True) == "html"


@pytest.mark.parametrize(
    "given, error, text",
    [
        (lambda: TrainingDashboard("console", color_by="donor"), KeyError, "no column of obs; it has .*batch"),
        (
            lambda: TrainingDashboard("console", held_out=pd.DataFrame({"cell": []})),
            ValueError,
            "splicevi.data.hold_out",
        ),
        (lambda: "yes", TypeError, "not True, False or a splicevi.TrainingDashboard"),
    ],
)
def test_bad_arguments(model, given, error, text):
    "Wrong arguments are refused before training, and the model is free after."
    with pytest.raises(error, match=text):
        model.train(max_epochs=1, dashboard=given(), **QUICK)
    assert not model.is_trained
    model.train(max_epochs=1, enable_progress_bar=False, **QUICK)


@pytest.mark.parametrize("missing, view, background", [("anywidget", "widget", True)])
def test_missing_extra(model, monkeypatch, missing, view, background):
    "Without anywidget the widget view names the extra to install."
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"splicevi\[notebook\]"):
        model.train(dashboard=TrainingDashboard(view), background=background)
    model.train(max_epochs=1, enable_progress_bar=False, **QUICK)


# --- the latent map


def test_maps_do_not_flip(model):
    "From one map to the next, cells stay on their side."
    dash = TrainingDashboard("console", map_every=2)
    model.train(max_epochs=12, dashboard=dash, **QUICK)
    maps = dash.recorder.maps
    assert [m.epoch for m in maps] == [1, 2, 4, 6, 8, 10, 12]
    for a, b in pairwise(maps[2:]):
        assert (a.coords * b.coords).sum() > 0.3 * np.linalg.norm(a.coords) * np.linalg.norm(b.coords)


@pytest.mark.parametrize("modalities", [{"junc_ratio_layer": "splicing"}, {"rna_layer": "rna"}])
def test_one_modality(modalities, shown):
    "Models of one modality are watched as well."
    mdata = simulate(n_cells=120, n_genes=50, n_junctions=80, n_cell_types=3, observed=0.4, seed=0)
    SPLICEVI.setup_mudata(mdata, modalities=modalities)
    model = SPLICEVI(mdata, n_latent=4, latent_distribution="ln")
    dash = TrainingDashboard("html", map_every=1)
    model.train(
        max_epochs=2, train_size=1.0, early_stopping=False, dashboard=dash, **QUICK
    )  # no validation cells either
    assert len(dash.recorder.maps) == 2 and "finished" in shown[-1][1] and "validation" not in shown[-1][1]
    assert len(panels(dash.recorder)[1].rows) == 1


# --- in the background


def test_background_trains(model):
    "The call returns at once, the run goes on, and the model is trained at its end."
    run = model.train(max_epochs=8, background=True, enable_progress_bar=False, **QUICK)
    assert isinstance(run, TrainingRun) and run.running
    assert run.wait(60) and not run.running and run.wait()
    assert (
        model.is_trained
        and run.recorder.phase == "finished"
        and run.recorder.epoch == len(model.history["elbo_train"]) == 8
    )


def test_background_stops_and_refuses_a_second_run(model):
    "One run at a time; `stop()` ends it after the mini-batch."
    run = model.train(max_epochs=10_000, background=True, dashboard=TrainingDashboard("console"), **QUICK)
    assert not run.wait(0.2)
    for again in (dict(), dict(background=True)):
        with pytest.raises(RuntimeError, match="being trained already"):
            model.train(max_epochs=1, **again, **QUICK)
    run.stop()
    assert run.wait(30) and run.recorder.phase == "stopped" and model.is_trained
    model.train(max_epochs=1, enable_progress_bar=False, **QUICK)


def test_a_model_in_training_is_not_asked(model, tmp_path):
    "Neither answers nor files hold weights that change meanwhile; the training's own thread may ask, as callbacks do."

    class Asks(Callback):
        def on_train_epoch_end(self, trainer, module):
            seen.append(model.get_latent_representation(indices=[0, 1]).shape)
            model.save(tmp_path / f"epoch{len(seen)}")

    seen = []
    model.train(max_epochs=1, enable_progress_bar=False, **QUICK)
    run = model.train(max_epochs=10_000, background=True, enable_progress_bar=False, callbacks=[Asks()], **QUICK)
    for ask in (
        lambda: model.save(tmp_path / "m"),
        model.get_latent_representation,
        lambda: model.get_normalized_splicing(n_samples=1),
        lambda: copy.deepcopy(model),
    ):
        with pytest.raises(RuntimeError, match="trained in the background.*wait\\(\\) for that run or stop"):
            ask()
    assert not (tmp_path / "m").exists()
    run.stop()
    assert run.wait(30)
    model.save(tmp_path / "m")
    assert model.get_latent_representation().shape[0] == model.adata.n_obs
    model.train(max_epochs=1, enable_progress_bar=False, callbacks=[Asks()], **QUICK)
    assert seen and (tmp_path / "epoch1" / "model.pt").exists()


def test_stop_button(model, widget_views):
    "A click on the widget's button, as the front end sends it, ends the run."
    run = model.train(max_epochs=10_000, background=True, dashboard=TrainingDashboard("widget"), **QUICK)
    (view,) = widget_views[0]
    assert view.button.layout.display is None and not run.wait(0.3)
    setattr(view.widget, f"{view.button._id}_clicks", 1)
    assert run.wait(30) and "stopped by you" in view.head.value and view.button.disabled
    assert model.is_trained


def test_early_click(model):
    "A click before the first mini-batch is not lost; that one is still done."
    dash = TrainingDashboard("console")
    model.train(max_epochs=1000, dashboard=dash, callbacks=[SetupClick(dash)], **QUICK)
    assert dash.recorder.phase == "stopped" and len(model.history["elbo_train"]) == 1 and model.is_trained
    model.train(max_epochs=2, dashboard=dash, **QUICK)  # the wish was for one run
    assert dash.recorder.phase == "finished"


class SetupClick(Callback):
    "Asks a dashboard to stop before training starts."

    def __init__(self, dash):
        self.dash = dash

    def setup(self, *args, **kwargs):
        self.dash._ask_to_stop()


def test_background_error(model, widget_views):
    "An error is shown in the view and raised by `wait()`, each time."
    dash = TrainingDashboard("widget")
    run = model.train(max_epochs=5, background=True, dashboard=dash, callbacks=[Raises()], **QUICK)
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="NaN"):
            run.wait(30)
    assert "FloatingPointError: loss is &lt;NaN&gt;" in widget_views[0][0].head.value and "failed" in repr(run)
    model.train(max_epochs=1, enable_progress_bar=False, **QUICK)


def test_signals_are_left_alone_in_a_thread(model):
    "Training in a thread installs no handler, and an interrupt while waiting stops the run."
    before, seen = signal.getsignal(signal.SIGINT), []
    run = model.train(
        max_epochs=10_000,
        background=True,
        enable_progress_bar=False,
        callbacks=[At(lambda: seen.append(signal.getsignal(signal.SIGINT)))],
        **QUICK,
    )
    while not seen and run.running:
        run.wait(0.05)
    assert seen[0] in (before, signal.getsignal(signal.SIGINT)) or "interrupt_stops" in getattr(
        seen[0], "__qualname__", ""
    )
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    timer.start()
    assert run.wait(30) and run.recorder.phase == "stopped" and signal.getsignal(signal.SIGINT) == before


# --- in a real kernel

SETUP = """
import logging, warnings
warnings.filterwarnings("ignore")
for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(name).setLevel(logging.ERROR)
import scvi
from splicevi import SPLICEVI
import sys
early = sorted(m for m in sys.modules if m == "plotly" or m.startswith("splicevi.views"))
from splicevi.views.dashboard.dashboard import TrainingDashboard
from splicevi.datasets import simulate
mdata = simulate(n_cells=120, n_genes=50, n_junctions=80, n_cell_types=3, observed=0.4, seed=0)
SPLICEVI.setup_mudata(mdata)
model = SPLICEVI(mdata, n_latent=5)
"""


@pytest.fixture(scope="module")
def kernel(root):
    "A running IPython kernel with a model."
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(root))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    try:
        done = execute(client, SETUP)
        assert done.error is None, done.error
        yield SimpleNamespace(
            manager=manager, client=client, run=lambda code, on_message=None: execute(client, code, on_message)
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def execute(client, code, on_message=None, timeout=60):
    "Run code; its messages, its display updates, what it printed, and its error."
    sent, out = client.execute(code), SimpleNamespace(messages=[], updates=[], error=None, text="")
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            message = client.get_iopub_msg(timeout=1)
        except queue.Empty:
            continue
        if message["parent_header"].get("msg_id") != sent:
            continue
        kind, content = message["msg_type"], message["content"]
        out.messages.append(kind)
        if kind in ("display_data", "update_display_data"):
            out.updates.append(
                (kind, content["data"].get("text/html", ""), content.get("transient", {}).get("display_id"))
            )
        if kind == "error":
            out.error = content["ename"] + ": " + content["evalue"]
        if kind == "stream":
            out.text += content["text"]
        if kind == "execute_result":
            out.text += content["data"]["text/plain"]
        if on_message is not None:
            on_message(kind, content)
        if kind == "status" and content["execution_state"] == "idle":
            return out
    raise AssertionError(f"no end within {timeout} s; {out.messages[-5:]}")


def test_model_does_not_import_the_views(kernel):
    "A model can be had without loading Plotly or anything of the views."
    assert kernel.run("early").text == "[]"


def test_kernel_interrupt(kernel):
    "■ during `train(dashboard=True)`: updates came while the cell ran, the last says why, and the model is trained."
    state = SimpleNamespace(sent=False, updates=0)

    def press(kind, content):
        state.updates += kind == "update_display_data"
        if state.updates >= 3 and not state.sent:
            state.sent = True
            kernel.manager.interrupt_kernel()

    done = kernel.run(
        "dash = TrainingDashboard(interval=0.2)\n"
        "model.train(max_epochs=100_000, early_stopping_patience=10**6, batch_size=32, dashboard=dash)",
        press,
    )
    assert done.error is None and state.sent
    displayed = [u for u in done.updates if u[0] == "display_data"]
    updated = [u for u in done.updates if u[0] == "update_display_data"]
    assert (
        len(displayed) == 2
        and len(updated) >= 4
        and len({u[2] for u in updated}) == 1 == len({u[2] for u in displayed if u[2]} | {updated[0][2]})
    )
    assert "training</span>" in updated[1][1] and "cells/s" in updated[2][1]
    assert "stopped by you" in updated[-1][1]
    ElementTree.fromstring(updated[-1][1])
    told = kernel.run(
        "epochs = {len(model.history[f'elbo_{k}']) for k in ('train', 'validation')}\n"
        "(model.is_trained, len(epochs) == 1 and epochs.pop() > 1, model.get_latent_representation().shape)"
    )
    assert told.error is None and told.text == "(True, True, (120, 5))"


def test_kernel_without_dashboard(kernel):
    "The same without a dashboard."
    press = lambda kind, content: (
        kernel.manager.interrupt_kernel() if kind == "stream" and "go" in content["text"] else None
    )
    done = kernel.run(
        """
from lightning.pytorch.callbacks import LambdaCallback
go = lambda trainer, _: print("go", flush=True) if trainer.current_epoch == 2 else None
say = LambdaCallback(on_train_epoch_start=go)
plain = SPLICEVI(mdata, n_latent=5)
plain.train(max_epochs=100_000, early_stopping=False, batch_size=32, enable_progress_bar=False, callbacks=[say])
(plain.is_trained, len(plain.history["elbo_train"]) >= 3)""",
        press,
    )
    assert done.error is None and done.text.endswith("(True, True)")


def test_kernel_background_html(kernel):
    "In the background the HTML view is updated too, from the thread, under the cell that started it."
    done = kernel.run(
        "dash = TrainingDashboard('html', interval=0.1)\n"
        "run = model.train(max_epochs=100_000, early_stopping=False, batch_size=32, dashboard=dash, background=True)"
    )
    assert done.error is None and len(done.updates) >= 2
    later = kernel.run("import time; time.sleep(0.5); run.stop(); run.wait(), run.recorder.phase")
    assert later.text == "(True, 'stopped')"


def test_kernel_stop_button(kernel):
    "A click that comes from the front end, as a comm message, stops the background run."
    comms = {}

    def note(kind, content):
        state = content["data"].get("state", {}) if kind == "comm_open" else {}
        if found := [k for k, v in state.items() if k.endswith("_description") and v == "■ Stop"]:
            comms["stop"], comms["clicks"] = content["comm_id"], found[0].replace("description", "clicks")

    done = kernel.run(
        "run = model.train(max_epochs=100_000, early_stopping=False, batch_size=32, dashboard=True, background=True)\n"
        "run.running",
        note,
    )
    assert done.error is None and done.text == "True" and "stop" in comms, done.messages
    kernel.client.shell_channel.send(
        kernel.client.session.msg(
            "comm_msg", {"comm_id": comms["stop"], "data": {"method": "update", "state": {comms["clicks"]: 1}}}
        )
    )
    told = kernel.run("run.wait(30), run.recorder.phase, run.recorder.message")
    assert told.text == "(True, 'stopped', 'by you')"
