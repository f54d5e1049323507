"""The end of a run as data."""

import json

from zflow.local.result import HotKey, hot_keys


def test_the_keys_of_all_senders_are_added_up_and_ranked(tmp_path):
    (tmp_path / "0-0.keys").write_text(
        json.dumps({"a->b": [100, [["'x'", 60, 1], ["'y'", 40, 2]]]})
    )
    (tmp_path / "0-1.keys").write_text(
        json.dumps({"a->b": [100, [["'y'", 50, 2], ["'z'", 50, 3]]]})
    )
    found = hot_keys(tmp_path.glob("*.keys"), 2)
    assert found == {
        "a->b": [
            HotKey(key="'y'", partition=2, items=90, share=0.45),
            HotKey(key="'x'", partition=1, items=60, share=0.3),
        ]
    }


def test_without_keyed_edges_there_is_nothing_to_tell(tmp_path):
    assert hot_keys(tmp_path.glob("*.keys"), 3) == {}
