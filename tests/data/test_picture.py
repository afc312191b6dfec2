# SPDX-License-Identifier: Apache-2.0
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unified.contracts.errors import DataError
from unified.data.picture import GREY, read_picture

RAMP = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)


def saved(folder: Path, image: Image.Image, name: str = "a.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def one_line(error: pytest.ExceptionInfo[DataError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


def test_colours_come_out_as_they_went_in(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "a.tiff"):
        saved(tmp_path, Image.fromarray(RAMP), name)
        read = read_picture(name, tmp_path)
        assert read.shape == (3, 16, 16) and np.array_equal(read.permute(1, 2, 0).numpy(), RAMP)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    # By the EXIF standard each value says on which side of the scene the stored row 0 and column 0 lie.
    upright = np.zeros((4, 6, 3), dtype=np.uint8)
    upright[0, 0], upright[0, 5] = 255, 128
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    saved(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(read_picture("a.png", tmp_path).permute(1, 2, 0).numpy(), upright)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(ramp).save(tmp_path / name)
        grey = read_picture(name, tmp_path)
        assert np.array_equal(grey[0].numpy().ravel(), np.arange(256)) and bool((grey[0] == grey[2]).all())


def test_floats_in_the_unit_range_are_scaled_and_others_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "a.tiff")
    assert read_picture("a.tiff", tmp_path)[0].tolist() == [[0, 128, 255]]
    Image.fromarray(np.array([[0.0, 700.0]], dtype=np.float32)).save(tmp_path / "b.tiff")
    with pytest.raises(DataError) as error:
        read_picture("b.tiff", tmp_path)
    one_line(error, "b.tiff", "700")


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    saved(tmp_path, Image.new("L", (3, 2), 77), "l.png")
    saved(tmp_path, Image.new("1", (3, 2), 1), "bit.png")
    saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "cmyk.jpg", quality=100)
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    saved(tmp_path, palette, "p.png")
    expected = {"l.png": (77, 77, 77), "bit.png": (255, 255, 255), "cmyk.jpg": (255, 0, 0), "p.png": (10, 20, 30)}
    for name, colour in expected.items():
        got = read_picture(name, tmp_path)[:, 0, 0].numpy().astype(int)
        assert np.abs(got - colour).max() <= 2, (name, got)


def test_transparent_parts_are_grey_and_half_transparent_ones_half(tmp_path: Path) -> None:
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [214, 14, 14, 128]]], dtype=np.uint8)
    saved(tmp_path, Image.fromarray(pixels), "a.png")
    solid, clear, half = read_picture("a.png", tmp_path)[:, 0].T.tolist()
    assert solid == [200, 0, 0] and clear == [GREY] * 3
    assert np.abs(np.array(half) - [164, 64, 64]).max() <= 1


def test_missing_damaged_and_foreign_files_are_one_line_each(tmp_path: Path) -> None:
    whole = saved(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)))
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:3000])
    jpeg = io.BytesIO()
    Image.open(whole).save(jpeg, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(jpeg.getvalue()[:900])
    (tmp_path / "text.jpg").write_text("no picture")
    saved(tmp_path, Image.new("RGB", (4, 4)), "a.gif")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("gone.png", "cut.png", "cut.jpg", "text.jpg", "a.gif", "pipe.png"):
        with pytest.raises(DataError) as error:
            read_picture(name, tmp_path)
        one_line(error, name)


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "x/../../a.png", "a\0.png", ""])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    saved(tmp_path, Image.new("RGB", (4, 4)))
    with pytest.raises(DataError) as error:
        read_picture(name, inner)
    one_line(error)


def test_absolute_paths_inside_and_relative_roots_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, Image.new("RGB", (4, 4)))
    assert read_picture(path, tmp_path).shape == read_picture(path).shape == (3, 4, 4)
    monkeypatch.chdir(tmp_path)
    assert read_picture("a.png", ".").shape == (3, 4, 4)
    with pytest.raises(DataError):
        read_picture("../a.png", ".")


def test_huge_pictures_are_refused_before_decoding(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8000, 7000, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(DataError) as error:
        read_picture("bomb.png", tmp_path)
    one_line(error, "bomb.png", "8000 x 7000", "50 megapixels")


@pytest.mark.filterwarnings("ignore")
def test_no_flipped_byte_gets_past_as_anything_but_a_picture_or_a_data_error(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.tiff", "a.webp", "a.bmp"):
        saved(tmp_path, Image.fromarray(RAMP), name)
        data = (tmp_path / name).read_bytes()
        for position in np.random.default_rng(0).integers(0, len(data), 60):
            damaged = bytearray(data)
            damaged[position] ^= 0x5A
            (tmp_path / f"x{name}").write_bytes(bytes(damaged))
            try:
                assert read_picture(f"x{name}", tmp_path).shape[0] == 3
            except DataError as error:
                assert "\n" not in str(error)
