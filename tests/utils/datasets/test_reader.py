"""Reading one image and one label file: every rule with a line that keeps it and one that breaks it."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, features

from tests.malformed_files import png_header
from utils.datasets import reader as label_reader
from utils.datasets.reader import decode_image, image_size, open_image, parse_labels, verify_image_label


def read(text, nc=None):
    return parse_labels(text, "a.txt", nc)


def save(path, width=40, height=20, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


# Lines ----------------------------------------------------------------------------------------------------------------
def test_boxes_are_read_in_order():
    labels, segments, messages = read("2 .5 .4 .3 .2\n\n  0 0.1 0.2 0.1 0.1  \n")
    assert labels.dtype == np.float32
    assert labels == pytest.approx(np.array([[2, 0.5, 0.4, 0.3, 0.2], [0, 0.1, 0.2, 0.1, 0.1]]))
    assert segments == []
    assert messages == []


def test_empty_text():
    labels, segments, messages = read("\n \n")
    assert labels.shape == (0, 5)
    assert segments == messages == []


def test_confidence_is_dropped():
    labels, _, messages = read("1 .5 .5 .2 .2 .93")
    assert labels == pytest.approx(np.array([[1, 0.5, 0.5, 0.2, 0.2]]))
    assert messages == []


def test_polygon_becomes_the_box_around_it_and_mixes_with_boxes():
    labels, segments, messages = read("0 .1 .2 .5 .2 .3 .8\n1 .5 .5 .2 .2")
    assert labels == pytest.approx(np.array([[0, 0.3, 0.5, 0.4, 0.6], [1, 0.5, 0.5, 0.2, 0.2]]))
    assert segments[0] == pytest.approx(np.array([[0.1, 0.2], [0.5, 0.2], [0.3, 0.8]]))
    assert segments[1].shape == (0, 2)
    assert messages == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 .5 .5 .2", "4 columns"),
        ("0 .1 .2 .5 .2 .3 .8 .9", "8 columns"),
        ("0 .5 x .2 .2", "something other than numbers"),
        ("cat .5 .5 .2 .2", "something other than numbers"),
        ("0.5 .5 .5 .2 .2", r"class 0\.5; allowed are 0 to 2"),
        ("-1 .5 .5 .2 .2", "class -1"),
        ("3 .5 .5 .2 .2", "class 3; allowed are 0 to 2"),
        ("nan .5 .5 .2 .2", "class nan"),
        ("0 1.2 .5 .2 .2", r"not all within 0\.\.1"),
        ("0 -.2 .5 .2 .2", r"not all within 0\.\.1"),
        ("0 320 240 50 40", r"not all within 0\.\.1"),
        ("0 .5 nan .2 .2", r"not all within 0\.\.1"),
        ("0 .5 .5 inf .2", r"not all within 0\.\.1"),
        ("0 .5 .5 0 .2", "no area"),
        ("0 .5 .5 1e-46 .2", "no area"),  # in float32
        ("0 .1 .1 .5 .1 .9 .1", "no area"),
    ],
)
def test_a_bad_line_is_reported_and_only_it_is_left_out(line, reason):
    labels, _, messages = read(f"1 .5 .5 .2 .2\n{line}\n2 .5 .5 .2 .2\n", nc=3)
    assert labels[:, 0].tolist() == [1, 2]
    assert len(messages) == 1
    with pytest.raises(ValueError, match=rf"^a\.txt:2: line left out: .*{reason}"):
        raise ValueError(messages[0])


def test_any_class_without_nc():
    assert read("91 .5 .5 .2 .2")[0][0, 0] == 91


def test_rounding_errors_are_clipped():
    labels, _, messages = read("0 .5 .5 1.0005 .2\n0 -.0005 .5 .2 .2\n1 -.001 .5 .5 1.001 .7 .7")
    assert labels[:, 1:] == pytest.approx(
        np.array([[0.5, 0.5, 1, 0.2], [0, 0.5, 0.2, 0.2], [0.35, 0.75, 0.7, 0.5]]), abs=1e-6
    )
    assert messages == []


def test_repeated_labels_are_left_out_and_order_stays():
    labels, segments, messages = read("1 .5 .5 .2 .2\n0 .1 .2 .5 .2 .3 .8\n1 .5 .5 .2 .2\n0 .1 .2 .5 .2 .3 .8\n")
    assert labels[:, 0].tolist() == [1, 0]
    assert [len(s) for s in segments] == [0, 3]
    assert messages == ["a.txt:3: repeated label left out, 2 repeated labels in all"]


@pytest.mark.parametrize("nc", [None, 5])
def test_files_of_plain_boxes_are_read_at_one_go_with_the_same_result(nc, monkeypatch):
    rng = np.random.default_rng(0)
    rows = np.concatenate((rng.integers(0, 5, (40, 1)), rng.uniform(0.001, 1, (40, 4))), 1)
    text = "\n".join(" ".join(f"{v:.17g}" for v in row) for row in rows) + "\n4 1 1.0 .5 0.50\n4 0 1. 1 1 \n\n"
    fast = label_reader.plain_boxes(text, nc)
    assert len(fast) == 42
    monkeypatch.setattr(label_reader, "plain_boxes", lambda *_: None)
    slow, _, messages = read(text, nc)
    assert messages == []
    np.testing.assert_array_equal(fast, slow)


@pytest.mark.parametrize(
    "text",
    [
        "0 .5 .5 .2 .2\n" * 2,
        "0 .5 .5 .2 .2 .9",
        "0 .5 .5 .2 .2_0",
        "5 .5 .5 .2 .2",
        "99999999 .5 .5 .2 .2",
        "0 nan .5 .2 .2",
        "",
        "\n",
        "0 .5 .5 0 1",
        "0 .5 .5 1e-1 1",
        "0 .5 .5 1.0005 1",
        "0 .5 .5 -.5 1",
        "0 .5 .5 . 1",
        "\N{ARABIC-INDIC DIGIT ONE} .5 .5 .5 .5",
        "0 .5 .5\n.2 .2",
        "0 .5 .5 .2 .2 1 .5 .5 .2 .2",
        "0 .5 .5 .2 ." + "0" * 60 + "1",
    ],
)
def test_everything_else_is_not_plain(text):
    assert label_reader.plain_boxes(text, 5) is None


# Images ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (40, 20)), (3, (40, 20)), (6, (20, 40)), (8, (20, 40))])
def test_size_is_the_one_opencv_decodes(tmp_path, suffix, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = save(tmp_path / f"a.{suffix}", exif=exif)
    assert image_size(str(file)) == size
    decoded = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape[1::-1] == size
    turned = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    assert np.abs(decoded[..., ::-1].astype(int) - turned).mean() < 3


@pytest.mark.parametrize("suffix", ["bmp", "png"])
def test_size_without_exif(tmp_path, suffix):
    assert image_size(str(save(tmp_path / f"a.{suffix}"))) == (40, 20)


def jpeg(mode="RGB", size=(40, 24), **options):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "jpeg", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "plain"),
    [
        (jpeg(), True),
        (jpeg("L"), True),
        (jpeg(progressive=True), True),
        (jpeg(comment=b"hello"), True),
        (jpeg(restart_marker_blocks=2), True),
        (jpeg(size=(900, 700), quality=95), True),  # longer than what is read of it
        (jpeg("CMYK"), False),
        (jpeg(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"), False),
        (jpeg(icc_profile=b"x" * 300), False),
        (jpeg(size=(9, 40)), False),
        (jpeg()[:-2], False),
        (jpeg() + b"\0", False),
        (jpeg(comment=b"x" * 5000), False),  # the head is not all in what is read
        (b"\xff\xd8\xff\xd9", False),
        (b"", False),
    ],
)
def test_plain_jpegs_are_measured_without_pil(tmp_path, content, plain):
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    assert (label_reader.plain_jpeg_size(str(file)) is not None) == plain
    if plain:
        assert label_reader.plain_jpeg_size(str(file)) == label_reader.any_image_size(str(file))


def test_what_is_measured_without_pil_is_what_pil_measures(tmp_path):
    """Damage JPEGs in a thousand ways: PIL finds the same size wherever it is not asked."""
    rng, file, plain = np.random.default_rng(0), tmp_path / "a.jpg", 0
    sound = [jpeg(), jpeg("L"), jpeg(progressive=True), jpeg(comment=b"hello"), jpeg(exif=b"Exif\0\0x")]
    values = [0, 1, 2, 8, 16, 0xC0, 0xC2, 0xD8, 0xD9, 0xDA, 0xDB, 0xE0, 0xE1, 0xFF]
    for i in range(1000):
        content = bytearray(sound[i % len(sound)])
        for at in rng.integers(2, 640, 1 + i % 3).tolist():
            kind, part = rng.integers(4), content[at : at + int(rng.choice([1, 2, 19, 69]))]
            if kind < 2:
                content[at] = rng.choice(values)
            elif kind == 2:
                del content[at : at + len(part)]
            else:
                content[at:at] = part
        file.write_bytes(content)
        size = label_reader.plain_jpeg_size(str(file))
        if size is not None:
            plain += 1
            assert size == label_reader.any_image_size(str(file))
    assert 100 < plain < 900


def test_verified_pair_and_untouched_files(tmp_path):
    image, label = save(tmp_path / "a.jpg"), tmp_path / "a.txt"
    label.write_text("0 .5 .5 .2 .2\n0 .5 .5\n", encoding="utf-8-sig")  # Windows editors put a mark in front
    before = image.read_bytes(), label.read_bytes()
    result = verify_image_label(str(image), str(label), 1)
    assert (result.ok, result.state, result.size) == (True, "found", (40, 20))
    assert result.labels.shape == (1, 5)
    assert result.messages[0].startswith(f"{label}:2: ")
    assert (image.read_bytes(), label.read_bytes()) == before


def test_missing_and_empty_label_files_make_backgrounds(tmp_path):
    image, label = save(tmp_path / "a.png"), tmp_path / "a.txt"
    missing = verify_image_label(str(image), str(label))
    assert (missing.ok, missing.state, missing.labels.shape) == (True, "missing", (0, 5))
    label.write_text("\n")
    assert verify_image_label(str(image), str(label)).state == "empty"


def test_of_a_label_file_with_broken_letters_the_good_lines_stay(tmp_path):
    image, label = save(tmp_path / "a.png"), tmp_path / "a.txt"
    label.write_bytes(b"\xff\xfe\xe9 1 2\n0 .5 .5 .2 .2\n")
    result = verify_image_label(str(image), str(label))
    assert result.ok
    assert len(result.labels) == 1
    assert len(result.messages) == 1


@pytest.mark.parametrize("content", [b"0 .5 .5 .2 .2\n\x00\x01", b"cat .5 .5 .2 .2"])
def test_image_without_one_good_line_is_no_background(tmp_path, content):
    image, label = save(tmp_path / "a.png"), tmp_path / "a.txt"
    label.write_bytes(content)
    result = verify_image_label(str(image), str(label))
    assert (result.ok, len(result.messages)) == (False, 1)
    assert "image is left out" in result.messages[0] or "line 2" in result.messages[0]


def test_cut_off_jpeg_is_reported_and_never_rewritten(tmp_path):
    image = save(tmp_path / "a.jpg", 200, 200)
    image.write_bytes(image.read_bytes()[:-3000])
    before = image.read_bytes()
    result = verify_image_label(str(image), str(tmp_path / "a.txt"))
    assert (result.ok, result.state) == (False, "corrupt")
    assert result.messages[0].startswith(f"{image}: image left out: ")
    assert image.read_bytes() == before


def test_jpeg_with_bytes_behind_its_end_is_fine(tmp_path):
    image = save(tmp_path / "a.jpg")
    image.write_bytes(image.read_bytes() + b"\x00\x00trailer")
    assert verify_image_label(str(image), str(tmp_path / "a.txt")).ok


def test_images_up_to_a_gigapixel_are_opened(tmp_path):
    """PIL alone takes 179 million pixels; only the head is read here."""
    limit = Image.MAX_IMAGE_PIXELS
    file = tmp_path / "a.png"
    file.write_bytes(png_header(14_000, 13_000))
    with file.open("rb") as opened, open_image(opened) as im:
        assert im.size == (14_000, 13_000)
    file.write_bytes(png_header(40_000, 30_000))
    message = f"{file}: image left out: 40000 x 30000 pixels; at most 1073741824 are read: cut it into tiles"
    assert verify_image_label(str(file), "none.txt").messages == [message]
    assert Image.MAX_IMAGE_PIXELS == limit


def test_png_without_pixels_is_left_out(tmp_path):
    """Found by fuzzing: PIL fails with an IndexError in its own list of tiles."""
    whole = save(tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: whole.index(b"IDAT") - 4] + whole[-12:])
    found = verify_image_label(str(tmp_path / "a.png"), str(tmp_path / "a.txt"))
    assert not found.ok
    assert "a.png" in found.messages[0]


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("bmp", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"}), ("webp", {}), ("webp", {"lossless": True})],
)
@pytest.mark.parametrize("damage", ["cut off", "head"])
def test_damaged_images_are_left_out_if_only_decoding_tells(tmp_path, suffix, options, damage):
    image = save(tmp_path / f"a.{suffix}", 80, 60, **options)
    data = bytearray(image.read_bytes())
    if damage == "cut off":
        data = data[: len(data) * 9 // 10]
    elif suffix == "bmp":
        data[28] = 7  # bits per pixel
    elif suffix == "tif":
        at = data.index(b"\x1c\x01\x03\x00\x01\x00\x00\x00")  # tag 284, planes: one short number
        data[at + 8 : at + 10] = b"\x00\x00"
    else:
        data[30:60] = b"\xff" * 30  # behind the size
    image.write_bytes(data)
    result = verify_image_label(str(image), "none.txt")
    assert (result.ok, result.state) == (False, "corrupt")
    assert result.messages[0].startswith(f"{image}: image left out: ")
    assert decode_image(str(image)) is None


def test_an_image_that_opencv_does_not_know_is_left_out(tmp_path):
    image = tmp_path / "a.tif"
    Image.fromarray(np.ones((20, 40), np.float32)).save(image)
    assert "OpenCV cannot decode this tiff" in verify_image_label(str(image), "none.txt").messages[0]


def test_an_image_of_two_sizes_is_left_out(tmp_path, monkeypatch):
    image = save(tmp_path / "a.bmp")
    monkeypatch.setattr(label_reader, "decode_image", lambda file: np.zeros((40, 20, 3), np.uint8))
    assert "OpenCV decodes 20 x 40 pixels, PIL 40 x 20" in verify_image_label(str(image), "none.txt").messages[0]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_what_is_known_to_be_whole_is_not_decoded(tmp_path, monkeypatch, suffix):
    image = save(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(label_reader, "decode_image", None)
    monkeypatch.setattr(Image.Image, "load", None)
    assert verify_image_label(str(image), "none.txt").ok


SLOPE = np.linspace(0, 255, 800).astype(np.uint8).reshape(20, 40)
COLOURS = np.stack((SLOPE, 255 - SLOPE, SLOPE.T.reshape(20, 40)), 2)


@pytest.mark.parametrize(
    ("suffix", "picture", "expected"),
    [
        ("png", Image.fromarray(SLOPE), SLOPE),
        ("jpg", Image.fromarray(SLOPE), SLOPE),
        ("png", Image.fromarray(SLOPE.astype(np.uint16) * 256 + 9), SLOPE),
        ("tif", Image.fromarray(SLOPE.astype(np.uint16) * 256 + 9), SLOPE),
        ("png", Image.fromarray(np.dstack((COLOURS, SLOPE))), COLOURS),
        ("tif", Image.fromarray(np.dstack((COLOURS, SLOPE * 0 + 255))), COLOURS),
        ("png", Image.fromarray(np.dstack((SLOPE, SLOPE)), "LA"), SLOPE),
        ("bmp", Image.fromarray(COLOURS), COLOURS),
        ("tif", Image.fromarray(COLOURS).convert("CMYK"), COLOURS),
    ],
)
def test_every_depth_and_number_of_channels_is_read_as_three_bytes(tmp_path, suffix, picture, expected):
    picture.save(tmp_path / f"a.{suffix}")
    assert verify_image_label(str(tmp_path / f"a.{suffix}"), "none.txt").ok
    pixels = decode_image(str(tmp_path / f"a.{suffix}"))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (20, 40, 3))
    expected = expected if expected.ndim == 3 else np.dstack([expected] * 3)
    assert np.abs(pixels[..., ::-1].astype(int) - expected).mean() < 2


def test_jpeg_for_print_is_read_as_colours(tmp_path):
    smooth = np.dstack([np.tile(np.linspace(0, 255, 64), (64, 1))] * 2 + [np.full((64, 64), 99.0)]).astype(np.uint8)
    Image.fromarray(smooth).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    for flags, step in ((cv2.IMREAD_COLOR, 1), (cv2.IMREAD_REDUCED_COLOR_4, 4)):
        pixels = decode_image(str(tmp_path / "a.jpg"), flags)
        assert (pixels.dtype, pixels.shape) == (np.uint8, (64 // step, 64 // step, 3))
        assert np.abs(pixels[..., ::-1].astype(int) - smooth[::step, ::step]).mean() < 8


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_decoding_of_what_is_no_image_gives_none(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    assert decode_image(str(tmp_path / "a.jpg")) is None


@pytest.mark.parametrize("name", ["x.avif", "x.jp2", "x.jfif"])
def test_further_formats(tmp_path, name):
    file = tmp_path / name
    try:
        Image.new("RGB", (40, 20), (10, 200, 30)).save(file, "JPEG" if name == "x.jfif" else None)
    except (KeyError, ValueError, OSError):
        pytest.skip("PIL cannot write this format")
    (tmp_path / "x.txt").write_text("0 .5 .5 .2 .2\n")
    found = verify_image_label(str(file), str(tmp_path / "x.txt"))
    assert (found.ok, found.size, len(found.labels), found.messages) == (True, (40, 20), 1, [])


@pytest.mark.parametrize("turn", range(1, 9))
def test_avif_is_turned_as_it_says(tmp_path, turn):
    if not features.check("avif") or not cv2.haveImageWriter("x.avif"):
        pytest.skip("no AVIF here")
    image = np.zeros((40, 64, 3), np.uint8)
    image[:20, :32] = 255
    image[20:, :32] = 128
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(image).save(tmp_path / "x.avif", exif=exif, quality=95)
    with Image.open(tmp_path / "x.avif") as file:
        expected = np.asarray(ImageOps.exif_transpose(file).convert("RGB")).astype(int)
    assert np.abs(decode_image(str(tmp_path / "x.avif"))[..., ::-1] - expected).max() < 8
    assert image_size(str(tmp_path / "x.avif")) == expected.shape[1::-1]


@pytest.mark.parametrize(
    ("width", "height", "format_", "reason"), [(9, 40, "PNG", "at least 10 x 10"), (40, 20, "GIF", "format gif")]
)
def test_unfit_images_are_left_out(tmp_path, width, height, format_, reason):
    image = save(tmp_path / "a.png", width, height, format=format_)
    result = verify_image_label(str(image), "none.txt")
    assert not result.ok
    assert reason in result.messages[0]


def test_a_file_that_is_no_image_is_left_out(tmp_path):
    image = tmp_path / "a.jpg"
    image.write_text("no image")
    assert not verify_image_label(str(image), "none.txt").ok
    assert not verify_image_label(str(tmp_path / "absent.jpg"), "none.txt").ok
