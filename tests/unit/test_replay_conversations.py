from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from local.replay.conversations import Call, read_conversations
from tests.unit.recordings import called, conversation, said, user
from tidegate.errors import TidegateError

TALK: dict[str, Any] = {
    "id": "a",
    "messages": [
        {"role": "system", "content": "be kind"},
        user("hello"),
        *called("get_order", '{"total": 3}', order_id="7"),
        said("It is 3."),
    ],
}


def write(directory: Path, content: str | bytes, name: str = "talks") -> Path:
    file = directory / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(TALK),
        json.dumps(TALK, indent=2),
        json.dumps([TALK]),
        json.dumps([TALK], indent=2),
        json.dumps(TALK["messages"]),
        json.dumps({"traj": TALK["messages"], "task_id": 5}),
        "\n" + json.dumps(TALK) + "\n\n",
        gzip.compress(json.dumps(TALK).encode()),
        b"\xef\xbb\xbf" + json.dumps(TALK).encode(),
    ],
    ids=["object", "indented", "list", "indented list", "messages", "traj", "one line", "gzip", "byte order mark"],
)
def test_every_form_of_the_file_gives_the_conversation(tmp_path: Path, content: str | bytes) -> None:
    (talk,) = read_conversations(write(tmp_path, content))

    (turn,) = talk.turns
    assert turn.message == "hello"
    assert turn.calls == (Call("get_order", {"order_id": "7"}, '{"total": 3}'),)
    assert turn.answer == "It is 3."
    assert turn.ends_with_text


def test_jsonl_gives_one_conversation_a_line_under_unique_ids(tmp_path: Path) -> None:
    other = {"messages": TALK["messages"]}
    file = write(tmp_path, "\n".join(json.dumps(each) for each in (TALK, TALK, other)))

    ids = [talk.conversation_id for talk in read_conversations(file)]

    assert ids == ["a", "a-2", "conversation-3"]


def test_a_line_separator_within_a_string_is_no_line(tmp_path: Path) -> None:
    lines = [json.dumps({"messages": [user("a\u2028b"), said("c")]}, ensure_ascii=False)] * 2

    assert [talk.turns[0].message for talk in read_conversations(write(tmp_path, "\n".join(lines)))] == ["a\u2028b"] * 2


def test_half_an_emoji_can_be_written_again(tmp_path: Path) -> None:
    (talk,) = read_conversations(
        write(tmp_path, '{"messages": [{"role": "user", "content": "\\ud83d \\ud83d\\ude00"}]}')
    )

    assert talk.turns[0].message == "\ufffd \N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"messages": []}\n{"messages": [}\n', "line 2: not JSON: Expecting value at column 15"),
        ('{"messages": [],\n "id": oops}', "line 2: not JSON"),
        ('{"messages": []}\n{"id": 4}\n', "line 2: no list of messages"),
        ('{"messages": []}\n{"messages": [{"role": "robot"}]}', "line 2, message 1: unknown role 'robot'"),
        ('[{"messages": [{"content": "x"}]}]', "conversation 1, message 1: no role"),
        ('{"messages": [{"role": "user", "content": 5}]}', "line 1, message 1: content is neither"),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "tool", "tool_call_id": "q", "content": ""}]}',
            "message 2: answers the tool call 'q'",
        ),
        ('{"messages": [{"role": "assistant", "tool_calls": [{"id": "q"}]}]}', "tool call 1 names no function"),
        ("", "holds no conversation"),
        ('{"messages": []}', "holds no conversation"),
        (b"\xff\xfe{", "line 1: not UTF-8"),
        (b"\x1f\x8bnonsense", "damaged gzip"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, content: str | bytes, told: str) -> None:
    with pytest.raises(TidegateError) as caught:
        read_conversations(write(tmp_path, content))

    assert told in caught.value.message
    assert caught.value.hint


def test_a_missing_file_says_what_is_needed_and_that_the_project_has_none(tmp_path: Path) -> None:
    with pytest.raises(TidegateError) as caught:
        read_conversations(tmp_path / "none.jsonl")

    assert "OpenAI chat format" in caught.value.hint
    assert "Tidegate carries no recordings" in caught.value.hint


def test_answers_are_matched_by_place_because_real_recordings_repeat_ids(tmp_path: Path) -> None:
    talk = conversation(tmp_path, user("x"), called("get_a", "1", a_id="1"), called("get_b", "2", b_id="2"), said("y"))

    assert [(call.tool, call.answer) for call in talk.turns[0].calls] == [("get_a", "1"), ("get_b", "2")]


def test_two_calls_of_one_message_are_matched_by_id(tmp_path: Path) -> None:
    calls = [{"id": name, "function": {"name": f"get_{name}", "arguments": "{}"}} for name in ("p", "q")]
    answers = [{"role": "tool", "tool_call_id": name, "content": name} for name in ("q", "p")]
    talk = conversation(
        tmp_path, user("x"), {"role": "assistant", "content": "one moment", "tool_calls": calls}, answers
    )

    (turn,) = talk.turns
    assert [(call.tool, call.answer) for call in turn.calls] == [("get_p", "p"), ("get_q", "q")]
    assert turn.answer == "one moment"
    assert not turn.ends_with_text


def test_the_format_before_tools_is_read_too(tmp_path: Path) -> None:
    talk = conversation(
        tmp_path,
        user("x"),
        {"role": "assistant", "content": None, "function_call": {"name": "get_a", "arguments": '{"a_id": 1}'}},
        {"role": "function", "name": "get_a", "content": "one"},
        said("y"),
    )

    assert talk.turns[0].calls == (Call("get_a", {"a_id": 1}, "one"),)


def test_a_greeting_answers_nothing_and_an_unanswered_message_has_no_answer(tmp_path: Path) -> None:
    talk = conversation(tmp_path, said("Welcome!"), user("hello"), user("anybody?"), said("Yes."), user("bye"))

    assert [turn.answer for turn in talk.turns] == [None, "Yes.", None]
    assert talk.answers == 1


def test_where_the_recording_ends_with_a_tool_its_answer_is_the_answer(tmp_path: Path) -> None:
    talk = conversation(tmp_path, user("a human please"), called("transfer_to_human", "Transferred.", summary="x"))

    assert talk.turns[0].answer == "Transferred."
    assert not talk.turns[0].ends_with_text


def test_text_in_parts_is_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}]

    assert conversation(tmp_path, {"role": "user", "content": parts}).turns[0].message == "a\nb"


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        ("Error: no seats", True),
        (None, True),
        ('{"error": "gone"}', True),
        ('{"error": null, "seats": 3}', False),
        ("{broken", False),
        ("No errors.", False),
        ("", False),
    ],
)
def test_a_call_failed_where_its_answer_is_an_error_or_missing(*, answer: str | None, failed: bool) -> None:
    assert Call("get_a", {}, answer).failed is failed


def test_arguments_that_are_not_json_are_the_models_mistake_not_the_files(tmp_path: Path) -> None:
    call = {"id": "1", "function": {"name": "get_a", "arguments": "{oops"}}
    talk = conversation(tmp_path, user("x"), {"role": "assistant", "content": "", "tool_calls": [call]})

    assert talk.turns[0].calls == (Call("get_a", {}, None),)
