"""Recorded conversations in the OpenAI chat format, from a JSON or JSONL file, gzip or not.

Reads and checks the format, and says where it is wrong. What a tool call means is `local.replay.tools`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.errors import TidegateError

_GZIP_MAGIC = b"\x1f\x8b"
_FORMAT = (
    "Needed are conversations in the OpenAI chat format with tool calls, JSON or JSONL, gzip or not:"
    ' {"messages": [{"role": "user", "content": "..."}, ...]}, one a line or a list of them.'
)
_GET_SOME = (
    "Tidegate carries no recordings. Those published with tau-bench (github.com/sierra-research/tau-bench) will do."
)


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call with its recorded answer; `answer` is None where the recording has none."""

    tool: str
    arguments: dict[str, Any]
    answer: str | None

    @property
    def failed(self) -> bool:
        """True where the call had no answer, or one that reports an error: it read nothing and wrote nothing."""
        if self.answer is None:
            return True
        text = self.answer.lstrip()
        if text[:5].lower() == "error":
            return True
        if text.startswith("{"):
            try:
                return bool(json.loads(text).get("error"))
            except ValueError:
                return False
        return False


@dataclass(frozen=True, slots=True)
class Move:
    """One message of the assistant: what it said, and the tools it called."""

    text: str
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of the user and everything the assistant did until the user's next one; maybe nothing."""

    message: str
    moves: tuple[Move, ...]

    @property
    def ends_with_text(self) -> bool:
        """False where the recording ends with a tool's answer: it hands the user over, for example."""
        return bool(self.moves) and not self.moves[-1].calls

    @property
    def answer(self) -> str | None:
        """What the user got: the assistant's last text, else the last tool's answer. None: it did nothing."""
        if not self.moves:
            return None
        last = self.moves[-1]
        if not last.calls or last.text:
            return last.text
        return last.calls[-1].answer or ""

    @property
    def calls(self) -> tuple[Call, ...]:
        """All tool calls, in order."""
        return tuple(call for move in self.moves for call in move.calls)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One recording. `conversation_id` is unique within the file."""

    conversation_id: str
    turns: tuple[Turn, ...]

    @property
    def answers(self) -> int:
        """How many answers the assistant gave."""
        return sum(bool(turn.moves) for turn in self.turns)


def read_conversations(file: Path) -> list[Conversation]:
    """The conversations in `file`, in its order, those without a user's message left out.

    Raises `TidegateError` if the file is missing, damaged or not in the format; it names the line, or the conversation
    and its message.
    """
    text = _text(file)
    conversations: list[Conversation] = []
    taken: set[str] = set()
    for where, recorded in _documents(file, text):
        conversation = _conversation(where, recorded, taken)
        if conversation.turns:
            conversations.append(conversation)
    if not conversations:
        raise TidegateError(f"{file} holds no conversation.", _FORMAT)
    return conversations


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise TidegateError(f"There is no file {file}.", f"{_FORMAT}\n{_GET_SOME}") from None
    except OSError as error:
        raise TidegateError(f"Cannot read {file}: {error.strerror}.", _FORMAT) from error
    if content.startswith(_GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise TidegateError(f"{file} is a damaged gzip file: {error}.", "Fetch or copy it again.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TidegateError(f"{file}, line {line}: not UTF-8 text ({error.reason}).", _FORMAT) from error


def _documents(file: Path, text: str) -> Iterator[tuple[str, Any]]:
    lines = text.split("\n")  # not splitlines(): JSON strings may hold U+2028 as it is
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        return
    if len(filled) > 1 and _is_json(filled[0][1]):
        for number, line in filled:
            try:
                yield f"{file}, line {number}", _load(line)
            except json.JSONDecodeError as error:
                raise TidegateError(
                    f"{file}, line {number}: not JSON: {error.msg} at column {error.colno}.", _FORMAT
                ) from error
        return
    try:
        document = _load(text)
    except json.JSONDecodeError as error:
        raise TidegateError(
            f"{file}, line {error.lineno}: not JSON: {error.msg} at column {error.colno}.", _FORMAT
        ) from error
    if isinstance(document, list) and not _is_message(document[0] if document else None):
        for number, recorded in enumerate(document, 1):
            yield f"{file}, conversation {number}", recorded
    else:
        yield f"{file}, line {filled[0][0]}", document


def _load(text: str) -> Any:
    loaded = json.loads(text)
    return _without_surrogates(loaded) if "\\ud" in text.lower() else loaded


def _without_surrogates(loaded: Any) -> Any:
    # Half an escaped emoji, cut by some recorder, is valid JSON and cannot be written as UTF-8.
    if isinstance(loaded, str):
        return loaded.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(loaded, list):
        return [_without_surrogates(value) for value in loaded]
    if isinstance(loaded, dict):
        return {_without_surrogates(key): _without_surrogates(value) for key, value in loaded.items()}
    return loaded


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _is_message(recorded: Any) -> bool:
    return isinstance(recorded, dict) and "role" in recorded


def _conversation(where: str, recorded: Any, taken: set[str]) -> Conversation:
    messages, name = recorded, None
    if isinstance(recorded, dict):
        messages = recorded.get("messages", recorded.get("traj"))
        name = next((recorded[key] for key in ("id", "conversation_id", "task_id") if key in recorded), None)
    if not isinstance(messages, list):
        raise TidegateError(f"{where}: no list of messages.", _FORMAT)
    conversation_id = _unique(str(name) if isinstance(name, str | int) else f"conversation-{len(taken) + 1}", taken)
    return Conversation(conversation_id, tuple(_turns(where, messages)))


def _unique(name: str, taken: set[str]) -> str:
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name}-{number}"
    taken.add(unique)
    return unique


class _OpenCall:
    """A call whose answer has not been seen yet. Ids repeat within real recordings, so it is known by its place."""

    def __init__(self, call_id: str | None, tool: str, arguments: dict[str, Any]) -> None:
        self.call_id = call_id
        self.tool = tool
        self.arguments = arguments
        self.answer: str | None = None
        self.answered = False


def _turns(where: str, messages: list[Any]) -> list[Turn]:
    turns: list[tuple[str, list[tuple[str, list[_OpenCall]]]]] = []
    waiting: list[_OpenCall] = []
    for number, message in enumerate(messages, 1):
        place = f"{where}, message {number}"
        role = message.get("role") if isinstance(message, dict) else None
        if role == "user":
            turns.append((_content(place, message), []))
        elif role == "assistant":
            waiting = _calls(place, message)
            if turns:  # a greeting before the user's first message answers nothing
                turns[-1][1].append((_content(place, message), waiting))
        elif role in ("tool", "function"):
            _answer(place, message, waiting)
        elif role not in ("system", "developer"):
            raise TidegateError(
                f"{place}: {'no role' if role is None else f'unknown role {role!r}'};"
                " there are system, developer, user, assistant and tool.",
                _FORMAT,
            )
    return [
        Turn(
            text,
            tuple(
                Move(said, tuple(Call(call.tool, call.arguments, call.answer) for call in calls))
                for said, calls in moves
            ),
        )
        for text, moves in turns
    ]


def _content(place: str, message: dict[str, Any]) -> str:
    content = message.get("content")
    if content is None:
        content = message.get("refusal") or ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    raise TidegateError(f"{place}: content is neither text, nor a list of parts, nor null.", _FORMAT)


def _calls(place: str, message: dict[str, Any]) -> list[_OpenCall]:
    recorded = message.get("tool_calls") or []
    if not isinstance(recorded, list):
        raise TidegateError(f"{place}: tool_calls is not a list.", _FORMAT)
    calls = [(call.get("id"), call.get("function")) if isinstance(call, dict) else (None, None) for call in recorded]
    if message.get("function_call"):  # the format before tools
        calls.append((None, message["function_call"]))
    found = []
    for number, (call_id, function) in enumerate(calls, 1):
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise TidegateError(f"{place}: tool call {number} names no function.", _FORMAT)
        found.append(_OpenCall(call_id, function["name"], _arguments(function.get("arguments"))))
    return found


def _arguments(recorded: Any) -> dict[str, Any]:
    # A model may write arguments that are not JSON: that is part of the recording, not a mistake in the file.
    if isinstance(recorded, str):
        try:
            recorded = json.loads(recorded)
        except ValueError:
            return {}
    return recorded if isinstance(recorded, dict) else {}


def _answer(place: str, message: dict[str, Any], waiting: list[_OpenCall]) -> None:
    call_id = message.get("tool_call_id")
    for call in waiting:
        named_so = call.call_id == call_id if call_id is not None else call.tool == message.get("name", call.tool)
        if not call.answered and named_so:
            call.answered = True
            call.answer = _content(place, message)
            return
    name = call_id if call_id is not None else message.get("name")
    raise TidegateError(
        f"{place}: answers the tool call {name!r}, which the assistant's last message did not make.", _FORMAT
    )
