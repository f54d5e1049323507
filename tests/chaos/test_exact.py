"""What the campaigns on keyed state call exact, and the disk that forgets."""

import random

import pytest

FOLDER = "/data"


@pytest.fixture
def exact(chaos):
    return chaos["exact"]


def test_the_reference_counts_and_sums_every_piece(exact):
    assert sum(n for n, _ in exact.tallies(range(300)).values()) == 300
    assert sum(total for _, total in exact.tallies([1, 2]).values()) == 1 + 2 * 2


@pytest.mark.parametrize(
    ("found", "lost", "twice", "mixed"),
    [
        ({"a": (2, 5), "b": (1, 1)}, 0, 0, 0),
        ({"a": (2, 5)}, 1, 0, 0),
        ({"a": (4, 9), "b": (1, 1)}, 0, 2, 0),
        ({"a": (2, 6), "b": (1, 1)}, 0, 0, 1),
        ({"a": (1, 5), "b": (1, 1), "c": (1, 1)}, 1, 1, 0),
    ],
)
def test_differences_are_told_key_by_key(exact, found, lost, twice, mixed):
    assert exact.differences({"a": (2, 5), "b": (1, 1)}, found) == (lost, twice, mixed)


def test_a_row_that_is_there_twice_breaks_the_bar(exact, chaos, monkeypatch, tmp_path):
    wanted = exact.tallies(range(100))
    rows = sorted(exact.expected_rows(wanted))
    monkeypatch.setattr(exact, "read_state", lambda files: dict(wanted))
    for recorded, broken in ((rows, 0), ([*rows, rows[0]], 1), (rows[1:], 1)):
        monkeypatch.setattr(exact, "read_rows", lambda path, recorded=recorded: recorded)
        verdict = chaos["verdict"].Verdict()
        exact.compare(verdict, wanted, tmp_path, [])
        assert len(verdict.broken) == broken


def test_the_reference_of_order_knows_the_number_before_and_leaves_poison_out(chaos):
    keys = chaos["bitter"].user.ORDER_KEYS
    rows = chaos["bitter"].expected_rows(3 * keys, {keys: "raise"})
    assert {row for row in rows if row[1] == "0"} == {
        ("order", "0", 0, -1),
        ("order", "0", 2, 0),
    }


# --- the disk -------------------------------------------------------------------------------------


@pytest.fixture
def disk(chaos, tmp_path):
    """`disk(calls)` is what is left after a power loss that keeps nothing, or all of it."""
    lost_disk = chaos["lost_disk"]

    def lose(*calls, chance=0.0):
        made = lost_disk.Disk(lost_disk.Path(FOLDER))
        for name, path, *rest in calls:
            text, number = (*rest, b"", 0)[:2] if rest else (b"", 0)
            made.feed(lost_disk.Call(name=name, path=FOLDER + path, text=text, number=number))
        return made.after_power_loss(random.Random(1), chance)

    return lose


def test_only_what_was_synced_is_there(disk):
    calls = [
        ("openat", "/a"),
        ("fsync", ""),
        ("pwrite64", "/a", b"safe", 0),
        ("fdatasync", "/a"),
        ("pwrite64", "/a", b"lost", 4),
        ("ftruncate", "/a", b"", 1),
    ]
    assert disk(*calls) == {"/data/a": b"safe"}
    assert disk(*calls, chance=1.0) == {"/data/a": b"s"}


def test_a_file_whose_folder_was_never_synced_is_gone(disk):
    calls = [("openat", "/a"), ("pwrite64", "/a", b"safe", 0), ("fsync", "/a")]
    assert disk(*calls) == {}
    assert disk(*calls, ("fsync", "")) == {"/data/a": b"safe"}


def test_a_deleted_file_is_back_until_its_folder_is_synced(disk):
    calls = [("openat", "/a"), ("fsync", ""), ("unlink", "/a")]
    assert disk(*calls) == {"/data/a": b""}
    assert disk(*calls, ("fsync", "")) == {}


def test_a_renamed_file_may_have_its_old_name_until_its_folder_is_synced(disk):
    calls = [
        ("openat", "/a.new"),
        ("write", "/a.new", b"sa"),
        ("write", "/a.new", b"fe"),
        ("fsync", "/a.new"),
        ("rename", "/a.new", b"/data/a"),
    ]
    assert disk(*calls) == {}
    assert disk(*calls, chance=1.0) == {"/data/a.new": b"safe"}
    assert disk(*calls, ("fsync", "")) == {"/data/a": b"safe"}
    assert disk(*calls, ("fsync", ""), chance=1.0) == {"/data/a": b"safe"}


def test_the_lines_of_strace_are_read_and_a_failed_call_is_none(chaos):
    def escaped(text):
        return "".join(f"\\x{byte:02x}" for byte in text)

    lines = [
        f'7 openat(AT_FDCWD<{escaped(b"/")}>, "{escaped(b"/data/a")}", O_RDWR|O_CREAT, 0600) = 3',
        f'7 pwrite64(3<{escaped(b"/data/a")}>, "{escaped(b"xy, 9")}", 5, 4096) = 5',
        f"fdatasync(3<{escaped(b'/data/a')}>) = 0",
        f'7 unlink("{escaped(b"/data/b")}") = -1 ENOENT (No such file or directory)',
        f'7 openat(AT_FDCWD<{escaped(b"/")}>, "{escaped(b"/data/c")}", O_RDONLY) = 4',
        f'7 rename("{escaped(b"/data/a")}", "{escaped(b"/data/d")}") = 0',
        f'7 pwrite64(3<{escaped(b"/data/a")}>, "{escaped(b"cut off")}',
    ]
    found = [(c.name, c.path, c.text, c.number) for c in chaos["lost_disk"].calls_of(lines)]
    assert found == [
        ("openat", "/data/a", b"", 0),
        ("pwrite64", "/data/a", b"xy, 9", 4096),
        ("fdatasync", "/data/a", b"", 0),
        ("rename", "/data/a", b"/data/d", 0),
    ]
