"""Errors that a user can fix."""

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
    r"""First line of an error message of another library, or the name of the error if the message is empty.

    >>> first_line(ValueError("one\ntwo")), first_line(KeyboardInterrupt())
    ('one', 'KeyboardInterrupt')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class AnywidthError(Exception):
    """Base of every error of this package; the message names the thing, its value and the fix."""


class AnalysisError(AnywidthError):
    """The model could not be captured or analysed."""


class ModelChangedError(AnalysisError):
    """The model of a supernet was changed in a way that needs a new supernet."""


class WidthError(AnywidthError, ValueError):
    """A width, a pattern or a width config that does not fit the supernet."""


class BudgetError(AnywidthError, ValueError):
    """A budget that cannot be read, or that limits something else than what is chosen by."""


class UncalibratedError(AnywidthError, RuntimeError):
    """A width was evaluated whose batch-norm statistics were never computed, or are out of date."""


class CheckpointError(AnywidthError):
    """A checkpoint is missing, truncated, foreign or of another model."""


class DataError(AnywidthError, ValueError):
    """A data set is missing, damaged or not of the expected form."""


class ImageError(DataError):
    """One image of a data set cannot be read."""


class ExportError(AnywidthError):
    """A width could not be exported, or the exported file does not compute what the subnet computes."""


class ModelError(AnywidthError, ValueError):
    """A model name is unknown or the model does not fit the data."""


class SearchError(AnywidthError, ValueError):
    """A search cannot continue: an unreachable budget, no held-out images, a score or cost that is not a number."""


class SettingsError(AnywidthError, ValueError):
    """A setting has an invalid value, settings do not fit together, or a file of settings cannot be read."""


class TrainingError(AnywidthError, RuntimeError):
    """Training cannot continue: the loss is not finite, or the run folder is not usable."""


class NotFiniteError(TrainingError):
    """A loss is NaN or infinite; the weights are as before the step."""


class LossError(AnywidthError, ValueError):
    """A loss, a distillation or a score does not fit the outputs and targets, or was not specified."""


class MissingExtraError(AnywidthError, ImportError):
    """A package of an optional extra is needed; the message says what to install."""


class NoEffectWarning(UserWarning):
    """A setting has no effect."""
