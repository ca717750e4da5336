"""What the gate told of many lives: that each task ended once, each part was decided once, and which kinds came up."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import orjson

from schemas.topics import Role
from tests.lives.people import Key, Lives

ENDS: Final = frozenset(
    {
        "delivered, fresh",
        "delivered, stale",
        "withheld, stale",
        "withheld, hold_expired",
        "withheld, user_absent",
        "withheld, superseded",
        "withheld, session_closed",
        "withheld, request_archived",
        "withheld, unknown_task",
        "cancelled, cancelled",
        "cancelled, superseded",
        "cancelled, stale",
        "cancelled, parent_ended",
        "cancelled, scope_closed",
        "expired, deadline_passed",
        "expired, heartbeat_missed",
        "expired, not_started",
        "rejected, slot_taken",
        "rejected, parent_ended",
        "rejected, unknown_parent",
    }
)
KINDS: Final = frozenset(
    {
        *(f"end: {each}" for each in ENDS),
        *(f"part: withheld, {reason}" for reason in ("stale", "late", "unknown_task", "superseded", "hold_expired")),
        "part: held, stale",
        "part: delivered, fresh",
        "part: annotated, stale",
        "part: shadow, stale",
        "part: delivered, fresh, after it was held",
        *(f"waits for {what}" for what in ("children", "slot", "parent", "context", "user")),
        *(f"delivered after it waited for {what}" for what in ("children", "slot", "parent", "context", "user")),
        *(f"told to stop: {why}" for why in ("cancelled", "superseded", "stale", "parent_ended", "scope_closed")),
        *(f"told to stop: {why}" for why in ("deadline_passed", "heartbeat_missed", "unknown_parent")),
        "told to try again",
        "told to start",
        "told that a delivery is outdated",
        "told that nothing was there to cancel",
        "part: delivered, fresh, interim",
        "part: withheld, stale, interim",
        "part: delivered, late",
        "acknowledged by part",
        "a new attempt ends",
        "effect: cleared",
        *(f"effect: refused, {why}" for why in ("stale", "late", "unknown_task")),
        "effect: answered again",
        *(f"acknowledged: {outcome}" for outcome in ("shown", "applied", "refused")),
        "a receipt",
        "cold: delivered",
        "refused: dispatch_conflict",
        "refused: identity_conflict",
        "erased",
    }
)
"""Everything that has to come up where many lives are lived; else the load shows less than it says."""


class Told:
    """Takes down every output. `kinds` counts what came up, `endings` how often each task was told to have ended."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.endings: Counter[Key] = Counter()
        self.dispositions: dict[Key, set[str]] = {}
        self._carried: dict[tuple[str, str], Counter[tuple[int, str]]] = {}
        self._effects: Counter[tuple[str, str]] = Counter()
        self._held: set[tuple[str, str, str]] = set()
        self._waits: dict[Key, str] = {}

    def take(self, role: Role, value: bytes | None, headers: dict[str, bytes]) -> dict[str, Any] | None:
        """Take down one record; its body, None for a tombstone and a dead letter."""
        if role == "dlq":
            self.kinds[f"refused: {headers['tidegate_error'].decode()}"] += 1
            return None
        if value is None:
            self.kinds["erased"] += 1
            return None
        body: dict[str, Any] = orjson.loads(value)
        if role == "tasks":
            self._status(body)
        elif role == "commands":
            self._command(body)
        else:
            self._verdict(role, body)
        return body

    def _status(self, body: dict[str, Any]) -> None:
        key = body["session_id"], body["task_id"]
        if body["status"] == "waiting":
            self._waits[key] = body["waiting_for"]
            self.kinds[f"waits for {body['waiting_for']}"] += 1
        if body.get("acknowledged_parts"):
            self.kinds["acknowledged by part"] += 1
        if body.get("acknowledged"):
            self.kinds[f"acknowledged: {body['acknowledged']}"] += 1
        if body["status"] != "ended":
            return
        self.endings[key] += 1
        self.dispositions.setdefault(key, set()).add(body["disposition"])
        self.kinds[f"end: {body['disposition']}, {body['reason']}"] += 1
        if key in self._waits and (body["disposition"], body["reason"]) == ("delivered", "fresh"):
            self.kinds[f"delivered after it waited for {self._waits[key]}"] += 1
        if "~" in key[1]:
            self.kinds["a new attempt ends"] += 1
        if body.get("receipt"):
            self.kinds["a receipt"] += 1

    def _command(self, body: dict[str, Any]) -> None:
        kind = body["type"]
        if kind == "task.cancel":
            self.kinds[f"told to stop: {body['reason']}"] += 1
        elif kind == "task.redispatch":
            self.kinds["told to try again"] += 1
        elif kind == "task.start":
            self.kinds["told to start"] += 1
        elif kind == "result.outdated":
            self.kinds["told that a delivery is outdated"] += 1
        elif kind == "task.cancel_unmatched":
            self.kinds["told that nothing was there to cancel"] += 1
        else:
            what = "cleared" if kind == "effect.cleared" else f"refused, {body['reason']}"
            self.kinds[f"effect: {what}"] += 1
            key = body["session_id"], body["idempotency_key"]
            self.kinds["effect: answered again"] += bool(self._effects[key])
            self._effects[key] += 1

    def _verdict(self, role: Role, body: dict[str, Any]) -> None:
        result = body["session_id"], body["result"]["event_id"]
        carried = self._carried.setdefault(result, Counter())
        for part in body["parts"]:
            carried[body["result"]["offset"], part["part_id"]] += 1
        if role == "delivered.cold":
            self.kinds["cold: delivered"] += 1
        for part in body["verdict"]["parts"]:
            how = "annotated" if part.get("annotated") else part["decision"]
            if body.get("shadow"):
                how = "shadow"
            told = f"part: {how}, {part['reason']}"
            if not body.get("final", True):
                told = f"{told}, interim"
            self.kinds[told] += 1
            name = (*result, part["part_id"])
            if how == "held":
                self._held.add(name)
            elif name in self._held:
                self.kinds[f"{told}, after it was held"] += 1

    # ---- what must hold

    def open_tasks(self, lives: Lives) -> set[Key]:
        """Dispatched tasks that were not told to have ended, but for those of sessions that were erased."""
        return {key for key in lives.dispatched - self.endings.keys() if key[0] not in lives.erased}

    def undecided(self, lives: Lives) -> set[tuple[str, str]]:
        """Results of which a part is neither delivered nor withheld, but for those of sessions that were erased."""
        return {
            result
            for result, parts in lives.results.items()
            if result[0] not in lives.erased and {part_id for _, part_id in self._carried.get(result, ())} != set(parts)
        }

    def mistakes(self, lives: Lives) -> list[str]:
        """What was told of no task or more than once; counted here, without the audit's help."""
        found = [f"no end: {key}" for key in self.open_tasks(lives)]
        found += [f"undecided: {result}" for result in self.undecided(lives)]
        found += [
            f"ends differently: {key}, {ends}"
            for key, ends in self.dispositions.items()
            if len(ends) > 1 and key[0] not in lives.erased
        ]
        for key, count in self.endings.items():
            if key not in lives.dispatched:
                found.append(f"ends, and was never dispatched: {key}")
            elif count > 1 + lives.acknowledged.get(key, 0) and key[0] not in lives.erased:
                found.append(f"ends {count} times: {key}")
        for result, carried in self._carried.items():
            if result[0] in lives.erased:
                continue
            if result not in lives.results:
                found.append(f"decided, and a repeat: {result}")
            elif set(carried.values()) != {1} or len({offset for offset, _ in carried}) != 1:
                found.append(f"decided more than once: {result}, {dict(carried)}")
        return found
