"""Whether a TIFF is whole: tifffile reads one that was cut off as a shorter one, and only logs it."""

from __future__ import annotations

import struct
from pathlib import Path

import tifffile

from engine.errors import FileError


def count_pages(path: Path, tiff: tifffile.TiffFile) -> int:
    """Follow the pages from each to the next; FileError where one is not there, or there is none.

    Of each only the place of the next is read: there may be very many.
    """
    file, form = tiff.filehandle, tiff.tiff

    def read(layout: str, offset: int, size: int) -> int:
        if offset + size > file.size:
            raise _cut_off(path, f"page {max(1, len(seen))}")
        file.seek(offset)
        number: int = struct.unpack(layout, file.read(size))[0]
        return number

    seen: set[int] = set()
    at = read(form.offsetformat, 8 if form.is_bigtiff else 4, form.offsetsize)
    while at:
        if at in seen:
            raise ValueError(f"a page after page {len(seen)} that came before")
        seen.add(at)
        tags = read(form.tagnoformat, at, form.tagnosize)
        at = read(form.offsetformat, at + form.tagnosize + tags * form.tagsize, form.offsetsize)
    if not seen:
        raise FileError(f"{path}: expected a TIFF with frames in it, got one without a page: write it anew")
    return len(seen)


def check_whole(path: Path, tiff: tifffile.TiffFile, pages: int, said: int) -> None:
    """FileError where the file ends before the last of its pages does, or holds fewer than the `said` images."""
    first = tiff.pages.first
    check_page(path, tiff.pages[pages - 1], f"page {pages}")
    images = pages * first.samplesperpixel  # colours may have been counted as images
    if pages == 1 and first.is_final:
        # ImageJ describes the first of many images only, where they would not fit into 4 GB.
        images *= max(1, (tiff.filehandle.size - first.dataoffsets[0]) // first.nbytes)
    if images < said:
        raise FileError(f"{path}: expected the {said} images that it says it has, got {images}: copy it again")


def check_page(path: Path, page: tifffile.TiffPage | tifffile.TiffFrame, what: str) -> None:
    """FileError where its pixels lie beyond the end of the file: tifffile fills a part that is missing with zeros."""
    if page.is_final:  # its own count of bytes may be that of more rows than there are
        end = page.dataoffsets[0] + page.nbytes
    else:
        ends = zip(page.dataoffsets, page.databytecounts, strict=False)
        end = max((offset + count for offset, count in ends), default=0)
    check_end(path, page.parent, end, what)


def check_end(path: Path, tiff: tifffile.TiffFile, end: int, what: str) -> None:
    """FileError where the file ends before the byte `end`, up to which `what` goes."""
    if end > tiff.filehandle.size:
        raise _cut_off(path, f"the end of {what}")


def _cut_off(path: Path, what: str) -> FileError:
    return FileError(f"{path}: expected a whole TIFF, got one that ends before {what}: copy it again")
