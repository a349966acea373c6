"""One table of odd files: what each holds, and what must come out of it."""

import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image, ImageCms

from diffaug.decoding.decode import decode, peek
from diffaug.decoding.intensity import IntensityRange
from diffaug.decoding.result import Decoded, DecodeStatus, Header
from tests.decoding.odd_files import (
    COLOR,
    COLOR_16,
    RAMP_8,
    RAMP_16,
    dicom,
    nifti,
    packed_12,
    png,
    png_header,
    png_of,
    ppm,
    saved,
    tiff,
    tiff_of,
    tiff_page,
    tiled,
)


@dataclass(frozen=True)
class Odd:
    name: str  # with the extension of the file
    content: Callable[[], bytes]
    status: str = "ok"
    pixels: Any = None  # (H, W) or (H, W, 3)
    note: str = ""  # part of it
    intensity: tuple[float, float] | None = None
    page: int = 0
    tolerance: float = 0
    bits: int = 8
    pages: int = 1
    needs: str = field(default="", repr=False)  # a module


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255)


def deep(values: np.ndarray, low: float, high: float, bits: int) -> dict[str, Any]:
    """What is expected of values of so many bits whose range is known."""
    return {"pixels": scaled(values, low, high), "intensity": (low, high), "bits": bits}


def in_16_bits(values: np.ndarray) -> dict[str, Any]:
    """What is expected of values whose range is that of their depth."""
    return {"pixels": scaled(values, 0, 65535), "bits": 16}


def on_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return 255 - (255 - color.astype(float)) * alpha[..., None] / 255


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2."""
    white = struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 79
    parts = {b"desc": name, b"wtpt": b"XYZ \0\0\0\0" + white, **tags}
    table, offset = struct.pack(">I", len(parts)), 132 + 12 * len(parts)
    for signature, part in parts.items():
        table += signature + struct.pack(">II", offset, len(part))
        offset += len(part)
    head = struct.pack(">I4sI4s4s4s12x4s28x", offset, b"lcms", 0x02100000, kind, space, connection, b"acsp") + white
    return head.ljust(128, b"\0") + table + b"".join(parts.values())


def gray_profile(gamma: float) -> bytes:
    """Gray with a pure power curve."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    return profile(b"GRAY", b"XYZ ", b"mntr", {b"kTRC": curve})


def cmyk_profile(lightness: int) -> bytes:
    """All colors give one gray, whose effect can't be missed, and black ink black; lightness is L* in 8 bits."""
    matrix = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x10000)
    colors = bytes([lightness, 128, 128, 0, 128, 128]) * 2**3
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + bytes(range(256)) * 4 + colors + bytes(range(256)) * 3
    return profile(b"CMYK", b"Lab ", b"prtr", {b"A2B0": table})


def to_srgb_curve(linear: np.ndarray) -> np.ndarray:
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def cmyk_jpeg(**options: Any) -> bytes:
    return saved(Image.fromarray(CMYK, "CMYK"), "JPEG", quality=100, subsampling=0, **options)


def frames(file_format: str, **options: Any) -> bytes:
    second = Image.fromarray(255 - RAMP_8)
    return saved(RAMP_8, file_format, save_all=True, append_images=[second], **options)


def deflated(values: np.ndarray, order: str) -> bytes:
    data, tags = tiff_page(values, order)
    return tiff((zlib.compress(data), {**tags, 259: 8}), order=order)


def strips_of(values: np.ndarray) -> bytes:
    """Two rows per strip."""
    parts = [values[top : top + 2].tobytes() for top in range(0, len(values), 2)]
    return tiff((parts, {**tiff_page(values)[1], 278: 2}))


def faint(step: int) -> np.ndarray:
    """Gray whose channels differ by this many levels."""
    return np.stack([RAMP_8, RAMP_8 + step, RAMP_8], axis=2).astype(np.uint8)


def with_nan(value: float) -> np.ndarray:
    values = np.full((6, 5), 0.5, np.float32)
    values[2, 3] = value
    return values


def with_hole(value: float, dtype: Any) -> np.ndarray:
    values = np.arange(1, 31).reshape(6, 5).astype(dtype)
    values[2:4, 1] = value
    return values


def premultiplied() -> np.ndarray:
    return np.dstack([np.rint(COLOR * (ALPHA[..., None] / 255)), ALPHA]).astype(np.uint8)


def exif(orientation: int) -> bytes:
    known = Image.Exif()
    known[274] = orientation
    return known.tobytes().removeprefix(b"Exif\0\0")


def mpo() -> bytes:
    return saved(COLOR, "MPO", save_all=True, append_images=[Image.fromarray(255 - COLOR)], quality=100, subsampling=0)


def reduced_first() -> bytes:
    return tiff(tiff_page(RAMP_8[::2, ::2].repeat(2, 0).repeat(2, 1)[:4, :4].copy(), t254=1), tiff_page(RAMP_8))


def planes(values: np.ndarray) -> bytes:
    return tiff(([plane.tobytes() for plane in values.transpose(2, 0, 1)], {**tiff_page(values)[1], 284: 2}))


MONO = (RAMP_8 > 100).astype(np.uint8)
ALPHA = np.linspace(0, 255, 30).reshape(6, 5).astype(np.uint8)
CMYK = np.dstack([COLOR, COLOR[..., 0] // 4])
SIGNED = RAMP_16.astype(int) - 32768
HOUNSFIELD = (np.arange(30).reshape(6, 5) * 100 - 1024).astype(np.int16)
TWELVE = (np.arange(6 * 4).reshape(6, 4) * 178).astype(np.uint16)  # 0 to 4094
UNIT = np.linspace(0, 1, 30).reshape(6, 5).astype(np.float32)
FRAMES = np.stack([RAMP_16, RAMP_16[::-1]])
CT = {"RescaleSlope": 1, "RescaleIntercept": -1024}
PLAIN_CMYK = (255 - CMYK[..., :3].astype(float)) * (255 - CMYK[..., 3:]) / 255

ODD = [
    # formats, by content and not by extension
    *(
        Odd(f"{name.lower()}-under-a-wrong-name.txt", lambda n=name, o=options: saved(RAMP_8, n, **o), pixels=RAMP_8)
        for name, options in {
            "PNG": {},
            "BMP": {},
            "DIB": {},
            "TIFF": {},
            "GIF": {},
            "PPM": {},
            "WEBP": {"lossless": True},
            "JPEG2000": {"irreversible": False},
        }.items()
    ),
    Odd("avif.avif", lambda: saved(COLOR, "AVIF", quality=100, subsampling="4:4:4"), pixels=COLOR, tolerance=12),
    Odd("jfif.jfif", lambda: saved(RAMP_8, "JPEG", quality=100), pixels=RAMP_8, tolerance=3),
    Odd("progressive.jpg", lambda: saved(RAMP_8, "JPEG", quality=100, progressive=True), pixels=RAMP_8, tolerance=3),
    Odd("rle.bmp", lambda: saved(Image.fromarray(RAMP_8), "BMP"), pixels=RAMP_8),
    Odd("p1.pbm", lambda: ppm(1, MONO, None), pixels=255 - 255 * MONO),
    Odd("p1-without-spaces.pbm", lambda: b"P1 4 4 0000111100001111", pixels=np.array([[255] * 4, [0] * 4] * 2)),
    Odd("p2.pgm", lambda: ppm(2, RAMP_8), pixels=RAMP_8),
    Odd("p2-comment.pgm", lambda: ppm(2, RAMP_8, comment="# made by hand\n"), pixels=RAMP_8),
    Odd("p2-16.pgm", lambda: ppm(2, TWELVE, 4095), pixels=scaled(TWELVE, 0, 4095), bits=12),
    Odd("p3.ppm", lambda: ppm(3, COLOR), pixels=COLOR),
    Odd("p4.pbm", lambda: ppm(4, MONO, None), pixels=255 - 255 * MONO),
    Odd("p5-maximum-15.pgm", lambda: ppm(5, RAMP_8 // 16, 15), pixels=RAMP_8 // 16 * 17),
    Odd("p5-16.pgm", lambda: ppm(5, RAMP_16, 65535), pixels=scaled(RAMP_16, 0, 65535), bits=16),
    Odd("p6-16.ppm", lambda: ppm(6, COLOR_16, 65535), pixels=scaled(COLOR_16, 0, 65535), bits=16),
    Odd("p5-over-maximum.pgm", lambda: ppm(5, RAMP_8, 100), "truncated", note="above the maximum"),
    Odd("p5-cut.pgm", lambda: ppm(5, RAMP_8)[:-1], "truncated"),
    Odd("p2-negative.pgm", lambda: ppm(2, RAMP_8.astype(int) - 1), "truncated"),
    Odd("p6-huge.ppm", lambda: b"P6 900000 900000 255\n", "too large"),
    Odd("float.pfm", lambda: b"Pf 5 6 -1.0\n" + UNIT[::-1].astype("<f4").tobytes(), **deep(UNIT, 0, 1, 32)),
    # 9 to 32 bits, signed, float
    Odd("gray16.png", lambda: png_of(RAMP_16, 0), pixels=scaled(RAMP_16, 0, 65535), bits=16),
    Odd("window16.png", lambda: png_of(RAMP_16, 0), **deep(RAMP_16, 9e3, 1e4, 16)),
    Odd("rgb16.png", lambda: png_of(COLOR_16, 2), pixels=scaled(COLOR_16, 0, 65535), bits=16),
    Odd("rgb16-window.png", lambda: png_of(COLOR_16 // 256, 2), pixels=COLOR_16 // 256, intensity=(0, 255), bits=16),
    Odd(
        "rgba16.png",
        lambda: png_of(np.dstack([COLOR_16, ALPHA.astype(int) * 257]), 6),
        pixels=on_white(scaled(COLOR_16, 0, 65535), ALPHA),
        tolerance=0.51,
        bits=16,
        note="became white",
    ),
    Odd(
        "la16.png",
        lambda: png_of(np.dstack([RAMP_16, ALPHA.astype(int) * 257]), 4),
        pixels=on_white(scaled(RAMP_16, 0, 65535)[..., None], ALPHA)[..., 0],
        tolerance=0.51,
        bits=16,
    ),
    Odd(
        "key16.png",
        lambda: png_of(RAMP_16, 0, b"tRNS" + struct.pack(">H", RAMP_16[1, 1])),
        pixels=np.where(RAMP_16[1, 1] == RAMP_16, 255, scaled(RAMP_16, 0, 65535)),
        bits=16,
        note="became white",
    ),
    *(
        Odd(f"{kind}-{order}.tif", lambda v=v, o=o: tiff_of(v, o), **deep(v, *r, bits))
        for order, o in {"little": "<", "big": ">"}.items()
        for kind, v, r, bits in [
            ("u16", RAMP_16, (0, 65535), 16),
            ("i16", SIGNED.astype(np.int16), (-32768, 32767), 16),
            ("u32", RAMP_16.astype(np.uint32) * 60000, (0, 2**32 - 1), 32),
            ("i32", SIGNED.astype(np.int32) * 60000, (-(2**31), 2**31 - 1), 32),
            ("f32", UNIT * 7 - 3, (-3, 4), 32),
            ("rgb16", COLOR_16, (0, 65535), 16),
        ]
    ),
    Odd("i8.tif", lambda: tiff_of((SIGNED // 256).astype(np.int8)), **deep(SIGNED // 256, -128, 127, 16)),
    Odd("lzw16.tif", lambda: saved(RAMP_16, "TIFF", compression="tiff_lzw"), pixels=scaled(RAMP_16, 0, 65535), bits=16),
    Odd("zip-f32.tif", lambda: saved(UNIT, "TIFF", compression="tiff_adobe_deflate"), **deep(UNIT, 0, 1, 32)),
    Odd(
        "12-bits.tif",
        lambda: tiff((packed_12(TWELVE), {**tiff_page(TWELVE)[1], 258: 12})),
        pixels=scaled(TWELVE, 0, 4095),
        bits=12,
    ),
    Odd("f32-without-range.tif", lambda: tiff_of(UNIT), "unsupported mode", note="data.intensity_range", bits=32),
    Odd("i16-without-range.tif", lambda: tiff_of(HOUNSFIELD), "unsupported mode", bits=16),
    *(
        Odd(
            f"{value}.tif",
            lambda v=value: tiff_of(with_nan(v)),
            "unsupported mode",
            note="NaN",
            intensity=(0, 1),
            bits=32,
        )
        for value in (np.nan, np.inf, -np.inf)
    ),
    Odd("f64.tif", lambda: tiff_of(UNIT.astype(np.float64)), **deep(UNIT, 0, 1, 64)),
    Odd("f16.tif", lambda: tiff_of(UNIT.astype(np.float16)), tolerance=1, **deep(UNIT, 0, 1, 16)),
    Odd("rgb-f32.tif", lambda: tiff_of(COLOR / np.float32(255)), pixels=COLOR, intensity=(0, 1), bits=32),
    Odd(
        "turned-rgb-f32.tif",
        lambda: tiff_of(COLOR / np.float32(255), t274=6),
        pixels=np.rot90(COLOR, -1),
        intensity=(0, 1),
        bits=32,
    ),
    Odd(
        "f64-nan.tif", lambda: tiff_of(with_nan(np.nan).astype(float)), "unsupported mode", note="NaN", intensity=(0, 1)
    ),
    Odd(
        "f64-deflated.tif",
        lambda: tiff((zlib.compress(UNIT.astype("<f8").tobytes()), {**tiff_page(UNIT.astype(float))[1], 259: 8})),
        **deep(UNIT, 0, 1, 64),
    ),
    Odd(
        "f64-cut.tif", lambda: tiff((UNIT.astype("<f8").tobytes()[:-8], tiff_page(UNIT.astype(float))[1])), "truncated"
    ),
    Odd("f64-bomb.tif", lambda: tiff_of(UNIT.astype(float), t256=65535, t257=65535), "too large"),
    Odd("f64-no-page.tif", lambda: tiff_of(UNIT.astype(float)), "truncated", note="there is no page 1", page=1),
    Odd("f64-lzw.tif", lambda: tiff_of(UNIT.astype(float), t259=5), "unsupported mode", note="save it uncompressed"),
    Odd("f64-predictor.tif", lambda: tiff_of(UNIT.astype(float), t317=9), "unsupported mode", note="uncompressed"),
    Odd(
        "f64-huge-tiles.tif",
        lambda: tiff((UNIT.astype("<f8").tobytes(), {**tiff_page(UNIT.astype(float))[1], 322: 65535, 323: 65535})),
        "truncated",
        note="tiles of 65535 x 65535 px",
    ),
    Odd("f64-no-rows.tif", lambda: tiff_of(UNIT.astype(float), t278=0), "truncated", note="tiles of 5 x 0 px"),
    Odd("five-of-f64.tif", lambda: tiff_of(np.dstack([UNIT.astype(float)] * 5)), "unsupported mode", note="unusual"),
    Odd(
        "f64-pages.tif",
        lambda: tiff(*[tiff_page(UNIT.astype(float))] * 2),
        pages=2,
        note="first of 2",
        **deep(UNIT, 0, 1, 64),
    ),
    Odd("five-channels.tif", lambda: tiff_of(np.dstack([COLOR_16, COLOR_16])[..., :5], t262=1), "unsupported mode"),
    *(
        Odd(
            f"tiled-{v.dtype}-{v.shape[2]}-{order}-{predictor}-{separate}.tif",
            lambda v=v, o=order, p=predictor, s=separate: tiled(v, o, p, separate=s),
            **deep(v, *r, 8 * v.itemsize),
        )
        for v, r in [
            (UNIT[..., None].astype(np.float64), (0, 1)),
            (COLOR / np.float32(255), (0, 1)),
            (COLOR_16, (0, 65535)),
        ]
        for order, predictor, separate in [
            ("<", 1, False),
            (">", 1, v.shape[2] > 1),
            *[(order, 3 if v.dtype.kind == "f" else 2, v.shape[2] > 1) for order in "<>"],
            ("<", 3 if v.dtype.kind == "f" else 2, v.dtype == np.uint16),
        ]
    ),
    Odd(
        "gray-alpha16.tif",
        lambda: tiff_of(np.dstack([RAMP_16, ALPHA.astype(np.uint16) * 257]), t338=2),
        pixels=on_white(scaled(RAMP_16, 0, 65535)[..., None], ALPHA)[..., 0],
        tolerance=0.51,
        bits=16,
        note="became white",
    ),
    Odd("two-channels16.tif", lambda: tiff_of(np.dstack([RAMP_16, RAMP_16]), t338=0), "unsupported mode", bits=0),
    Odd("planes8.tif", lambda: planes(COLOR), pixels=COLOR),
    Odd("planes16.tif", lambda: planes(COLOR_16), pixels=scaled(COLOR_16, 0, 65535), bits=16),
    Odd("missing-plane.tif", lambda: tiff_of(COLOR, t284=2), "truncated", note="strips are missing"),
    Odd("missing-strip.tif", lambda: tiff_of(RAMP_8, t278=2), "truncated", note="strips are missing"),
    Odd("16.jp2", lambda: saved(RAMP_16, "JPEG2000", irreversible=False), pixels=scaled(RAMP_16, 0, 65535), bits=16),
    Odd(
        "turned16.png",
        lambda: png_of(RAMP_16, 0, b"eXIf" + exif(6)),
        pixels=np.rot90(scaled(RAMP_16, 0, 65535), -1),
        bits=16,
    ),
    *(
        Odd(f"{kind}-{order}-deflated.tif", lambda v=v, o=o: deflated(v, o), **deep(v, *r, bits))
        for order, o in {"little": "<", "big": ">"}.items()
        for kind, v, r, bits in [
            ("u16", RAMP_16, (0, 65535), 16),
            ("i16", SIGNED.astype(np.int16), (-32768, 32767), 16),
            ("i32", SIGNED.astype(np.int32) * 60000, (-(2**31), 2**31 - 1), 32),
            ("f32", UNIT * 7 - 3, (-3, 4), 32),
            ("rgb16", COLOR_16, (0, 65535), 16),
        ]
    ),
    Odd("rgb16-strips.tif", lambda: strips_of(COLOR_16), pixels=scaled(COLOR_16, 0, 65535), bits=16),
    *(
        Odd(
            f"no-data-{text}-{np.dtype(dtype).name}.tif",
            lambda v=missing, t=text, d=dtype: tiff_of(with_hole(v, d), t42113=t.encode() + b"\0"),
            note="" if least == missing else "GDAL_NODATA",
            **deep(with_hole(least, dtype), 1, 30, 8 * np.dtype(dtype).itemsize),
        )
        for text, missing, least, dtype in [
            ("-9999", -9999, 1, np.int16),
            ("-9999", -9999, 1, np.float32),
            ("-3.40282e+38", np.finfo(np.float32).min, 1, np.float32),
            ("nan", np.nan, 1, np.float32),
            ("nan", np.nan, 1, np.float64),
            ("65535", 65535, 1, np.uint16),
            ("-9999", 9, 9, np.uint16),
            ("0", 0, 0, np.uint16),
            ("none", 7, 7, np.uint16),
        ]
    ),
    # white is zero
    Odd(
        "white-is-zero-1.tif",
        lambda: tiff((np.packbits(MONO, axis=1).tobytes(), {**tiff_page(MONO)[1], 258: 1, 262: 0})),
        pixels=255 - 255 * MONO,
    ),
    Odd("white-is-zero-8.tif", lambda: tiff_of(RAMP_8, t262=0), pixels=255 - RAMP_8),
    Odd("white-is-zero-16.tif", lambda: tiff_of(RAMP_16, t262=0), pixels=255 - scaled(RAMP_16, 0, 65535), bits=16),
    Odd(
        "white-is-zero-16-big.tif",
        lambda: tiff_of(RAMP_16, ">", t262=0),
        pixels=255 - scaled(RAMP_16, 0, 65535),
        bits=16,
    ),
    Odd(
        "white-is-zero-f32.tif",
        lambda: tiff_of(UNIT, t262=0),
        pixels=255 - scaled(UNIT, 0, 1),
        intensity=(0, 1),
        bits=32,
    ),
    # palettes and transparency
    Odd("palette.png", lambda: saved(Image.fromarray(COLOR).quantize(30)), pixels=COLOR, tolerance=8),
    Odd("palette.gif", lambda: saved(Image.fromarray(RAMP_8).convert("P"), "GIF"), pixels=RAMP_8),
    Odd("clear.png", lambda: saved(np.dstack([COLOR, 0 * ALPHA])), pixels=np.full((6, 5), 255), note="became white"),
    *(
        Odd(
            f"white-on-clear-{name}",
            lambda f=file_format, o=options: saved(np.dstack([0 * COLOR + 255, ALPHA]), f, **o),
            pixels=ALPHA,
            tolerance=1,
            note="became black",
        )
        for name, file_format, options in [("a.png", "PNG", {}), ("b.webp", "WEBP", {"lossless": True, "exact": True})]
    ),
    Odd(
        "white-on-clear-la.png",
        lambda: saved(Image.fromarray(np.dstack([0 * RAMP_8 + 255, ALPHA]), "LA")),
        pixels=ALPHA,
        tolerance=1,
        note="became black",
    ),
    Odd("white-and-opaque.png", lambda: saved(np.dstack([0 * COLOR + 255, 0 * ALPHA + 255])), pixels=0 * RAMP_8 + 255),
    Odd("opaque.png", lambda: saved(np.dstack([COLOR, 0 * ALPHA + 255])), pixels=COLOR),
    Odd("alpha.png", lambda: saved(np.dstack([COLOR, ALPHA])), pixels=on_white(COLOR, ALPHA), tolerance=1),
    Odd(
        "la.png",
        lambda: saved(Image.fromarray(np.dstack([RAMP_8, ALPHA]), "LA")),
        pixels=on_white(RAMP_8[..., None], ALPHA)[..., 0],
        tolerance=1,
    ),
    Odd("alpha.webp", lambda: saved(np.dstack([COLOR, 0 * ALPHA]), "WEBP", lossless=True), pixels=np.full((6, 5), 255)),
    Odd("alpha.tif", lambda: tiff_of(np.dstack([COLOR, ALPHA]), t338=2), pixels=on_white(COLOR, ALPHA), tolerance=1),
    Odd(
        "key.png",
        lambda: png_of(RAMP_8, 0, b"tRNS" + struct.pack(">H", 80), bits=8),
        pixels=np.where(RAMP_8 == 80, 255, RAMP_8),
    ),
    Odd("premultiplied.tif", lambda: tiff_of(premultiplied(), t338=1), pixels=on_white(COLOR, ALPHA), tolerance=2),
    Odd(
        "clear.gif",
        lambda: saved(Image.fromarray(RAMP_8).convert("P"), "GIF", transparency=80),
        pixels=np.where(RAMP_8 == 80, 255, RAMP_8),
    ),
    # color spaces and profiles
    Odd("cmyk.jpg", cmyk_jpeg, pixels=PLAIN_CMYK, tolerance=4),
    Odd("cmyk.tif", lambda: saved(Image.fromarray(CMYK, "CMYK"), "TIFF"), pixels=PLAIN_CMYK, tolerance=2),
    Odd(
        "cmyk-with-srgb.jpg",
        lambda: cmyk_jpeg(icc_profile=srgb()),
        pixels=PLAIN_CMYK,
        tolerance=4,
        note="profile for RGB",
    ),
    Odd(
        "cmyk-with-srgb.tif",
        lambda: saved(Image.fromarray(CMYK, "CMYK"), "TIFF", icc_profile=srgb()),
        pixels=PLAIN_CMYK,
        tolerance=2,
        note="profile for RGB",
    ),
    Odd(
        "cmyk-with-profile.tif",
        lambda: saved(Image.fromarray(np.dstack([COLOR, 0 * RAMP_8]), "CMYK"), "TIFF", icc_profile=cmyk_profile(128)),
        pixels=np.full((6, 5), 119),
        tolerance=2,
    ),
    Odd("cmyk-with-profile.jpg", lambda: cmyk_jpeg(icc_profile=cmyk_profile(0)), pixels=np.zeros((6, 5)), tolerance=2),
    Odd("gray-with-srgb.png", lambda: saved(RAMP_8, icc_profile=srgb()), pixels=RAMP_8, note="profile for RGB"),
    Odd("rgb-with-gray.png", lambda: saved(COLOR, icc_profile=gray_profile(1)), pixels=COLOR, note="profile for GRAY"),
    Odd(
        "linear-gray.png",
        lambda: saved(RAMP_8, icc_profile=gray_profile(1)),
        pixels=to_srgb_curve(RAMP_8 / 255),
        tolerance=3,
    ),
    Odd("damaged-profile.png", lambda: saved(COLOR, icc_profile=b"nothing"), pixels=COLOR, note="damaged"),
    Odd(
        "empty-profile.jpg",
        lambda: saved(COLOR, "JPEG", icc_profile=b"\0" * 200, quality=100, subsampling=0),
        pixels=COLOR,
        tolerance=4,
        note="damaged",
    ),
    Odd("gray-as-color.png", lambda: saved(faint(0)), pixels=RAMP_8),
    Odd("gray-as-jpeg.jpg", lambda: saved(faint(0), "JPEG", quality=100), pixels=RAMP_8, tolerance=3),
    Odd("nearly-gray.png", lambda: saved(faint(3)), pixels=RAMP_8, tolerance=3),
    Odd("faint-color.png", lambda: saved(faint(4)), pixels=faint(4)),
    # orientation
    Odd("turned16.tif", lambda: tiff_of(RAMP_16, t274=6), pixels=np.rot90(scaled(RAMP_16, 0, 65535), -1), bits=16),
    Odd(
        "turned-rgb16.tif", lambda: tiff_of(COLOR_16, t274=6), pixels=np.rot90(scaled(COLOR_16, 0, 65535), -1), bits=16
    ),
    # several pictures
    Odd("animated.gif", lambda: frames("GIF"), pixels=RAMP_8, note="first of 2", pages=2),
    Odd("animated-2.gif", lambda: frames("GIF"), pixels=255 - RAMP_8, page=1, pages=2),
    Odd("animated.webp", lambda: frames("WEBP", lossless=True), pixels=RAMP_8, note="first of 2", pages=2),
    Odd("animated-2.png", lambda: frames("PNG"), pixels=255 - RAMP_8, page=1, pages=2),
    Odd("pages.tif", lambda: tiff(tiff_page(RAMP_8), tiff_page(COLOR)), pixels=RAMP_8, note="first of 2", pages=2),
    Odd(
        "pages-2.tif",
        lambda: tiff(tiff_page(RAMP_8), tiff_page(RAMP_16)),
        pixels=scaled(RAMP_16, 0, 65535),
        page=1,
        pages=2,
    ),
    Odd("pages-3.tif", lambda: tiff(tiff_page(RAMP_8), tiff_page(COLOR)), "truncated", page=2, pages=2, note="no page"),
    Odd(
        "thumbnail-after.tif", lambda: tiff(tiff_page(RAMP_8), tiff_page(RAMP_8[:4, :4].copy(), t254=1)), pixels=RAMP_8
    ),
    Odd("thumbnail-before.tif", reduced_first, pixels=RAMP_8),
    Odd("mask.tif", lambda: tiff(tiff_page(RAMP_8), tiff_page(RAMP_8, t254=4)), pixels=RAMP_8),
    Odd("stereo.jpg", mpo, pixels=COLOR, tolerance=6, note="first of 2"),
    # DICOM
    Odd("u16.dcm", lambda: dicom(RAMP_16), pixels=scaled(RAMP_16, 0, 65535), bits=16, needs="pydicom"),
    Odd("without-preamble.dcm", lambda: dicom(RAMP_16, preamble=False), needs="pydicom", **in_16_bits(RAMP_16)),
    Odd("u8.dcm", lambda: dicom(RAMP_8), pixels=RAMP_8, needs="pydicom"),
    Odd("12-bits.dcm", lambda: dicom(TWELVE, BitsStored=12), pixels=scaled(TWELVE, 0, 4095), bits=12, needs="pydicom"),
    Odd("monochrome1.dcm", lambda: dicom(RAMP_8, "MONOCHROME1"), pixels=255 - RAMP_8, needs="pydicom"),
    Odd(
        "monochrome1-12.dcm",
        lambda: dicom(TWELVE, "MONOCHROME1", BitsStored=12),
        pixels=255 - scaled(TWELVE, 0, 4095),
        bits=12,
        needs="pydicom",
    ),
    Odd(
        "ct.dcm",
        lambda: dicom((HOUNSFIELD + 1024).astype(np.uint16), **CT),
        needs="pydicom",
        **deep(HOUNSFIELD, -160, 240, 16),
    ),
    Odd("ct-signed.dcm", lambda: dicom(HOUNSFIELD), needs="pydicom", **deep(HOUNSFIELD, -1024, 2000, 16)),
    Odd(
        "pet.dcm",
        lambda: dicom(TWELVE, RescaleSlope=0.25, RescaleIntercept=0.5),
        needs="pydicom",
        **deep(TWELVE / 4 + 0.5, 0, 999, 16),
    ),
    Odd("ct-without-range.dcm", lambda: dicom(RAMP_16, **CT), "unsupported mode", bits=16, needs="pydicom"),
    Odd("color.dcm", lambda: dicom(COLOR, "RGB"), pixels=COLOR, needs="pydicom"),
    Odd("frames.dcm", lambda: dicom(FRAMES), pages=2, note="first of 2", needs="pydicom", **in_16_bits(RAMP_16)),
    Odd("frames-2.dcm", lambda: dicom(FRAMES), page=1, pages=2, needs="pydicom", **in_16_bits(RAMP_16[::-1])),
    Odd("deflated.dcm", lambda: dicom(RAMP_8, deflated=True), "unsupported format", note="deflated", needs="pydicom"),
    Odd("two-levels.dcm", lambda: dicom(MONO, BitsStored=1), pixels=255 * MONO, needs="pydicom"),
    Odd(
        "padded.dcm",
        lambda: dicom(np.where(MONO > 0, HOUNSFIELD, -2000).astype(np.int16), PixelPaddingValue=-2000),
        needs="pydicom",
        **deep(np.where(MONO > 0, HOUNSFIELD, HOUNSFIELD[MONO > 0].min()), -2000, 2000, 16),
    ),
    Odd("cut.dcm", lambda: dicom(RAMP_16)[:-9], "truncated", bits=16, needs="pydicom"),
    Odd(
        "report.dcm",
        lambda: b"\0" * 128 + b"DICM" + b"\x08\0\x16\0UI\2\0001\0",
        "unsupported format",
        needs="pydicom",
        bits=0,
    ),
    # other formats, each with what to do
    *(
        Odd(f"{name}", lambda c=content: c, "unsupported format", note=note, bits=0)
        for name, content, note in [
            ("brain.nii", nifti(), "NIfTI"),
            ("brain-big.nii", nifti(big_endian=True), "NIfTI"),
            ("brain.nii.gz", nifti(compressed=True), "NIfTI"),
            ("some.gz", b"\x1f\x8b\x08\0\0\0\0\0", "unpack"),
            ("a.nrrd", b"NRRD0004\ntype: float\n", "NRRD"),
            ("a.mha", b"ObjectType = Image\nNDims = 3\n", "MetaImage"),
            ("a.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 90, "HDF5"),
            ("a.npy", b"\x93NUMPY\1\0", "NumPy"),
            ("a.npz", b"PK\3\4" + b"\0" * 90, "archive"),
            ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
            ("a.jxl", b"\xff\n" + b"\0" * 90, "JPEG XL"),
            ("a.svg", b'<?xml version="1.0"?>\n<svg width="9"/>', "SVG"),
            ("a.pdf", b"%PDF-1.7\n", "PDF"),
            ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
            ("a.psd", b"8BPS\0\1" + b"\0" * 90, "Photoshop"),
            ("a.ico", b"\0\0\1\0\1\0" + b"\0" * 90, "icon"),
            ("a.exr", b"v/1\x01\2\0\0\0", "OpenEXR"),
            ("a.fits", b"SIMPLE  =                    T", "FITS"),
            ("a.mp4", b"\0\0\0\x18ftypisom\0\0\2\0", "video"),
            ("a.avi", b"RIFF\0\0\0\0AVI LIST", "video"),
            ("a.cr2", b"II*\0\x10\0\0\0CR\2\0" + b"\0" * 90, "raw"),
            ("a.raf", b"FUJIFILMCCD-RAW 0201", "raw"),
            ("a.svs", tiff_of(COLOR, t270=b"Aperio Image Library v1"), "whole-slide"),
            ("a.dng", tiff_of(COLOR, t50706=[1, 4, 0, 0]), "raw"),
            ("a.nef", tiff_of(COLOR, t254=1, t330=8), "raw"),
        ]
    ),
    # no images
    *(
        Odd(name, lambda c=content: c, "not an image", bits=0)
        for name, content in [
            ("empty.png", b""),
            ("text.jpg", b"hello, this is text"),
            ("page.jpg", b"<html><body>404</body></html>"),
            ("zeros.tif", b"\0" * 500),
            ("car.bmp", b"BMW is a car"),
            ("p.pgm", b"P5 is a magic number"),
            ("xml.png", b'<?xml version="1.0"?><annotation/>'),
            ("pointer.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        ]
    ),
    # sizes
    Odd("bomb.png", lambda: png_header(30_000, 30_000), "too large", bits=0),
    Odd("wide-bomb.png", lambda: png_header(2**31 - 1, 4), "too large", bits=0),
    Odd("tile-bomb.tif", lambda: tiff_of(RAMP_8, t322=60_000, t323=60_000), "truncated", note="tiles", bits=0),
    Odd("one-pixel.png", lambda: saved(RAMP_8[:1, :1]), "too small", bits=0),
    Odd("thin.png", lambda: saved(RAMP_8[:, :3]), "too small", bits=0),
    Odd("no-pixels.png", lambda: png(struct.pack(">4sIIBBBBB", b"IHDR", 5, 6, 8, 0, 0, 0, 0), b"IEND"), "truncated"),
    Odd("cut.png", lambda: saved(COLOR)[:-30], "truncated"),
    Odd("cut.jpg", lambda: saved(COLOR, "JPEG")[:-30], "truncated"),
]


def require_plausible(result: Decoded, header: Header | None) -> None:
    """What is recorded of a file fits together, also of one that is refused."""
    assert result.status in get_args(DecodeStatus) and isinstance(result.mode, str)
    assert (result.width and result.height) or not result.mode  # both are known from the header on
    assert type(result.width) is type(result.height) is int and min(result.width, result.height) >= 0
    if header is not None and result.width and result.status != "ok":
        assert {result.width, result.height} == {header.width, header.height}


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
def test_odd_files(tmp_path: Path, odd: Odd) -> None:
    if odd.needs:
        pytest.importorskip(odd.needs)
    file = tmp_path / odd.name
    file.write_bytes(odd.content())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = peek(file)
        result = decode(file, page=odd.page, intensity=IntensityRange(*odd.intensity, "") if odd.intensity else None)
    assert (result.status, result.note) == (odd.status, result.note)
    assert odd.note in result.note and "None" not in result.note
    require_plausible(result, header)
    needs_range = odd.status == "ok" and odd.bits > 8 and odd.page == 0
    assert result.is_deep or not (needs_range or "data.intensity_range" in result.note)
    if odd.status != "ok":
        assert result.pixels is None
        assert result.note
        assert header is None or odd.status != "not an image"
        return
    expected = np.asarray(odd.pixels, float).reshape(*odd.pixels.shape[:2], -1)
    assert result.pixels.shape == expected.shape
    assert (result.pixels.dtype, result.pixels.flags.c_contiguous) == (np.uint8, True)
    np.testing.assert_allclose(result.pixels, expected, rtol=0, atol=odd.tolerance)
    assert (result.height, result.width) == expected.shape[:2]
    assert (header.height, header.width, header.pages, header.bits) == (*expected.shape[:2], odd.pages, odd.bits)
