"""What a device that draws knows of who helps it."""

from dataclasses import replace

import pytest

from edge_node.checkpoint import Latents
from edge_node.domain import Drawing, Fence, ModelFingerprint, TaskId
from edge_node.shared_rows import (
    ANSWER_S_MAX,
    ASK_AGAIN_S,
    BUSY,
    MISSED_S,
    MISSED_S_MAX,
    Leader,
    RowWanted,
)

NUMBERS = Latents(dtype="float16", shape_CHW=(1, 1, 1), latent=bytes(2))
WANTED = RowWanted(
    task_id=TaskId("n-1"),
    fence=Fence(1, 1),
    drawing=Drawing(
        prompt="p", width_px=64, height_px=64, steps=9, guidance_scale=5.0, seed=1, model="m"
    ),
    fingerprint=ModelFingerprint("f"),
    step=3,
    latents=NUMBERS,
    pair_s=1.0,
    row_s=0.5,
)
GIVEN = WANTED.computed(NUMBERS, took_s=0.5)


def asked() -> Leader:
    leader = Leader()
    assert leader.may_ask(now_s=0.0)
    leader.ask(WANTED, now_s=0.0)
    return leader


def test_nobody_is_waited_for_who_has_not_given_a_row_of_the_drawing() -> None:
    leader = asked()
    assert not leader.is_helped(WANTED.task_id, WANTED.fence)
    leader.answered(GIVEN, now_s=0.5)
    assert leader.is_helped(WANTED.task_id, WANTED.fence)
    assert not leader.is_helped(WANTED.task_id, Fence(1, 2))
    assert not leader.is_helped(TaskId("n-2"), WANTED.fence)
    assert leader.answer_to(WANTED) == GIVEN


def test_one_row_is_asked_for_at_a_time_until_it_is_not_expected_any_more() -> None:
    leader = asked()
    assert not leader.may_ask(now_s=ANSWER_S_MAX - 0.1)
    assert leader.may_ask(now_s=ANSWER_S_MAX)
    leader.answered(GIVEN, now_s=0.1)
    assert leader.may_ask(now_s=0.1)


def test_who_was_refused_asks_again_a_little_later() -> None:
    leader = asked()
    leader.answered(WANTED.refused(BUSY), now_s=0.5)
    assert not leader.may_ask(now_s=0.5 + 0.9 * ASK_AGAIN_S)
    assert leader.may_ask(now_s=0.5 + ASK_AGAIN_S)


@pytest.mark.parametrize(
    "other",
    [
        replace(GIVEN, step=2),
        replace(GIVEN, task_id=TaskId("n-2")),
        replace(GIVEN, fence=Fence(1, 2)),
        replace(GIVEN, drawing_sha256="another"),
    ],
)
def test_a_row_of_something_else_is_not_used(other: object) -> None:
    leader = asked()
    leader.answered(other, now_s=0.1)  # type: ignore[arg-type]
    assert not leader.is_helped(WANTED.task_id, WANTED.fence)
    assert leader.answer_to(WANTED) is None


def test_the_row_of_the_last_step_is_not_used_for_the_next() -> None:
    leader = asked()
    leader.answered(GIVEN, now_s=0.1)
    following = replace(WANTED, step=4)
    assert leader.answer_to(following) is None
    leader.ask(following, now_s=0.2)
    assert leader.answer_to(WANTED) is None


def test_who_was_waited_for_in_vain_is_asked_again_ever_later_until_he_is_of_use() -> None:
    leader = Leader()
    now_s = 0.0
    for waits_s in (MISSED_S, 2 * MISSED_S, 4 * MISSED_S):
        leader.missed(now_s=now_s)
        assert not leader.is_helped(WANTED.task_id, WANTED.fence)
        assert not leader.may_ask(now_s=now_s + 0.99 * waits_s)
        assert leader.may_ask(now_s=now_s + waits_s)
        now_s += waits_s
    for _ in range(20):
        leader.missed(now_s=now_s)
    assert leader.may_ask(now_s=now_s + MISSED_S_MAX)
    leader.used()
    leader.missed(now_s=now_s)
    assert leader.may_ask(now_s=now_s + MISSED_S)


def test_an_answer_that_comes_too_late_does_not_make_the_next_one_be_waited_for() -> None:
    leader = asked()
    leader.answered(GIVEN, now_s=0.1)
    later = replace(WANTED, step=4)
    leader.ask(later, now_s=0.2)
    leader.missed(now_s=1.2)
    leader.answered(replace(GIVEN, step=4), now_s=1.5)
    assert not leader.may_ask(now_s=1.5)
    assert leader.may_ask(now_s=1.2 + MISSED_S)
    assert not leader.is_helped(WANTED.task_id, WANTED.fence)


def test_who_was_of_use_is_waited_for_from_the_first_step_of_the_next_drawing_until_he_is_not() -> (
    None
):
    other = (TaskId("n-2"), Fence(1, 1))
    leader = asked()
    leader.answered(GIVEN, now_s=0.1)
    leader.used()
    assert leader.is_helped(*other)
    leader.ask(replace(WANTED, step=4), now_s=0.2)
    leader.answered(replace(WANTED, step=4).refused(BUSY), now_s=0.3)
    assert not leader.is_helped(*other)
    leader.used()
    leader.missed(now_s=0.4)
    assert not leader.is_helped(*other)


def test_with_nobody_to_ask_nothing_is_kept() -> None:
    leader = asked()
    leader.answered(GIVEN, now_s=0.1)
    leader.forget()
    assert not leader.is_helped(WANTED.task_id, WANTED.fence)
    assert leader.may_ask(now_s=0.1)
