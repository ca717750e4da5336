"""Small recorded conversations in the OpenAI chat format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from local.replay.conversations import Conversation, read_conversations

Message = dict[str, Any]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def called(tool: str, answer: str | None, **arguments: Any) -> list[Message]:
    """A tool call, and its answer unless that is None."""
    call = {"id": "call-1", "type": "function", "function": {"name": tool, "arguments": json.dumps(arguments)}}
    messages: list[Message] = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    if answer is not None:
        messages.append({"role": "tool", "tool_call_id": "call-1", "name": tool, "content": answer})
    return messages


def conversation(directory: Path, *messages: Message | list[Message]) -> Conversation:
    """These messages as `tidegate replay` reads them."""
    flat: list[Message] = []
    for each in messages:
        flat += each if isinstance(each, list) else [each]
    file = directory / "recording.json"
    file.write_text(json.dumps({"id": "talk", "messages": flat}))
    return read_conversations(file)[0]
