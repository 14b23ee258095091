"""Convert an image file to the input of a network."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anywidth.serving.refusal import Refusal

__all__ = ["ImageReader"]

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


@dataclass(frozen=True, kw_only=True)
class ImageReader:
    """Reads image files as in evaluation: center-cropped to the network's shape and normalized.

    Attributes:
        shape: (channels, height, width) of the network's input; one channel is gray, three are red, green, blue.
        mean: Per channel, subtracted from pixels in [0, 1].
        std: Per channel, divides the pixels.
        pixels: Maximum number of pixels of a file.

    >>> reader = ImageReader(shape=(1, 8, 8), mean=[0.5], std=[0.25])
    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("RGB", (40, 30), "white").save(file, "PNG")
    >>> array = reader.read(file.getvalue())
    >>> array.shape, float(array.min())
    ((1, 1, 8, 8), 2.0)
    """

    shape: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]
    pixels: int = 16_000_000

    def read(self, content: bytes) -> npt.NDArray[Any]:
        """The image of a file as a batch of one, (1, channels, height, width) in 32-bit floats.

        Raises:
            Refusal: the image cannot be read (status 400) or has too many pixels (413).
        """
        from PIL import Image, ImageOps

        channels, height, width = self.shape
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # for large images, whose size is checked here
                image = Image.open(io.BytesIO(content), formats=_FORMATS)
                if image.width * image.height > self.pixels:
                    raise Refusal(
                        413,
                        f"the image has {image.width} x {image.height} pixels, above {self.pixels}",
                        reason="pixels",
                    )
                image = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
        except Refusal:
            raise
        except Image.DecompressionBombError:
            raise Refusal(413, f"the image has more than {self.pixels} pixels", reason="pixels") from None
        except Exception as error:  # decoders raise various errors on damaged bytes
            raise Refusal(400, f"cannot read the image ({type(error).__name__}); send {', '.join(_FORMATS)}") from None
        # Photographs are cropped as in evaluation; small images have no border to crop.
        border = 0.0 if min(height, width) <= 64 else 0.0625
        fitted = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR, bleed=border)
        pixels = np.asarray(fitted, np.float32).reshape(height, width, channels).transpose(2, 0, 1) / 255
        mean, std = (np.asarray(values, np.float32).reshape(-1, 1, 1) for values in (self.mean, self.std))
        return np.ascontiguousarray((pixels - mean) / std)[None]
