"""Optimizers."""

from instep.optim.adam import Adam as Adam
from instep.optim.adam import AdamW as AdamW
from instep.optim.base import Optimizer as Optimizer
from instep.optim.report import GroupStats as GroupStats
from instep.optim.report import StepReport as StepReport
from instep.optim.rmsprop import RMSprop as RMSprop
from instep.optim.sgd import SGD as SGD
from instep.optim.state_dict import LoadReport as LoadReport

__all__ = ["SGD", "Adam", "AdamW", "GroupStats", "LoadReport", "Optimizer", "RMSprop", "StepReport"]
