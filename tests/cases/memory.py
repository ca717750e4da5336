"""Runs a case against one partition in memory, under a clock that is moved."""

from __future__ import annotations

import json
from collections import Counter
from typing import Final

import orjson

from audit.case import Terms
from audit.check import PartitionCheck
from audit.collect import OUTPUT_ROLES, PartitionLogs
from audit.findings import Findings
from audit.logs import Bounds
from projections.decode import Batch
from projections.log_position import LogPosition
from projections.partition import Partition
from projections.rules import Rules
from schemas.topics import INPUT_ROLES, Role, topic_name
from tests.cases.reading import SETTINGS, Case, record_of
from tests.lives.memory import Rec

BEGAN_MS: Final = 1_772_445_600_000
STEP_MS: Final = 10
RULES: Final = Rules(
    unknown_task_grace_ms=round(float(str(SETTINGS["unknown_task_grace_seconds"])) * 1000),
    scope_grace_ms=round(float(str(SETTINGS["scope_grace_seconds"])) * 1000),
)
REST_SECONDS: Final = 5.0
"""What a case is given after its last step: longer than the grace."""


class MemoryRun:
    """One case on its way. `restarts`: after every step another worker takes the partition over."""

    def __init__(self, case: Case, *, restarts: bool = False) -> None:
        self._case = case
        self._restarts = restarts
        self._partition = Partition(0, RULES)
        self._changelog: dict[bytes, bytes] = {}
        self._ends: Counter[Role] = Counter()
        self.now_ms = BEGAN_MS
        self.topics: dict[Role, list[Rec]] = {role: [] for role in (*INPUT_ROLES, *OUTPUT_ROLES)}

    def run(self) -> None:
        """Write every step; the case has the outputs then."""
        for number, step in enumerate(self._case.steps):
            if "after_seconds" in step:
                self._let_pass(step["after_seconds"])
            elif "await" in step:
                assert self._case.has(step["await"]), f"{self._case.id}: {step}, of {self._case.outputs}"
            else:
                role, session, value = record_of(step, self._case.session, number, self.now_ms)
                self._say(role, session, value)
            if self._restarts:
                self._restart()
        self._let_pass(REST_SECONDS)

    def _say(self, role: Role, session: str, value: bytes) -> None:
        self.now_ms += STEP_MS
        offset = self._ends[role]
        self._ends[role] += 1
        self.topics[role].append(Rec(offset, self.now_ms, session.encode(), value))
        batch = Batch(
            role, 0, offset, offset + 1, [offset], [self.now_ms], [session.encode()], [value], [()], len(value)
        )
        if role == "context":
            self._partition.fold_context(batch, self.now_ms)
        elif role == "results":
            self._partition.judge(batch, self._position, self.now_ms)
        else:
            self._partition.fold_steps(batch, self._position, self.now_ms)
        self._write()

    def _let_pass(self, seconds: float) -> None:
        end = self.now_ms + round(seconds * 1000)
        while (due := self._partition.next_due_ms()) is not None and due <= end:
            self.now_ms = max(self.now_ms, due)
            self._partition.act_on_due(self._position, self.now_ms)
            self._write()
        self.now_ms = end

    def _write(self) -> None:
        self._partition.judge_ready(self._position, self.now_ms)
        changes = self._partition.take(self.now_ms)
        for key, value in changes.rows.items():
            self._changelog.pop(key, None)
            if value is not None:
                self._changelog[key] = value
        self._partition.committed()
        for event_type, count in changes.ignored.items():
            self._case.ignored[event_type] = self._case.ignored.get(event_type, 0) + count
        for output in changes.outputs:
            topic = self.topics[output.role]
            topic.append(Rec(len(topic), self.now_ms, output.key, output.value, output.headers))
            if output.value is None:
                self._case.outputs.append((output.role, orjson.loads(output.key)[1], None))
            else:
                body = json.loads(output.value)  # a payload may hold numbers that no double does
                self._case.outputs.append((output.role, body.get("task_id"), body))
        for refusal in changes.refusals:
            self._case.outputs.append(("dlq", None, {"error": refusal.error, "detail": refusal.detail}))
            batch, index = refusal.batch, refusal.index
            headers = {
                "tidegate_error": refusal.error,
                "tidegate_origin_topic": topic_name(batch.role),
                "tidegate_origin_partition": "0",
                "tidegate_origin_offset": str(batch.offsets[index]),
            }
            raw = [(name, text.encode()) for name, text in headers.items()]
            topic = self.topics["dlq"]
            topic.append(Rec(len(topic), self.now_ms, batch.keys[index], batch.values[index], raw))

    def _restart(self) -> None:
        partition = Partition(0, RULES)
        for key, value in self._changelog.items():
            partition.restore(key, value)
        partition.settle()
        self._partition = partition

    def audit(self) -> Findings:
        """What the audit finds in the topics."""
        findings = Findings()
        bounds = {
            role: Bounds(0, len(log), len(log) if role in INPUT_ROLES else None, settled=len(log))
            for role, log in self.topics.items()
        }
        logs = PartitionLogs(0, 1, bounds, findings, "tidegate")
        for role in (*OUTPUT_ROLES, *INPUT_ROLES):
            logs.add(role, self.topics[role])
        terms = Terms(
            now_ms=self.now_ms,
            grace_ms=RULES.unknown_task_grace_ms,
            scope_grace_ms=RULES.scope_grace_ms,
            slack_ms=0,
            require_drained=True,
        )
        PartitionCheck(logs, terms).run()
        return findings

    @property
    def _position(self) -> LogPosition:
        return LogPosition(0, self._ends["context"], self._ends["steps"])
