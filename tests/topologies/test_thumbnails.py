"""topologies/thumbnails.py on pictures that the test paints."""

import numpy as np
import pytest
from PIL import Image

SIZES = [(1, 1), (300, 200), (128, 128), (129, 40), (40, 1000), (640, 480)]  # wide, high


def paint(folder, count=24):
    """Pictures with one colour in each, so that a mean of any of its pixels is that colour."""
    dice = np.random.default_rng(3)
    colours = {}
    for k in range(count):
        name = f"{'deep/' * (k % 3)}{k}.{'png' if k % 2 else 'bmp'}"
        colour = dice.integers(0, 256, 3, dtype=np.uint8)
        wide, high = SIZES[k % len(SIZES)]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.broadcast_to(colour, (high, wide, 3)).copy()).save(path)
        colours[name] = tuple(int(part) for part in colour)
    (folder / "broken.png").write_bytes(b"no picture at all")
    (folder / "notes.txt").write_text("not looked at")
    return colours


@pytest.mark.parametrize(("wide", "high"), SIZES)
def test_a_thumbnail_is_at_most_as_large_as_asked_and_keeps_its_colours(load, wide, high):
    shrink = load("thumbnails").shrink
    ramp = np.linspace(0, 250, high * wide * 3).reshape(high, wide, 3).astype(np.uint8)
    small = shrink({"name": "x", "pixels": ramp})["pixels"]
    assert max(small.shape[:2]) <= 128
    assert min(small.shape[:2]) >= 1
    assert small.dtype == np.uint8
    assert abs(float(small.mean()) - float(ramp.mean())) < 8


@pytest.mark.slow
def test_every_picture_gets_its_thumbnail_and_what_is_none_is_reported(tmp_path, zflow_run):
    colours = paint(tmp_path / "in")
    done = zflow_run("thumbnails", "images.folder=in", "write.folder=out")
    found = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.png"))
    assert {str(path) for path in found} == {f"{name[:-4]}.png" for name in colours}
    for name, colour in colours.items():
        with Image.open((tmp_path / "out" / name).with_suffix(".png")) as small:
            assert max(small.size) <= 128
            assert small.convert("RGB").getcolors() == [(small.width * small.height, colour)]
    assert "broken.png: cannot identify image file" in done["stderr"]
    assert done["dead_letters"] == 0
