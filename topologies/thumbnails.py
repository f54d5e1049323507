"""Small pictures of all images below a folder: decode, shrink, write; what is no image is reported.

Shows data processing: NumPy arrays between processes, whose bytes travel beside the pickle, and a
second sink for what cannot be read.

    pip install numpy pillow
    zflow run topologies/thumbnails.py -p images.folder=~/Pictures -p write.folder=thumbnails
"""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from zflow import Topology, emit, sink, source, stage

SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp"}


@source
def images(folder: str = "."):
    root = Path(folder).expanduser()
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            yield str(root), str(path.relative_to(root))


@stage(replicas=2)
def decode(image: tuple[str, str]):
    root, name = image
    try:
        with Image.open(Path(root, name)) as picture:
            return {"name": name, "pixels": np.asarray(picture.convert("RGB"))}
    except (UnidentifiedImageError, OSError) as error:
        return emit("unreadable", {"name": name, "why": str(error)})


@stage(replicas=2)
def shrink(image: dict, side: int = 128):
    pixels = image["pixels"]
    step = max(1, -(-max(pixels.shape[:2]) // side))  # every pixel of the result is a mean of step²
    high, wide = (max(1, n // step) for n in pixels.shape[:2])
    blocks = pixels[: high * step, : wide * step]
    blocks = blocks.reshape(high, blocks.shape[0] // high, wide, blocks.shape[1] // wide, 3)
    return image | {"pixels": blocks.mean(axis=(1, 3)).astype(np.uint8)}


@sink
def write(image: dict, folder: str = "thumbnails"):
    path = Path(folder, image["name"]).with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image["pixels"]).save(path)


@sink
def report(unreadable: dict):
    print(f"{unreadable['name']}: {unreadable['why']}")


flow = Topology("thumbnails")
flow.connect(images, decode, shrink, write)
flow.connect(decode, report, output="unreadable")
