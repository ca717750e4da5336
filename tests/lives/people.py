"""Users, dispatchers, agents and consumers at work: what they say, each at its time, or on hearing the gate.

All chance comes from one seed; on a broker the order in which they hear differs from run to run.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any, Final

import orjson

from schemas.topics import Role
from testing.workload import Record, partition_of
from tests.lives.policies import BEAT_SECONDS, FACETS, PLAN, REQUEST, VALUES, Asked, ask, ask_child
from tests.scenarios import case
from tests.scenarios.case import Said

OBEYS: Final = 0.7
"""How many agents stop when they are told to."""
ACKNOWLEDGES: Final = 0.4
ERASED_IN: Final = 12
"""Of so many users one asks now and then that everything about him be removed."""

Key = tuple[str, str]
"""Session and task."""


class User:
    """A session and what its user sees."""

    def __init__(self, session_id: str, *, erases: bool) -> None:
        self.session_id = session_id
        self.erases = erases
        self.facets: dict[str, str | None] = {}
        self.numbers = itertools.count(1)
        self.agents: list[Agent] = []


class Agent:
    """Whoever works on a task."""

    def __init__(self, user: User, task_id: str, asked: Asked) -> None:
        self.user = user
        self.task_id = task_id
        self.asked = asked
        self.has_stopped = False


class Lives:
    """Everything that is said. `due` brings time forward, `hear` takes what the gate wrote.

    What has to come of it: `dispatched` are tasks, `results` the part ids of every result that is no repeat, `erased`
    sessions of which everything was removed at least once, `acknowledged` how often a task's delivery was acknowledged.
    """

    def __init__(self, *, seed: int, sessions: int, partitions: int, began: float, name: str = "life") -> None:
        self.dispatched: set[Key] = set()
        self.results: dict[tuple[str, str], list[str]] = {}
        self.acknowledged: dict[Key, int] = {}
        self.users = [User(f"{name}/{seed}/{number}", erases=number % ERASED_IN == 0) for number in range(sessions)]
        self.erased: set[str] = set()
        self._random = Random(seed)
        self._partitions = partitions
        self._numbers = itertools.count(1)
        self._agenda: list[tuple[float, int, Any]] = []
        self._records: list[Record] = []
        self._agents: dict[Key, Agent] = {}
        self._acts: dict[str, list[dict[str, Any]]] = {}
        self._now = began
        self._ending = False
        for user in self.users:
            self._change(user, dict.fromkeys(FACETS, "a") | {"presence/tab-1": "present"})
            self._in(self._random.uniform(0.1, 0.8), self._live, user)

    # Time

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be said, as far as nobody hears anything new."""
        return not self._agenda and not self._records

    def stop(self) -> None:
        """Users begin nothing more; what was begun goes on to its end."""
        self._ending = True

    def due(self, now: float) -> list[Record]:
        """What is said up to `now` (seconds since the epoch), in this order."""
        while self._agenda and self._agenda[0][0] <= now:
            self._now, _, act = heapq.heappop(self._agenda)
            act()
        self._now = max(self._now, now)
        said, self._records = self._records, []
        return said

    def _in(self, seconds: float, act: Callable[..., object], *arguments: Any) -> None:
        heapq.heappush(self._agenda, (self._now + seconds, next(self._numbers), partial(act, *arguments)))

    # Users

    def _live(self, user: User) -> None:
        """One thing that a user does, and then the next one."""
        if self._ending:
            return
        random = self._random
        what = random.choices(
            ("change", "dispatch", "unset", "leave", "crash", "archive", "close", "cancel", "stop", "ghost", "erase"),
            weights=(32, 44, 3, 7, 3, 4, 3, 3, 2, 3, 6 if user.erases else 0),
        )[0]
        if what == "change":
            self._look(user, random.choice(FACETS))
        elif what == "dispatch":
            self._begin(user, f"{user.session_id}-t{next(user.numbers)}", ask(random, user.facets))
        elif what == "unset":
            gone = random.choice(FACETS)
            user.facets[gone] = None
            self._say(user, case.unsets(gone))
        elif what == "leave":
            self._for_a_while(user, "presence/tab-1", "absent", "present")
        elif what == "crash":
            lease: dict[str, Any] = {"expires_in_seconds": {"presence/tab-1": random.choice((0.3, 1.0))}}
            self._say(user, case.sets({"presence/tab-1": "present"}, **lease))
            self._in(random.uniform(0.2, 2.0), self._change, user, {"presence/tab-1": "present"})
        elif what == "archive":
            self._for_a_while(user, f"request/{REQUEST}", "archived", f"rev-{next(user.numbers)}")
        elif what == "close":
            self._for_a_while(user, "session", "closed", "open")
        elif what == "cancel" and user.agents:
            self._say(user, case.cancels(random.choice(user.agents).task_id))
        elif what == "stop":
            self._say(user, case.cancels_all_of(**random.choice(_STOPS)))
        elif what == "ghost":
            self._ghost(user)
        elif what == "erase":
            self.erased.add(user.session_id)
            self._say(user, case.erases())
        self._in(random.uniform(0.1, 0.8), self._live, user)

    def _look(self, user: User, facet: str) -> None:
        """Look at something else, and often back again."""
        before = user.facets[facet]
        self._change(user, {facet: self._random.choice(VALUES)})
        if before is not None and self._random.random() < 0.5:
            self._in(self._random.uniform(0.2, 1.0), self._change, user, {facet: before})

    def _change(self, user: User, facets: dict[str, str]) -> None:
        user.facets.update(facets)
        version = next(user.numbers)
        if self._random.random() < 0.8:
            self._say(user, case.sets(facets))
            return
        self._say(user, case.sets(facets, versions=dict.fromkeys(facets, version)))
        name = self._random.choice(list(facets))
        if name in FACETS:  # somebody else's older report
            self._in(
                0.05, self._say, user, case.sets({name: self._random.choice(VALUES)}, versions={name: version - 1})
            )

    def _for_a_while(self, user: User, facet: str, value: str, afterwards: str) -> None:
        self._change(user, {facet: value})
        self._in(self._random.uniform(0.3, 2.0), self._change, user, {facet: afterwards})

    def _ghost(self, user: User) -> None:
        """Work that nobody dispatched."""
        agent = Agent(user, f"{user.session_id}-ghost{next(user.numbers)}", ask(self._random, user.facets))
        self._say(user, case.cancels(agent.task_id) if self._random.random() < 0.3 else case.beats(agent.task_id))
        self._propose(agent, f"key-{next(user.numbers)}")
        self._return(agent)

    # Dispatchers

    def _begin(self, user: User, task_id: str, asked: Asked, attempt: int = 1) -> None:
        """Hand a task to an agent, and plan what that will do."""
        random = self._random
        agent = Agent(user, task_id, asked)
        user.agents.append(agent)
        self._agents[user.session_id, task_id] = agent
        if attempt > 1:
            asked.fields["attempt"] = attempt
        self._in(asked.dispatched_after, self._dispatch, agent)
        if asked.cancelled_after is not None:
            self._in(asked.cancelled_after, self._say, user, case.cancels(task_id))
        for number, step_id in enumerate(() if asked.is_silent else PLAN):
            at = asked.takes * number / len(PLAN)
            self._in(at, self._step, agent, step_id, "started")
            self._in(at + asked.takes * random.uniform(0.1, 0.6), self._step, agent, step_id, random.choice(_ENDS))
        for number in range(int(asked.beats_for / BEAT_SECONDS) + 1 if asked.beats_for else 0):
            self._in(number * BEAT_SECONDS, self._work, agent, case.beats(task_id))
        for number in range(asked.children):
            self._in(asked.takes * random.uniform(0.1, 1.1), self._hand_on, agent, number)
        for _ in range(asked.proposals):
            key = f"key-{random.randrange(6)}"
            self._in(asked.takes * random.uniform(0.2, 1.2), self._propose, agent, key)
        if asked.own_changes:
            write = case.writes(task_id, {random.choice(FACETS): random.choice(VALUES)})
            self._in(asked.takes * random.random(), self._work, agent, write)
        if asked.interim:
            self._in(asked.takes * random.random(), self._tell_so_far, agent)
        if asked.asks:
            self._in(asked.takes * 0.3, self._work, agent, case.steps(task_id, "ask", "input_required"))
            self._in(asked.takes * 0.9, self._work, agent, case.steps(task_id, "ask"))
        if "deadline_seconds" in asked.fields and random.random() < 0.5:
            self._in(
                asked.takes * 0.4, self._work, agent, case.extends(task_id, asked.takes * random.choice((0.1, 2.0)))
            )
        if asked.returns:
            self._in(asked.takes, self._return, agent)

    def _dispatch(self, agent: Agent) -> None:
        asked, user = agent.asked, agent.user
        if user.erases and asked.deadline_in is None:
            asked.deadline_in = 4.0  # of a task that is dispatched again after it was erased no result may come
        if asked.deadline_in is not None:
            asked.fields["deadline_at"] = datetime.fromtimestamp(self._now + asked.deadline_in, UTC).isoformat()
        fields = {**asked.fields, **({"lane": asked.lane} if asked.lane == "cold" else {})}
        said = case.dispatches(agent.task_id, fields.pop("snapshot", None), **fields)
        self.dispatched.add((user.session_id, agent.task_id))
        self._say(user, said, asked.lane)
        again = self._random.random()
        if again < 0.04:
            self._in(0.1, self._say, user, said, asked.lane)  # with a new event id: the same task
        elif again < 0.06:
            self._in(0.1, self._say, user, Said(said.role, {**said.body, "destination": "elsewhere"}), asked.lane)

    def _hand_on(self, agent: Agent, number: int) -> None:
        if agent.has_stopped:
            return
        user = agent.user
        parent_id = agent.task_id if self._random.random() < 0.92 else f"{agent.task_id}-nobody"
        asked = ask_child(self._random, user.facets, parent_id, agent.asked.lane)
        self._begin(user, f"{agent.task_id}.{number}", asked)

    # Agents

    def _work(self, agent: Agent, said: Said) -> None:
        if not agent.has_stopped:
            self._say(agent.user, said, agent.asked.lane)

    def _step(self, agent: Agent, step_id: str, status: str) -> None:
        fields: dict[str, Any] = {"status": status}
        if self._random.random() < 0.12:
            name = self._random.choice(FACETS)
            fields["reads"] = {name: agent.user.facets.get(name)}
        if status == "completed" and step_id == "think":
            fields["checkpoint"] = {"uri": f"state/{agent.task_id}", "sequence": 1}
        self._work(agent, case.steps(agent.task_id, step_id, **fields))

    def _propose(self, agent: Agent, key: str) -> None:
        reads = {name: agent.user.facets.get(name) for name in FACETS[:1]} if self._random.random() < 0.2 else None
        self._work(agent, case.proposes(agent.task_id, key, reads))

    def _return(self, agent: Agent) -> None:
        """The result, and now and then what comes of retries and of agents that do not know that they are done."""
        if agent.has_stopped:
            return
        random, user, lane = self._random, agent.user, agent.asked.lane
        said = self._result(agent)
        first_id = self._say(user, said, lane)
        parts = [part["part_id"] for part in said.body["parts"]]
        self.results[user.session_id, first_id] = parts
        again = random.random()
        if again < 0.06:
            self._in(random.uniform(0.0, 1.0), self._say, user, said, lane, first_id)
        elif again < 0.12:
            self._in(random.uniform(0.0, 1.0), self._say, user, said, lane)
        elif again < 0.16:
            self._in(random.uniform(0.0, 1.0), self._say, user, self._result(agent), lane, first_id)
        elif again < 0.22:
            self._in(random.uniform(0.0, 1.0), self._return, agent)

    def _tell_so_far(self, agent: Agent) -> None:
        """An interim answer, now and then twice."""
        if agent.has_stopped:
            return
        user, lane = agent.user, agent.asked.lane
        said = self._result(agent)
        said = Said(said.role, {**said.body, "final": False})
        first_id = self._say(user, said, lane)
        self.results[user.session_id, first_id] = [part["part_id"] for part in said.body["parts"]]
        if self._random.random() < 0.2:
            self._in(self._random.uniform(0.0, 0.5), self._say, user, said, lane)

    def _result(self, agent: Agent) -> Said:
        number = next(self._numbers)
        parts = [{**part, "payload": f"{agent.task_id}, {number}"} for part in agent.asked.parts]
        say = case.fails if self._random.random() < 0.12 else case.returns
        return say(agent.task_id, *parts)

    # Hearing

    def hear(self, body: dict[str, Any]) -> None:
        """A command or a delivery."""
        kind, key = body["type"], (body["session_id"], body.get("task_id", ""))
        agent = self._agents.get(key)
        if agent is None:
            return
        if kind == "task.cancel":
            agent.has_stopped = agent.has_stopped or self._random.random() < OBEYS
        elif kind == "task.redispatch":
            self._try_again(agent, body)
        elif kind == "result.delivered" and self._random.random() < ACKNOWLEDGES:
            outcome = self._random.choice(("shown", "applied", "refused"))
            why: dict[str, Any] = {"reason": "the document has moved on"} if outcome == "refused" else {}
            self.acknowledged[key] = self.acknowledged.get(key, 0) + 1
            if self._random.random() < 0.5:
                why = {**why, "part_ids": [body["parts"][0]["part_id"]]}
            self._say(agent.user, case.acknowledges(agent.task_id, outcome, **why))

    def _try_again(self, agent: Agent, command: dict[str, Any]) -> None:
        """The new attempt that the gate commands, with the facets it names. Hearing of it twice begins it once."""
        new_id = command["new_task_id"]
        if (agent.user.session_id, new_id) in self._agents:
            return
        asked = ask(self._random, agent.user.facets)
        asked.lane, asked.dispatched_after, asked.children = agent.asked.lane, 0.0, 0
        kept: dict[str, Any] = {name: value for name, value in agent.asked.fields.items() if name in _KEPT}
        asked.fields = {**kept, "snapshot": command["snapshot"], "on_stale": "redispatch"}
        asked.deadline_in = None if asked.returns else 1.0
        self._begin(agent.user, new_id, asked, command["attempt"])

    # Saying

    def _say(self, user: User, said: Said, lane: str = "hot", event_id: str | None = None) -> str:
        event_id = event_id or f"e-{next(self._numbers)}"
        body = {
            "source": "life",
            "event_id": event_id,
            "session_id": user.session_id,
            "occurred_at": "2025-06-02T00:00:00Z",
            **said.body,
        }
        role: Role = said.role
        if lane == "cold" and said.role != "context":
            role = "steps.cold" if said.role == "steps" else "results.cold"
        key = user.session_id.encode()
        self._records.append(Record(role, partition_of(key, self._partitions), key, orjson.dumps(body), None))
        return event_id


_STOPS: Final[tuple[dict[str, Any], ...]] = (
    {"slot": "panel"},
    {"request_id": REQUEST},
    {"all": True},
    {"slot": "nobodys"},
)
_ENDS: Final = ("completed", "completed", "failed", "progressed")
_KEPT: Final[tuple[str, ...]] = ("slot", "on_newer", "request_id", "max_redispatches", "hold_ttl_seconds", "plan")
