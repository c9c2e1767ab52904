"""Images on disk: made once, made again when damaged or outdated, never wrong."""

import os
import shutil

import numpy as np
import pytest

from utils.datasets.image_cache import HEADER, PAGE, ImageCache, cgroup_folders, cgroup_room, checksum

SHAPE = (6, 5)


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(b"picture")
    return file


class Maker:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def test_image_is_made_once_and_comes_back_equal(tmp_path, source):
    make = Maker()
    for _ in range(3):
        cache = ImageCache(tmp_path / "cache", "64 train")
        np.testing.assert_array_equal(cache.get(str(source), SHAPE, make), Maker()())
    assert make.calls == 1
    assert source.read_bytes() == b"picture"


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "head"])
def test_damaged_file_is_made_again(tmp_path, source, damage):
    cache, make = ImageCache(tmp_path / "cache", "v"), Maker()
    cache.get(str(source), SHAPE, make)
    file = cache.file_of(str(source))
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[HEADER.size + 7] ^= 1
    elif damage == "head":
        content[5] ^= 1
    file.write_bytes({"cut": content[:-1], "empty": b""}.get(damage, content))
    np.testing.assert_array_equal(cache.get(str(source), SHAPE, make), Maker()())
    assert make.calls == 2
    cache.get(str(source), SHAPE, make)
    assert make.calls == 2


@pytest.mark.parametrize("size", [0, 5, PAGE, 3 * PAGE, 3 * PAGE + 5])
def test_checksum_shows_what_happens_to_files(size):
    pixels = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    changed = []
    for k in {0, size // 2, size - 1} if size else ():
        other = pixels.copy()
        other[k] ^= 1
        changed.append(other)
    if size > PAGE:
        changed += [np.roll(pixels, PAGE), np.where(np.arange(size) < PAGE, 0, pixels).astype(np.uint8)]
    sums = {checksum(pixels), *map(checksum, changed)}
    assert len(sums) == 1 + len(changed)
    assert checksum(pixels.copy()) == checksum(pixels)
    assert all(0 <= value < 2**32 for value in sums)


def test_changed_source_and_other_variant_have_files_of_their_own(tmp_path, source):
    cache = ImageCache(tmp_path / "cache", "v")
    files = {cache.file_of(str(source)), ImageCache(tmp_path / "cache", "w").file_of(str(source))}
    source.write_bytes(b"other")
    os.utime(source, ns=(1, 1))
    files.add(cache.file_of(str(source)))
    assert len(files) == 3


def test_folder_that_cannot_be_made_is_warned_of(tmp_path, caplog):
    (tmp_path / "images.images.cache").write_text("in the way")
    assert ImageCache.of_images(str(tmp_path / "images" / "a.jpg"), 64, augment=True) is None
    assert "images not cached" in caplog.text


def test_folder_that_is_a_link_is_not_filled(tmp_path, caplog):
    (tmp_path / "home").mkdir()
    (tmp_path / "images.images.cache").symlink_to(tmp_path / "home")
    assert ImageCache.of_images(str(tmp_path / "images" / "a.jpg"), 64, augment=True) is None
    assert "images.images.cache: a link, not a folder: remove it" in caplog.text


def test_another_folder_keeps_datasets_of_equal_names_apart(tmp_path, caplog):
    for dataset in ("one", "two"):
        (tmp_path / dataset / "train").mkdir(parents=True)
        (tmp_path / dataset / "train/a.jpg").write_bytes(b"picture")
        os.utime(tmp_path / dataset / "train/a.jpg", ns=(1, 1))
        (tmp_path / dataset).chmod(0o500)
    parent, make = tmp_path / "new/白", Maker()
    caches = [ImageCache.of_images(str(tmp_path / d / "train/a.jpg"), 64, True, parent) for d in ("one", "two")]
    for dataset, cache in zip(("one", "two"), caches, strict=True):
        cache.get(str(tmp_path / dataset / "train/a.jpg"), SHAPE, make)
        assert (cache.folder.parent, cache.folder.name[:6], cache.folder.suffixes) == (
            parent,
            "train-",
            [".images", ".cache"],
        )
        assert len(list(cache.folder.iterdir())) == 1
    assert make.calls == 2
    # what one dataset has does not make room for the other
    need = shutil.disk_usage(tmp_path).free
    assert not caches[1].fits(need, [str(tmp_path / "two/train/a.jpg")])
    assert len(list(caches[0].folder.iterdir())) == 1
    again = ImageCache.of_images(str(tmp_path / "one/train/a.jpg"), 64, True, parent)
    again.get(str(tmp_path / "one/train/a.jpg"), SHAPE, make)
    assert make.calls == 2
    os.utime(tmp_path / "one/train/a.jpg", ns=(2, 2))  # edited
    again.get(str(tmp_path / "one/train/a.jpg"), SHAPE, make)
    assert make.calls == 3
    for dataset in ("one", "two"):
        (tmp_path / dataset).chmod(0o700)


def test_a_read_only_dataset_is_told_of_the_other_folder(tmp_path, caplog):
    (tmp_path / "one/train").mkdir(parents=True)
    (tmp_path / "one").chmod(0o500)
    assert ImageCache.of_images(str(tmp_path / "one/train/a.jpg"), 64, True) is None
    assert "images not cached: " in caplog.text
    assert "train.images.cache: read-only; --cache-dir names another folder" in caplog.text
    (tmp_path / "one").chmod(0o700)


def test_another_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        ImageCache.of_images(str(tmp_path / "a.jpg"), 64, True, tmp_path / "file")


def test_a_full_disk_costs_the_cache_only(tmp_path, source, full_disk):
    cache, make = ImageCache.of_images(str(source), 64, True, tmp_path / "cache"), Maker()
    with full_disk(50):
        np.testing.assert_array_equal(cache.get(str(source), SHAPE, make), Maker()())
    assert list(cache.folder.iterdir()) == []


def test_sound_file_of_another_shape_is_made_again(tmp_path, source):
    """As another dataset, or somebody who knows the format, could have left it."""
    cache, make = ImageCache(tmp_path / "cache", "v"), Maker()
    cache.get(str(source), (3, 4), lambda: np.zeros((3, 4, 3), np.uint8))
    assert cache.get(str(source), SHAPE, make).shape == (6, 5, 3)
    assert make.calls == 1


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device", "huge"])
def test_what_is_no_file_of_ours_costs_the_cache_only(tmp_path, source, kind):
    cache, make = ImageCache(tmp_path / "cache", "v"), Maker()
    file, victim = cache.file_of(str(source)), tmp_path / "victim"
    victim.write_text("of the user")
    if kind == "huge":
        file.touch()
        os.truncate(file, 1 << 40)
    else:
        made = {"link": victim, "device": "/dev/zero"}
        os.symlink(made[kind], file) if kind in made else {"pipe": os.mkfifo, "folder": os.mkdir}[kind](file)
    for _ in range(2):
        np.testing.assert_array_equal(cache.get(str(source), SHAPE, make), Maker()())
    assert make.calls == (1 if kind in ("link", "device", "huge") else 2)  # the first three were replaced
    assert victim.read_text() == "of the user"


def test_lost_folder_costs_the_cache_only(tmp_path, source):
    cache, make = ImageCache(tmp_path / "cache", "v"), Maker()
    (tmp_path / "cache").rmdir()
    np.testing.assert_array_equal(cache.get(str(source), SHAPE, make), Maker()())


def test_folders_up_to_the_root(tmp_path):
    v1 = "9:name=systemd:/x\n4:cpu,memory:/docker/abc\n0::/\n"
    memory = tmp_path / "memory"
    assert cgroup_folders(v1, tmp_path) == [
        (memory / "docker/abc", 1), (memory / "docker", 1), (memory, 1), (tmp_path, 2),
    ]  # fmt: skip
    assert cgroup_folders("0::/a/b\n", tmp_path) == [(tmp_path / "a/b", 2), (tmp_path / "a", 2), (tmp_path, 2)]


def test_cached_files_do_not_count_as_used(tmp_path):
    for version, (limit, used, prefix) in {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
        2: ("memory.max", "memory.current", ""),
    }.items():
        folder = tmp_path / str(version)
        folder.mkdir()
        assert cgroup_room(folder, version, 5000) == 5000  # no such files
        (folder / limit).write_text("1000\n")
        (folder / used).write_text("900\n")
        (folder / "memory.stat").write_text(f"anon 300\n{prefix}inactive_file 400\n{prefix}active_file 200\n")
        assert cgroup_room(folder, version, 5000) == 700
    (tmp_path / "2/memory.max").write_text("max\n")
    assert cgroup_room(tmp_path / "2", 2, 5000) == 5000
