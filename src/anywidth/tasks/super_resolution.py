"""Super-resolution: a larger image from a small one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from anywidth.core.errors import SettingsError
from anywidth.tasks.from_loss import TaskFromLoss

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["SuperResolution", "luma"]


class SuperResolution(TaskFromLoss):
    """Images: mean absolute error, distilled to the teacher's image by the same error; PSNR and SSIM of the luma.

    Outputs and targets are RGB images of shape (batch, 3, height, width) with values in [0, 1], or their luma alone
    with one channel. The mean absolute error is the loss of EDSR (arXiv 1707.02921) and RCAN (arXiv 1807.02758).

    Args:
        scale: Factor from small to large images. As in the literature, a border of so many pixels is not scored.

    Raises:
        SettingsError: the scale is not a whole number above 0.

    >>> import torch
    >>> task = SuperResolution(2)
    >>> metric = task.metrics()["PSNR"]
    >>> metric.update(torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), 0.4))
    >>> round(float(metric.compute()), 2)  # the luma of RGB spans 219 of 255 steps
    21.32
    """

    def __init__(self, scale: int) -> None:
        if scale != int(scale) or scale < 1:
            raise SettingsError(f"scale={scale!r}; give the factor from small to large images, such as 2")
        super().__init__(nn.L1Loss())
        self.scale = int(scale)

    def metrics(self) -> Mapping[str, Metric]:
        """PSNR in dB, as the mean over images, and SSIM."""
        from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

        from anywidth.tasks.task_metric import TaskMetric

        prepare = partial(_luma_inside, border=self.scale)
        psnr = PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3), reduction="elementwise_mean")
        return {
            "PSNR": TaskMetric(psnr, unit="dB", prepare=prepare),
            "SSIM": TaskMetric(StructuralSimilarityIndexMeasure(data_range=1.0), prepare=prepare),
        }

    def predict(self, output: Any) -> Tensor:
        """The image with values in [0, 1]."""
        return super().predict(output).clamp(0, 1)


def luma(images: Tensor) -> Tensor:
    """The Y channel of RGB images by ITU-R BT.601, from 16/255 to 235/255; images of one channel are their own.

    Args:
        images: Shape (batch, 3 or 1, height, width), values in [0, 1].

    >>> import torch
    >>> (255 * luma(torch.ones(1, 3, 1, 1))).round()
    tensor([[[[235.]]]])
    """
    if images.shape[1] == 1:
        return images
    weights = images.new_tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1) / 255
    return (images * weights).sum(1, keepdim=True) + 16 / 255


def _luma_inside(prediction: Tensor, target: Tensor, *, border: int) -> tuple[Tensor, Tensor]:
    inside = slice(border, -border)
    return luma(prediction)[..., inside, inside], luma(target)[..., inside, inside]
