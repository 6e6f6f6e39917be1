"""Advice: which loss, optimizer, learning rate and schedule for a task."""

import functools
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from instep import _check, losses, optim, schedules
from instep._advice import MODELS, TASKS, Loss
from instep.optim import Optimizer
from instep.schedules._check import at_least, positive

__all__ = ["Recommendation", "recommend"]


@dataclass(frozen=True)
class Recommendation:
    """Loss, optimizer, learning rate and schedule for a task, with the reasons.

    Made by `recommend`. ``print`` it to read it; `build` makes the optimizer.
    ``dataclasses.replace`` changes a part of it.

    Attributes
    ----------
    loss : callable or None
        Takes the network's raw outputs (logits) and the targets, and returns value and gradient.
        None where no task was named.
    optimizer : type
        `instep.SGD`, `instep.Adam` or `instep.AdamW`.
    options : dict
        What the optimizer gets beside its learning rate.
    lr : float
        The peak of the schedule.
    lr_range : pair of float
        Rates worth trying.
    warmup : float
        Share of the steps that the warm-up takes.
    why : dict
        The reason and its source for "loss" (if there is one), "optimizer", "lr" and "schedule".
    alternatives : dict
        What else to try, for "loss" (if there is one), "optimizer" and "schedule".
    task, model : str or None
        What was asked for.
    """

    loss: Loss | None
    optimizer: type[Optimizer]
    lr: float
    lr_range: tuple[float, float]
    warmup: float
    options: Mapping[str, Any]
    task: str | None
    model: str | None
    why: Mapping[str, str] = field(repr=False)
    alternatives: Mapping[str, str] = field(repr=False)

    def schedule(self, total_steps: int) -> schedules.Schedule:
        """The learning rate of a run: up to `lr`, then half a cosine down to 0.

        Parameters
        ----------
        total_steps : int
            Steps of the whole run, warm-up included; at least 1.

        Returns
        -------
        instep.schedules.Schedule

        Examples
        --------
        >>> import instep
        >>> instep.recommend("multiclass", "cnn").schedule(2000)
        Warmup(after=CosineAnnealing(lr=0.01, total_steps=1900, min_lr=0.0), steps=100)
        """
        return self._schedule(total_steps, self.lr)

    def _schedule(self, total_steps: int, lr: float) -> schedules.Schedule:
        total = at_least(1)("total_steps", total_steps)
        steps = int(self.warmup * total)
        return schedules.Warmup(schedules.CosineAnnealing(lr, total - steps), steps)

    def build(self, params: Any, total_steps: int, *, lr: float | None = None) -> Optimizer:
        """The optimizer, ready to step.

        Parameters
        ----------
        params : tree of arrays, or list of dicts
            As for every optimizer; updated in place by its steps.
        total_steps : int
            Steps of the whole run, which the schedule spans; at least 1.
        lr : float, optional
            A rate that you know better, such as the suggestion of `instep.lr_range_test`; it
            replaces the recommended one as the peak of the schedule.

        Returns
        -------
        instep.optim.Optimizer

        Raises
        ------
        TypeError, ValueError
            A bad `total_steps` or `lr`, or parameters that cannot be trained.

        Examples
        --------
        >>> import numpy as np, instep
        >>> params = {"W": np.ones((64, 10), np.float32), "b": np.zeros(10, np.float32)}
        >>> advice = instep.recommend("multiclass")
        >>> opt = advice.build(params, total_steps=1000)
        >>> opt.param_groups[0]["lr"](50)
        0.001
        >>> logits, labels = np.zeros((5, 10), np.float32), np.arange(5)
        >>> value, grad = advice.loss(logits, labels)
        """
        peak = self.lr if lr is None else positive("lr", lr)
        schedule = self._schedule(total_steps, peak)
        optimizer: Optimizer = cast(Any, self.optimizer)(params, lr=schedule, **self.options)
        return optimizer

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def recommend(task: str | None = None, model: str | None = None) -> Recommendation:
    """Advise on loss, optimizer, learning rate and schedule.

    The task decides on the loss, the kind of network on the rest. These are good starts, with
    their sources, not optima: `instep.lr_range_test` measures the rate, and `instep.diagnose`
    says whether a run went well.

    Parameters
    ----------
    task : str, optional
        "regression", "robust_regression" (some targets far off), "median_regression" (noise with
        heavy tails), "binary", "multiclass" or "segmentation". Without one there is no loss.
    model : str, optional
        "mlp" (the default: dense layers, and whatever is not one of the others), "transformer",
        "cnn" or "rnn".

    Returns
    -------
    Recommendation
        ``print`` it to read it; ``.build(params, total_steps)`` makes the optimizer and ``.loss``
        is the loss.

    Raises
    ------
    TypeError
        A name that is not a string.
    ValueError
        An unknown name; the message lists the known ones.

    References
    ----------
    Bengio, Practical Recommendations for Gradient-Based Training of Deep Architectures,
    arXiv:1206.5533. Each choice names its own in `Recommendation.why`.

    Examples
    --------
    >>> import instep
    >>> advice = instep.recommend("multiclass", model="transformer")
    >>> advice.loss is instep.losses.cross_entropy, advice.optimizer is instep.AdamW
    (True, True)
    >>> advice.lr, advice.options["clip_norm"]
    (0.0003, 1.0)
    """
    if task is not None:
        _check.choice("task", task, tuple(TASKS))
    if model is not None:
        _check.choice("model", model, tuple(MODELS))
    chosen = MODELS["mlp" if model is None else model]
    why, alternatives = dict(chosen.why), dict(chosen.alternatives)
    loss = None
    if task is not None:
        loss = TASKS[task].loss
        why = {"loss": TASKS[task].why, **why}
        alternatives = {"loss": TASKS[task].alternatives, **alternatives}
    return Recommendation(
        loss=loss,
        optimizer=chosen.optimizer,
        lr=chosen.lr,
        lr_range=chosen.lr_range,
        warmup=chosen.warmup,
        options=dict(chosen.options),
        task=task,
        model=model,
        why=why,
        alternatives=alternatives,
    )


# ---- text ----------------------------------------------------------------------------------------


def _call(function: Any, *arguments: str, **options: Any) -> str:
    """How a call is written."""
    if isinstance(function, functools.partial):
        function, options = function.func, {**function.keywords, **options}
    name = getattr(function, "__name__", repr(function))
    if name in losses.__all__:
        name = f"instep.losses.{name}"
    elif function in vars(optim).values():
        name = f"instep.{name}"
    written = (*arguments, *(f"{option}={value!r}" for option, value in options.items()))
    return f"{name}({', '.join(written)})"


def _lines(advice: Recommendation) -> Iterator[str]:
    yield f"task {advice.task or 'not named'}, model {advice.model or 'not named (as for mlp)'}"
    low, high = advice.lr_range
    share = f"{100 * advice.warmup:g} %"
    says = {
        "optimizer": _call(advice.optimizer, "params", "lr=schedule", **advice.options),
        "lr": f"{advice.lr:g} (try {low:g} to {high:g})",
        "schedule": f"up to the rate in {share} of the steps, then half a cosine down to 0",
    }
    if advice.loss is not None:
        takes = TASKS[advice.task].takes if advice.task in TASKS else "outputs, targets"
        says = {"loss": _call(advice.loss, takes), **says}
    else:
        yield from _paragraph("loss", f"depends on the task: {', '.join(TASKS)}")
    for name, text in says.items():
        yield from _paragraph(name, text)
        yield from _paragraph("", advice.why.get(name, ""))
        if name in advice.alternatives:
            yield from _paragraph("", f"Or: {advice.alternatives[name]}")
    yield ""
    names = ", ".join(f"{name!r}" for name in (advice.task, advice.model))
    yield "This optimizer is made by"
    yield f"instep.recommend({names}).build(params, total_steps)"


def _paragraph(name: str, text: str, width: int = 88) -> Iterator[str]:
    """`text` in a column beside `name`, with a line of space above a name."""
    if name:
        yield ""
    lines = textwrap.wrap(text, width - 11, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        yield f"{name if number == 0 else '':11}{line}"
