"""Decode image files: to 8-bit colour, or to the channels and the depth that a dataset names.

Images of an own `PixelFormat` stay on the scale of 8 bits, 0..255: one of 8 bits is uint8, a deeper one float32, so
that the division by 255 before the network, the padding and the augmentations hold for all of them.
"""

import os
import struct
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import torch
from numpy.lib import format as npy
from PIL import Image
from torch import Tensor

from utils.console import LOGGER
from utils.files import key_place, open_regular

HEIC = ("heic", "heif")
HAS_HEIC = find_spec("pillow_heif") is not None  # an optional package, BSD-3; its wheels hold libheif and x265 (GPLv2)
IMG_FORMATS = (
    "avif", "bmp", "dng", "jfif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp", "pfm", *HEIC * HAS_HEIC,
)  # fmt: skip
VID_FORMATS = ("asf", "avi", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ts", "webm", "wmv")
ARRAYS = "npy"  # suffix of NumPy arrays; YOLOv5 keeps such files beside 8-bit colour images, where they are no images
TIFFS = (".tif", ".tiff")
MAX_CHANNELS = 512  # OpenCV's
MAX_PIXELS = 1 << 30  # that OpenCV decodes
MAX_PREVIEWS = 16  # smaller versions of an image in one TIFF file
PHOTOMETRIC_GREY = (0, 1)  # of a TIFF: white is zero, black is zero
ANIMATION_FPS = 10.0  # where the file does not tell
DARK = 127.0  # deep images whose brightest pixels are below are brightened where they are drawn
_PIL_LIMIT = threading.Lock()  # PIL keeps it in a variable of all threads

# What PIL thinks of EXIF, tables and sizes that do not stop it is noise without a file name; what stops it is an error.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # we name what it cannot decode


# Channels and depth -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class PixelFormat:
    """Channels and depth in which images are read.

    Attributes:
        channels: 1 reads grey, 3 colour, any other number files with as many bands.
        bits: that images of more than 8 bits use: the largest value is 2 ** bits - 1. None takes all bits of the type
            of each file; with three channels it reduces deeper images to 8 bits, as YOLOv5 does.
    """

    channels: int = 3
    bits: int | None = None

    @classmethod
    def of(cls, table: Mapping[str, Any], source: Any, key: str = "channels") -> "PixelFormat":
        """Read the keys `channels` (in a model YAML `ch`) and `bits`.

        Raises:
            ValueError: a wrong value; names `source`, a file.
        """
        channels, bits = table.get(key), table.get("bits")
        channels = 3 if channels is None else channels
        if type(channels) is not int or not 1 <= channels <= MAX_CHANNELS:
            where = key_place(source, key)
            raise ValueError(f"{where}: {key}: {channels!r:.80} is not a number of channels, 1 to {MAX_CHANNELS}")
        if bits is not None and (type(bits) is not int or not 8 <= bits <= 16):
            raise ValueError(f"{key_place(source, 'bits')}: bits: {bits!r:.80} is not a number of bits, 8 to 16")
        return cls(channels, bits)

    def __str__(self) -> str:
        return f"channels: {self.channels}{'' if self.bits is None else f', bits: {self.bits}'}"

    @property
    def keys(self) -> dict[str, int]:
        """Keys of a dataset YAML, none for 8-bit colour."""
        keys = {} if self.plain else {"channels": self.channels}
        return keys if self.bits is None else {**keys, "bits": self.bits}

    @property
    def plain(self) -> bool:
        """Whether it is 8-bit colour, as without any key."""
        return self == COLOR8

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the image files that are read."""
        return IMG_FORMATS if self.plain else (*IMG_FORMATS, ARRAYS)

    @property
    def mark(self) -> str:
        """What caches add to their keys, "" for 8-bit colour."""
        return "" if self.plain else f" {self}"

    @property
    def depth(self) -> int:
        """Bits of the largest value in images of more than 8 bits."""
        return 16 if self.bits in (None, 8) else self.bits

    def same_scale(self, other: "PixelFormat") -> bool:
        """Return whether both read the same file to the same channels on the same scale."""
        return (self.channels, self.depth) == (other.channels, other.depth)

    def scaled(self, image: np.ndarray) -> np.ndarray:
        """Return an image from `read_pixels` on the scale 0..255: uint8 as it is, else float32."""
        if image.dtype == np.uint8:
            return image
        top = (1 << (self.bits or 16)) - 1 if image.dtype == np.uint16 else 1
        return image * np.float32(255 / top)

    def in_pages(self, file: str) -> bool:
        """Return whether the pages of an image file, if it has several, are its bands."""
        return self.channels not in (1, 3) and file.lower().endswith(TIFFS)

    def check_color(self) -> None:
        """Raise ValueError if neither colour nor grey is read, as videos, animations, cameras and screens have them."""
        if self.channels not in (1, 3):
            raise ValueError(
                f"the model reads images of {self.channels} channels, but this has colours alone, 3 channels"
            )

    def of_array(self, array: np.ndarray) -> np.ndarray:
        """Bring an array (H, W), (H, W, C) or (C, H, W) to (H, W, C) on the scale 0..255; three channels stay RGB.

        Raises:
            ValueError: it has other channels, a type without a fixed range, or values beyond it.
        """
        image = _bands_last(array, self.channels)
        image = image[..., None] if image.ndim == 2 else image
        if self.channels == 1 and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8:
            image = self.of_color(image[..., ::-1])
        return self.scaled(_checked(image, self))

    def of_color(self, image: np.ndarray) -> np.ndarray:
        """Return what the network gets of a BGR image (H, W, 3), such as a frame of a video.

        Raises:
            ValueError: it has other bands than colour and grey.
        """
        self.check_color()
        return image if self.channels == 3 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]


COLOR8 = PixelFormat()


def check_pixels(model: PixelFormat, data: Mapping[str, Any]) -> None:
    """Raise ValueError unless a model reads the images of a dataset (from `check_dataset`) as they are."""
    where = data.get("yaml_file") or "the dataset"
    own = PixelFormat.of(data, where)
    if not own.same_scale(model):
        raise ValueError(
            f"the model reads images of {model}, but {where} has {own}: give the --data it was trained with"
        )


def load_pixels(file: str, pixels: PixelFormat) -> np.ndarray:
    """Decode an image of any format: (H, W, C) on the scale 0..255, uint8 or float32, BGR with three channels.

    Raises:
        OSError: it cannot be read.
        ValueError: it cannot be decoded, or does not have this format.
    """
    if not pixels.plain:
        return pixels.scaled(read_pixels(file, pixels))
    image = decode_image(file)
    if image is None:
        raise ValueError("cannot be decoded: damaged, or not in a format that OpenCV knows")
    return image


def read_pixels(file: str, pixels: PixelFormat) -> np.ndarray:
    """Decode an image file in another format than 8-bit colour, turned as its EXIF data say.

    Grey is made of colour where one channel is asked for. Bands are samples of a pixel (PNG and TIFF with alpha, TIFF
    of any number by the package tifffile), pages of a TIFF, or an axis of a NumPy array, (H, W, C) or (C, H, W).

    Returns:
        (H, W, C) uint8, uint16 or float32 as it is in the file; BGR with three channels, else the bands in the order of
        the file. `PixelFormat.scaled` brings it to 0..255.

    Raises:
        OSError: it cannot be read.
        ValueError: it cannot be decoded, has other channels, a type without a fixed range, or values beyond it.
    """
    suffix = Path(file).suffix.lower()
    with open_regular(file, buffering=0) as f:
        data = np.fromfile(f, np.uint8)
    if suffix == f".{ARRAYS}" or (suffix in TIFFS and _needs_tifffile(data)):
        found = _read_tifffile(data) if suffix in TIFFS else _read_array(data)
        image = _bands_last(found, pixels.channels)
        image = image[..., ::-1] if pixels.channels == 3 else image
    elif pixels.channels in (1, 3):
        image = _decode(data, cv2.IMREAD_GRAYSCALE if pixels.channels == 1 else cv2.IMREAD_COLOR, file)
    else:
        image = _read_bands(data, file, pixels.channels)
    return _checked(image[..., None] if image.ndim == 2 else image, pixels)


def _checked(image: np.ndarray, pixels: PixelFormat) -> np.ndarray:
    """Return an image (H, W, C) as uint8, uint16 or float32.

    Raises:
        ValueError: it has other channels, another type, or values beyond the range of its type and of `bits`.
    """
    if image.ndim != 3 or image.shape[2] != pixels.channels or not image.size:
        shown = f"{image.shape[2]} channels" if image.ndim == 3 else f"the shape {image.shape}"
        raise ValueError(f"it has {shown}, but 'channels' is {pixels.channels}")
    if image.dtype.kind == "f":
        image = image.astype(np.float32)
        if not (image.min() >= 0 and image.max() <= 1):  # NaN is neither
            raise ValueError(f"floats must be from 0 to 1, these are from {image.min():g} to {image.max():g}")
    elif image.dtype.kind != "u" or image.itemsize > 2:
        raise ValueError(f"its type is {image.dtype}: allowed are uint8, uint16, and floats from 0 to 1")
    elif image.itemsize == 2 and pixels.bits and int(image.max()) >> pixels.bits:
        raise ValueError(f"it has the value {image.max()}, but 'bits: {pixels.bits}' ends at {(1 << pixels.bits) - 1}")
    return np.ascontiguousarray(image, image.dtype.newbyteorder("="))


def _read_array(data: np.ndarray) -> np.ndarray:
    """Return the array of an NPY file; nothing in it is executed."""
    stream = BytesIO(data.tobytes())
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (ValueError, EOFError) as error:
        raise ValueError(f"not a NumPy array: {' '.join(str(error).split())[:200]}") from None
    if dtype.hasobject or not 2 <= len(shape) <= 3 or 0 in shape:
        raise ValueError(f"an image is an array (H, W), (H, W, C) or (C, H, W) of numbers, this is {shape} {dtype}")
    values = data[stream.tell() :]
    if values.size != np.prod(shape, dtype=object) * dtype.itemsize:
        raise ValueError(f"cut off: an array {shape} of {dtype} does not take {values.size} bytes")
    return values.view(dtype).reshape(shape, order="F" if fortran else "C")


def _bands_last(image: np.ndarray, channels: int) -> np.ndarray:
    """Move the axis of the bands to the end, if it is the first one and only that fits."""
    first = image.ndim == 3 and image.shape[0] == channels != image.shape[2]
    return image.transpose(1, 2, 0) if first else image


def _decode(data: np.ndarray, flags: int, file: str) -> np.ndarray:
    """Decode an image of any depth with OpenCV."""
    if _is_heif(data):
        return _decode_heif(data, flags)
    avif = _is_avif(data)
    try:
        image = cv2.imdecode(data, flags | cv2.IMREAD_ANYDEPTH | (cv2.IMREAD_IGNORE_ORIENTATION if avif else 0))
    except cv2.error:
        image = None
    if image is None:
        raise ValueError("cannot be decoded: damaged, or not in a format that OpenCV knows")
    return turn(image, file) if avif else image


def _read_bands(data: np.ndarray, file: str, channels: int) -> np.ndarray:
    """Decode an image of 2, 4 or more bands: samples of each pixel, or pages of a TIFF."""
    try:
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        pages: Any = ()
        if file.lower().endswith(TIFFS) and image is not None and image.ndim == 2:
            _, pages = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        raise ValueError("cannot be decoded: damaged, or not in a format that OpenCV knows")
    if len(pages) > 1:
        if {(page.shape, page.dtype) for page in pages} != {(image.shape, image.dtype)}:
            raise ValueError("its pages are of several sizes or types, so they are no bands of one image")
        return np.stack(pages, 2)
    if image.ndim == 3 and image.shape[2] == 4:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)  # the order of the file
    return image if file.lower().endswith(TIFFS) else turn(image, file)  # of a TIFF OpenCV has turned it


def _needs_tifffile(data: np.ndarray) -> bool:
    """Return whether a TIFF has bands that OpenCV does not read: more than one of grey, or more than four."""
    head = data[:4].tobytes()
    if head in (b"II+\0", b"MM\0+"):  # BigTIFF
        return True
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head)
    if order is None:
        return False
    tags = {}
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        for k in range(count):
            tag, _, number, value = struct.unpack_from(f"{order}HHIH", data, at + 2 + 12 * k)
            tags[tag] = (number, value)
    except struct.error:
        return False
    samples, photometric = tags.get(277, (1, 1))[1], tags.get(262, (1, 1))[1]
    return samples > 4 or (samples > 1 and photometric in PHOTOMETRIC_GREY)


def _read_tifffile(data: np.ndarray) -> np.ndarray:
    """Read the first page of a TIFF with the package tifffile (BSD-3)."""
    try:
        import tifffile  # noqa: PLC0415  optional
    except ImportError:
        raise ValueError("OpenCV does not read the bands of this TIFF: pip install tifffile, or save an .npy") from None
    try:
        with tifffile.TiffFile(BytesIO(data.tobytes())) as tiff:
            page = tiff.pages[0]
            if page.size > MAX_PIXELS:
                raise ValueError(f"{page.size} values; at most {MAX_PIXELS} are read")
            image = page.asarray()
    except (tifffile.TiffFileError, IndexError, KeyError, TypeError, struct.error, ValueError, RuntimeError) as error:
        raise ValueError(f"tifffile cannot read it: {' '.join(str(error).split())[:200]}") from None
    return image


def pixel_bytes(file: str, pixels: PixelFormat) -> tuple[int, int]:
    """Return the bytes of a pixel of an image, all channels together: as it is read, and on the scale 0..255."""
    if pixels.plain:
        return 3, 3
    try:
        image = read_pixels(file, pixels)
    except (ValueError, OSError):
        return pixels.channels, pixels.channels
    return pixels.channels * image.itemsize, pixels.channels * pixels.scaled(image[:1, :1]).itemsize


def log_left_out(pixels: PixelFormat, augment: bool, hyp: Mapping[str, Any], prefix: str) -> None:
    """Log which augmentations that are on need 8-bit colour, if images are something else."""
    words = [word for word in ("hsv_h", "hsv_s", "albumentations") if hyp.get(word)]
    if augment and words and not pixels.plain:
        LOGGER.info(f"{prefix}{', '.join(words)} left out: they need 8-bit colour, and images here have {pixels}")


# Images to look at --------------------------------------------------------------------------------------------------
def rendition(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C) on the scale 0..255 as it is drawn: (H, W, 3) BGR uint8.

    One or two channels become grey of the first one; of more than three the first three are taken as red, green and
    blue. Deep images whose brightest pixels (99 %) do not reach half of the scale are brightened: they would be black.
    """
    channels = image.shape[2]
    shown = image if channels == 3 else image[..., 2::-1] if channels > 3 else image[..., :1].repeat(3, 2)
    if shown.dtype != np.uint8:
        high = float(np.percentile(shown, 99))
        shown = (shown * (255 / high if 0 < high < DARK else 1)).round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(shown)


def render_batch(images: Tensor) -> Tensor:
    """Return a batch (B, C, H, W), floats 0..1 or uint8, as it is drawn: (B, 3, H, W) RGB; three channels stay."""
    if images.shape[1] == 3:
        return images
    scaled = images if images.dtype == torch.uint8 else images.float() * 255
    drawn = [rendition(image.permute(1, 2, 0).cpu().numpy())[..., ::-1] for image in scaled]
    return torch.from_numpy(np.stack(drawn).transpose(0, 3, 1, 2).copy())


# 8-bit colour -------------------------------------------------------------------------------------------------------
def decode_image(file: str, flags: int = cv2.IMREAD_COLOR, pixels: PixelFormat = COLOR8) -> np.ndarray | None:
    """Decode an image, turned as its EXIF data say: (H, W, 3) BGR uint8 whatever its depth and channels.

    Args:
        file: image; OSError if it cannot be read.
        flags: `cv2.IMREAD_COLOR`, one of `cv2.IMREAD_REDUCED_COLOR_2`, 4, 8, or those for grey.
        pixels: of the dataset; images of another format than 8-bit colour are given as they are drawn, in full size.

    Returns:
        None if it cannot be decoded.
    """
    if not pixels.plain:
        try:
            image = rendition(pixels.scaled(read_pixels(file, pixels)))
        except ValueError:
            return None
        return image if flags & cv2.IMREAD_COLOR else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    with open_regular(file, buffering=0) as f:
        data = np.fromfile(f, np.uint8)
    if _is_heif(data):
        try:
            return _decode_heif(data, flags)
        except ValueError:
            return None
    avif = _is_avif(data)
    try:
        image = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION if avif else flags)
    except cv2.error:  # an empty file, or more pixels than OpenCV takes
        return None
    return turn(image, file) if avif and image is not None else image


def _is_avif(data: np.ndarray) -> bool:
    return data[4:11].tobytes() == b"ftypavi"


def _is_heif(data: np.ndarray) -> bool:
    head = data[:64].tobytes()
    return HAS_HEIC and head[4:11] in (b"ftyphei", b"ftyphev", b"ftypmif") and b"avif" not in head


def _decode_heif(data: np.ndarray, flags: int) -> np.ndarray:
    """Decode a HEIC image, turned as it says, with pillow-heif: BGR uint8 (10 and 12 bits are reduced), or grey.

    Raises:
        ValueError: it cannot be decoded.
    """
    import pillow_heif  # noqa: PLC0415  optional

    try:
        found = pillow_heif.open_heif(BytesIO(data.tobytes()), convert_hdr_to_8bit=True)
        if found.size[0] * found.size[1] > MAX_PIXELS:
            raise ValueError(f"{found.size[0]} x {found.size[1]} pixels; at most {MAX_PIXELS} are read")
        image = np.asarray(found)  # (H, W, 3 or 4) RGB
    except (ValueError, RuntimeError, SyntaxError, EOFError, OSError) as error:
        raise ValueError(f"pillow-heif cannot decode it: {' '.join(str(error).split())[:200]}") from None
    if image.ndim == 2:
        return image if not flags & cv2.IMREAD_COLOR else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    rgb = np.ascontiguousarray(image[..., :3])
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR if flags & cv2.IMREAD_COLOR else cv2.COLOR_RGB2GRAY)


def heic_hint(files: Iterable[str]) -> str:
    """Return what to do about HEIC files among others that are not read, "" if there are none."""
    found = not HAS_HEIC and any(file.lower().rpartition(".")[2] in HEIC for file in files)
    return "; for HEIC: pip install pillow-heif" if found else ""


def turn(image: np.ndarray, file: str) -> np.ndarray:
    """Turn pixels as the file says, where OpenCV does not: of AVIF it looks in EXIF data only, which do not count."""
    try:
        with open_regular(file) as f, open_image(f) as im:
            turn = orientation(im)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # PIL before 11.3 does not know AVIF
        return image
    if turn in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if turn in (2, 3, 6, 7):
        image = image[:, ::-1]
    if turn in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def open_image(file: BinaryIO) -> Image.Image:
    """Open an image of up to `MAX_PIXELS` with PIL, whose own limit is 179 million and stays as it is for others.

    Raises:
        OSError, ValueError, SyntaxError: PIL cannot read it, or it has more pixels.
    """
    with _PIL_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            im = Image.open(file)  # reads the head alone
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if im.width * im.height > MAX_PIXELS:
        raise ValueError(f"{im.width} x {im.height} pixels; at most {MAX_PIXELS} are read: cut it into tiles")
    return im


def orientation(im: Image.Image) -> int:
    """Return the orientation of EXIF, 1 (upright) if there is none or it cannot be read, as OpenCV takes it then."""
    try:
        return int(im.getexif().get(0x0112) or 1)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, struct.error):
        return 1


def exif_size(img: Image.Image) -> tuple[int, int]:
    """Return (width, height) of an image of PIL as its EXIF data say that it is shown."""
    width, height = img.size
    return (height, width) if orientation(img) in (5, 6, 7, 8) else (width, height)


def read_pages(file: str, pixels: PixelFormat) -> Iterator[np.ndarray]:
    """Decode all pages of a TIFF, previews left out: (H, W, C) on the scale 0..255, as `load_pixels` gives the first.

    Raises:
        OSError: it cannot be read.
        ValueError: a page cannot be decoded, or has values beyond the range.
    """
    flags = cv2.IMREAD_GRAYSCALE if pixels.channels == 1 else cv2.IMREAD_COLOR
    flags |= 0 if pixels.plain else cv2.IMREAD_ANYDEPTH
    with open_regular(file) as f, open_image(f) as im:
        for page in count():
            try:
                im.seek(page)
            except EOFError:
                return
            if getattr(im, "tag_v2", {}).get(254, 0) & 1:  # NewSubfileType: a reduced version
                continue
            try:
                read, found = cv2.imreadmulti(file, page, 1, flags=flags)
            except cv2.error:
                read, found = False, ()
            if not read or not found:
                raise ValueError(f"page {page + 1} cannot be decoded")
            image = found[0][..., None] if found[0].ndim == 2 else found[0]
            yield image if pixels.plain else pixels.scaled(_checked(image, pixels))


def read_animation(file: str, stride: int = 1) -> Iterator[tuple[np.ndarray, float]]:
    """Decode an animated WebP, PNG or AVIF: its frames (H, W, 3) BGR uint8, transparency dropped, and their rate.

    Args:
        file: of the animation.
        stride: take the last of every so many frames; the rate is divided by it.

    Raises:
        OSError: it cannot be read.
        ValueError: a frame cannot be decoded.
    """
    fps = 0.0
    with open_regular(file) as f, open_image(f) as im:
        for number in count():
            try:
                im.seek(number)
                im.load()
            except EOFError:
                return
            except (OSError, SyntaxError, struct.error) as error:
                raise ValueError(f"frame {number + 1} cannot be decoded: {error}") from None
            if not fps:  # of the first frame, as a video has one rate
                duration = float(im.info.get("duration") or 0)  # milliseconds
                fps = (1000 / duration if 1 <= duration < 60_000 else ANIMATION_FPS) / stride
            if number % stride == stride - 1:
                yield np.asarray(im.convert("RGB"))[..., ::-1].copy(), fps


def has_more_pages(file: str) -> bool:
    """Return whether an image has further pages or animation frames.

    Previews do not count: smaller versions of a page in a TIFF file, and the second image of an MPO file.
    """
    if not file.lower().endswith((*TIFFS, ".webp", ".avif", ".png")):
        return False
    try:
        with open_regular(file) as f, open_image(f) as im:
            for page in range(1, MAX_PREVIEWS):
                im.seek(page)
                if not getattr(im, "tag_v2", {}).get(254, 0) & 1:  # NewSubfileType: a reduced version
                    return True
    except (
        OSError,
        EOFError,
        ValueError,
        SyntaxError,
        TypeError,
        KeyError,
        struct.error,
        Image.DecompressionBombError,
    ):
        pass  # no such page, or nothing that PIL can read; OpenCV decides about the first one
    return False
