"""Reads DICOM images through pydicom, an extra, in the units that their rescale gives, such as Hounsfield units."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from diffaug.decoding.formats.deep import require_finite
from diffaug.decoding.formats.pillow_files import MAX_PAGES, require_decodable
from diffaug.decoding.limits import require_size
from diffaug.decoding.result import Header, RejectedError, Samples, Values

if TYPE_CHECKING:
    from pydicom import Dataset

_EXTENSIONS = (".dcm", ".dicom", ".ima")  # of files that may lack the preamble
_FIRST_GROUPS = (b"\x02\0", b"\x08\0")
_BYTES_PER_SAMPLE = 12
_BYTES_BEFORE_FRAMES = 12  # tag, kind and length
_DEFLATED, _META_BYTES = b"1.2.840.10008.1.2.1.99", 2**20


def is_dicom(head: bytes, name: str) -> bool:
    """Whether a file begins like DICOM, with its preamble or, by the extension, without it."""
    bare = name.lower().endswith(_EXTENSIONS) and head[:2] in _FIRST_GROUPS
    return head[128:132] == b"DICM" or bare


def read_header(file: BinaryIO) -> Header:
    """Size, frames as pages, and depth."""
    dataset = _dataset(file)
    width, height = _size(dataset)
    deep = int(dataset.BitsStored) > 8 or _is_rescaled(dataset, 0)
    return Header(height, width, _frames(dataset), max(9, int(dataset.BitsStored)) if deep else 8)


def read_samples(file: BinaryIO, page: int) -> Samples:
    """The values of one frame after the modality transform."""
    dataset = _dataset(file)
    size, photometric = _size(dataset), str(dataset.PhotometricInterpretation)
    require_size(size, _BYTES_PER_SAMPLE * int(dataset.get("SamplesPerPixel", 1)), photometric)
    if page >= _frames(dataset):
        raise RejectedError("truncated", f"there is no frame {page}", size, photometric)
    values = _pixel_values(file, dataset, page)
    rescaled = _is_rescaled(dataset, page)
    if photometric == "PALETTE COLOR":
        values = _through_palette(values, dataset)
    else:
        outside = _outside(values, dataset)
        values = _rescaled(values, dataset, page) if rescaled else values
        if outside is not None and outside.any() and not outside.all():
            inside = values[~outside]
            values = np.where(outside, inside.max() if photometric == "MONOCHROME1" else inside.min(), values)
    values = values.reshape(*values.shape[:2], -1)
    require_finite(values, photometric)
    bits = int(dataset.BitsStored)
    if values.dtype == np.uint8 and bits < 8 and photometric.startswith("MONOCHROME"):
        values = (values & 2**bits - 1) * np.uint8(255 // (2**bits - 1))
    is_absolute = rescaled or values.dtype.kind != "u"
    frames = _frames(dataset)
    return Samples(
        values,
        photometric,
        size,
        white=0 if is_absolute else 2**bits - 1,
        inverted=photometric == "MONOCHROME1",
        window=_window(dataset, page),
        notes=(f"first of {frames} frames",) if frames > 1 and page == 0 else (),
    )


def _dataset(file: BinaryIO) -> Dataset:
    """All but the pixels."""
    try:
        import pydicom
    except ImportError as error:
        raise RejectedError("unsupported format", "DICOM needs pydicom: pip install 'diffaug[dicom]'") from error
    file.seek(0)
    if _DEFLATED in file.read(_META_BYTES):  # it would be unpacked as a whole, whatever its size
        raise RejectedError("unsupported format", "deflated DICOM: decompress it, such as with dcmconv")
    file.seek(0)
    dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
    if "Rows" not in dataset or "PhotometricInterpretation" not in dataset:
        raise RejectedError("unsupported format", "a DICOM file without an image, such as a report")
    return dataset


def _size(dataset: Dataset) -> tuple[int, int]:
    return int(dataset.Columns), int(dataset.Rows)


def _frames(dataset: Dataset) -> int:
    return max(1, min(int(dataset.get("NumberOfFrames") or 1), MAX_PAGES))


def _pixel_values(file: BinaryIO, dataset: Dataset, page: int) -> Values:
    """The values of one frame; of a long file nothing else is read."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import ImplicitVRLittleEndian

    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", ImplicitVRLittleEndian)
    if syntax.is_compressed:
        try:
            available = get_decoder(syntax).is_available
        except NotImplementedError:
            available = False
        if not available:
            raise _not_decompressed(syntax, dataset)
        _require_honest_frame(file, page)
    file.seek(0)
    if file.read(132)[128:] != b"DICM":
        return _bare_values(file, syntax, page)
    file.seek(0)
    try:
        return np.asarray(pixel_array(file, index=page))
    except RuntimeError as error:
        if syntax.is_compressed and "does not support" in str(error):
            raise _not_decompressed(syntax, dataset) from error
        raise


def _require_honest_frame(file: BinaryIO, page: int) -> None:
    """A RejectedError if a compressed frame is a JPEG or JPEG 2000 that takes more than the size in the file says."""
    from pydicom.encaps import get_frame

    dataset = _dataset(file)  # and the file is where the pixels begin
    file.seek(_BYTES_BEFORE_FRAMES, os.SEEK_CUR)
    frame = io.BytesIO(get_frame(file, page, number_of_frames=int(dataset.get("NumberOfFrames") or 1)))
    try:
        image = Image.open(frame, formats=["JPEG", "JPEG2000"])
    except UnidentifiedImageError:
        return
    if image.size != _size(dataset):
        raise RejectedError("truncated", "a frame has another size than the file says", _size(dataset), image.mode)
    require_decodable(image, frame, whole=True)


def _not_decompressed(syntax: Any, dataset: Dataset) -> RejectedError:
    note = f"DICOM compressed as {syntax.name}: decompress it, such as with gdcmconv --raw"
    return RejectedError("unsupported format", note, _size(dataset), str(dataset.PhotometricInterpretation))


def _bare_values(file: BinaryIO, syntax: Any, page: int) -> Values:
    """The values of a file without preamble, which pydicom reads only as a whole."""
    import pydicom
    from pydicom.pixels.utils import pixel_array

    file.seek(0)
    dataset = pydicom.dcmread(file, force=True)
    dataset.file_meta.TransferSyntaxUID = syntax
    return np.asarray(pixel_array(dataset, index=page))


def _through_palette(values: Values, dataset: Dataset) -> Values:
    from pydicom.pixels.processing import apply_color_lut

    colors = np.asarray(apply_color_lut(values, dataset))
    return (colors >> 8).astype(np.uint8) if colors.dtype == np.uint16 else colors


def _rescaled(values: Values, dataset: Dataset, page: int) -> Values:
    """The values in their units."""
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        return np.asarray(apply_modality_lut(values, dataset))
    slope, intercept = _slope_and_intercept(dataset, page)
    integral = slope.is_integer() and intercept.is_integer()
    result = values.astype(np.float64) * slope + intercept
    with np.errstate(over="ignore"):  # infinite values are refused where they are shown
        return result.astype(np.int32 if integral and np.abs(result).max() < 2**31 else np.float32)


def _outside(values: Values, dataset: Dataset) -> NDArray[np.bool_] | None:
    """Pixels outside the scanned area, which become black (PS3.3 C.7.5.1.1.2)."""
    first = dataset.get("PixelPaddingValue")
    if first is None or int(dataset.BitsStored) <= 8:
        return None
    last = dataset.get("PixelPaddingRangeLimit", first)
    return np.asarray((values >= min(first, last)) & (values <= max(first, last)), np.bool_)


def _is_rescaled(dataset: Dataset, page: int) -> bool:
    return bool(dataset.get("ModalityLUTSequence")) or _slope_and_intercept(dataset, page) != (1.0, 0.0)


def _slope_and_intercept(dataset: Dataset, page: int) -> tuple[float, float]:
    for item in _items(dataset, page, "PixelValueTransformationSequence"):
        if item.get("RescaleSlope") is not None:
            return float(item.RescaleSlope), float(item.get("RescaleIntercept") or 0)
    return 1.0, 0.0


def _window(dataset: Dataset, page: int) -> tuple[float, float] | None:
    """The first window by PS3.3 C.11.2.1.2.1: the values from which on all is black, and white."""
    for item in _items(dataset, page, "FrameVOILUTSequence"):
        center, width = (_first(item.get(name)) for name in ("WindowCenter", "WindowWidth"))
        if center is not None and width is not None and width > 1:
            return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    return None


def _items(dataset: Dataset, page: int, sequence: str) -> Iterator[Dataset]:
    """Where a frame's attributes can be: in the data set itself, or in its functional groups."""
    yield dataset
    groups = [*dataset.get("SharedFunctionalGroupsSequence", [])[:1]]
    groups += dataset.get("PerFrameFunctionalGroupsSequence", [])[page : page + 1]
    for group in groups:
        yield from group.get(sequence, [])


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__getitem__") else value)
