"""What the pictures show: curves, labels, axes, titles; and that nothing else is touched."""

from types import SimpleNamespace

import numpy as np
import pytest

import instep
from instep import plots, schedules
from instep.plots import (
    plot_range_test,
    plot_schedule_panels,
    plot_schedules,
    plot_training,
)

matplotlib = pytest.importorskip("matplotlib")
from matplotlib.figure import Figure  # noqa: E402

COSINE = schedules.CosineAnnealing(0.1, 90)
WARM = schedules.Warmup(COSINE, 10)


@pytest.fixture
def ax():
    """Axes of a figure that no window system knows of."""
    return Figure(layout="constrained").subplots()


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def legend(ax):
    return [] if ax.get_legend() is None else [t.get_text() for t in ax.get_legend().get_texts()]


def ys(line):
    return np.asarray(line.get_ydata(), float)


# ---- schedules -------------------------------------------------------------------------------


def test_schedules(ax):
    shown = {"cosine": COSINE, "warm": WARM, "half": lambda step: 0.05 if step < 50 else 0.01}
    assert plot_schedules(shown, 100, ax) is ax
    assert list(lines(ax)) == legend(ax) == list(shown)
    for label, schedule in shown.items():
        line = lines(ax)[label]
        np.testing.assert_array_equal(line.get_xdata(), np.arange(100))
        np.testing.assert_array_equal(ys(line), [schedule(t) for t in range(100)])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "value")
    assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] >= 0.1 and ax.get_xlim()[0] == 0
    styles = {(line.get_color(), line.get_linestyle()) for line in lines(ax).values()}
    assert len(styles) == 3


def test_many_schedules_can_be_told_apart(ax):
    plot_schedules({str(k): schedules.Constant(k + 1) for k in range(28)}, 10, ax)
    styles = {(line.get_color(), line.get_linestyle()) for line in ax.get_lines()}
    assert len(styles) == 28


def test_one_schedule_needs_no_legend(ax):
    plot_schedules(COSINE, 100, ax)
    assert list(lines(ax)) == ["CosineAnnealing"] and legend(ax) == []


def test_a_sequence_is_labelled_by_class(ax):
    plot_schedules([COSINE, WARM, COSINE], 100, ax)
    assert legend(ax) == ["CosineAnnealing", "Warmup", "CosineAnnealing 2"]


def test_what_is_drawn_already_stays_in_view(ax):
    ax.plot([0, 1], [0, 7], label="mine")
    plot_schedules(COSINE, 50, ax)
    plot_schedules(schedules.Constant(-1), 50, ax)
    assert ax.get_ylim()[0] < -1 and ax.get_ylim()[1] > 7


def test_long_runs_are_drawn_end_to_end(ax):
    calls = []
    plot_schedules(lambda step: calls.append(step) or COSINE(step), 10**9, ax)
    (line,) = ax.get_lines()
    assert line.get_xdata()[0] == 0 and line.get_xdata()[-1] == 10**9 - 1
    assert calls == list(line.get_xdata()) and 100 < len(calls) <= 2000
    assert all(type(step) is int for step in calls)


def test_negative_values_stay_in_view(ax):
    plot_schedules([schedules.Constant(-2.5), COSINE], 10, ax)
    assert ax.get_ylim()[0] < -2.5


@pytest.mark.parametrize("count", [1, 3, 4, 5, 11])
def test_panels(count):
    figure = Figure(layout="constrained")
    shown = {f"{k} peaks": schedules.CosineAnnealing(k + 1, 90) for k in range(count)}
    panels = plot_schedule_panels(shown, 100, figure)
    assert figure.axes == panels and len(panels) == count
    for number, (panel, (label, schedule)) in enumerate(zip(panels, shown.items(), strict=True)):
        assert panel.get_title() == label
        (line,) = panel.get_lines()
        np.testing.assert_array_equal(ys(line), [schedule(t) for t in range(100)])
        assert panel.get_ylim() == panels[0].get_ylim() and panel.get_ylim()[1] >= count
        assert panel.get_ylim()[0] == 0
        last = number + 4 >= count
        assert panel.get_xlabel() == ("step" if last else "")
        assert panel.get_ylabel() == ("value" if number % 4 == 0 else "")
        figure.canvas.draw()
        assert any(t.get_visible() and t.get_text() for t in panel.get_xticklabels()) is last


# ---- range test ------------------------------------------------------------------------------


def a_range_test(**changes):
    lrs = np.geomspace(1e-6, 10, 60)
    losses = 2.3 - 1.9 / (1 + lrs ** (-1.5) * 1e-4) + np.where(lrs > 0.3, lrs**4, 0)
    fields = dict(lrs=lrs, losses=losses, suggestion=4e-3, low=1e-3, high=0.1)
    return SimpleNamespace(**(fields | changes))


def test_range_test(ax):
    result = a_range_test()
    assert plot_range_test(result, ax) is ax
    np.testing.assert_array_equal(lines(ax)["loss"].get_xdata(), result.lrs)
    np.testing.assert_array_equal(ys(lines(ax)["loss"]), result.losses)
    assert list(lines(ax)["suggestion: 0.004"].get_xdata()) == [4e-3, 4e-3]
    (span,) = ax.patches
    assert (span.get_x(), span.get_x() + span.get_width()) == pytest.approx((1e-3, 0.1))
    assert legend(ax) == ["loss", "worth trying: 0.001 to 0.1", "suggestion: 0.004"]
    assert ax.get_xscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning rate", "loss")


def test_what_the_range_test_returns_is_drawn(ax):
    w = np.linspace(-1, 1, 50)

    def loss_and_grad(w):
        return float(np.mean((w - 2) ** 2)), 2 * (w - 2) / w.size

    found = instep.lr_range_test(loss_and_grad, w, instep.SGD, max_lr=1e3)
    assert found.plot(ax) is ax
    np.testing.assert_array_equal(ys(lines(ax)["loss"]), found.losses)
    assert list(lines(ax)[f"suggestion: {found.suggestion:.2g}"].get_xdata()) == [
        found.suggestion, found.suggestion,
    ]  # fmt: skip


def test_the_divergence_does_not_hide_the_fall(ax):
    result = a_range_test()
    assert result.losses.max() > 1000
    plot_range_test(result, ax)
    low, high = ax.get_ylim()
    assert low < result.losses.min() and result.losses[0] < high < 2 * result.losses[0]


def test_a_range_test_without_a_fall(ax):
    lrs = np.geomspace(1e-3, 1, 20)
    result = a_range_test(lrs=lrs, losses=1 + lrs, suggestion=None, low=None, high=None)
    plot_range_test(result, ax)
    assert legend(ax) == ["loss"] and 0.9 < ax.get_ylim()[0] < 1 < 1.05 < ax.get_ylim()[1]
    assert not ax.patches


def test_a_range_test_that_ends_in_nan(ax):
    result = a_range_test()
    result.losses[-3:] = [np.inf, np.nan, np.nan]
    plot_range_test(result, ax)
    assert np.isfinite(ax.get_ylim()).all() and ax.get_ylim()[1] < 2 * result.losses[0]


# ---- training --------------------------------------------------------------------------------


def a_run(n=500):
    noise = np.random.default_rng(0).random(n)
    return 2.3 * np.exp(-np.arange(n) / 60) + 0.02 + 0.01 * noise


def test_training(ax):
    losses = a_run()
    assert plot_training(losses, ax=ax) is ax
    np.testing.assert_array_equal(ys(lines(ax)["each step"]), losses)
    smooth = lines(ax)["mean of 10"]
    at = list(smooth.get_xdata()).index(200)
    assert ys(smooth)[at] == pytest.approx(losses[191:201].mean())
    assert smooth.get_xdata()[-1] == 499
    assert legend(ax) == ["each step", "mean of 10"]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("step", "loss", "")
    assert ax.get_yscale() == "log" and len(ax.figure.axes) == 1


def test_a_short_run_is_one_line(ax):
    plot_training(list(a_run(30)), ax=ax)
    assert legend(ax) == ["loss"]


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        (np.linspace(2, 1, 30), "linear"),
        (np.linspace(2, -1, 30), "linear"),
        (np.linspace(2, 0, 30), "linear"),
        (np.linspace(2, 0.1, 30), "log"),
    ],
)
def test_logarithmic_where_due(losses, scale, ax):
    plot_training(losses, ax=ax)
    assert ax.get_yscale() == scale


def test_rates_have_an_axis_of_their_own(ax):
    rates = WARM(np.arange(500))
    plot_training(a_run(), rates, ax=ax)
    _, right = ax.figure.axes
    (line,) = right.get_lines()
    np.testing.assert_array_equal(ys(line), rates)
    assert right.get_ylabel() == "learning rate" and right.get_ylim()[0] == 0
    assert legend(ax) == ["each step", "mean of 10", "learning rate"]
    assert ax.get_zorder() > right.get_zorder() and not ax.patch.get_visible()


def test_one_rate_of_all_steps():
    for rate in (0.25, np.float32(0.25), np.array(0.25)):
        ax = Figure().subplots()
        plot_training(a_run(), rate, ax=ax)
        (line,) = ax.figure.axes[1].get_lines()
        np.testing.assert_array_equal(ys(line), np.full(500, 0.25))


@pytest.mark.parametrize("verdict", ["too_high", "too_low", "just_right"])
def test_the_verdict_is_the_title(verdict, ax):
    reason = "the loss fell by 98 % in the first half of the run and by 0.3 % in the second, " * 2
    plot_training(a_run(), None, SimpleNamespace(verdict=verdict, reason=reason), ax)
    first, *rest = ax.get_title(loc="left").split("\n")
    assert first == verdict.replace("_", " ")
    assert " ".join(rest) == reason.strip() and len(rest) > 1
    colour = ax._left_title.get_color()
    assert lines(ax)["mean of 10"].get_color() == colour
    others = {plots._VERDICT_COLOURS[v] for v in ("too_high", "too_low", "just_right")}
    assert len(others) == 3 and colour in others


def test_what_diagnose_returns_is_drawn(ax):
    diagnosis = instep.diagnose(a_run())
    plot_training(a_run(), None, diagnosis, ax)
    assert " ".join(ax.get_title(loc="left").split()) == f"just right {diagnosis.reason}"


def test_the_title_fits_its_axes():
    """No line of the reason is wider than the axes, in wide and in narrow ones."""
    reason = "the loss fell by 98 % in the first half of the run and by 0.3 % in the second, " * 3
    figure = Figure(figsize=(11, 4), layout="constrained")
    for ax in figure.subplots(1, 3, width_ratios=(2, 1, 1)):
        plot_training(a_run(), None, SimpleNamespace(verdict="too_low", reason=reason), ax)
    figure.canvas.draw()
    for ax in figure.axes:
        title = ax._left_title.get_window_extent()
        assert title.x1 <= ax.get_window_extent().x1 + 10


def test_a_run_that_blows_up(ax):
    losses = 2.3 * np.exp(np.minimum(np.arange(500.0), 177) * 4)
    losses[177:] = np.inf
    losses[200:] = np.nan
    plot_training(losses, ax=ax)
    assert list(lines(ax)["not finite at step 177"].get_xdata()) == [177, 177]
    assert ax.get_yscale() == "log" and ax.get_ylim()[1] <= 2.3e4
    ax.figure.canvas.draw()


@pytest.mark.parametrize("sign", [1, -1])
def test_huge_losses_do_not_overflow_the_axes(sign, ax):
    losses = np.r_[1.0, 2.0, sign * 1.7e308, 0.5]
    plot_training(losses, ax=ax)
    plot_range_test(a_range_test(losses=losses, lrs=[0.1, 0.2, 0.3, 0.4]), Figure().subplots())
    ax.figure.canvas.draw()
    assert np.isfinite(ax.get_ylim()).all()


@pytest.mark.parametrize("label", ["a schedule", "a rate", "losses and rates"])
def test_huge_values_do_not_overflow_the_axes(label, ax):
    if label == "a schedule":
        plot_schedules(schedules.Constant(1.79e308), 9, ax)
    elif label == "a rate":
        plot_training(a_run(), np.array(1.7e308), ax=ax)
    else:
        plot_range_test(a_range_test(losses=[1.0, 0.5], lrs=[0.1, 1.7e308]), ax)
    for drawn in ax.figure.axes:
        assert np.isfinite([drawn.get_xlim(), drawn.get_ylim()]).all()
    ax.figure.canvas.draw()


def test_lines_of_others_may_be_without_end(ax):
    ax.plot([0, 1], [np.nan, np.nan])
    ax.plot([0, 1, 2], [-np.inf, -3, np.inf])
    plot_schedules(COSINE, 50, ax)
    assert np.isfinite(ax.get_ylim()).all() and ax.get_ylim()[0] < -3


@pytest.mark.parametrize("steps", [2**31, 2**53])
def test_the_longest_runs(steps, ax):
    plot_schedules(lambda step: 1 + (step == steps - 1), steps, ax)
    (line,) = ax.get_lines()
    assert (line.get_xdata()[-1], ys(line)[-1], ys(line)[-2]) == (steps - 1, 2, 1)


# ---- and nothing else ------------------------------------------------------------------------


DRAWN = {
    "plot_schedules": lambda: plot_schedules([COSINE, WARM], 100),
    "plot_schedule_panels": lambda: plot_schedule_panels([COSINE, WARM], 100)[0],
    "plot_range_test": lambda: plot_range_test(a_range_test()),
    "plot_training": lambda: plot_training(
        a_run(), WARM(np.arange(500)), SimpleNamespace(verdict="too_low", reason="it falls still")
    ),
}


def test_every_function_is_tried_here():
    assert DRAWN.keys() == set(plots.__all__)


@pytest.mark.parametrize("name", DRAWN)
def test_a_new_figure_and_no_change_of_settings(name, monkeypatch, tmp_path):
    matplotlib.use("Agg")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(pyplot, "show", lambda *a, **k: pytest.fail("a window"))
    monkeypatch.setattr(matplotlib, "use", lambda *a, **k: pytest.fail("another backend"))
    pyplot.close("all")
    with matplotlib.rc_context():
        before = dict(matplotlib.rcParams)
        ax = DRAWN[name]()
        assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == [ax.figure.number]
    ax.figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000
    pyplot.close("all")


@pytest.mark.parametrize("name", DRAWN)
def test_labels_do_not_overlap(name):
    matplotlib.use("Agg")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = DRAWN[name]().figure
    figure.canvas.draw()
    texts = [
        text
        for ax in figure.axes
        for text in (
            *(ax.get_xticklabels() if ax.xaxis.get_visible() else []), *ax.get_yticklabels(),
            ax.xaxis.label, ax.yaxis.label, ax.title, ax._left_title,
        )
        if text.get_text() and text.get_visible()
    ]  # fmt: skip
    assert len(texts) > 8 and all(text.get_fontsize() >= 8 for text in texts)
    boxes = [text.get_window_extent() for text in texts]
    shown = [b for b in boxes if figure.bbox.contains(b.x0, b.y0)]
    for i, a in enumerate(shown):
        for b in shown[:i]:
            assert not (a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1)
    pyplot.close("all")
