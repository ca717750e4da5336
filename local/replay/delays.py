"""How long something takes: a fixed time or a distribution, drawn with a given random generator."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from tidegate.errors import TidegateError

_PARAMETERS = {"fixed": 1, "uniform": 2, "lognormal": 2, "exp": 1}
_FORMS = "Write fixed:SECONDS, uniform:LEAST:MOST, lognormal:MU:SIGMA (the median is e^MU seconds) or exp:MEAN."


@dataclass(frozen=True, slots=True)
class Delay:
    """A time to be drawn, in seconds. Made by `parse`."""

    kind: str
    parameters: tuple[float, ...]

    def draw(self, rng: random.Random) -> float:
        """One time, 0 or more seconds."""
        if self.kind == "uniform":
            return rng.uniform(*self.parameters)
        if self.kind == "lognormal":
            return rng.lognormvariate(*self.parameters)
        if self.kind == "exp":
            return rng.expovariate(1 / self.parameters[0]) if self.parameters[0] else 0.0
        return self.parameters[0]

    @property
    def mean_seconds(self) -> float:
        """Its mean."""
        if self.kind == "uniform":
            return sum(self.parameters) / 2
        if self.kind == "lognormal":
            mu, sigma = self.parameters
            return math.exp(mu + sigma**2 / 2)
        return self.parameters[0]


def parse(text: str, option: str) -> Delay:
    """The delay written as `fixed:2`, `uniform:1:5`, `lognormal:1.2:0.5` or `exp:3`; a number alone is fixed.

    Raises `TidegateError` naming `option` if it is none of these, or could be negative or infinite.
    """
    kind, *written = text.strip().split(":")
    if not written:
        kind, written = "fixed", [kind]
    try:
        parameters = tuple(float(number) for number in written)
    except ValueError:
        parameters = ()
    if len(parameters) != _PARAMETERS.get(kind) or not all(map(math.isfinite, parameters)):
        raise TidegateError(f"{option} {text!r} is not a delay.", _FORMS)
    if min(parameters if kind != "lognormal" else parameters[1:]) < 0:
        raise TidegateError(f"{option} {text!r}: time does not run backwards.", _FORMS)
    if kind == "uniform" and parameters[0] > parameters[1]:
        raise TidegateError(f"{option} {text!r}: the least is more than the most.", _FORMS)
    if kind == "lognormal" and (abs(parameters[0]) > 20 or parameters[1] > 5):
        raise TidegateError(f"{option} {text!r}: MU and SIGMA are those of the logarithm, so they are small.", _FORMS)
    return Delay(kind, parameters)
