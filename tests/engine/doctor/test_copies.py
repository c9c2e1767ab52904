"""Copies by bytes and by the perceptual hash: which changes of an image are found, and what is told apart."""

import cv2
import numpy as np
import pytest

from engine.doctor import copies
from engine.doctor.copies import difference_hash, exact_copies, near_pairs, scan_pixels
from engine.doctor.images import used_bits

RNG = np.random.default_rng(0)


def photograph(seed):
    """Smooth colours and some shapes, as a photograph has them, (240, 320, 3)."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 255, (7, 9, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        centre, colour = rng.integers(20, 220, 2).tolist(), rng.integers(0, 255, 3).tolist()
        cv2.circle(image, centre, int(rng.integers(8, 40)), colour, -1)
    return image


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """Twelve images, and changed versions of the first one, as files."""
    folder = tmp_path_factory.mktemp("images")
    images = {f"{i:02d}": photograph(i) for i in range(12)}
    first = images["00"]
    images |= {
        "half": cv2.resize(first, (160, 120), interpolation=cv2.INTER_AREA),
        "brighter": cv2.convertScaleAbs(first, alpha=1.1, beta=10),
        "cropped": first[3:-3, 4:-4],
        "mirrored": first[:, ::-1],
        "noisy": np.clip(first + RNG.normal(0, 10, first.shape), 0, 255).astype(np.uint8),
    }
    for name, image in images.items():
        cv2.imwrite(str(folder / f"{name}.png"), image)
    cv2.imwrite(str(folder / "packed.jpg"), first, [cv2.IMWRITE_JPEG_QUALITY, 30])
    return [str(f) for f in sorted(folder.iterdir())]


def scan(files):
    return scan_pixels(files, np.array([cv2.imread(f).shape[1::-1] for f in files]))


def test_hash():
    """T15: a ramp, a flat image, and numbers whose hash was computed elsewhere."""
    ramp = np.tile(np.arange(17, dtype=np.uint8), (16, 1))
    assert difference_hash(ramp).all()
    assert not difference_hash(ramp[:, ::-1].copy()).any()
    assert not difference_hash(ramp * 0).any()
    values = (37 * np.arange(16 * 17) % 251).astype(np.uint8).reshape(16, 17)
    bits = difference_hash(values)
    assert bits.sum() == 224
    assert np.packbits(bits)[:4].tobytes().hex() == "fdfbefdf"
    other = values.copy()
    other[3, 5] = 0 if values[3, 5] > 100 else 255
    assert (difference_hash(other) != bits).sum() == 1


def test_changed_versions_are_found_and_others_are_not(changed):
    links = near_pairs(scan(changed))
    names = [f.rpartition("/")[2].partition(".")[0] for f in changed]
    joined = {frozenset((names[link.a], names[link.b])) for link in links}
    assert {name for pair in joined for name in pair} == {
        "00", "half", "brighter", "cropped", "mirrored", "noisy", "packed",
    }  # fmt: skip
    assert len(links) == 6  # no more than needed to join seven images
    assert [names[link.b] for link in links if link.mirrored] == ["mirrored"]


def test_blocks_change_nothing(changed, monkeypatch):
    scanned = scan(changed)
    whole = near_pairs(scanned)
    monkeypatch.setattr(copies, "BLOCK", 1)
    assert near_pairs(scanned) == whole


def test_pages_with_a_few_marks_are_not_copies(tmp_path):
    files = []
    for i in range(20):
        page = np.full((200, 160), 255, np.uint8)
        for x, y in np.random.default_rng(i).integers(20, 140, (3, 2)).tolist():
            cv2.rectangle(page, (x, y), (x + 12, y + 12), 0, -1)
        files.append(str(tmp_path / f"{i:02d}.png"))
        cv2.imwrite(files[-1], page)
    scanned = scan(files)
    distance = (scanned.hashes[:, None] != scanned.hashes).sum(2)
    assert (distance[np.triu_indices(20, 1)] <= copies.NEAR).mean() > 0.9  # by the hash alone they would be
    assert near_pairs(scanned) == []


def test_damaged_and_flat_images_are_like_nothing(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((50, 60, 3), 90, np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.full((50, 60, 3), 200, np.uint8))
    (tmp_path / "c.png").write_bytes(b"no image")
    scanned = scan_pixels([str(tmp_path / f"{n}.png") for n in "abc"], np.full((3, 2), 50))
    assert scanned.levels.tolist() == [0, 0, 0]
    assert near_pairs(scanned) == []


def test_equal_bytes(tmp_path):
    for name, content in (("a", b"one"), ("b", b"two"), ("c", b"one"), ("d", b"other"), ("e", b"xx" * 99)):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "f").write_bytes(b"xx" * 99)
    files = [str(tmp_path / name) for name in ("a", "b", "c", "d", "e", "f", "lost")]
    assert exact_copies(files) == [[0, 2], [4, 5]]
    assert exact_copies(files, most_bytes=100) == [[0, 2]]


def test_bits_in_use(tmp_path):
    """T14: of 0, 800, 3200, 4095 twelve bits are used."""
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[0, 800], [3200, 4095]], np.uint16))
    assert used_bits([str(tmp_path / "a.png")]) == (4095, 12)
