import os
from dataclasses import replace
from pathlib import Path

import pytest

from engine.engine_cache import KERNELS, EngineCache, EngineKey, default_folder
from engine.tensorrt_build import ShapeRange

KEY = EngineKey("H200 sm_90", "tensorrt 11.4", "0" * 64, ShapeRange((16, 16), (64, 64), (256, 256)), "f16", 2048)
ENGINE = b"an engine\nof two lines"


def test_what_was_stored_is_loaded(cache):
    assert cache.load(KEY) is None
    cache.store(KEY, ENGINE)
    assert cache.load(KEY) == ENGINE
    assert EngineCache(cache.folder).load(KEY) == ENGINE


def test_kernels_lie_beside_their_engine_and_neither_is_taken_for_the_other(cache):
    cache.store(KEY, ENGINE)
    assert cache.load(KEY, KERNELS) is None
    cache.store(KEY, b"kernels", KERNELS)
    assert (cache.load(KEY), cache.load(KEY, KERNELS)) == (ENGINE, b"kernels")
    (cache.folder / KEY.file_name).replace(cache.folder / KEY.file_of(KERNELS))
    assert cache.load(KEY, KERNELS) is None


@pytest.mark.parametrize(
    "change",
    [
        {"gpu": "H100 sm_90"},
        {"tensorrt": "tensorrt 11.5"},
        {"network_sha256": "1" * 64},
        {"workspace_MB": 1024},
        {"sizes": ShapeRange((16, 16), (64, 64), (512, 256))},
        {"precision": "f32"},
    ],
)
def test_any_other_key_has_no_engine(cache, change):
    cache.store(KEY, ENGINE)
    other = replace(KEY, **change)
    assert cache.load(other) is None
    # Not even where its file was put in place of the other's.
    (cache.folder / KEY.file_name).rename(cache.folder / other.file_name)
    assert cache.load(other) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content.replace(b"an engine", b"no engine"),
        lambda content: b"",
        lambda content: os.urandom(500),
        lambda content: content.partition(b"\n")[0],
    ],
)
def test_a_damaged_file_is_not_trusted(cache, damage, caplog):
    cache.store(KEY, ENGINE)
    path = cache.folder / KEY.file_name
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load(KEY) is None
    assert "built again" in caplog.text


@pytest.mark.parametrize("who", ["file", "folder"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_others_may_write_to_is_not_trusted(cache, who, mode, caplog):
    cache.store(KEY, ENGINE)
    path = cache.folder / KEY.file_name if who == "file" else cache.folder
    path.chmod(path.stat().st_mode | mode)
    assert cache.load(KEY) is None
    assert "others may write to" in caplog.text


def test_a_link_is_not_followed(cache, tmp_path):
    cache.store(KEY, ENGINE)
    path = cache.folder / KEY.file_name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert cache.load(KEY) is None


def test_another_users_file_is_not_trusted(cache, monkeypatch):
    cache.store(KEY, ENGINE)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert cache.load(KEY) is None


def test_files_are_private_and_whole(cache):
    cache.store(KEY, ENGINE)
    assert [path.name for path in cache.folder.iterdir()] == [KEY.file_name]  # no temporary file is left
    assert (cache.folder / KEY.file_name).stat().st_mode & 0o077 == 0
    assert cache.folder.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made_is_said_and_nothing_fails(tmp_path, caplog):
    (tmp_path / "file").touch()
    cache = EngineCache(tmp_path / "file" / "engines")
    cache.store(KEY, ENGINE)
    assert cache.load(KEY) is None
    assert "it is not kept" in caplog.text


def test_timings_are_kept_for_each_gpu_and_version(cache):
    cache.store_timing("H200", "tensorrt 11.4", b"timings")
    assert cache.load_timing("H200", "tensorrt 11.4") == b"timings"
    assert cache.load_timing("H100", "tensorrt 11.4") == b""
    (path,) = cache.folder.iterdir()
    path.write_bytes(path.read_bytes() + b"more")
    assert cache.load_timing("H200", "tensorrt 11.4") == b""
    cache.store_timing("L4", "tensorrt 11.4", b"")  # nothing was timed
    assert len(list(cache.folder.iterdir())) == 1


def test_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "atomstream" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/someone"))
    assert default_folder() == Path("/home/someone/.cache/atomstream/engines")
