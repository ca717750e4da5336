from __future__ import annotations

import math
import random

import pytest

from local.replay.delays import parse
from tidegate.errors import TidegateError


@pytest.mark.parametrize(
    ("text", "mean"),
    [
        ("fixed:2", 2.0),
        ("2.5", 2.5),
        ("0", 0.0),
        ("uniform:1:5", 3.0),
        ("exp:3", 3.0),
        ("exp:0", 0.0),
        ("lognormal:1.2:0.5", math.exp(1.2 + 0.125)),
        ("lognormal:-1:0", math.exp(-1)),
    ],
)
def test_drawn_times_have_the_mean_they_say(text: str, mean: float) -> None:
    delay, rng = parse(text, "--think-time"), random.Random(1)
    drawn = [delay.draw(rng) for _ in range(20_000)]

    assert min(drawn) >= 0
    assert delay.mean_seconds == pytest.approx(mean)
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.05)


def test_the_same_seed_draws_the_same_times() -> None:
    delay = parse("lognormal:1:1", "--think-time")

    one, same, other = (random.Random(seed) for seed in (7, 7, 8))
    drawn = [delay.draw(one) for _ in range(5)]
    assert drawn == [delay.draw(same) for _ in range(5)]
    assert drawn != [delay.draw(other) for _ in range(5)]


NOT_DELAYS = (
    ("", "fast", "fixed", "fixed:", "fixed:1:2", "uniform:1", "lognormal:1", "normal:1:2"),
    ("fixed:-1", "exp:-3", "uniform:-1:2", "lognormal:1:-1"),
    ("uniform:5:1", "fixed:inf", "uniform:nan:2", "lognormal:300:1"),
)


@pytest.mark.parametrize("text", [text for kind in NOT_DELAYS for text in kind])
def test_anything_else_is_refused_with_the_options_name_and_the_forms(text: str) -> None:
    with pytest.raises(TidegateError) as caught:
        parse(text, "--agent-delay")

    assert caught.value.message.startswith("--agent-delay")
    assert "uniform:LEAST:MOST" in caught.value.hint
