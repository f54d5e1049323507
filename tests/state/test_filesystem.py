"""State lies on a disk of this machine, or it is refused."""

import pytest

from zflow.errors import ConfigError
from zflow.state import filesystem
from zflow.state.filesystem import filesystem_of, refuse_network_folder

MOUNTS = r"""/dev/vda / ext4 rw,relatime 0 0
tmpfs /tmp tmpfs rw 0 0
server:/export /home nfs4 rw,vers=4.2 0 0
/dev/vdb /home/fast xfs rw 0 0
//nas/share /mnt/my\040share cifs rw 0 0
tmpfs /covered tmpfs rw 0 0
server:/x /covered nfs rw 0 0
half a line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib", "ext4"),
        ("/", "ext4"),
        ("/tmp", "tmpfs"),
        ("/tmporary", "ext4"),
        ("/home/me/.zflow", "nfs4"),
        ("/home/fast/.zflow", "xfs"),
        ("/mnt/my share/run", "cifs"),
        ("/covered/run", "nfs"),
    ],
)
def test_the_deepest_and_latest_mount_says_what_a_folder_lies_on(path, kind):
    assert filesystem_of(path, MOUNTS) == kind


def test_nothing_is_known_without_mounts():
    assert filesystem_of("/home", "") == ""


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    def mount(kind):
        mounts = tmp_path / "mounts"
        mounts.write_text(f"server:/x {tmp_path.resolve()} {kind} rw 0 0\n")
        monkeypatch.setattr(filesystem, "_MOUNTS", mounts)

    return mount


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3"])
def test_a_folder_of_another_machine_is_refused_with_what_to_do(mounted, tmp_path, kind):
    mounted(kind)
    with pytest.raises(ConfigError, match=rf"network file system \({kind}\).*local disk"):
        refuse_network_folder(tmp_path)


def test_a_local_folder_is_accepted(mounted, tmp_path):
    mounted("btrfs")
    refuse_network_folder(tmp_path)


def test_a_system_without_proc_is_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "_MOUNTS", tmp_path / "none")
    refuse_network_folder(tmp_path)
