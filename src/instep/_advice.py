"""What `recommend` knows: per task and kind of network, the choice, its reason and its source."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from instep import losses
from instep.optim import SGD, Adam, AdamW, Optimizer

Loss = Callable[..., losses.LossGrad]


class Task(NamedTuple):
    """What a task asks of the loss."""

    loss: Loss
    takes: str
    why: str
    alternatives: str


class Model(NamedTuple):
    """What a kind of network asks of optimizer, rate and schedule."""

    optimizer: type[Optimizer]
    options: dict[str, Any]
    lr: float
    lr_range: tuple[float, float]
    warmup: float
    why: dict[str, str]
    alternatives: dict[str, str]


_RANGE_TEST = "instep.lr_range_test measures it for your network and batches."
_COSINE = (
    "A cosine to 0 has nothing to tune but its length (Loshchilov and Hutter, arXiv:1608.03983)."
)
_ADAM_RATE = f"The default of Adam's authors (Kingma and Ba, arXiv:1412.6980). {_RANGE_TEST}"
_ADAM_WARMUP = (
    "Adam's first steps rest on few gradients, and a warm-up keeps them small (Liu et al., "
    f"arXiv:1908.03265). {_COSINE}"
)
_SCHEDULES = (
    "schedules.WarmupStableDecay where the length is not known beforehand (Hu et al., "
    "arXiv:2404.06395); schedules.ReduceOnPlateau where a validation score shall decide"
)

TASKS = {
    "regression": Task(
        losses.mse,
        "outputs, targets",
        "Noise decides. Where it is about normal, the squared error is its log-likelihood "
        "(Bishop, Pattern Recognition and Machine Learning, 2006, section 3.1.1).",
        "task robust_regression where a few targets are far off; median_regression where most "
        "errors are small and some very large; losses.poisson_nll for counts; losses.quantile "
        "for bounds.",
    ),
    "robust_regression": Task(
        losses.huber,
        "outputs, targets",
        "A few targets are far off: Huber's loss is quadratic for small errors and linear beyond "
        "delta, so that an outlier pulls no harder than an error of delta (Huber, 1964, Annals of "
        "Mathematical Statistics 35). Scale the targets, or set delta, so that ordinary errors "
        "lie below delta (1 unless given).",
        "losses.log_cosh, the same idea without a bend; losses.mae where no delta is known.",
    ),
    "median_regression": Task(
        losses.mae,
        "outputs, targets",
        "Noise with heavy tails: the absolute error is the log-likelihood of Laplace noise, and "
        "its minimum the conditional median (Koenker and Bassett, 1978, Econometrica 46).",
        "losses.huber with a small delta, smooth at 0; losses.quantile for other quantiles.",
    ),
    "binary": Task(
        losses.binary_cross_entropy_with_logits,
        "logits, targets",
        "The log-likelihood of a yes or no; from logits it neither saturates nor overflows "
        "(Goodfellow, Bengio and Courville, Deep Learning, 2016, section 6.2.2.2). No sigmoid "
        "in the network.",
        "pos_weight= where one side is rare; losses.focal where easy examples drown the others "
        "(Lin et al., arXiv:1708.02002); losses.hinge for a margin.",
    ),
    "multiclass": Task(
        losses.cross_entropy,
        "logits, labels",
        "The log-likelihood of one class of several, from logits (Goodfellow, Bengio and "
        "Courville, Deep Learning, 2016, section 6.2.2.3). No softmax in the network.",
        "label_smoothing=0.1 against overconfidence (Szegedy et al., arXiv:1512.00567); weight= "
        "for rare classes; losses.categorical_cross_entropy for targets that are probabilities; "
        "task binary with one output per label where labels do not exclude each other.",
    ),
    "segmentation": Task(
        functools.partial(losses.dice, from_logits=True),
        "logits, masks",
        "Dice is an overlap of regions, which a small region counts for as much as a large one; "
        "cross-entropy would mostly see the background (Milletari et al., arXiv:1606.04797; "
        "Sudre et al., arXiv:1707.03237). No sigmoid in the network.",
        "losses.iou where intersection over union is the score; losses.tversky where misses and "
        "false alarms cost differently (Salehi et al., arXiv:1706.05721); the sum of dice and "
        "losses.binary_cross_entropy_with_logits, values and gradients added, as in nnU-Net "
        "(Isensee et al., arXiv:1809.10486): measured in docs/choosing.md, it learns faster.",
    ),
}

MODELS = {
    "mlp": Model(
        AdamW,
        dict(weight_decay=0.01),
        1e-3,
        (3e-4, 1e-2),
        0.05,
        {
            "optimizer": "In a benchmark of fifteen optimizers none beat Adam consistently "
            "(Schmidt et al., arXiv:2007.01547); AdamW decays the weights apart from Adam's "
            "scaling of the gradient (Loshchilov and Hutter, arXiv:1711.05101).",
            "lr": _ADAM_RATE,
            "schedule": _ADAM_WARMUP,
        },
        {
            "optimizer": "instep.Adam where weights should not decay; instep.SGD with momentum, "
            "which keeps one array per parameter where Adam keeps two.",
            "schedule": f"{_SCHEDULES}.",
        },
    ),
    "transformer": Model(
        AdamW,
        dict(betas=(0.9, 0.95), weight_decay=0.1, clip_norm=1.0),
        3e-4,
        (1e-4, 1e-3),
        0.1,
        {
            "optimizer": "The gradient's noise in attention models has heavy tails, on which SGD "
            "falls behind Adam (Zhang et al., arXiv:1912.03194). Betas, decay and clipping are "
            "those of LLaMA (Touvron et al., arXiv:2302.13971).",
            "lr": "GPT-3 used 6e-4 for 125M parameters, 3e-4 for 350M and less above (Brown et "
            f"al., arXiv:2005.14165, table 2.1). {_RANGE_TEST}",
            "schedule": "Without a warm-up, large early gradients near the output make training "
            "unstable; with layer normalization inside the residual branch it matters less "
            f"(Xiong et al., arXiv:2002.04745). {_COSINE}",
        },
        {
            "optimizer": "instep.Adam where weights should not decay.",
            "schedule": "schedules.LinearDecay to 0 in place of the cosine (Bergsma et al., "
            f"arXiv:2502.15938); {_SCHEDULES}.",
        },
    ),
    "cnn": Model(
        SGD,
        dict(momentum=0.9, weight_decay=5e-4),
        0.01,
        (0.01, 0.1),
        0.05,
        {
            "optimizer": "On image classification SGD with momentum generalized better than "
            "adaptive methods (Wilson et al., arXiv:1705.08292). Momentum and decay are those "
            "of VGG (Simonyan and Zisserman, arXiv:1409.1556).",
            "lr": "0.01 without normalization layers (VGG, arXiv:1409.1556), up to 0.1 with them "
            f"(He et al., arXiv:1512.03385); both for batches of 256. {_RANGE_TEST}",
            "schedule": "A warm-up makes large rates bearable at the start (Goyal et al., "
            f"arXiv:1706.02677). {_COSINE}",
        },
        {
            "optimizer": "instep.AdamW with lr 1e-3, which does as well when it is tuned as "
            "carefully (Choi et al., arXiv:1910.05446); nesterov=True.",
            "schedule": f"schedules.MultiStepDecay by 0.1, as in ResNet; {_SCHEDULES}.",
        },
    ),
    "rnn": Model(
        Adam,
        dict(clip_norm=1.0),
        1e-3,
        (3e-4, 3e-3),
        0.05,
        {
            "optimizer": "Gradients through time explode now and then: clip their norm (Pascanu "
            "et al., arXiv:1211.5063). Adam gives small and large gradients steps of one size "
            "(Kingma and Ba, arXiv:1412.6980).",
            "lr": _ADAM_RATE,
            "schedule": _ADAM_WARMUP,
        },
        {
            "optimizer": "instep.RMSprop with lr 1e-3 and clip_norm=1.0 (RMSprop with momentum: "
            "Graves, arXiv:1308.0850).",
            "schedule": f"{_SCHEDULES}.",
        },
    ),
}
