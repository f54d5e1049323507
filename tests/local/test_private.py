"""What a run writes is for its user alone, and no item shows where people read (S1, S15, S16)."""

import stat

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

CANARY = "canary-4711-of-an-item"
FLOW = f"""
    from zflow import DurableStage

    @source(journaled=True)
    def read():
        for k in range(40):
            yield f"{CANARY}-{{k}}"

    @stage(retries=0)
    def refuse(text: str):
        if text.endswith("7"):
            raise ValueError("it ends with a seven")
        return text

    @stage(replicas=2)
    class Keep(DurableStage):
        def process(self, text):
            self.state[text] = text
            return text

    @sink
    def write(text: str):
        pass

    flow = Topology("flow")
    flow.connect(read, refuse)
    flow.connect(refuse, Keep, key=len)
    flow.connect(Keep, write)
"""


def test_every_file_is_its_users_own_and_no_item_is_told_to_people(shop):
    done = shop.run(FLOW, "--log-level", "info")
    paths = [path for path in (shop.folder / ".zflow").rglob("*") if not path.is_symlink()]
    kinds = {path.suffix or path.name for path in paths if path.is_file()}
    assert {".sqlite", ".json", ".py"} <= kinds, kinds
    for path in paths:
        if path.parent == shop.folder / ".zflow" or path.parent == shop.folder:
            continue  # the folders of names, which hold no content
        allowed = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) & ~allowed == 0, path
    assert "dead letter: refuse gave up an item" in done.err
    assert CANARY not in done.err
    assert CANARY not in done.out


@pytest.mark.parametrize("name", ["../escape", "a/b", "..", "a\0b"])
def test_no_name_leads_out_of_the_folders_of_a_run(shop, name):
    shop.write(FLOW.replace('Topology("flow")', f"Topology({name!r})"))
    done = shop.zflow("run", "flow.py")
    assert done.code == 2, done.err
    assert not (shop.folder.parent / "escape").exists()
