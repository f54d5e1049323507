"""How orders to a running run are written, and what a person hears where they cannot be given."""

import pytest


@pytest.mark.parametrize("verb", ["scale", "pause", "resume", "restart", "drain", "down"])
def test_every_order_has_help_with_an_example(zflow, verb):
    done = zflow(verb, "--help")
    assert done.exit_code == 0
    assert f"zflow {verb}" in done.stdout.partition("Example:")[2]


@pytest.mark.parametrize(
    "words", [("scale", "parse=2"), ("pause",), ("resume",), ("drain",), ("down", "--now")]
)
def test_a_run_that_does_not_run_takes_no_order(zflow, stored, words):
    done = zflow(*words)
    assert done.exit_code == 3
    assert "run one is not running: there is nobody to obey; see zflow ps" in done.stderr


@pytest.mark.parametrize("wish", ["parse", "parse=", "=3", "parse=-1", "parse=two", "parse=²"])
def test_what_is_no_number_of_replicas_is_refused(zflow, stored, wish):
    done = zflow("scale", wish)
    assert done.exit_code == 2
    assert f"{wish}: is not a number of replicas; write STAGE=N, as in parse=4" in done.stderr


@pytest.mark.parametrize("verb", ["scale", "restart"])
def test_an_order_for_nobody_is_refused(zflow, stored, verb):
    assert zflow(verb).exit_code == 2


@pytest.mark.parametrize("verb", ["coordinator", "stage"])
def test_the_parts_of_a_run_have_help_with_an_example(zflow, verb):
    done = zflow(verb, "--help")
    assert done.exit_code == 0
    assert "zflow coordinator topologies" in done.stdout or "zflow stage parse" in done.stdout
