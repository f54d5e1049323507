"""What README.md shows is what happens: the example, the two commands, and what CI runs."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from click.testing import CliRunner

from zflow.cli.main import main
from zflow.stages import declaration_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LONGEST_RUN_S = 60


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands_shown() -> list[list[str]]:
    """Each shell block as its commands: ["scripts/setup", "scripts/check"]."""
    return [[part.strip() for part in block.split("&&")] for block in blocks("sh")]


def run(command: list[str], *, cwd: Path) -> subprocess.CompletedProcess:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST_RUN_S,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"
    return done


def zflow(command: str, *more: str) -> list[str]:
    """A command of the README that runs zflow, for the Python that runs the tests."""
    program, *arguments = shlex.split(command)
    assert Path(program).name == "zflow"
    return [sys.executable, "-m", "zflow", *arguments, *more]


def test_there_are_two_commands_and_both_begin_with_the_setup():
    job, check = commands_shown()
    assert job == ["scripts/setup", ".venv/bin/zflow run topologies/codebase.py"]
    assert check == ["scripts/setup", "scripts/check"]


def test_every_script_and_topology_that_is_named_exists():
    named = set(re.findall(r"\b(?:scripts|topologies)/[\w.]+\w", README))
    assert {"scripts/setup", "scripts/bench", "topologies/orders.py"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_link_leads_to_a_file():
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize(
    "command", re.findall(r"^\$ zflow (dead [^#\n]*)", README, flags=re.MULTILINE)
)
def test_what_is_shown_for_dead_letters_are_commands(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, shlex.split(command))
    assert done.exit_code == 2
    assert done.stderr.startswith(".zflow: there are no runs in "), done.stderr


@pytest.mark.parametrize("name", ["scripts/setup", "scripts/check", ".ci/run", ".ci/packages"])
def test_the_scripts_are_executable_and_parse(name):
    assert os.access(ROOT / name, os.X_OK)
    run(["bash", "-n", name], cwd=ROOT)


@pytest.mark.slow
def test_the_setup_makes_the_environment_that_the_commands_use():
    made = run(["scripts/setup", "--dry-run"], cwd=ROOT).stdout
    assert re.search(r"^\S*python\S* -m venv (--clear )?\.venv$", made, flags=re.MULTILINE)
    assert ".venv/bin/python -m pip install" in made
    assert "-e .[dev]" in made


def test_ci_runs_the_test_command_of_the_readme_with_pytest_last():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    called = [line.removesuffix("</dev/null").split() for line in lines if line[:8] == "scripts/"]
    checks = [command for command in called if command[0] == "scripts/check"]
    assert called[0] == ["scripts/setup"]
    assert called[-1] == checks[-1]

    parts = [step for check in checks for step in steps_of(check)]
    assert parts == steps_of(["scripts/check"])
    assert " -m pytest " in parts[-1]


def steps_of(check: list[str]) -> list[str]:
    return run([*check, "--dry-run"], cwd=ROOT).stderr.splitlines()


@pytest.mark.slow
def test_the_coordinator_and_three_stages_of_the_transcript_do_what_it_shows(tmp_path):
    example, *_ = blocks("python")
    (tmp_path / "primes.py").write_text(example)
    (transcript,) = [block for block in blocks("console") if "1$ " in block]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shown = re.findall(r"^\d\$ (zflow .*)$", transcript, flags=re.MULTILINE)
    keys, *terminals = [command.replace("7700", str(port)) for command in shown]
    run(zflow(keys), cwd=tmp_path)
    started = []
    try:
        for number, command in enumerate(terminals):
            more = ("--http", "off") if number == 0 else ()
            started.append(
                subprocess.Popen(
                    zflow(command, *more),
                    cwd=tmp_path,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        ended = [one.communicate(timeout=LONGEST_RUN_S) for one in started]
    finally:
        for one in started:
            one.kill()
            one.communicate()
    assert [one.returncode for one in started] == [0, 0, 0, 0], ended
    primes = [n for n in range(2, 500) if all(n % d for d in range(2, n))]
    assert sorted(map(int, ended[-1][0].split())) == primes
    assert "is coordinated at tcp://" in ended[0][1]


@pytest.mark.parametrize(
    "verb", sorted(set(re.findall(r"^\d?\$ zflow (\w+)", README, flags=re.MULTILINE)))
)
def test_every_verb_that_is_shown_exists(verb):
    assert CliRunner().invoke(main, [verb, "--help"]).exit_code == 0


@pytest.mark.slow
def test_the_example_prints_the_primes(tmp_path):
    example, *_ = blocks("python")
    (tmp_path / "primes.py").write_text(example)
    (command,) = re.findall(r"`(zflow run primes\.py[^`]*)`", README)

    shown = run(zflow(command.replace("limit=100000", "limit=500")), cwd=tmp_path).stdout

    primes = [n for n in range(2, 500) if all(n % d for d in range(2, n))]
    assert sorted(int(line.split()[-1]) for line in shown.splitlines()) == primes


def test_everything_that_is_declared_in_an_example_is_valid():
    declared = []
    for block in blocks("python"):
        names: dict = {}
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102
        declared += [found for name in names.values() if (found := declaration_of(name))]
    assert {one.name for one in declared} >= {"prime", "Count", "per_minute", "paid"}
    assert [problem for one in declared for problem in one.problems] == []


def test_every_topology_is_shown():
    for path in (ROOT / "topologies").glob("*.py"):
        assert f"(topologies/{path.name})" in README


@pytest.mark.slow
def test_the_main_job_writes_what_the_readme_says(tmp_path):
    # The whole standard library is the business of tests/topologies/test_codebase.py.
    folder = tmp_path / "json"
    shutil.copytree(Path(sysconfig.get_path("stdlib"), "json"), folder)
    (tmp_path / "topologies").symlink_to(ROOT / "topologies")
    (_, job), _ = commands_shown()

    run(zflow(job, "-p", f"files.folder={folder}"), cwd=tmp_path)

    lines = (tmp_path / "functions.jsonl").read_text().splitlines()
    assert any('"function": "loads"' in line for line in lines)
