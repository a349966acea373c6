"""Files made to take much memory or time: refused, or read within the limit."""

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from diffaug.decoding.decode import decode, strict_pillow
from diffaug.decoding.intensity import IntensityRange
from diffaug.decoding.limits import MAX_FILE_BYTES
from diffaug.decoding.object_masks import read_mask
from diffaug.decoding.result import RejectedError
from tests.decoding.odd_files import COLOR, RAMP_8, png, png_header, ppm, saved, tiff, tiff_page
from tests.decoding.test_jpeg_2000 import stream
from tests.decoding.test_mutations import memory


def blank_png(width: int, height: int, color_type: int, bits: int = 8) -> bytes:
    """A valid PNG of one color."""
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[color_type]
    row = b"\0" * (1 + width * samples * bits // 8)
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return png(b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0), b"IDAT" + data, b"IEND")


def blank(width: int, height: int, mode: str, file_format: str, **options: object) -> bytes:
    return saved(Image.new(mode, (width, height)), file_format, **options)


def larger_jpeg(**options: object) -> bytes:
    """A header that promises more than there is."""
    content = saved(COLOR, "JPEG", **options)
    return content.replace(struct.pack(">HH", 6, 5), struct.pack(">HH", 14_000, 16_000), 1)


def jpeg_of_many_scans() -> bytes:
    content = saved(Image.new("RGB", (1000, 1000)), "JPEG", progressive=True)
    start = content.rindex(b"\xff\xda")
    return content[:-2] + content[start:-2] * 3000 + b"\xff\xd9"


def tiff_of_many_tags() -> bytes:
    """Each of 4,000 tags refers to the same 2 MB."""
    count, extra = 4000, b"\0" * 2**21
    page, tags = tiff_page(RAMP_8)
    content = tiff((page, tags))
    directory = struct.unpack("<I", content[4:8])[0]
    entries = content[directory + 2 :][: 12 * (len(tags) + 2)]
    many = b"".join(struct.pack("<HHII", 40_000 + n, 1, len(extra), len(content)) for n in range(count))
    head = content[:4] + struct.pack("<I", len(content) + len(extra)) + content[8:]
    return head + extra + struct.pack("<H", len(tags) + 2 + count) + entries + many + b"\0" * 4


def png_with_text() -> bytes:
    """A chunk of compressed text that unpacks to 64 MB."""
    packer = zlib.compressobj(9)
    text = b"".join(packer.compress(b"\0" * 2**20) for _ in range(64)) + packer.flush()
    whole = saved(RAMP_8)
    chunk = b"zTXtComment\0\0" + text
    return whole[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[33:]


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "largest.png": (lambda: blank_png(5800, 5900, 2), "ok"),
    "largest-with-alpha.png": (lambda: blank_png(5800, 5900, 6), "ok"),
    "largest-gray.png": (lambda: blank_png(10_900, 11_000, 0), "ok"),
    "largest-16.png": (lambda: blank_png(7700, 7700, 0, 16), "ok"),
    "largest-color-16.png": (lambda: blank_png(4800, 4900, 2, 16), "ok"),
    "larger.png": (lambda: png_header(9000, 9000), "too large"),
    "photo.jpg": (lambda: blank(5000, 4000, "RGB", "JPEG"), "ok"),
    "larger.jpg": (larger_jpeg, "too large"),
    "larger-progressive.jpg": (lambda: larger_jpeg(progressive=True), "too large"),
    "largest.webp": (lambda: blank(3900, 4000, "RGB", "WEBP", method=0), "ok"),
    "largest.gif": (lambda: blank(3900, 4000, "L", "GIF"), "ok"),
    "screen.gif": (lambda: b"GIF89a" + b"\xff" * 4 + saved(RAMP_8, "GIF")[10:], "too large"),
    "largest.jp2": (lambda: blank(3400, 3500, "RGB", "JPEG2000"), "ok"),
    "large.jp2": (lambda: blank(7000, 7000, "RGB", "JPEG2000"), "ok"),
    "blocks.j2k": (lambda: stream(3400, 3400, block=2), "too large"),
    "precincts.j2k": (lambda: stream(3400, 3400, levels=1, precincts=b"\x11\x11"), "too large"),
    "tiles.j2k": (lambda: stream(1020, 4), "too large"),
    "largest.tif": (lambda: blank(8900, 8900, "RGB", "TIFF", compression="tiff_adobe_deflate"), "ok"),
    "one-strip.tif": (lambda: blank(5800, 5800, "RGB", "TIFF", compression="tiff_lzw", tiffinfo={278: 5800}), "ok"),
    "largest-float.tif": (lambda: blank(5100, 5200, "F", "TIFF"), "ok"),
    "scans.jpg": (jpeg_of_many_scans, "too large"),
    "tags.tif": (tiff_of_many_tags, "truncated"),
    "pages.tif": (lambda: tiff(*[tiff_page(COLOR)] * 3000), "ok"),
    "frames.gif": (lambda: saved(RAMP_8, "GIF")[:-1] + saved(RAMP_8, "GIF")[-40:-1] * 9000 + b";", "ok"),
    "numbers.ppm": (lambda: b"P3 4000 4000 255\n" + b"0 " * 2**22, "too large"),
    "huge.pgm": (lambda: ppm(5, RAMP_8).replace(b"5 6", b"99999 99999"), "too large"),
    "text.png": (png_with_text, "truncated"),
}


@pytest.mark.slow
def test_hostile_files_take_bounded_memory(tmp_path: Path) -> None:
    for name, (content, _) in HOSTILE.items():
        (tmp_path / name).write_bytes(content())
    command = [sys.executable, "-W", "ignore", "-m", __name__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["statuses"] == {name: status for name, (_, status) in HOSTILE.items()}
    assert found["grown"] < 300 * 2**20


def main() -> None:
    """Prints the status of each file, and by how many bytes memory has grown at most while one was read."""
    import PIL.ImageCms  # noqa: F401

    statuses, intensity, grown = {}, IntensityRange(0, 1, ""), list[int]()
    for file in sorted(Path(sys.argv[1]).iterdir()):
        assert file.stat().st_size < MAX_FILE_BYTES
        for read in (lambda file: decode(file, intensity=intensity).status, mask_status):
            Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
            before = memory("VmRSS")
            with strict_pillow():
                statuses.setdefault(file.name, read(file))
            grown.append(memory("VmHWM") - before)
    print(json.dumps({"statuses": statuses, "grown": max(grown)}))


def mask_status(file: Path) -> str:
    """How reading a file as a mask ends."""
    with suppress(RejectedError):
        read_mask(file)
        return "ok"
    return "refused"


if __name__ == "__main__":
    main()
