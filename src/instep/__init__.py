"""instep: fast, exact optimizers for NumPy."""

from instep import losses as losses
from instep import plots as plots
from instep import schedules as schedules
from instep.config import available_isas as available_isas
from instep.config import get_num_threads as get_num_threads
from instep.config import isa as isa
from instep.config import set_num_threads as set_num_threads
from instep.config import show_config as show_config
from instep.diagnose import Diagnosis as Diagnosis
from instep.diagnose import diagnose as diagnose
from instep.lr_range import LRRangeTest as LRRangeTest
from instep.lr_range import lr_range_test as lr_range_test
from instep.optim import SGD as SGD
from instep.optim import Adam as Adam
from instep.optim import AdamW as AdamW
from instep.optim import LoadReport as LoadReport
from instep.optim import RMSprop as RMSprop
from instep.optim import StepReport as StepReport
from instep.recommend import Recommendation as Recommendation
from instep.recommend import recommend as recommend

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Diagnosis",
    "LRRangeTest",
    "LoadReport",
    "RMSprop",
    "Recommendation",
    "StepReport",
    "available_isas",
    "diagnose",
    "get_num_threads",
    "isa",
    "losses",
    "lr_range_test",
    "plots",
    "recommend",
    "schedules",
    "set_num_threads",
    "show_config",
]
