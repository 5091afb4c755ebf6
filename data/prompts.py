"""Prompts as token ids: chat templates, plain text, worked examples; and completions as text."""

import re
from types import ModuleType

from data import mathematics
from data.mathematics import PROMPT_TEMPLATE, SHOTS
from run.errors import BadInput, first_line

# Stand for the text of a message, and for an answer, while a chat template is rendered.
PLACEHOLDER = "THE TEXT GOES HERE"
ANSWER_PLACEHOLDER = "THE ANSWER GOES HERE"

Message = dict[str, str]


def encode_row(
    tokenizer, task: ModuleType, row: dict, template: str | None = None, num_shots: int = 0
) -> list[int]:
    """The token ids of the prompt for one row of a task: by the template where there is one, else
    as the task itself asks.

    A task's plain text is text alone: what would be a special token in it is none. Chat messages
    for a tokenizer without a chat template become the task's PROMPT_TEMPLATE around the last one,
    where it has none that of mathematics; the conversation of a data set becomes plain text.

    Raises:
        BadInput: a chat template that can't be used, shots for a task that has none, a template for
            a conversation of several turns, or what a task in a file of the user's did wrong.
    """
    conversation = row.get("messages", []) if task is mathematics else []
    if template:
        if len(_turns(conversation)) > 1:
            reason = "its prompt has several turns, and a template has room for one {problem}"
            advice = "leave --prompt_template out, or take a model without one of its own"
            raise BadInput(f"row {row['id']}: {reason}; {advice}")
        return encode_prompt(tokenizer, row["problem"], template, num_shots)
    prompt = _prompt_of(task, row)

    # SHOTS would teach the form of another task's answers.
    if num_shots and task is not mathematics:
        advice = "its examples are of mathematics, and this task has none of its own"
        raise BadInput(
            f"--num_shots {num_shots}: {advice}; leave it out, or give --prompt_template"
        )
    if conversation and not tokenizer.chat_template:
        prompt = _plain_text(conversation)
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt, add_special_tokens=False, split_special_tokens=True)
        return _tokens_before(tokenizer, ids) + ids
    plain_template = getattr(task, "PROMPT_TEMPLATE", PROMPT_TEMPLATE)
    return _encode_messages(tokenizer, prompt, num_shots, plain_template)


def _prompt_of(task: ModuleType, row: dict) -> str | list[Message]:
    """What the task asks. A file of the user's may fail, or return anything.

    Raises:
        BadInput: it does.
    """
    if not task.__name__.endswith(".py"):
        return task.prompt(row)
    where = f"{task.__name__}: prompt(row) of row {row['id']}"
    try:
        prompt = task.prompt(row)
    except Exception as error:
        raise BadInput(f"{where} failed ({type(error).__name__}: {first_line(error)})") from error
    if isinstance(prompt, str):
        return prompt
    are_messages = isinstance(prompt, list) and all(
        isinstance(turn, dict)
        and turn.get("role") in ("system", "user", "assistant")
        and isinstance(turn.get("content"), str)
        for turn in prompt
    )
    if not are_messages or not prompt or prompt[-1]["role"] != "user":
        example = '[{"role": "user", "content": ...}]'
        wanted = f"must return a text or chat messages that end with the user's, such as {example}"
        raise BadInput(f"{where} {wanted}, not {prompt!r:.80}")
    return prompt


def encode_prompt(
    tokenizer, problem: str, template: str | None = None, num_shots: int = 0
) -> list[int]:
    """The token ids of the prompt for one problem of mathematics.

    Without a template, a tokenizer's chat template is used, as in Qwen2.5-Math's evaluation; a
    template is plain text that holds {problem}. Shots are worked examples in the same form before
    it. What the tokenizer puts before a plain text stays; what it appends, such as an end token, is
    dropped. The text of a special token in a problem stays text.

    Raises:
        BadInput: a chat template that can't be used.
    """
    if template:
        return _encode_template(tokenizer, problem, template, num_shots)
    return _encode_messages(tokenizer, mathematics.prompt({"problem": problem}), num_shots)


def completion_text(
    tokenizer, ids: list[int], template: str | None = None, num_shots: int = 0
) -> str:
    """The text of a completion; after shots it ends where a base model starts to invent the next
    problem.

    Tokens that begin, end or pad a text are dropped. Other special tokens stay, since <think> may
    be one, except for a last one, with which a turn ended."""
    outside = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    inside = [i for i in ids if i not in outside]

    # A turn may end with a token of its own, such as <|im_end|>.
    last = tokenizer.decode(inside[-1:])
    is_special = last != tokenizer.decode(inside[-1:], skip_special_tokens=True)
    if is_special and "think" not in last.lower():
        inside.pop()
    text = tokenizer.decode(inside)

    # After worked examples a base model writes "\n\n" and a next problem of its own.
    is_plain_text = template or not tokenizer.chat_template
    if num_shots and is_plain_text:
        before_problem = (template or PROMPT_TEMPLATE).split("{problem}")[0]
        text = text.split("\n\n" + before_problem.strip())[0]
    return text


# --- Plain text ---


def _encode_template(tokenizer, problem: str, template: str, num_shots: int) -> list[int]:
    """The ids of a template with the problem in it, after worked examples in the same form."""
    shots = ""
    for question, solution in SHOTS[:num_shots]:
        shots += template.replace("{problem}", question) + f" {solution}\n\n"
    # The problem belongs between the pieces; a template may hold {problem} several times.
    pieces = (shots + template).split("{problem}")
    if _holds_special_token(tokenizer, problem):
        ids = _encode_around(tokenizer, pieces, problem)
    else:
        ids = tokenizer.encode(problem.join(pieces), add_special_tokens=False)
    return _tokens_before(tokenizer, ids) + ids


def _holds_special_token(tokenizer, text: str) -> bool:
    """Whether a text that comes from a data set would be read as special tokens, such as an end of
    turn."""
    as_text = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    return tokenizer.encode(text, add_special_tokens=False) != as_text


def _encode_around(tokenizer, pieces: list[str], problem: str) -> list[int]:
    """The ids of the pieces with the problem between them; special tokens are read in the pieces
    alone."""
    as_text = tokenizer.encode(problem, add_special_tokens=False, split_special_tokens=True)
    ids = tokenizer.encode(pieces[0], add_special_tokens=False)
    for piece in pieces[1:]:
        ids += as_text + tokenizer.encode(piece, add_special_tokens=False)
    return ids


def _tokens_before(tokenizer, ids: list[int]) -> list[int]:
    """What the tokenizer puts before a text, often a token for the beginning, unless `ids` begin
    with it already."""
    # Encode any text with and without what the tokenizer adds, and look where the text begins.
    text = tokenizer.encode("1", add_special_tokens=False)
    whole = tokenizer.encode("1")
    starts = [i for i in range(len(whole)) if whole[i : i + len(text)] == text]
    before = whole[: starts[0]] if starts else []
    return [] if ids[: len(before)] == before else before


# --- Chat templates ---


def _encode_messages(
    tokenizer, messages: list[Message], num_shots: int, plain_template: str = PROMPT_TEMPLATE
) -> list[int]:
    """The ids of a conversation up to the model's turn, in which no content is read as special
    tokens.

    A tokenizer without a chat template gets `plain_template` around the last message alone."""
    turns = _turns(messages)
    if not tokenizer.chat_template:
        return _encode_template(tokenizer, turns[-1]["content"], plain_template, num_shots)
    examples = []
    for question, solution in SHOTS[:num_shots]:
        examples.append({"role": "user", "content": question})
        examples.append({"role": "assistant", "content": solution})
    system = messages[: len(messages) - len(turns)]
    messages = [*system, *examples, *turns]

    # Tokens may reach over the border between template and content, so the whole is encoded at
    # once where that is safe.
    text = _chat_text(tokenizer, messages)
    if not any(_holds_special_token(tokenizer, message["content"]) for message in messages):
        return tokenizer.encode(text, add_special_tokens=False)
    contents = [message["content"] for message in messages]
    marks = [f"{PLACEHOLDER} {index}." for index in range(len(messages))]
    marked = [{**message, "content": mark} for message, mark in zip(messages, marks)]
    return _encode_with(tokenizer, _chat_text(tokenizer, marked), dict(zip(marks, contents)))


def _turns(messages: list[Message]) -> list[Message]:
    """The messages after a system message."""
    return [message for message in messages if message["role"] != "system"]


def _plain_text(messages: list[Message]) -> str:
    """A conversation for a model without a chat template, up to the model's turn."""
    names = {"system": "", "user": "User: ", "assistant": "Assistant: "}
    paragraphs = [names[message["role"]] + message["content"] for message in messages]
    return "\n\n".join([*paragraphs, "Assistant:"])


def _encode_with(tokenizer, text: str, contents: dict[str, str]) -> list[int]:
    """The ids of a text in which contents stand for their marks; special tokens are read between
    them alone."""
    ids = []
    for part in re.split("(" + "|".join(map(re.escape, contents)) + ")", text):
        # Of a mark's content nothing is a special token.
        content = contents.get(part)
        ids += tokenizer.encode(
            part if content is None else content,
            add_special_tokens=False,
            split_special_tokens=content is not None,
        )
    return ids


def _chat_text(tokenizer, messages: list[Message]) -> str:
    """The conversation up to the model's turn, as the tokenizer's chat template writes it.

    Templates differ: some have no system role, so that its text goes before the first problem; some
    read contents as lists of parts. The first form is taken whose every text appears in what the
    template writes."""
    templates = tokenizer.chat_template
    if isinstance(templates, dict) and "default" not in templates:
        names = ", ".join(templates)
        raise BadInput(
            f"the tokenizer has several chat templates ({names}), none of them named default; "
            "give a plain --prompt_template, or name one default in its files"
        )

    # Try each form until one holds every text.
    reason = "it leaves out the problem, the system message or the worked examples"
    for turns in (messages, _without_system_role(messages)):
        for as_parts in (False, True):
            try:
                text = _render(tokenizer, turns, as_parts)
            except Exception as error:
                # A template is a program of its own, which may raise anything.
                reason = first_line(error)
                continue
            if all(_shown(turn) in text for turn in turns):
                return text
    raise BadInput(
        f"the tokenizer's chat template can't be used ({reason}); "
        "give a plain --prompt_template instead"
    )


def _shown(message: Message) -> str:
    """The text of a message that a template must write. It may leave out the thinking of earlier
    answers."""
    content = message["content"]
    if message["role"] == "assistant":
        content = content.rpartition("</think>")[2]
    return content.strip()


def _without_system_role(messages: list[Message]) -> list[Message]:
    """The messages with the text of a first system message before that of the next one."""
    first, *others = messages
    if first["role"] != "system":
        return messages
    content = f"{first['content']}\n\n{others[0]['content']}"
    return [{**others[0], "content": content}, *others[1:]]


def _render(tokenizer, messages: list[Message], as_parts: bool) -> str:
    """The messages as text, up to where the model's turn begins."""

    def render(messages: list[Message], **settings) -> str:
        if as_parts:
            messages = [
                {**message, "content": [{"type": "text", "text": message["content"]}]}
                for message in messages
            ]
        return tokenizer.apply_chat_template(messages, tokenize=False, **settings)

    text = render(messages, add_generation_prompt=True)
    if text != render(messages, add_generation_prompt=False):
        return text

    # The template has no words of its own that open the model's turn. Then what it writes before
    # an answer opens it.
    answer = {"role": "assistant", "content": ANSWER_PLACEHOLDER}
    try:
        opened = render([*messages, answer]).split(ANSWER_PLACEHOLDER)[0].rstrip(" ")
    except Exception:
        # The template takes no answer.
        return text
    return opened if opened.startswith(text) else text
