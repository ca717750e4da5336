"""What the gate has to do, case by case, written down by hand: the same cases run in memory and on a real broker.

`matrix.md` is the table of every move, every change of the request, every moment, policy and outcome; `rows` has what
else happens to people and agents. `oracle` says from the raw cases what should have reached the user, whatever was
written, and judges the gate beside two simpler approaches.
"""

from tests.scenarios.case import Case
from tests.scenarios.matrix import matrix
from tests.scenarios.rows import SUBJECTS


def cases() -> list[Case]:
    """Every case."""
    return [*matrix(), *(case for rows in SUBJECTS.values() for case in rows)]
