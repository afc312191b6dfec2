# SPDX-License-Identifier: Apache-2.0
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from unified.contracts.config import AugmentConfig, DataConfig
from unified.data.mixing import Mixture, open_mixture
from unified.data.picture import GREY, read_picture, read_within

Pixels = NDArray[np.uint8]
ORIENTATION = 0x0112
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    # By the EXIF standard each value says on which side of the scene the stored row 0 and column 0 lie.
    1: lambda up: up,
    2: lambda up: up[:, ::-1],
    3: lambda up: up[::-1, ::-1],
    4: lambda up: up[::-1],
    5: lambda up: up.transpose(1, 0, 2),
    6: lambda up: np.rot90(up, 1),
    7: lambda up: up[::-1, ::-1].transpose(1, 0, 2),
    8: lambda up: np.rot90(up, -1),
}


LEVELS = np.arange(256)
COLOURS = np.stack([LEVELS, 40 + 0.6 * LEVELS, 200 - 0.5 * LEVELS], axis=1).astype(np.uint8)


def field(height: int, width: int) -> Pixels:
    """Smooth hills and valleys, no part like another."""
    noise = np.random.default_rng(1).integers(0, 256, (5, 7), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def scene(height: int, width: int) -> Pixels:
    """The field in colours, few enough for a palette."""
    return COLOURS[field(height, width)]


def as_array(tensor: torch.Tensor) -> NDArray[np.int64]:
    return tensor.permute(1, 2, 0).numpy().astype(np.int64)


def sixteen_bit_png(pixels: Pixels) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write: each value v as v * 257, by the standard's own rule."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels.astype(np.uint16) * 257)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def encodings(pixels: Pixels) -> dict[str, bytes]:
    """One picture, whose colours stay true in all of them, as twelve kinds of file."""
    image = Image.fromarray(pixels)

    def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    ink = Image.fromarray(np.dstack([255 - pixels, np.zeros(pixels.shape[:2], np.uint8)]), "CMYK")
    palette = Image.fromarray(field(*pixels.shape[:2])).convert("P")
    palette.putpalette(COLOURS.tobytes())
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    return {
        "plain.png": saved(image, "PNG"),
        "sixteen.png": sixteen_bit_png(pixels),
        "alpha.png": saved(image.convert("RGBA"), "PNG"),
        "palette.png": saved(palette, "PNG"),
        "plain.bmp": saved(image, "BMP"),
        "lzw.tiff": saved(image, "TIFF", compression="tiff_lzw"),
        "cmyk.tiff": saved(ink, "TIFF"),
        "lossless.webp": saved(image, "WEBP", lossless=True),
        "lossy.webp": saved(image, "WEBP", quality=95),
        "baseline.jpg": saved(image, "JPEG", quality=95, subsampling=0),
        "progressive.jpg": saved(image, "JPEG", quality=95, subsampling=2, progressive=True),
        "adobe.jpg": saved(ink, "JPEG", quality=95),
        "turned.jpg": saved(Image.fromarray(np.ascontiguousarray(np.rot90(pixels))), "JPEG", quality=95, exif=turned),
    }


def test_one_picture_is_the_same_in_every_encoding(tmp_path: Path) -> None:
    pixels = scene(72, 96)
    files = encodings(pixels)
    assert len(files) >= 12
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        read = as_array(read_picture(name, tmp_path))
        assert read.shape == pixels.shape, name
        assert np.abs(read - pixels).mean() <= 2, (name, np.abs(read - pixels).mean())


def test_the_picture_of_the_encodings_is_not_a_flat_one() -> None:
    pixels = scene(72, 96)
    others = (pixels[::-1], pixels[:, ::-1], 255 - pixels, pixels[..., ::-1], np.full_like(pixels, 128))
    assert min(np.abs(other.astype(int) - pixels).mean() for other in others) > 20


def test_grey_pictures_of_every_depth_agree(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "8.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(ramp.astype(np.int32) * 257).save(tmp_path / "32.tiff")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "16.tiff")
    Image.fromarray(np.float32(ramp) / 255).save(tmp_path / "float.tiff")
    Image.fromarray(np.dstack([ramp, np.full_like(ramp, 255)]), "LA").save(tmp_path / "la.png")
    for name in ("8.png", "16.png", "32.tiff", "16.tiff", "float.tiff", "la.png"):
        read = read_picture(name, tmp_path)
        assert all(np.array_equal(channel.numpy(), ramp) for channel in read), name


def test_tiff_greys_that_count_from_white_are_no_negatives(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    file = io.BytesIO()
    Image.fromarray(65535 - ramp).save(file, "TIFF")
    data = bytearray(file.getvalue())
    place = data.index(b"\x06\x01\x03\x00\x01\x00\x00\x00\x01")  # tag 262, one short, 1: black is zero
    data[place + 8] = 0
    (tmp_path / "white.tiff").write_bytes(bytes(data))
    assert read_picture("white.tiff", tmp_path)[0].flatten().tolist() == list(range(256))


def test_only_adobes_jpegs_count_ink_backwards(tmp_path: Path) -> None:
    # libjpeg.txt: Adobe stores CMYK inverted and says so by its APP14 marker; without one, 255 is full ink.
    file = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(file, "JPEG", quality=100)
    adobe = file.getvalue()
    start = adobe.index(b"\xff\xee")
    end = start + 2 + int.from_bytes(adobe[start + 2 : start + 4], "big")
    (tmp_path / "adobe.jpg").write_bytes(adobe)
    (tmp_path / "other.jpg").write_bytes(adobe[:start] + adobe[end:])
    assert np.abs(as_array(read_picture("adobe.jpg", tmp_path)) - [255, 0, 0]).max() <= 2
    # the same numbers, read as they stand: (255, 0, 0, 255) is full black
    assert np.abs(as_array(read_picture("other.jpg", tmp_path))).max() <= 2


def test_a_colour_that_stands_for_clear_is_grey_at_any_depth(tmp_path: Path) -> None:
    for name, dtype, low, high in (("8.png", np.uint8, 10, 200), ("16.png", np.uint16, 2570, 51400)):
        image = Image.fromarray(np.array([[low, high]], dtype=dtype))
        image.save(tmp_path / name, transparency=low)
        assert read_picture(name, tmp_path)[0].tolist() == [[GREY, 200]], name


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "jpg"])
@pytest.mark.parametrize("reach", [None, 200, 100, 31])
def test_turned_pictures_are_equal_at_any_scale(tmp_path: Path, suffix: str, reach: int | None) -> None:
    upright = scene(151, 225)
    options: dict[str, Any] = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    first = None
    for tag, stored in STORED.items():
        exif = Image.Exif()
        exif[ORIENTATION] = tag
        name = f"{tag}.{suffix}"
        Image.fromarray(np.ascontiguousarray(stored(upright))).save(tmp_path / name, exif=exif, **options)
        pixels, size = read_within(name, reach, tmp_path)
        assert size == (151, 225)
        read = as_array(pixels)
        first = read if first is None else first
        assert read.shape == first.shape and np.abs(read - first).max() <= (8 if suffix == "jpg" else 0), tag
        if reach is None:
            assert np.abs(read - upright).max() <= (8 if suffix == "jpg" else 0)


def test_eight_turns_have_equal_pixels_and_boxes(tmp_path: Path) -> None:
    upright, images, annotations = scene(60, 90), [], []
    for tag, stored in STORED.items():
        exif = Image.Exif()
        exif[ORIENTATION] = tag
        Image.fromarray(np.ascontiguousarray(stored(upright))).save(tmp_path / f"{tag}.tiff", exif=exif)
        images.append({"id": tag, "file_name": f"{tag}.tiff", "width": 90, "height": 60})
        annotations.append({"id": tag, "image_id": tag, "category_id": 1, "bbox": [10, 20, 30, 15]})
    whole = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    mixture = opened(tmp_path, whole, 48)
    samples = [mixture.sample("zoo", k)[0] for k in range(8)]
    ratio = 48 / 90
    for sample in samples:
        assert torch.equal(sample.image, samples[0].image)
        found = sample.annotations.boxes_xyxy[0].tolist()
        assert found == pytest.approx([10 * ratio, 20 * ratio + 8, 40 * ratio, 35 * ratio + 8])


@pytest.mark.parametrize("reach", [800, 500, 300, 150, 40])
def test_a_picture_within_reach_is_the_whole_one_made_smaller(tmp_path: Path, reach: int) -> None:
    upright = scene(604, 805)
    Image.fromarray(upright).save(tmp_path / "a.jpg", quality=98, subsampling=0)
    pixels, size = read_within("a.jpg", reach, tmp_path)
    assert size == (604, 805) and max(pixels.shape[1:]) == reach
    area = Image.fromarray(upright).resize((pixels.shape[2], pixels.shape[1]), Image.Resampling.BOX)
    assert np.abs(as_array(pixels) - np.asarray(area)).mean() < 1.5
    small, _ = read_within("a.jpg", 805, tmp_path)
    assert torch.equal(small, read_picture("a.jpg", tmp_path))


def test_boxes_follow_a_picture_that_is_decoded_smaller(tmp_path: Path) -> None:
    pixels = np.full((640, 960, 3), 30, dtype=np.uint8)
    pixels[160:400, 240:720] = 220
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [240, 160, 480, 240]}
    image = {"id": 1, "file_name": "a.jpg", "width": 960, "height": 640}
    mixture = opened(tmp_path, {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}, 96)
    augment = AugmentConfig(scale=0.3, translate=0.1, fliplr=0.5)
    for epoch in range(8):
        full = mixture.sample("zoo", 0, epoch, augment)[0]
        less = mixture.stocked(125).sample("zoo", 0, epoch, augment)[0]
        assert less.annotations.boxes_xyxy == pytest.approx(full.annotations.boxes_xyxy, abs=0.75)
        assert less.frame.size == full.frame.size == (640, 960)
        assert less.annotations.box_areas.tolist() == full.annotations.box_areas.tolist()
        assert (less.image.float() - full.image.float()).abs().mean() < 4
        x0, y0, x1, y1 = (round(v) for v in less.annotations.boxes_xyxy[0].tolist())
        inside = less.image[:, max(y0 + 2, 0) : y1 - 2, max(x0 + 2, 0) : x1 - 2].float()
        assert inside.mean() > 215 and inside.min() > 190


def opened(folder: Path, whole: dict[str, Any], size: int) -> Mixture:
    (folder / "all.json").write_text(json.dumps(whole))
    part = {"train": {"annotations": "all.json"}, "labelled": {"det": "all"}}
    config = DataConfig.model_validate({"datasets": {"zoo": part}})
    return open_mixture(config, {"det": "boxes"}, split="train", size=size, base=folder)
