"""Data from files: read right whatever wrote them, or refused by file, reason and remedy."""

import io
import os
import zipfile

import numpy as np
import pytest
import torch

from fastgen.datasets import load

rng = np.random.default_rng(0)
POINTS = rng.normal(size=(40, 2))


@pytest.fixture
def saved(tmp_path):
    """A function that saves arrays and gives the file's name."""

    def save(*data, **arrays):
        path = tmp_path / ("a.npz" if arrays else "a.npy")
        if arrays:
            np.savez(path, **arrays)
        else:
            np.save(path, *data, allow_pickle=True)
        return str(path)

    return save


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2", "<f4", "<f8", np.longdouble])
def test_floating_numbers_of_any_size_and_byte_order(saved, dtype):
    found = load(saved(POINTS.astype(dtype))).samples
    assert found.dtype == torch.float32
    expected = POINTS.astype(np.float16 if dtype == "<f2" else np.float32).astype(np.float32)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("names", ["", "height, weight\n"])
def test_text_of_numbers(tmp_path, names):
    path = tmp_path / "a.csv"
    path.write_text(f"{names}1.5,-2\r\n3e1, 4\n\n", encoding="utf-8-sig")
    found = load(str(path))
    assert found.samples.tolist() == [[1.5, -2], [30, 4]]
    assert found.labels is None


def test_a_column_of_labels(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,Label,y\n1,0,2\n3,2,4\n")
    found = load(str(path))
    assert found.samples.tolist() == [[1, 2], [3, 4]]
    assert found.labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "expected lines of numbers"),
        (b"x,y\n", "expected lines of numbers"),
        (b"1,2\n3\n", "line 2: expected 2 numbers, found 1"),
        (b"x,y\n1,2\n3,red\n", "line 3: 'red' is no number"),
        (b"1,2\n3,\n", "line 2: a number is missing"),
        (b"1,2\n3,nan\n", "sample 1 has NaN or infinity"),
        (b"x,label\n1,0.5\n", "labels: expected whole numbers"),
        (b"\xff\xfe1,2\n", "no text of numbers"),
    ],
)
def test_text_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=f"{path}: .*{message}"):
        load(str(path))


@pytest.mark.parametrize("dtype", [bool, "<i2", ">i8", "<u8", "<f4", ">f8"])
def test_whole_labels_of_any_type(saved, dtype):
    labels = np.arange(40) % 2
    found = load(saved(points=POINTS, labels=labels.astype(dtype)))
    assert found.classes == 2
    assert found.labels.tolist() == labels.tolist()


NAN, FAR = POINTS.copy(), POINTS * 1e30
NAN[7, 1], FAR[9, 0] = np.nan, 1e39


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            POINTS[:, 0],
            r"data \[N, ...\] without an axis of 0, got float64 \[40\]",
        ),
        (POINTS[:, :0], r"without an axis of 0, got float64 \[40, 0\]"),
        (POINTS[:0], r"without an axis of 0, got float64 \[0, 2\]"),
        (POINTS.astype(np.uint8), "got uint8 .* scale images"),
        (POINTS + 1j, "got complex128"),
        (POINTS.astype(str), "got <U32"),
        (POINTS.astype(object), "without objects"),
        (POINTS.astype("f4").view("f4,f4"), "expected floating data"),
        (NAN, r"sample 7 has NaN or infinity; leave it out .1 of 40"),
        (FAR, r"sample 9 has values beyond float32; scale them .1 of 40"),
    ],
)
def test_other_arrays_are_refused(saved, data, message):
    name = saved(data)
    with pytest.raises(ValueError, match=message) as caught:
        load(name)
    assert str(caught.value).startswith(f"{name}: ")


LABELS = np.arange(40) % 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": LABELS.astype(str)}, "labels: .* got <U21; number the classes"),
        (
            {"labels": LABELS * 10**9},
            "got 1000000000 for sample 1, too high for 40 samples",
        ),
        ({"labels": (LABELS * 2.0**63).astype(np.uint64)}, "got 9223372036854775808 for sample 1"),
        ({"labels": -LABELS}, "got -1 for sample 1"),
        ({"labels": LABELS / 2}, "got 0.5 for sample 1"),
        ({"labels": LABELS * np.nan}, "got nan for sample 0"),
        ({"labels": LABELS[:, None]}, r"got \[40, 1\]; give"),
        ({"labels": np.eye(2)[LABELS]}, r"got \[40, 2\]; give labels.argmax\(1\)"),
        ({"labels": LABELS[:3]}, r"one for each of 40 samples, got \[3\]"),
        ({"labels": LABELS.astype("M8[s]")}, "got datetime64"),
        (
            {"weights": LABELS},
            "one array of data, and perhaps 'labels', found data, weights",
        ),
    ],
)
def test_other_labels_are_refused(saved, arrays, message):
    name = saved(data=POINTS, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load(name)
    assert str(caught.value).startswith(f"{name}: ")


def test_an_archive_without_data_is_refused(saved):
    with pytest.raises(ValueError, match="found none beside the labels"):
        load(saved(labels=LABELS))


def refused(name):
    """The error's text; None if the data are right after all."""
    try:
        found = load(name)
    except ValueError as error:
        return str(error)
    assert torch.equal(found.samples, torch.from_numpy(POINTS).float())
    assert found.labels.tolist() == LABELS.tolist()
    return None  # a flip in what nothing reads, such as a time


def test_damaged_files_are_named(tmp_path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, data=POINTS, labels=LABELS)
    whole = buffer.getvalue()
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        huge, {"descr": "<f4", "fortran_order": False, "shape": (1 << 44, 2)}
    )
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w") as file:
        file.writestr("data.npy", huge.getvalue() + bytes(100))
    files = [b"", b"hello", b"PK\x03\x04" + bytes(200), whole[: len(whole) // 2], bomb.getvalue()]
    for place in range(60, len(whole) - 30, 97):
        files.append(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    for suffix in ("npz", "npy", "NPZ"):
        path = tmp_path / f"a.{suffix}"
        for text in files:
            path.write_bytes(text)
            found = refused(str(path))
            assert found is None or found.startswith(f"{path}: ")


class TestFolders:
    image = pytest.importorskip("PIL.Image")

    def save(self, path, pixels, mode=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        made = self.image.fromarray(pixels)
        (made if mode is None else made.convert(mode)).save(path)

    def pixels(self, *shape, seed=1):
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    @pytest.mark.parametrize(
        ("suffix", "shape"),
        [("png", (5, 4, 3)), ("png", (5, 4)), ("bmp", (5, 4, 3)), ("bmp", (5, 4))],
    )
    def test_pixels_are_scaled_and_channels_come_first(self, tmp_path, suffix, shape):
        pixels = self.pixels(*shape)
        self.save(tmp_path / f"a.{suffix.upper()}", pixels)
        expected = np.atleast_3d(pixels).transpose(2, 0, 1) / 127.5 - 1
        torch.testing.assert_close(load(str(tmp_path)).samples[0].double(), torch.tensor(expected))

    def test_sixteen_bits_black_and_white_palettes_and_opaque_alpha(self, tmp_path):
        deep = np.random.default_rng(2).integers(0, 65536, (5, 4), dtype=np.uint16)
        rgb = self.pixels(5, 4, 3)
        opaque = np.concatenate([rgb, np.full((5, 4, 1), 255, np.uint8)], 2)
        bits = (rgb[..., 0] > 99).astype(np.uint8) * 255
        palette = self.image.fromarray(rgb).quantize(20)
        for name, picture, expected in (
            ("deep", self.image.fromarray(deep), deep[..., None] / 65535),
            ("bits", self.image.fromarray(bits).convert("1"), bits[..., None] / 255),
            ("alpha", self.image.fromarray(opaque), rgb / 255),
            ("palette", palette, np.asarray(palette.convert("RGB")) / 255),
        ):
            (tmp_path / name).mkdir()
            picture.save(tmp_path / name / "a.png")
            found = load(str(tmp_path / name)).samples[0].double()
            torch.testing.assert_close(found, torch.tensor(expected.transpose(2, 0, 1) * 2 - 1))

    def test_what_is_no_image_or_has_none_is_told(self, tmp_path):
        self.save(tmp_path / "cat" / "0.png", self.pixels(4, 4, 3))
        self.save(tmp_path / "dog" / "0.png", self.pixels(4, 4, 3))
        (tmp_path / "README.md").write_text("cats")
        (tmp_path / "bird").mkdir()
        with pytest.warns(UserWarning, match="left out") as told:
            found = load(str(tmp_path))
        assert found.labels.tolist() == [0, 1]
        texts = [str(warning.message) for warning in told]
        assert texts[0].endswith("left out, no images: README.md")
        assert texts[1].endswith("left out, without images: bird")

    def test_links_to_folders_are_read_and_circles_refused(self, tmp_path):
        self.save(tmp_path / "kept" / "0.png", self.pixels(4, 4, 3))
        self.save(tmp_path / "set" / "dog" / "0.png", self.pixels(4, 4, 3))
        (tmp_path / "set" / "cat").symlink_to(tmp_path / "kept")
        assert load(str(tmp_path / "set")).labels.tolist() == [0, 1]
        (tmp_path / "set" / "dog" / "up").symlink_to(tmp_path / "set")
        with pytest.raises(ValueError, match="was read already; remove the link"):
            load(str(tmp_path / "set"))

    def broken(self, suffix):
        buffer = io.BytesIO()
        self.image.fromarray(self.pixels(64, 64, 3)).save(buffer, suffix)
        return buffer.getvalue()

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("b.png", b"", "not a whole image"),
            ("b.png", b"not an image", "not a whole image"),
            ("b.png", "half PNG", "not a whole image"),
            ("b.jpg", "half JPEG", "not a whole image"),
            ("._a.png", b"\x00\x05\x16\x07Mac OS X", "a resource fork of macOS.*-delete"),
            ("__MACOSX/a.png", b"", "a resource fork of macOS"),
            (".cache/a.png", b"", "a hidden file, or in a hidden folder; move or remove it"),
            ("b.tif", b"", "images of this kind are not read .*; convert it to .png"),
            ("b.gif", b"", "images of this kind are not read"),
            ("b.png", "link", "a link that leads nowhere"),
            ("b.png", "RGBA", "transparent in places; put it on a background"),
            ("b.jpg", "CMYK", "of mode CMYK; convert it to grey or RGB"),
            ("b.png", "L", "is 4 x 4 in grey, but .*a.png is 4 x 4 in colour"),
            ("b.png", "wide", "is 5 x 4 in colour, but .*a.png is 4 x 4 in colour"),
            ("sub/b.png", "RGB", "a.png: lies beside the subfolder of .*so that it has no class"),
            ("b.webp", "frames", "has 2 pictures; keep one of them"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, tmp_path, name, content, message):
        self.save(tmp_path / "a.png", self.pixels(4, 4, 3))
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content.startswith("half"):
            whole = self.broken(content[5:])
            path.write_bytes(whole[: len(whole) // 2])
        elif content == "link":
            path.symlink_to(tmp_path / "nowhere")
        elif content == "frames":
            pictures = [self.image.fromarray(self.pixels(4, 4, 3, seed=k)) for k in range(2)]
            pictures[0].save(path, save_all=True, append_images=pictures[1:])
        elif content == "RGBA":
            self.save(path, self.pixels(4, 4, 4))
        else:
            wide = content == "wide"
            self.save(path, self.pixels(4, 5 if wide else 4, 3), None if wide else content)
        with pytest.raises(ValueError, match=message) as caught:
            load(str(tmp_path))
        assert str(tmp_path) in str(caught.value)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_folders_that_cannot_be_read_are_errors(self, tmp_path):
        self.save(tmp_path / "cat" / "0.png", self.pixels(4, 4, 3))
        (tmp_path / "dog").mkdir(mode=0)
        with pytest.raises(PermissionError, match="dog"):
            load(str(tmp_path))
