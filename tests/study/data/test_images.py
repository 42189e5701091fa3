import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from study.data import DataError
from study.data.images import convert, endings, read_image

RANDOM = np.random.default_rng(0)


def read(path: Path, colour: bool = False) -> np.ndarray:
    return read_image(path, 28, colour)[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    stored = RANDOM.integers(0, 256, (28, 28), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    # which side of the stored image is the top: the EXIF standard's table
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].T,
        8: np.rot90(stored),
    }
    assert (read(tmp_path / "turned.png") == upright[orientation]).all()


def test_the_size_is_that_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (50, 20)).save(tmp_path / "turned.png", exif=exif)
    pixels, size = read_image(tmp_path / "turned.png", 32, colour=True)
    assert (pixels.shape, size) == ((32, 32, 3), (20, 50))


@pytest.mark.parametrize(("ending", "dtype"), [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2"), ("pgm", "<u2")])
@pytest.mark.parametrize("colour", [False, True])
def test_grey_of_16_bits_is_scaled(tmp_path: Path, ending: str, dtype: str, colour: bool) -> None:
    values = np.linspace(0, 65_535, 784).round().reshape(28, 28)
    path = tmp_path / f"deep.{ending}"
    Image.fromarray(values.astype(dtype)).save(path)
    expected = values[..., None] / 257 if colour else values / 257
    assert abs(read(path, colour) - expected).max() <= 0.5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("colour", [False, True])
def test_every_mode_is_read_as_pillow_converts_it(tmp_path: Path, mode: str, colour: bool) -> None:
    image = Image.fromarray(RANDOM.integers(0, 256, (28, 28, 3), dtype=np.uint8)).convert(mode)
    path = tmp_path / ("image.tif" if mode in ("CMYK", "YCbCr") else "image.png")
    image.save(path)
    assert (read(path, colour) == np.asarray(image.convert("RGB" if colour else "L"))).all()


def test_transparent_images_lie_on_white(tmp_path: Path) -> None:
    stroke = np.zeros((28, 28, 4), dtype=np.uint8)
    stroke[4:8, :, 3] = 255  # black, all the same but for the transparency
    expected = np.full((28, 28), 255)
    expected[4:8] = 0
    path = tmp_path / "stroke.png"
    Image.fromarray(stroke).save(path)
    assert (read(path) == expected).all()
    palette = Image.fromarray(stroke[..., 3] // 255, mode="L").convert("P")
    palette.putpalette([0] * 768)
    palette.save(path, transparency=bytes([0, 255]))
    assert (read(path) == expected).all()


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims to be this large."""
    chunks = [b"IHDR" + struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0), b"IDAT" + zlib.compress(bytes(1000))]
    framed = [struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def valid(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (28, 28), dtype=np.uint8)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (lambda: b"", "is of no format that Pillow knows"),
        (lambda: b"<html>not found</html>", "is of no format that Pillow knows"),
        (lambda: valid("png")[:400], "cannot be read as an image: .*truncated"),
        (lambda: valid("jpeg")[:500], "cannot be read as an image: .*truncated"),
        (lambda: valid("gif")[:-200], "cannot be read as an image: .*truncated"),
        (lambda: valid("bmp")[:1200], "cannot be read as an image: .*truncated"),
        (lambda: valid("png")[:60] + bytes(60) + valid("png")[120:], "cannot be read as an image: "),
        (lambda: png_of(20_000, 20_000), r"must have at most \d+ pixels, but has more"),
        (lambda: png_of(10_000, 10_000), r"must have at most \d+ pixels, but has more"),
    ],
)
def test_a_broken_image_is_named(tmp_path: Path, content: Callable[[], bytes], rule: str) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content())
    with pytest.raises(DataError, match=rule) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pixels", [np.ones((28, 28), np.float32), np.full((28, 28), 70_000, np.int32)])
def test_pixels_of_unknown_scale_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "image.tif")
    with pytest.raises(DataError, match=r"image\.tif cannot be read as an image: pixels must be whole numbers"):
        read(tmp_path / "image.tif")


def test_no_permission(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)  # root may read everything
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image: Permission denied"):
        read(tmp_path / "a.png")


def test_endings_are_those_of_pictures() -> None:
    assert {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm"} <= endings()
    assert not {".pdf", ".h5", ".txt", ".npy", ".mpg", ""} & endings()


@pytest.mark.parametrize(("channels", "colour"), [(1, False), (3, True)])
def test_nothing_is_done_where_nothing_changes(channels: int, colour: bool, monkeypatch) -> None:
    monkeypatch.setattr(Image, "fromarray", None)
    images = RANDOM.integers(0, 256, (5, 28, 28, 3)[: 4 if colour else 3], dtype=np.uint8)
    found = convert(images, 28, colour)
    assert found.shape == (5, channels, 28, 28)
    assert found.is_contiguous()
    assert (found.permute(0, 2, 3, 1).numpy().reshape(images.shape) == images).all()
