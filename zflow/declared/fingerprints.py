"""Whether two versions of a function or class do the same, as far as their code tells.

Decides by compiled code, so that comments and places do not count: what a function consists of, and
what it names in its own module, and so on. Never runs it. What comes from another module counts by
its name: a changed library is not seen.
"""

import hashlib
import inspect
from types import CodeType, FunctionType, ModuleType
from typing import Any

PLAIN = (int, float, complex, str, bytes, bool, type(None), type(Ellipsis))


def fingerprint(thing: Any) -> str:
    """A hex digest; equal for the same code and the same plain values around it."""
    parts: list[str] = []
    _Walk(parts, inspect.getmodule(thing)).add(thing)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _Walk:
    """Collects what a thing consists of, each part once. module: whose names are looked up."""

    def __init__(self, parts: list[str], module: ModuleType | None) -> None:
        self._parts = parts
        self._module = getattr(module, "__name__", None)
        self._seen: set[int] = set()

    def add(self, thing: Any) -> None:
        """One thing and all that it leads to."""
        if isinstance(thing, (*PLAIN, tuple, list, dict, set, frozenset)):
            self._add_value(thing)
            return
        if id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        target = getattr(thing, "target", None)  # of a declared stage
        if isinstance(thing, FunctionType):
            self._add_function(thing)
        elif isinstance(thing, type):
            self._add_class(thing)
        elif isinstance(thing, CodeType):
            self._add_code(thing)
        elif isinstance(thing, staticmethod | classmethod):
            self.add(thing.__func__)
        elif isinstance(thing, property):
            for part in (thing.fget, thing.fset, thing.fdel):
                self.add(part)
        elif target is not None and callable(target):
            self.add(target)
        else:
            name = getattr(thing, "__qualname__", getattr(thing, "__name__", ""))
            self._parts.append(f"{type(thing).__qualname__} {name}")

    def _add_value(self, value: Any) -> None:
        if isinstance(value, PLAIN):
            self._parts.append(f"{type(value).__name__} {value!r}")
            return
        self._parts.append(f"{type(value).__name__} of {len(value)}")
        members = value.items() if isinstance(value, dict) else value
        if isinstance(value, set | frozenset):
            members = sorted(value, key=repr)
        for member in members:
            self.add(member)

    def _add_function(self, function: FunctionType) -> None:
        if function.__module__ != self._module:
            self._parts.append(f"function {function.__module__}.{function.__qualname__}")
            return
        self.add(function.__code__)
        self.add(function.__defaults__)
        self.add(function.__kwdefaults__)
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:  # empty: a name that was never bound
                self._parts.append("empty cell")
        for name in _names(function.__code__):
            if name in function.__globals__ and not name.startswith("__"):  # not __name__
                self._parts.append(name)
                self.add(function.__globals__[name])

    def _add_class(self, kind: type) -> None:
        if kind.__module__ != self._module:
            self._parts.append(f"class {kind.__module__}.{kind.__qualname__}")
            return
        self._parts.append(f"class {kind.__qualname__}")
        for base in kind.__bases__:
            self.add(base)
        for name, member in sorted(vars(kind).items()):
            if name not in ("__module__", "__dict__", "__weakref__", "__doc__", "__firstlineno__"):
                self._parts.append(name)
                self.add(member)

    def _add_code(self, code: CodeType) -> None:
        self._parts.append(f"code {code.co_code.hex()} {code.co_names} {code.co_varnames}")
        for constant in code.co_consts:
            self.add(constant)


def _names(code: CodeType) -> list[str]:
    """The names that the code and the functions in it look up."""
    found = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found += _names(constant)
    return sorted(set(found))
