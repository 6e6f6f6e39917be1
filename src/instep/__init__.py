"""instep: fast, exact optimizers for NumPy."""

import importlib
from typing import TYPE_CHECKING, Any

from instep import losses as losses
from instep.config import available_isas as available_isas
from instep.config import get_num_threads as get_num_threads
from instep.config import isa as isa
from instep.config import set_num_threads as set_num_threads
from instep.config import show_config as show_config
from instep.optim import SGD as SGD
from instep.optim import Adam as Adam
from instep.optim import AdamW as AdamW
from instep.optim import GroupStats as GroupStats
from instep.optim import LoadReport as LoadReport
from instep.optim import RMSprop as RMSprop
from instep.optim import StepReport as StepReport

if TYPE_CHECKING:
    from instep import interop as interop
    from instep import plots as plots
    from instep import schedules as schedules
    from instep.checkpoint import Checkpoint as Checkpoint
    from instep.checkpoint import CheckpointError as CheckpointError
    from instep.checkpoint import load as load
    from instep.checkpoint import save as save
    from instep.loss_scale import LossScaler as LossScaler
    from instep.lr_range import LRRangeTest as LRRangeTest
    from instep.lr_range import lr_range_test as lr_range_test
    from instep.recommendation import Recommendation as Recommendation
    from instep.recommendation import recommend as recommend
    from instep.verdict import Diagnosis as Diagnosis
    from instep.verdict import diagnose as diagnose

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Checkpoint",
    "CheckpointError",
    "Diagnosis",
    "GroupStats",
    "LRRangeTest",
    "LoadReport",
    "LossScaler",
    "RMSprop",
    "Recommendation",
    "StepReport",
    "available_isas",
    "diagnose",
    "get_num_threads",
    "interop",
    "isa",
    "load",
    "losses",
    "lr_range_test",
    "plots",
    "recommend",
    "save",
    "schedules",
    "set_num_threads",
    "show_config",
]

# Imported when first used: what does without them need not pay for them at its start.
_LATE = {
    "Checkpoint": "checkpoint",
    "CheckpointError": "checkpoint",
    "Diagnosis": "verdict",
    "LRRangeTest": "lr_range",
    "LossScaler": "loss_scale",
    "Recommendation": "recommendation",
    "diagnose": "verdict",
    "interop": "interop",
    "load": "checkpoint",
    "lr_range_test": "lr_range",
    "plots": "plots",
    "recommend": "recommendation",
    "save": "checkpoint",
    "schedules": "schedules",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"instep.{_LATE[name]}")
    value = globals()[name] = getattr(module, name, module)  # some are modules
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
