"""A cell of a data set -> chat messages: a conversation that ends with the user's turn.

The formats of TRL and verl are read: a list of messages, or its JSON text.
"""

import re

from data.tables import decode_json

__all__ = ["Unusable", "read_conversation", "read_messages"]

Message = dict[str, str]

# Other names that data sets have for the three roles.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "model": "assistant",
}
_ENDS_OTHERWISE = "whose prompt does not end with a user message"
_UNREADABLE = "whose prompt holds something else than messages"
_TOOLS = "whose prompt has tools"
_PARTS = "whose prompt holds more than text"
_LATE_SYSTEM = "whose prompt has a system message after the first one"


class Unusable(Exception):
    """A row can't be used; the message, after "rows", says why."""


def read_messages(value) -> list:
    """The messages of a problem's cell as they are there: a list, or its JSON text. [] where the
    cell is another text, or none.

    Python's own form, with single quotes, is taken for a list of messages that can't be read."""
    if isinstance(value, list):
        return value
    if isinstance(value, str) and re.match(r"\s*\[\s*\{\s*['\"](?:role|content)['\"]", value):
        return decode_json(value) or [None]
    return []


def read_conversation(messages: list) -> list[Message]:
    """The messages with one role of system, user and assistant each, and their text: perhaps a
    system message, then turns of which the last is the user's. Empty system messages are left out.

    Raises:
        Unusable: it is another conversation, or holds more than text.

    >>> parts = [{"type": "text", "text": "1+"}, {"type": "text", "text": "1?"}]
    >>> read_conversation([{"role": "user", "content": parts}])
    [{'role': 'user', 'content': '1+1?'}]
    """
    turns = [_read_message(message) for message in messages]
    conversation = [turn for turn in turns if turn["content"] or turn["role"] != "system"]
    if not conversation or conversation[-1]["role"] != "user":
        raise Unusable(_ENDS_OTHERWISE)
    if any(turn["role"] == "system" for turn in conversation[1:]):
        raise Unusable(_LATE_SYSTEM)
    if not all(turn["content"] for turn in conversation):
        raise Unusable("without a problem or an answer")
    return conversation


def _read_message(message) -> Message:
    if not isinstance(message, dict):
        raise Unusable(_UNREADABLE)
    # In a table every message has all keys, so that an empty one says nothing.
    role = message.get("role")
    if role in ("tool", "function") or message.get("tool_calls") or message.get("function_call"):
        raise Unusable(_TOOLS)
    if role not in ROLES:
        raise Unusable(_UNREADABLE)
    return {"role": ROLES[role], "content": _text_of(message.get("content"))}


def _text_of(content) -> str:
    """A message's text; a list of parts, such as {"type": "text", "text": "1+1?"}, is joined."""
    if isinstance(content, list):
        are_texts = all(
            isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
        )
        # Others may be images.
        if not are_texts:
            raise Unusable(_PARTS)
        content = "".join(part["text"] for part in content)
    if content is not None and not isinstance(content, str):
        raise Unusable(_UNREADABLE)
    return (content or "").strip()
