"""Nested dicts, lists and tuples of arrays <-> a flat list with names.

A leaf is anything that is not a dict, list or tuple. Its name joins the keys with dots
(``layers.0.W``), its path is what one would type (``params['layers'][0]['W']``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

__all__ = ["Structure", "flatten_groups"]


class Structure:
    """The shape of a nested container: fixed once, then used to flatten others like it.

    Parameters
    ----------
    tree : dict, list, tuple or leaf
        Any nesting; dicts keep their order.
    """

    __slots__ = ("_get", "_kind", "children", "flat", "flat_list", "keys", "size")

    def __init__(self, tree: Any) -> None:
        self.keys: tuple[Any, ...] = ()
        self.children: tuple[Structure, ...] = ()
        self._kind: type | None = None
        self._get: Callable[[Any], Any] | None = None
        if isinstance(tree, Mapping):
            self._kind, self.keys = dict, tuple(tree)
        elif isinstance(tree, list | tuple):
            named = hasattr(tree, "_make")  # what else is derived may have any constructor
            self._kind = type(tree) if named else list if isinstance(tree, list) else tuple
            self.keys = tuple(range(len(tree)))
        if self._kind is not None:
            self.children = tuple(Structure(tree[key]) for key in self.keys)
        self.size: int = 1 if self.is_leaf else sum(child.size for child in self.children)
        # All children are leaves: one itemgetter call collects them.
        self.flat = all(child.is_leaf for child in self.children)
        self.flat_list = self.flat and self._kind in (list, tuple)
        if self._kind is dict and len(self.keys) > 1:
            self._get = itemgetter(*self.keys)

    @property
    def is_leaf(self) -> bool:
        return self._kind is None

    def names(self, prefix: str = "") -> Iterator[str]:
        """The leaves' names: keys joined by dots."""
        if self.is_leaf:
            yield prefix
        for key, child in zip(self.keys, self.children, strict=True):
            yield from child.names(f"{prefix}.{key}" if prefix else str(key))

    def paths(self, root: str) -> Iterator[str]:
        """The leaves' paths as expressions: ``root['layers'][0]``."""
        if self.is_leaf:
            yield root
        for key, child in zip(self.keys, self.children, strict=True):
            yield from child.paths(f"{root}[{key!r}]")

    def flatten(self, tree: Any, root: str) -> list[Any]:
        """The leaves of a tree nested like this one; None may stand for a leaf or a whole branch.

        Raises
        ------
        TypeError, ValueError
            Another kind of container, a missing or an extra key; the message names the place.
        """
        if self._kind is None:
            return [tree]
        if self.flat_list and type(tree) is list and len(tree) == self.size:
            return tree.copy()
        leaves: list[Any] = []
        self._collect(tree, leaves, root)
        return leaves

    def _collect(self, tree: Any, leaves: list[Any], root: str) -> None:
        if self._kind is None:
            leaves.append(tree)
        elif tree is None:
            leaves.extend([None] * self.size)
        elif self._kind is dict:
            if not isinstance(tree, dict) and not isinstance(tree, Mapping):
                raise self._wrong_kind(tree, root)
            # A defaultdict would make up what is missing instead of raising KeyError.
            strict = type(tree) is dict or all(key in tree for key in self.keys)
            if len(tree) != len(self.keys) or not strict:
                raise self._wrong_keys(tree, root)
            try:
                found = self._get(tree) if self._get else [tree[key] for key in self.keys]
            except KeyError:
                raise self._wrong_keys(tree, root) from None
            self._descend(found, leaves, root)
        else:
            if not isinstance(tree, list | tuple):
                raise self._wrong_kind(tree, root)
            if len(tree) != len(self.keys):
                raise ValueError(
                    f"{root} has {len(tree)} entries where the parameters have {len(self.keys)}; "
                    "give one entry per parameter, None where there is no gradient"
                )
            self._descend(tree, leaves, root)

    def _descend(self, found: Sequence[Any], leaves: list[Any], root: str) -> None:
        if self.flat:
            leaves.extend(found)
            return
        for key, child, branch in zip(self.keys, self.children, found, strict=True):
            child._collect(branch, leaves, f"{root}[{key!r}]")

    def _wrong_kind(self, tree: Any, root: str) -> TypeError:
        wanted = "a dict" if self._kind is dict else "a list or tuple"
        return TypeError(
            f"{root} is {type(tree).__name__}, but the parameters have {wanted} there; "
            "nest the gradients like the parameters"
        )

    def _wrong_keys(self, tree: Mapping[Any, Any], root: str) -> ValueError:
        missing = [key for key in self.keys if key not in tree]
        extra = [key for key in tree if key not in self.keys]
        found = [f"missing {key!r}" for key in missing] + [f"unexpected {key!r}" for key in extra]
        return ValueError(
            f"{root} does not match the parameters: {', '.join(found)}; "
            "use None for a parameter without gradient"
        )

    def build(self, leaves: Sequence[Any]) -> Any:
        """The tree of this structure with the given leaves."""
        return self._build(iter(leaves))

    def _build(self, leaves: Iterator[Any]) -> Any:
        if self._kind is None:
            return next(leaves)
        branches = [child._build(leaves) for child in self.children]
        if self._kind is dict:
            return dict(zip(self.keys, branches, strict=True))
        if hasattr(self._kind, "_make"):  # a named tuple
            return self._kind._make(branches)
        return self._kind(branches)


def flatten_groups(structures: Sequence[Structure], trees: Any, root: str) -> list[Any]:
    """The leaves of a list with one tree per structure, as `Structure.flatten` finds them."""
    if not isinstance(trees, list | tuple):
        raise TypeError(
            f"{root} must be a list with one tree per group, got {type(trees).__name__}"
        )
    if len(trees) != len(structures):
        raise ValueError(
            f"{root} has {len(trees)} trees for {len(structures)} groups; give one per group"
        )
    flat: list[Any] = []
    for k, (structure, tree) in enumerate(zip(structures, trees, strict=True)):
        flat += structure.flatten(tree, f"{root}[{k}]")
    return flat
