"""Construction of a supernet: analysis, order of the channels, norms per shell and fixed widths."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from anywidth.core.errors import NoEffectWarning
from anywidth.core.inputs import Inputs
from anywidth.groups import analyse
from anywidth.supernet.order import Order, reorder_
from anywidth.supernet.replace_norms import norms_over_shells, replaced_norms
from anywidth.supernet.settings import SupernetSettings
from anywidth.supernet.state import SupernetState

__all__ = ["constructed"]


@contextmanager
def constructed(
    model: nn.Module, inputs: Inputs, settings: SupernetSettings, order: Order | None
) -> Iterator[SupernetState]:
    """Context manager with the state of a new supernet, whose model is changed as the settings ask.

    Norms are put back if an error is raised inside. Weights of later shells are set to zero at the end.

    Args:
        model: The model.
        inputs: Example inputs.
        settings: The settings.
        order: As in `Supernet`.

    Raises:
        AnalysisError: the model cannot be captured or nested.
        WidthError: the settings do not fit the model.
    """
    state = SupernetState(model, inputs, analyse(model, inputs, samples=settings.samples), settings)
    fixed = state.fixed_configs()
    if order is not None:  # after all checks of the settings, because it changes the model
        reorder_(model, state.analysis, inputs, order)
    norms = {} if settings.nested_norm is None else norms_over_shells(model, inputs, state.analysis, fixed)
    if settings.nested_norm is not None and not norms:
        warnings.warn(
            f'nested_norm="{settings.nested_norm}" has no effect: {type(model).__name__} has no layer, RMS or group '
            "norm over elastic channels that other channels are made from",
            NoEffectWarning,
            stacklevel=4,
        )
    with replaced_norms(model, norms):
        if norms:
            state = SupernetState(model, inputs, analyse(model, inputs, samples=settings.samples), settings)
        state.fix_widths()
        yield state
    if state.shells is not None:
        if order is None:
            state.shells.scale_()
        state.shells.zero_()
