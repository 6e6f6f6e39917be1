"""Optimizers that live on in a child process."""

import os
import threading
import weakref
from typing import Any

living: "weakref.WeakSet[Any]" = weakref.WeakSet()


def _unlock_in_child() -> None:
    """A thread that held a lock when the process forked does not exist in the child."""
    for optimizer in living:
        optimizer._steady.lock = threading.RLock()
        optimizer._steady.stepping = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)
