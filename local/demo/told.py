"""The gate's own events in a newcomer's words, for the demo's tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from local.demo.life import Told
from local.demo.story import SNAPSHOT

_STOPS: Final = {
    "cancelled": "the user wants it no more",
    "superseded": "superseded: a newer task takes the panel",
    "heartbeat_missed": "its heartbeats have stopped",
}
_RECEIPT: Final = {
    "done": "done",
    "failed": "failed",
    "in_flight": "in flight",
    "not_attempted": "never attempted",
}


def told(event: Mapping[str, Any]) -> Told | None:
    """What an event of the delivered, withheld, tasks or commands topic tells; None where it is only progress."""
    task_id, kind = event["task_id"], event["type"]
    match kind:
        case "result.delivered" | "result.withheld":
            return Told(task_id, kind.removeprefix("result."), _verdict(event["verdict"]))
        case "task.cancel":
            return Told(task_id, "told to stop", _STOPS.get(event["reason"], event["reason"]))
        case "task.redispatch":
            new = [f'{name} = "{value}"' for name, value in event["snapshot"].items() if value != SNAPSHOT.get(name)]
            return Told(task_id, "to be redone", "\n".join([f"as {event['new_task_id']}, with", *new]))
        case "effect.cleared":
            return Told(task_id, f"{event['effect']} cleared")
        case "effect.refused":
            return Told(task_id, f"{event['effect']} refused", differences(event) or event["reason"])
        case "task.status":
            return _status(event)
    return None


def differences(judged: Mapping[str, Any]) -> str:
    """What differs: of a part's verdict, or of a refused effect."""
    return "; ".join(_difference(each) for each in judged["differences"])


def _verdict(verdict: Mapping[str, Any]) -> str:
    reason: str = verdict["reason"]
    match reason:
        case "fresh":
            return ""
        case "stale":
            return differences(verdict["parts"][0])
        case "late":
            return f"late: it was {verdict['disposition']}"
        case "superseded":
            return "superseded: a newer answer is in the panel"
    return reason


def _status(status: Mapping[str, Any]) -> Told | None:
    if status["status"] == "waiting":
        facets = ", ".join(status.get("stale_facets", ()))
        # Nothing differs any more where the user is back and the verdict not yet given.
        return Told(status["task_id"], "held", f"until {facets} is as it was") if facets else None
    if status.get("disposition") not in ("cancelled", "expired"):
        return None  # that a result was delivered or withheld, its own event tells
    receipt = status.get("receipt", {})
    steps = "\n".join(f"{words}: {', '.join(receipt[name])}" for name, words in _RECEIPT.items() if name in receipt)
    return Told(status["task_id"], status["disposition"], steps)


def _difference(difference: Mapping[str, Any]) -> str:
    facet, expected, actual = difference["facet"], difference["expected"], difference["actual"]
    was = "absent" if expected is None else f'"{expected}"'
    now = "gone" if actual is None else f'"{actual}"'
    return f"{facet}: {was} → {now}"
