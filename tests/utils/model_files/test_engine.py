"""Head and engine in one file."""

import pytest

from utils.model_files.engine import read_engine, write_engine


def test_write_then_read(tmp_path):
    metadata = {"stride": 32, "names": {0: "Zelle", 11: "Blutplättchen"}, "imgsz": [64, 96], "dynamic": False}
    write_engine(tmp_path / "a.engine", metadata, b"\x00ptrt\xff{}")
    assert read_engine(tmp_path / "a.engine") == (metadata, b"\x00ptrt\xff{}")


def test_layout(tmp_path):
    write_engine(tmp_path / "a.engine", {"stride": 8}, b"E")
    assert (tmp_path / "a.engine").read_bytes() == b'\x0d\x00\x00\x00{"stride": 8}E'


@pytest.mark.parametrize("data", [b"", b"ptrt", b"ptrt\x01\x02\x03 more", b"\x02\x00\x00\x00ab"])
def test_file_without_head(tmp_path, data):
    (tmp_path / "a.engine").write_bytes(data)
    assert read_engine(tmp_path / "a.engine") == ({}, data)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such engine file"):
        read_engine(tmp_path / "a.engine")
