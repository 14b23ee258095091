"""Errors that users can fix."""

from __future__ import annotations

__all__ = [
    "AnalysisError",
    "AnywidthError",
    "BudgetError",
    "CheckpointError",
    "DataError",
    "ExportError",
    "ImageError",
    "LossError",
    "MissingExtraError",
    "ModelChangedError",
    "ModelError",
    "NoEffectWarning",
    "NotFiniteError",
    "SearchError",
    "SettingsError",
    "TrainingError",
    "UncalibratedError",
    "WidthError",
    "first_line",
]


def first_line(error: BaseException) -> str:
    r"""First line of another library's error message, or the name of the error if the message is empty.

    >>> first_line(ValueError("one\ntwo")), first_line(KeyboardInterrupt())
    ('one', 'KeyboardInterrupt')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class AnywidthError(Exception):
    """Base class of all errors of this package. The message says what is wrong, with its value, and how to fix it."""


class AnalysisError(AnywidthError):
    """The model cannot be captured or analysed."""


class ModelChangedError(AnalysisError):
    """The model of a supernet was changed, and the supernet must be built again."""


class WidthError(AnywidthError, ValueError):
    """A width, a pattern or a width config does not fit the supernet."""


class BudgetError(AnywidthError, ValueError):
    """A budget cannot be parsed, or limits an unsupported quantity."""


class UncalibratedError(AnywidthError, RuntimeError):
    """A width has no batch-norm statistics, or they are out of date."""


class CheckpointError(AnywidthError):
    """A checkpoint is missing, damaged, in an unknown format or from another model."""


class DataError(AnywidthError, ValueError):
    """A dataset is missing, damaged or malformed."""


class ImageError(DataError):
    """One image of a dataset cannot be read."""


class ExportError(AnywidthError):
    """A width cannot be exported, or the exported file does not match the subnet."""


class ModelError(AnywidthError, ValueError):
    """A model name is unknown or the model does not fit the data."""


class SearchError(AnywidthError, ValueError):
    """A search cannot continue: an unreachable budget, no held-out images, a score or cost that is not a number."""


class SettingsError(AnywidthError, ValueError):
    """A setting is invalid, settings contradict each other, or a settings file cannot be read."""


class TrainingError(AnywidthError, RuntimeError):
    """Training cannot continue: the loss is not finite, or the run folder is not usable."""


class NotFiniteError(TrainingError):
    """A loss is NaN or infinite; the weights are as before the step."""


class LossError(AnywidthError, ValueError):
    """A loss, distillation or score does not fit the outputs and targets, or must be specified."""


class MissingExtraError(AnywidthError, ImportError):
    """A package from an optional extra is required; the message says what to install."""


class NoEffectWarning(UserWarning):
    """A setting has no effect."""
