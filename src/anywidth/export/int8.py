"""Static quantization of one width to 8-bit integers, by ONNX Runtime."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from anywidth.core.batches import split_batch
from anywidth.core.errors import DataError
from anywidth.core.files import write_atomically
from anywidth.export.export import Exported, export
from anywidth.export.require import require_onnx
from anywidth.export.session import feeds, open_session
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["export_int8"]


def export_int8(net: Supernet, width: Width, path: str | Path, loader: Iterable[Any], *, batches: int = 16) -> Exported:
    """Write one width as an ONNX file of 8-bit integers: weights per output channel, activations per tensor.

    Activation ranges are the extreme values over a few batches of training images, for this width only. The format is
    QDQ, which all ONNX runtimes support. The loss of accuracy is not bounded; measure it with `evaluate_onnx`. The
    `difference` of the result is that of the 32-bit file before quantization.

    Args:
        net: The supernet, which is not changed.
        width: As in `Supernet.config`; must be calibrated.
        path: The file to write.
        loader: Batches of training images.
        batches: Number of batches to use.

    Raises:
        UncalibratedError: the width has no up-to-date batch-norm statistics.
        DataError: the loader is empty.
        ExportError, MissingExtraError, CheckpointError: as `anywidth.export`.

    >>> import torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 2)), torch.randn(1, 64))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = export_int8(net, 1.0, Path(folder, "small.onnx"), [torch.randn(8, 64)])
    >>> written.size < written.params[0] * 2
    True
    """
    require_onnx()
    import onnxruntime.quantization as quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared = Path(folder, "plain.onnx"), Path(folder, "prepared.onnx")
        written = export(net, width, plain, "onnx")

        class Reader(quantization.CalibrationDataReader):
            """Training images, by the input names of the file."""

            def __init__(self) -> None:
                session = open_session(plain)
                self.rest = (feeds(session, split_batch(batch)[0]) for batch in islice(loader, batches))
                self.count = 0

            def get_next(self) -> Any:
                found = next(self.rest, None)
                self.count += found is not None
                return found

        reader = Reader()

        def write(temporary: Path) -> None:
            with _quiet():
                quant_pre_process(plain, prepared, skip_symbolic_shape=True)
                try:
                    quantization.quantize_static(
                        prepared,
                        temporary,
                        reader,
                        quant_format=quantization.QuantFormat.QDQ,
                        per_channel=True,
                        activation_type=quantization.QuantType.QUInt8,
                        weight_type=quantization.QuantType.QInt8,
                        # Without VNNI, sums of two 8-bit products overflow 16 bits.
                        reduce_range=not _has_vnni(),
                    )
                except ValueError as error:
                    if reader.count == 0:
                        raise DataError("the calibration loader is empty; give at least one batch") from error
                    raise
            open_session(temporary)

        write_atomically(path, write)
    return Exported(**{**vars(written), "path": path, "size": path.stat().st_size})


def _has_vnni() -> bool:
    """Whether this machine's CPU multiplies 8-bit integers without overflow."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager that silences the quantizer's messages about its own internals."""
    logger = logging.getLogger()
    before = logger.level
    try:
        logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(before)
