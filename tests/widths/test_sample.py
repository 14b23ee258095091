"""Random widths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anywidth.widths import WidthSampler


@given(seed=st.integers(0, 99), grid=st.lists(st.floats(0.25, 1.0), min_size=1, max_size=8))
def test_random_widths_come_from_the_grid(seed: int, grid: list[float]) -> None:
    sampler = WidthSampler(0.25, seed=seed, grid=grid)
    widths = sampler.sandwich(40)
    assert widths[:2] == [1.0, 0.25]
    assert set(widths[2:]) <= set(grid)
    state = sampler.state_dict()
    following = sampler.sandwich(9)
    again = WidthSampler(0.25, seed=seed + 1, grid=grid)
    again.load_state_dict(state)
    assert again.sandwich(9) == following


def test_all_of_the_grid_are_drawn() -> None:
    grid = (0.25, 0.5, 0.75, 1.0)
    assert set(WidthSampler(0.25, grid=grid).sandwich(200)) == set(grid)
