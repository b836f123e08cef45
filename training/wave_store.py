"""Exit waves on disk: a Zarr group a set, in it a group a specimen.

A specimen is written under another name and renamed once it is whole, so a run that is cut off leaves none in part.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine import FileError
from engine.errors import one_line, writing
from training.alone import alone
from training.exit_waves import Specimen
from training.structures.structure import Sites

_ARRAYS = ("wave", "positions_A", "class_id", "content", "lean_A")  # the last of columns alone


class WaveStore:
    """One set of specimens; FileError where the folder holds another one.

    Parameters
    ----------
    folder : Path
        Of the Zarr group.
    made_of : mapping
        All that the waves depend on, in types that JSON has.
    """

    def __init__(self, folder: Path, made_of: Mapping[str, Any]) -> None:
        self.folder, self._made_of = folder, dict(made_of)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Only this process writes meanwhile: it would take for cut off what another one has begun."""
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
        with alone(self.folder):
            yield

    def begin(self, count: int) -> None:
        """Made where it is not there; from now on it is to hold so many specimens."""
        import zarr

        attributes = {"recipe": self._made_of, "count": count}
        with self._writing():
            if not (self.folder / "zarr.json").exists():
                if any(self.folder.glob("[0-9]*")):
                    raise self._refused("a folder without zarr.json")
                self.folder.mkdir(parents=True, exist_ok=True)
                zarr.create_group(self.folder, attributes=attributes)
            elif self._count(begun=not self.empty) != count or self.empty:
                zarr.open_group(self.folder, mode="r+").update_attributes(attributes)
            for cut_off in self.folder.glob("*.part"):
                shutil.rmtree(cut_off, ignore_errors=True)

    @property
    def empty(self) -> bool:
        """No specimen is there yet, so that it may become a store of any others."""
        return not any(path.suffix != ".part" for path in self.folder.glob("[0-9]*"))

    def missing(self, count: int) -> list[int]:
        """Numbers of the specimens that are not there yet."""
        return [k for k in range(count) if not self._path(k).exists()]

    def save(self, k: int, specimen: Specimen) -> None:
        """A specimen is there whole, or not at all; FileError where the disk is full."""
        path = self._path(k)
        partial = path.with_suffix(".part")
        try:
            with self._writing():
                _write(partial, specimen)
                partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def add_seconds(self, seconds: float) -> None:
        """So much longer it has taken to fill it."""
        import zarr

        with self._writing():
            zarr.open_group(self.folder, mode="r+").update_attributes({"seconds": self.seconds + seconds})

    @property
    def seconds(self) -> float:
        """How long it has taken to fill it, interruptions left out; 0 where nobody counted."""
        import zarr

        try:
            return float(zarr.open_group(self.folder, mode="r").attrs.asdict().get("seconds", 0.0))
        except (OSError, ValueError, TypeError):
            return 0.0

    def read(self) -> list[Specimen]:
        """The specimens last asked for, in order; FileError where some are missing or damaged."""
        if not (self.folder / "zarr.json").exists():
            raise FileError(f"{self.folder}: expected exit waves, found none: run `atomstream-train simulate` first")
        count = self._count()
        missing = self.missing(count)
        if missing:
            raise FileError(
                f"{self.folder}: expected {count} exit waves, found {count - len(missing)}: "
                "run `atomstream-train simulate` again; it goes on"
            )
        return [self._read(k) for k in range(count)]

    def _count(self, begun: bool = True) -> int:
        """How many it is to hold; FileError where they are others than these, unless none is begun."""
        import zarr

        try:
            attributes = zarr.open_group(self.folder, mode="r").attrs.asdict()
            count, recipe = int(attributes["count"]), dict(attributes["recipe"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise self._refused(f"a zarr.json that cannot be read ({one_line(error)[:80]})") from None
        different = [name for name in self._made_of | recipe if recipe.get(name) != self._made_of.get(name)]
        if different and begun:
            name, more = different[0], f" and {len(different) - 1} more" if different[1:] else ""
            raise self._refused(f"those of {name} {recipe.get(name)}, here {self._made_of.get(name)}{more}")
        return count

    def _refused(self, found: str) -> FileError:
        return FileError(
            f"{self.folder}: expected exit waves of this recipe, got {found}: remove it, or choose another --folder"
        )

    def _read(self, k: int) -> Specimen:
        import zarr

        try:
            group = zarr.open_group(self._path(k), mode="r")
            stored = {name: group[name][...] for name in _ARRAYS if name in group or name != "lean_A"}
            attributes = group.attrs.asdict()
            if attributes["crc32"] != _crc32(stored):
                raise ValueError("other bytes than were written")
            wave = stored.pop("wave")
            return Specimen(wave, Sites(elements=tuple(attributes["elements"]), **stored), attributes["label"])
        except (OSError, ValueError, TypeError, LookupError, RuntimeError) as error:
            cause = one_line(error)[:80]
            raise FileError(
                f"{self._path(k)}: expected a whole specimen, got a damaged one ({cause}): remove it, and run "
                "`atomstream-train simulate` again"
            ) from None

    def _writing(self) -> AbstractContextManager[None]:
        return writing(self.folder, "room for exit waves", "free some, and run again; it goes on")

    def _path(self, k: int) -> Path:
        return self.folder / f"{k:05d}"


def _write(folder: Path, specimen: Specimen) -> None:
    import zarr

    sites = specimen.sites
    arrays = {"wave": specimen.wave} | {name: getattr(sites, name) for name in _ARRAYS[1:]}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    attributes = {"label": specimen.label, "elements": [int(number) for number in sites.elements]}
    group = zarr.create_group(folder, attributes=attributes | {"crc32": _crc32(arrays)}, overwrite=True)
    for name, array in arrays.items():
        group.create_array(name, data=array, chunks=tuple(max(1, length) for length in array.shape))


def _crc32(arrays: Mapping[str, NDArray[Any]]) -> int:
    """Of all bytes: Zarr takes a chunk that got lost for one of zeros."""
    total = 0
    for name in sorted(arrays):
        total = zlib.crc32(np.ascontiguousarray(arrays[name]), total)
    return total
