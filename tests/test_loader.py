"""What loading promises: the right topology, or the user's own file and line."""

import hashlib
import linecache
import pickle
import sys
import textwrap
import threading
import traceback

import pytest

from zflow import Topology, sink, source
from zflow.errors import ConfigError
from zflow.loader import load, load_source, shippable, shipping_problems
from zflow.stages import declaration_of

FLOW = """
from zflow import Topology, sink, source

@source
def read():
    yield 1

@sink
def show(item):
    raise RuntimeError("broken")

flow = Topology("flow")
flow.connect(read, show)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into a fresh working folder; what is loaded from there is forgotten after."""
    monkeypatch.chdir(tmp_path)
    modules, path = set(sys.modules), list(sys.path)

    def writer(name: str, text: str):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip("\n"))
        return file

    yield writer
    assert sys.path == path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def refusal(target: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(target)
    return str(error.value)


def test_a_file_runs_under_a_module_name_made_from_its_source(write):
    file = write("flow.py", FLOW)
    loaded = load("flow.py")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    assert (loaded.digest, loaded.module) == (digest, f"zflow_topology_{digest}")
    assert (loaded.path, loaded.attr, loaded.source) == (file, "flow", file.read_bytes())
    assert sys.modules[loaded.module].__file__ == str(file)
    assert loaded.topology.declared().stages[0].file == str(file)


def test_classes_of_a_topology_file_pickle_by_name(write):
    write("flow.py", FLOW + "\nclass Item:\n    pass\n")
    item = sys.modules[load("flow.py").module].Item()
    assert type(pickle.loads(pickle.dumps(item))) is type(item)


def test_loading_a_file_once_more_gives_the_same_topology(write):
    file = write("flow.py", FLOW)
    assert load("flow.py").topology is load(f"{file}:flow").topology


def test_two_files_of_the_same_text_keep_their_own_places(write):
    write("a/flow.py", FLOW)
    write("b/flow.py", FLOW)
    first, second = load("a/flow.py"), load("b/flow.py")
    assert first.topology.file != second.topology.file


def test_a_snapshot_runs_and_is_shown_as_it_was_after_the_file_has_changed(write):
    file = write("flow.py", FLOW)
    snapshot = file.read_bytes()
    file.write_text("# changed\n")
    loaded = load_source(snapshot, file, "flow")
    show = loaded.topology.declared().stage("show").target
    linecache.checkcache()
    with pytest.raises(RuntimeError) as error:
        show(1)
    shown = "".join(traceback.format_exception(error.value))
    assert f'File "{file}", line 9, in show' in shown
    assert 'raise RuntimeError("broken")' in shown


def test_what_lies_beside_the_file_can_be_imported_while_it_loads(write):
    write("beside_the_flow.py", "NAME = 'beside'\n")
    write("flow.py", FLOW + "\nimport beside_the_flow\nflow.name = beside_the_flow.NAME\n")
    assert load("flow.py").topology.name == "beside"


@pytest.mark.parametrize("target", ["flow.py:make", "flow.py:make()"])
def test_a_function_may_make_the_topology(write, target):
    write("flow.py", "from zflow import Topology\ndef make():\n    return Topology('made')\n")
    loaded = load(target)
    assert (loaded.topology.name, loaded.attr) == ("made", "make")
    again = load_source(loaded.source, loaded.path, loaded.attr)
    assert again.topology.name == "made"


def test_a_module_is_loaded_under_its_own_name(write):
    file = write("flow_package/flow.py", FLOW)
    write("flow_package/__init__.py", "")
    loaded = load("flow_package.flow:flow")
    assert (loaded.module, loaded.path) == ("flow_package.flow", None)
    assert loaded.source == file.read_bytes()
    assert load("flow_package.flow").topology is loaded.topology


def test_a_second_name_of_one_topology_is_not_a_second_topology(write):
    write("flow.py", FLOW + "\nalias = flow\n")
    assert load("flow.py").attr == "flow"


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x = 1\nx.y.z\n", 2, "does not import: AttributeError: 'int' object has no attribute"),
        ("x = (\n", 1, "does not import: SyntaxError: '(' was never closed; correct this line"),
        ("import no_such_module\n", 1, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import sys\n\nsys.exit('bye')\n", 3, "does not import: SystemExit: bye"),
        ("def f():\n    return 1 / 0\n\nf()\n", 2, "ZeroDivisionError: division by zero"),
        ("import broken_helper\n", 1, "does not import: KeyError: 'helper'"),
        ("from zflow import sink\nsink(print)\n", 2, "cannot carry a declaration"),
        ("from zflow import Topology\nTopology()\n", 2, "does not import: TypeError"),
    ],
)
def test_a_file_that_does_not_import_is_told_by_the_users_own_line(write, text, line, message):
    write("broken_helper.py", "raise KeyError('helper')\n")
    file = write("flow.py", text)
    before = set(sys.modules)
    said = refusal("flow.py")
    assert said.startswith(f"{file}:{line}: ")
    assert message in said
    new = set(sys.modules) - before
    assert not any(name.startswith("zflow_topology_") for name in new)


def test_a_syntax_error_of_an_imported_file_is_told_by_that_file(write):
    helper = write("bad_helper.py", "x = 1\ny = = 2\n")
    write("flow.py", "import bad_helper\n")
    assert refusal("flow.py").startswith(f"{helper}:2: flow.py: does not import: SyntaxError")


def test_a_module_that_does_not_import_is_told_by_the_users_own_line(write):
    file = write("broken_module.py", "x = 1\nx.y\n")
    assert refusal("broken_module:flow").startswith(f"{file}:2: ")


def test_a_module_that_does_not_exist_says_what_a_target_is(write):
    assert refusal("no_such_module:flow") == (
        "no_such_module:flow: does not import: ModuleNotFoundError: No module named "
        "'no_such_module'; give path/file.py or module:attr"
    )


def test_a_file_that_does_not_exist_names_the_nearest_one(write):
    write("orders.py", FLOW)
    assert refusal("order.py") == (
        "order.py: cannot be read: No such file or directory; did you mean 'orders.py'?"
    )


def test_a_file_without_a_topology_says_how_to_make_one(write):
    file = write("flow.py", "x = 1\n")
    assert refusal("flow.py") == (
        f"{file}:1: flow.py: has no Topology; make one: flow = Topology('name')"
    )


def test_functions_that_return_a_topology_are_candidates_but_not_taken_unasked(write):
    write("flow.py", "from zflow import Topology\ndef make() -> Topology: ...\n")
    assert refusal("flow.py").endswith("has no Topology; choose one: flow.py:make")


def test_several_topologies_are_listed_to_choose_from(write):
    file = write("flow.py", FLOW + "\nother = Topology('other')\n")
    assert refusal("flow.py") == (
        f"{file}:14: flow.py: has several topologies; choose one: flow.py:flow, flow.py:other"
    )


def test_an_attribute_that_is_missing_names_the_nearest_one(write):
    file = write("flow.py", FLOW)
    assert refusal("flow.py:flaw") == (
        f"{file}:1: flow.py:flaw: has no attribute 'flaw'; did you mean 'flow'?"
    )


def test_an_attribute_that_is_no_topology_says_what_it_is(write):
    file = write("flow.py", "limit = 3\ndef make():\n    return 4\n")
    assert f"{file}:1: flow.py:limit: 'limit' is a int, not a Topology" in refusal("flow.py:limit")
    assert f"{file}:2: flow.py:make: 'make' is a int, not a Topology" in refusal("flow.py:make")


def test_a_function_that_fails_is_told_by_its_own_line(write):
    file = write("flow.py", "def make():\n    return {}['x']\n")
    assert f"{file}:2: flow.py:make: make() failed: KeyError: 'x'" in refusal("flow.py:make")


# --- what can be shipped -------------------------------------------------------------------------


@source
def numbers():
    yield 1


@sink
def show(item): ...


def test_functions_of_a_module_and_plain_closures_can_be_shipped():
    flow = Topology("shipped")
    flow.connect(numbers, flow.sink(lambda item: None, name="drop"), when=lambda item: item > 3)
    assert shippable(declaration_of(numbers)) is None
    assert shipping_problems(flow.declared()) == ()


def test_a_function_or_predicate_that_holds_a_lock_is_a_problem_with_file_and_line():
    lock = threading.Lock()
    flow = Topology("held")
    line = sys._getframe().f_lineno + 1
    work = flow.stage(lambda item: lock, name="work")
    flow.connect(numbers, work, show, when=lambda item: lock.locked())
    said = [str(problem) for problem in shipping_problems(flow.declared())]
    assert [text.partition(": cannot be shipped: ")[0] for text in said] == [
        f"{__file__}:{line}: work",
        f"{__file__}:{line + 1}: numbers->work",
        f"{__file__}:{line + 1}: work->show",
    ]
    assert "cannot pickle '_thread.lock' object; define it at the top level" in said[0]
