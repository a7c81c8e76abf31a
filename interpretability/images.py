"""Image files as tensors, read as a person would expect."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")  # others start programs (EPS) or are rarely looked after
MOST_PIXELS = 89_000_000  # a few kilobytes can hold gigabytes
WIDE_ENOUGH = 1000  # pixels of the shorter side of a photo of a digit
LONGEST_ASPECT = 8  # what lies further out than this many widths is cropped away in any case
MAX_INKED_BORDER, MIN_SEPARATION = 0.3, 0.8  # noise on empty paper reaches 0.64, a smooth shadow 0.75, digits 0.82
MIN_CONTRAST = 0.1  # between the darkest and the brightest pixel
DIGIT_SIZE, DIGIT_BOX = 28, 20  # MNIST: the ink fits a 20×20 box, its centre of mass in the middle of 28×28


@dataclass(frozen=True)
class ImageReader:
    """Reads an image file as a network wants it: resized, the middle cropped, (channels, *size) in [0, 1].

    EXIF orientation is applied, transparency stands over white.

    Args:
        size: height and width of the result.
        resize: height and width that the image is resized to cover before the crop; None for ``size``.
        squash: resize to exactly ``resize`` and change the proportions, instead of cropping what overhangs.
        interpolation: of the resizing.
        channels: 3 for colour, 1 for grey.
    """

    size: tuple[int, int]
    resize: tuple[int, int] | None = None
    squash: bool = False
    interpolation: InterpolationMode = InterpolationMode.BILINEAR
    channels: int = 3

    def __call__(self, path: str | Path) -> Tensor:
        """The image in the file ``path``.

        Raises:
            OSError: no such file.
            ValueError: not an image, a damaged one, or one that unpacks to more than 89 million pixels.
        """
        height, width = self.resize or self.size
        image = _centre(read_image(path).convert("RGB" if self.channels == 3 else "L"))
        if self.squash:
            target = [height, width]
        elif height == width:
            target = [height]  # of the shorter side
        else:
            scale = max(height / image.height, width / image.width)
            target = [max(height, round(image.height * scale)), max(width, round(image.width * scale))]
        image = transforms.resize(image, target, self.interpolation)
        return transforms.pil_to_tensor(transforms.center_crop(image, list(self.size))).float() / 255

    def resized(self, size: tuple[int, int]) -> "ImageReader":
        """The same for another ``size``, with as much cropped away."""
        if self.resize is None:
            return replace(self, size=size)
        rows, columns = (round(new * r / old) for new, r, old in zip(size, self.resize, self.size))
        return replace(self, size=size, resize=(rows, columns))


def load_image(path: str | Path, size: int = 224, resize: int | None = None) -> Tensor:
    """An image file for an ImageNet network: (3, size, size) in [0, 1].

    The shorter side is resized to ``resize`` (default: 256/224 of ``size``) and the middle cropped, as torchvision's
    own preset does. Raises as :class:`ImageReader` does.
    """
    shorter = resize or round(size * 256 / 224)
    return ImageReader((size, size), (shorter, shorter))(path)


def load_digit(path: str | Path) -> Tensor:
    """A picture or photo of one digit as MNIST shows it: (1, 28, 28) in [0, 1], white on black.

    The ink is told from the paper by Otsu's threshold (the border is paper; where its light is too uneven for
    one threshold, it is evened out first), cropped, scaled into a 20×20 box and centred by its mass.
    Raises as :class:`ImageReader` does, and ValueError where no ink stands out.
    """
    image = read_image(path).convert("L")
    image = image.reduce(max(1, min(image.size) // WIDE_ENOUGH))  # a photo's further pixels only cost memory
    grey = np.asarray(image, dtype=np.float32) / 255
    if np.ptp(grey) < MIN_CONTRAST:
        raise ValueError(f"{path}: no digit in it, all of the image is the same grey")
    ink, threshold = _ink(grey)
    if not _stands_out(ink, threshold):
        ink, threshold = _ink(_evenly_lit(grey))
        if not _stands_out(ink, threshold):
            raise ValueError(f"{path}: no digit in it that stands out from the paper")
    paper, pen = ink[ink <= threshold].mean(), ink[ink > threshold].mean()
    ink = ((ink - (paper + threshold) / 2) / (pen - (paper + threshold) / 2)).clip(0, 1)
    rows, columns = np.nonzero(ink > 0.2)
    cropped = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scale = DIGIT_BOX / max(cropped.shape)
    height, width = (max(1, round(side * scale)) for side in cropped.shape)
    small = Image.fromarray(cropped).resize((width, height), Image.Resampling.BILINEAR)
    return _centred(torch.from_numpy(np.array(small)))[None]


def read_image(path: str | Path) -> Image.Image:
    """The image upright, in mode RGB or L, transparency laid over white; of an animation its first picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below, before it is unpacked
            file = Image.open(path, formats=FORMATS)
        with file:
            if file.width * file.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            image = ImageOps.exif_transpose(file)
            image.load()
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Image.DecompressionBombError:
        most = f"more than {MOST_PIXELS // 10**6} million pixels; make it smaller"
        raise ValueError(f"{path}: not an image that can be read ({most})") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image that can be read; one is {', '.join(FORMATS)}") from None
    except Exception as error:  # a damaged file fails in many ways, few of them documented
        raise ValueError(f"{path}: not an image that can be read ({error or type(error).__name__})") from None
    if image.mode == "F":
        raise ValueError(f"{path}: floating-point pixels do not say how bright white is; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scaling
        return Image.fromarray((np.asarray(image, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8))
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode in {"RGB", "L"} else image.convert("RGB")


def _centre(image: Image.Image) -> Image.Image:
    """Without the far ends of a very long image: resizing them first would take gigabytes."""
    longest = LONGEST_ASPECT * min(image.size)
    width, height = (min(side, longest) for side in image.size)
    return transforms.center_crop(image, [height, width])


def _ink(grey: np.ndarray) -> tuple[np.ndarray, float]:
    """``grey`` with the ink brighter than the paper, and the threshold between them."""
    ink = 1 - grey if np.median(_border(grey)) > grey.mean() else grey
    return ink, _otsu(ink)


def _stands_out(ink: np.ndarray, threshold: float) -> bool:
    if np.ptp(ink) < MIN_CONTRAST:
        return False
    inked_border = (_border(ink) > threshold).mean()
    return bool(inked_border <= MAX_INKED_BORDER or _separation(ink, threshold) >= MIN_SEPARATION)


def _evenly_lit(grey: np.ndarray) -> np.ndarray:
    """Without the light, a quadratic surface through the border; in [0, 1], the paper about a half."""
    y, x = (axis.astype(np.float32) for axis in np.ogrid[-1 : 1 : grey.shape[0] * 1j, -1 : 1 : grey.shape[1] * 1j])
    terms = [np.broadcast_to(term, grey.shape) for term in (np.float32(1), x, y, x * x, x * y, y * y)]
    weights = np.linalg.lstsq(np.stack([_border(term) for term in terms], axis=1), _border(grey), rcond=None)[0]
    return (0.5 + grey - sum(w * term for w, term in zip(weights, terms, strict=True))).clip(0, 1)


def _border(image: np.ndarray) -> np.ndarray:
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])


def _otsu(values: np.ndarray) -> float:
    """The threshold that best splits ``values`` in [0, 1] in two classes (Otsu 1979, eq. 18)."""
    counts, edges = np.histogram(values, bins=256, range=(0.0, 1.0))
    centres = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    mass = (counts * centres).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    return float(edges[1 + np.nan_to_num(between).argmax()])


def _separation(values: np.ndarray, threshold: float) -> float:
    """The share of the variance that is between the two classes (Otsu 1979, eq. 22): 1 for two pure shades."""
    high = values > threshold
    share = high.mean()
    return float(share * (1 - share) * (values[high].mean() - values[~high].mean()) ** 2 / values.var())


def _centred(digit: Tensor) -> Tensor:
    """``digit`` on a black 28×28 square, its centre of mass as near the middle as it fits."""
    square = torch.zeros(DIGIT_SIZE, DIGIT_SIZE)
    corner = []
    for axis, side in enumerate(digit.shape):
        mass = digit.sum(dim=1 - axis)
        centre = float((mass * torch.arange(side)).sum() / mass.sum())
        corner.append(min(max(round((DIGIT_SIZE - 1) / 2 - centre), 0), DIGIT_SIZE - side))
    top, left = corner
    square[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return square
