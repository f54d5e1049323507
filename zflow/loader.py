"""TARGET to Topology: `path/file.py[:attr]` or `module:attr`, and what can leave this machine.

Decides under which module name a topology file runs and which of its topologies is meant. A
failure in the user's file is told with the user's own file and line, never with a traceback of
ours. Never hides what importing does, and never starts a stage.
"""

import hashlib
import importlib
import inspect
import linecache
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from zflow.declared.model import Declared
from zflow.errors import ConfigError, Problem, suggest
from zflow.stages import StageDecl, problem_at
from zflow.topology import Topology
from zflow.wire.codec import why_not_shippable

MODULE_PREFIX = "zflow_topology_"
DIGEST_CHARACTERS = 16  # of a SHA-256 in hex: a name in sys.modules, not a proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A topology, and all that another process needs to load the same one.

    path: the absolute path of a topology file, None for a module. module: its name in
    sys.modules. attr: the Topology, or the function that made it, by name.
    """

    topology: Topology
    target: str
    path: Path | None
    module: str
    source: bytes
    digest: str
    attr: str


def load(target: str) -> Loaded:
    """The topology of a TARGET. raises: ConfigError."""
    place, attr = _split(target)
    if not _is_path(place):
        return _load_module(target, place, attr)
    path = Path(place).expanduser().absolute()
    try:
        source = path.read_bytes()
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise ConfigError([_at_target(target, message, _nearest_file(path))]) from error
    return load_source(source, path, attr, target=target)


def digest_of(source: bytes) -> str:
    """The name of a version of a topology's file."""
    return hashlib.sha256(source).hexdigest()[:DIGEST_CHARACTERS]


def load_source(
    source: bytes, path: Path, attr: str | None = None, *, target: str | None = None
) -> Loaded:
    """The topology in a snapshot of a file, as if the file still had that text.

    So a process that starts later sees the code of its run, and its tracebacks show that text.
    raises: ConfigError.
    """
    target = target or str(path)
    digest = digest_of(source)
    name = f"{MODULE_PREFIX}{digest}"
    module = sys.modules.get(name)
    if module is None or module.__file__ != str(path):
        module = _execute(source, path, name)
    with _importable(path.parent):
        topology, found = _choose(module, target, attr, str(path))
    return Loaded(
        topology=topology,
        target=target,
        path=path,
        module=name,
        source=source,
        digest=digest,
        attr=found,
    )


def shippable(decl: StageDecl) -> str | None:
    """Why the target of a stage cannot be sent to another machine; None if it can."""
    return _why_not(decl.target)


def shipping_problems(declared: Declared) -> tuple[Problem, ...]:
    """Every function of a topology, predicates of edges included, that cannot be shipped."""
    parts: list[tuple[str, StageDecl | Any, Any]] = [
        *((stage.name, stage, stage.target) for stage in declared.stages),
        *((edge.label, edge, edge.when) for edge in declared.edges if edge.when is not None),
    ]
    fix = "define it at the top level of a module, or open what it holds inside it"
    return tuple(
        problem_at(where, (decl.file, decl.line), f"cannot be shipped: {reason}", fix)
        for where, decl, function in parts
        if (reason := _why_not(function)) is not None
    )


def _why_not(function: Any) -> str | None:
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for name in getattr(function, "__qualname__", "<unnamed>").split("."):
        found = getattr(found, name, None)
    return None if found is function else why_not_shippable(function)


def _split(target: str) -> tuple[str, str | None]:
    place, colon, attr = target.rpartition(":")
    if not colon:
        return target, None
    return place, attr.removesuffix("()") or None


def _is_path(place: str) -> bool:
    return place.endswith(".py") or os.sep in place or Path(place).is_file()


def _nearest_file(path: Path) -> str:
    try:
        names = [file.name for file in path.parent.glob("*.py")]
    except OSError:
        names = []
    return suggest(path.name, names) if names else "give the path of a topology file"


def _load_module(target: str, name: str, attr: str | None) -> Loaded:
    with _importable(Path.cwd()):
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the border to the user's module
            raise ConfigError(_import_problems(error, target, None)) from error
        file = getattr(module, "__file__", None) or ""
        topology, found = _choose(module, target, attr, file)
    source = Path(file).read_bytes() if file.endswith(".py") else b""
    return Loaded(
        topology=topology,
        target=target,
        path=None,
        module=name,
        source=source,
        digest=hashlib.sha256(source).hexdigest()[:DIGEST_CHARACTERS],
        attr=found,
    )


def _execute(source: bytes, path: Path, name: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = str(path)
    # Without a time of change an entry is never compared with the file, which may be newer.
    lines = source.decode(errors="replace").splitlines(keepends=True)
    linecache.cache[str(path)] = (len(source), None, lines, str(path))
    before = sys.modules.get(name)
    sys.modules[name] = module  # first: classes and dataclasses look their module up
    try:
        with _importable(path.parent):
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the border to the user's file
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise ConfigError(_import_problems(error, str(path), str(path))) from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """What lies beside the user's file can be imported, as when Python itself runs the file."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        # It may have been taken out, or put in once more, by the user's own code.
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _import_problems(
    error: BaseException, target: str, path: str | None, doing: str = "does not import"
) -> tuple[Problem, ...]:
    if isinstance(error, ConfigError):
        return error.problems
    if isinstance(error, SyntaxError) and error.filename:
        site = (error.filename, error.lineno or 1)
        message = f"{doing}: {type(error).__name__}: {error.msg}"
        return (problem_at(Path(target).name, site, message, "correct this line"),)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if (frame.filename == path if path else _is_users(frame.filename))
    ]
    message = f"{doing}: {type(error).__name__}: {error}"
    if not frames:
        return (_at_target(target, message, "give path/file.py or module:attr"),)
    site = (frames[-1].filename, frames[-1].lineno or 1)
    return (problem_at(Path(target).name, site, message, "correct this line, or what it calls"),)


def _is_users(filename: str) -> bool:
    """Whether a frame lies in the user's project: below the working folder, and not installed."""
    path = Path(filename)
    is_installed = "site-packages" in path.parts or path.is_relative_to(Path(__file__).parent)
    return path.is_relative_to(Path.cwd()) and not is_installed


def _at_target(target: str, message: str, fix: str) -> Problem:
    return Problem(where=target, file="", line=0, message=message, fix=fix)


def _choose(module: ModuleType, target: str, attr: str | None, file: str) -> tuple[Topology, str]:
    """The topology that a target means, and the name of the attribute that it comes from."""
    candidates = _candidates(module)
    if attr is None:
        attr = _only(candidates, target, file)
    found = module
    for name in attr.split("."):
        if not hasattr(found, name):
            fix = suggest(attr, candidates)
            problem = problem_at(target, (file, 1), f"has no attribute '{attr}'", fix)
            raise ConfigError([problem])
        found = getattr(found, name)
    return _built(found, target, attr, file), attr


def _built(found: Any, target: str, attr: str, file: str) -> Topology:
    site = (file, _line_of(found))
    if callable(found) and not isinstance(found, type | Topology):
        try:
            found = found()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the border to the user's function
            problems = _import_problems(error, target, file, f"{attr}() failed")
            raise ConfigError(problems) from error
    if not isinstance(found, Topology):
        message = f"'{attr}' is a {type(found).__name__}, not a Topology"
        fix = "name a Topology, or a function that returns one"
        raise ConfigError([problem_at(target, site, message, fix)])
    return found


def _line_of(found: Any) -> int:
    code = getattr(found, "__code__", None)
    return code.co_firstlineno if code is not None else 1


def _candidates(module: ModuleType) -> dict[str, Topology | None]:
    """Names that stand for a topology; a second name of one does not count as a second one.

    Functions that say they return a Topology are candidates too, but never taken unasked.
    """
    topologies: dict[str, Topology | None] = {}
    factories: dict[str, Topology | None] = {}
    for name, value in vars(module).items():
        if isinstance(value, Topology):
            if not any(value is known for known in topologies.values()):
                topologies[name] = value
        elif inspect.isfunction(value) and _returns_topology(value):
            factories[name] = None
    return topologies | factories


def _returns_topology(function: Any) -> bool:
    return function.__annotations__.get("return") in (Topology, "Topology")


def _only(candidates: dict[str, Topology | None], target: str, file: str) -> str:
    topologies = {name: found for name, found in candidates.items() if found is not None}
    if len(topologies) == 1:
        return next(iter(topologies))
    fix = f"choose one: {', '.join(f'{target}:{name}' for name in candidates)}"
    if not topologies:
        fix = fix if candidates else "make one: flow = Topology('name')"
        raise ConfigError([problem_at(target, (file, 1), "has no Topology", fix)])
    line = list(topologies.values())[1].line
    raise ConfigError([problem_at(target, (file, line), "has several topologies", fix)])
