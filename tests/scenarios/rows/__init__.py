"""The further rows: what the matrix does not vary, by subject."""

from tests.scenarios.case import Case
from tests.scenarios.rows.additions import ADDITIONS
from tests.scenarios.rows.cancelling import CANCELLING
from tests.scenarios.rows.effects import EFFECTS
from tests.scenarios.rows.keeping import KEEPING
from tests.scenarios.rows.scopes import SCOPES
from tests.scenarios.rows.situations import SITUATIONS
from tests.scenarios.rows.slots import SLOTS
from tests.scenarios.rows.time import TIME
from tests.scenarios.rows.waiting import WAITING

SUBJECTS: dict[str, tuple[Case, ...]] = {
    "situations": SITUATIONS,
    "slots": SLOTS,
    "cancelling": CANCELLING,
    "scopes": SCOPES,
    "time": TIME,
    "waiting": WAITING,
    "effects": EFFECTS,
    "keeping": KEEPING,
    "additions": ADDITIONS,
}
