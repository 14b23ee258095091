"""The queue and its thread."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from anywidth.export.session import open_session
from anywidth.serving import Batcher, Governor, Ladder, Refusal, TensorSpec
from served_tiny import make_governor

X = TensorSpec(name="x", dtype=np.dtype(np.float32), shape=(None, 2))


class Held:
    """A ladder whose calls wait for `go`, and are noted; it adds the width to its input."""

    def __init__(self) -> None:
        self.go, self.began = threading.Event(), threading.Event()
        self.calls: list[tuple[float, int]] = []
        self.ladder = Ladder({w: self._step(w) for w in (0.25, 0.5, 1.0)}, [X], [X], "test")

    def _step(self, width: float):
        def step(inputs):
            self.began.set()
            assert self.go.wait(10)
            self.calls.append((width, len(inputs[0])))
            if (inputs[0] == 13).any():
                raise ValueError("thirteen")
            return [inputs[0] + width]

        return step


@pytest.fixture
def held():
    held = Held()
    yield held
    held.go.set()


def rows(count: int, value: float = 0.0) -> list[np.ndarray]:
    return [np.full((count, 2), value, np.float32)]


def blocked(held: Held, governor: Governor, **options: Any) -> tuple[Batcher, Future]:
    """A batcher that runs a first request, which does not end yet."""
    batcher = Batcher(held.ladder, governor, **options)
    first = batcher.submit(rows(1))
    assert held.began.wait(10)
    return batcher, first


def test_what_waits_goes_together_and_everyone_gets_their_own_rows(held):
    batcher, first = blocked(held, make_governor())
    futures = [batcher.submit(rows(count, value)) for count, value in ((1, 1.0), (3, 2.0), (2, 3.0), (4, 4.0))]
    held.go.set()
    answers = [future.result(10) for future in futures]
    assert held.calls == [(1.0, 1), (1.0, 6), (1.0, 4)]  # eight rows at most
    assert [answer.batch for answer in answers] == [6, 6, 6, 4]
    for answer, (count, value) in zip(answers, ((1, 2.0), (3, 3.0), (2, 4.0), (4, 5.0)), strict=True):
        assert np.array_equal(answer.outputs[0], rows(count, value)[0])
    assert first.result(10).width == 1.0
    assert batcher.drain(10)


def test_a_width_that_is_asked_for_is_run(held):
    batcher, _ = blocked(held, make_governor())
    futures = [batcher.submit(rows(1), width=w) for w in (0.25, 0.5, 0.25)] + [batcher.submit(rows(1), at_most=0.5)]
    held.go.set()
    assert [future.result(10).width for future in futures] == [0.25, 0.5, 0.25, 0.5]
    assert held.calls[1] == (0.25, 2)
    batcher.drain(10)


def test_a_full_queue_refuses_and_so_does_one_that_takes_too_long(held):
    batcher, _ = blocked(held, make_governor(), queue=2)
    accepted = [batcher.submit(rows(1)) for _ in range(2)]
    with pytest.raises(Refusal, match="2 requests are already waiting") as full:
        batcher.submit(rows(1))
    assert (full.value.status, full.value.reason) == (503, "full")
    held.go.set()
    assert all(future.result(10).width for future in accepted)
    batcher.drain(10)

    late = Held()
    batcher, _ = blocked(late, make_governor(target=0.004))

    def flood() -> None:
        for _ in range(50):
            batcher.submit(rows(1))

    with pytest.raises(Refusal, match="above the target of 4 ms") as overload:
        flood()
    assert overload.value.reason == "overload"
    assert overload.value.retry_after > 0.004
    late.go.set()
    batcher.drain(10)


def test_rows_that_ask_for_the_full_width_count_as_such(held):
    """At the narrowest width a row takes a quarter of a millisecond, and at the full width one."""

    def accepted(width: float | None) -> int:
        for count in range(1000):
            try:
                batcher.submit(rows(1), width=width)
            except Refusal:
                return count
        raise AssertionError("all were taken")

    batcher, _ = blocked(held, make_governor(target=0.040))
    narrow = accepted(None)
    held.go.set()
    batcher.drain(10)
    again = Held()
    batcher, _ = blocked(again, make_governor(target=0.040))
    assert accepted(1.0) < narrow / 2
    again.go.set()
    batcher.drain(10)


def test_what_is_late_is_answered_unless_others_can_be_in_time():
    now = [0.0]
    held = Held()
    batcher, first = blocked(held, make_governor(target=1.0), clock=lambda: now[0])
    late = [batcher.submit(rows(1)) for _ in range(3)]
    now[0] = 0.9
    fresh = batcher.submit(rows(1))
    now[0] = 1.5
    held.go.set()
    assert first.result(10).width == 1.0
    assert fresh.result(10).batch == 1
    for future in late:
        with pytest.raises(Refusal, match="not answered within the target latency; it waited 1500 ms") as refused:
            future.result(10)
        assert (refused.value.status, refused.value.reason) == (503, "late")
    assert batcher.drain(10)

    held = Held()
    batcher, first = blocked(held, make_governor(target=1.0), clock=lambda: now[0])
    late = [batcher.submit(rows(1)) for _ in range(3)]
    now[0] += 2
    held.go.set()
    assert [future.result(10).width for future in late] == [0.25] * 3
    assert batcher.drain(10)


def test_draining_answers_what_waits_and_takes_no_more(held):
    batcher, first = blocked(held, make_governor())
    waiting = [batcher.submit(rows(1)) for _ in range(5)]
    assert not batcher.drain(0.01)
    assert not batcher.open
    with pytest.raises(Refusal, match="shutting down"):
        batcher.submit(rows(1))
    held.go.set()
    assert batcher.drain(10)
    assert all(future.done() for future in (first, *waiting))
    assert [future.result().width for future in waiting] == [1.0] * 5


def test_one_bad_request_does_not_spoil_its_batch(held):
    batcher, _ = blocked(held, make_governor())
    good, bad, other = batcher.submit(rows(1)), batcher.submit(rows(1, 13.0)), batcher.submit(rows(1, 2.0))
    held.go.set()
    assert other.result(10).outputs[0][0, 0] == 3.0
    assert good.result(10).outputs[0][0, 0] == 1.0
    with pytest.raises(Refusal, match="the network does not accept this input: thirteen"):
        bad.result(10)
    assert batcher.open
    batcher.drain(10)


def ask_for_too_much_memory(runtime: str) -> None:
    """Let a runtime fail for want of 256 TB."""
    if runtime == "numpy":
        np.empty(2**46, np.float32)
    elif runtime == "torch":
        torch.empty(2**46)
    else:
        node = helper.make_node("ConstantOfShape", ["x"], ["y"])
        x, y = (helper.make_tensor_value_info(n, k, [s]) for n, k, s in (("x", 7, 1), ("y", 1, "n")))
        model = helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 18)])
        model.ir_version = 9
        open_session(model.SerializeToString()).run(None, {"x": np.array([2**46])})


@pytest.mark.parametrize("runtime", ["numpy", "torch", "onnx"])
def test_a_lack_of_memory_is_not_the_fault_of_the_request(held, runtime):
    """Together they take too much; then each is run alone, and the one for which there is no memory is told so."""

    def step(inputs):
        held.began.set()
        assert held.go.wait(10)
        if len(inputs[0]) > 2:
            ask_for_too_much_memory(runtime)
        return inputs

    held.ladder = Ladder(dict.fromkeys((0.25, 0.5, 1.0), step), [X], [X], "test")
    batcher, first = blocked(held, make_governor())
    small, large = batcher.submit(rows(2, 5.0)), batcher.submit(rows(3))
    held.go.set()
    assert small.result(10).outputs[0].tolist() == [[5.0, 5.0]] * 2
    with pytest.raises(Refusal, match="out of memory; try again, or send fewer rows") as refused:
        large.result(10)
    assert (refused.value.status, refused.value.reason) == (503, "memory")
    assert first.done()
    assert batcher.open
    batcher.drain(10)


def test_a_request_that_was_given_up_is_not_run(held):
    batcher, _ = blocked(held, make_governor())
    gone, stays = batcher.submit(rows(1)), batcher.submit(rows(2))
    assert gone.cancel()
    held.go.set()
    assert stays.result(10).batch == 2
    assert held.calls == [(1.0, 1), (1.0, 2)]
    batcher.drain(10)


def test_many_threads_get_each_their_own_answer(served):
    batcher = Batcher(served.ladder, make_governor(), queue=1000)
    random = np.random.default_rng(0)
    images = random.normal(size=(60, 3, 8, 8)).astype(np.float32)
    found: dict[int, float] = {}

    def work(start: int) -> None:
        for place in range(start, 60, 6):
            answer = batcher.submit([images[place : place + 1]]).result(20)
            (wanted,) = served.ladder.run([images[place : place + 1]], width=answer.width)
            found[place] = float(np.abs(answer.outputs[0] - wanted).max())

    threads = [threading.Thread(target=work, args=(start,)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 60
    assert max(found.values()) < 1e-5
    batcher.drain(10)


def test_batches_are_reported(served):
    seen = []
    batcher = Batcher(
        served.ladder, make_governor(), on_batch=lambda decision, seconds: seen.append((decision, seconds))
    )
    batcher.submit([np.zeros((2, 3, 8, 8), np.float32)]).result(10)
    batcher.drain(10)
    ((decision, seconds),) = seen
    assert (decision.rows, decision.width) == (2, 1.0)
    assert 0 < seconds < 10
    assert batcher.governor.drift.ratio != 1.0


class Refined:
    """A ladder that refines, where every width takes a second of a clock of its own; it adds the width to its input."""

    def __init__(self) -> None:
        self.now, self.computed, self.meanwhile = 0.0, [], lambda width: None
        self.ladder = Ladder(dict.fromkeys((0.25, 0.5, 1.0), self._step), [X], [X], "test", refinement=self._refine)

    def _step(self, inputs):
        raise AssertionError("nothing starts from the inputs")

    def _refine(self, inputs):
        for width in (0.25, 0.5, 1.0):
            if (inputs[0] == 13).any() and width > 0.25:
                raise ValueError("thirteen")
            self.now += 1.0
            self.computed.append(width)
            self.meanwhile(width)
            yield width, [inputs[0] + width]

    def batcher(self, target: float, **options: Any) -> Batcher:
        return Batcher(self.ladder, make_governor(target, margin=0.0, adapt=1e-9), clock=lambda: self.now, **options)


@pytest.mark.parametrize(("target", "width"), [(3.5, 1.0), (2.0005, 0.5), (1.2, 0.5), (0.9, 0.25)])
def test_refinement_ends_when_the_deadline_comes(target, width):
    """The governor believes a step to take a quarter or half of a millisecond: it looks at the clock after each."""
    refined, seen = Refined(), []
    batcher = refined.batcher(target, on_batch=lambda decision, seconds: seen.append((decision, seconds)))
    answer = batcher.submit(rows(2, 5.0)).result(10)
    assert (answer.width, answer.ran) == (width, len(refined.computed))
    assert np.array_equal(answer.outputs[0], rows(2, 5.0 + width)[0])
    batcher.drain(10)
    ((decision, seconds),) = seen
    assert (decision.width, decision.reason, seconds) == (width, "load" if width == 1 else "deadline", answer.ran)
    assert batcher.governor.decisions[-1] is decision


def test_refinement_ends_for_those_who_arrive_meanwhile():
    refined, later = Refined(), []
    batcher = refined.batcher(10.0)

    def arrive(width: float) -> None:
        if not later:
            later.extend(batcher.submit(rows(8)) for _ in range(3))
            refined.now += 9.9985  # a step more would make them late

    refined.meanwhile = arrive
    assert batcher.submit(rows(1)).result(10).width == 0.25
    assert all(future.result(10) for future in later)
    batcher.drain(10)


def test_a_width_that_is_asked_for_is_reached_whatever_the_time():
    refined = Refined()
    batcher = refined.batcher(0.5)
    assert batcher.submit(rows(1), width=1.0).result(10).width == 1.0
    assert batcher.submit(rows(1), at_most=0.5).result(10).width in (0.25, 0.5)
    batcher.drain(10)


def test_what_fails_while_it_is_refined_is_refused_alone():
    refined, started = Refined(), threading.Event()
    refined.meanwhile = lambda width: started.wait(10)
    batcher = refined.batcher(100.0)
    first = batcher.submit(rows(1))
    futures = [batcher.submit(rows(1, value)) for value in (1.0, 13.0)]
    started.set()
    assert first.result(10).width == futures[0].result(10).width == 1.0
    with pytest.raises(Refusal, match="does not accept this input"):
        futures[1].result(10)
    batcher.drain(10)
