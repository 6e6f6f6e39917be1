"""Other libraries' optimizer states: `instep.interop.torch` for PyTorch's.

None of these libraries has to be installed: arrays and plain dicts go in and come out.
"""

from instep.interop import torch as torch

__all__ = ["torch"]
