"""OpenAI's completions and chat completions, as far as a model that goes on with a text can serve them. No sockets.

What would change an answer and cannot be had is refused by name, never left out in silence.
Source: OpenAI's API reference, Completions, Chat Completions and Models.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocol.content import format_cid
from protocol.generation import PROMPT_TOKENS_MAX, TEMPERATURE_MAX, TOKENS_MAX, read_form
from protocol.keys import format_account
from protocol.ledger.model_records import ModelRecord
from roles.gateway.faults import Fault

COMPLETION_TOKENS, CHAT_TOKENS = 16, 100  # made unless max_tokens says otherwise; 16 is OpenAI's own
SEED_MAX = 2**63 - 1
MESSAGES_MAX = 256
DONE = b"data: [DONE]\n\n"
# Fields that are as good as absent with these values.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "top_logprobs": (),
    "suffix": ("",),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
# Fields that never change an answer.
_IGNORED = frozenset("metadata prompt_cache_key safety_identifier service_tier store user".split())
_READ = frozenset("max_tokens model seed stop stream stream_options temperature".split())


@dataclass(frozen=True)
class TextWanted:
    """What is to be gone on with, and how. `seed` is None where any will do; `stop` is one character or empty."""

    is_chat: bool
    prompt: str
    max_tokens: int
    temperature: float
    seed: int | None
    stop: str
    streams: bool
    tells_usage: bool


@dataclass(frozen=True)
class Reply:
    """What all pieces of one answer share: `id` names it, `created_s` is seconds since 1970."""

    is_chat: bool
    id: str
    created_s: int
    model: str


@dataclass(frozen=True)
class Usage:
    """Tokens read and made."""

    prompt: int
    made: int


def is_text_model(record: ModelRecord) -> bool:
    """Whether it goes on with texts."""
    return read_form(record.inputs, record.outputs) is not None


def describe_model(record: ModelRecord) -> dict[str, Any]:
    """One of `GET /v1/models`, with its limits."""
    return {
        "id": record.name,
        "object": "model",
        "created": 0,  # the ledger does not say
        "owned_by": format_account(record.owner) if record.owner else "genesis",
        "cid": format_cid(record.digest),
        "version": record.version,
        "prompt_tokens_max": PROMPT_TOKENS_MAX,
        "completion_tokens_max": TOKENS_MAX,
        "characters": "".join(record.labels),
    }


def read_document(body: bytes) -> dict[str, Any]:
    """The object of a request, with its model's name. Fault 400."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _refuse(f"the request is not JSON: {str(error)[:200]}") from error
    if not isinstance(document, dict):
        raise _refuse(f"the request is a {type(document).__name__}, not an object")
    if not isinstance(document.get("model"), str):
        raise _refuse("model is the name of one")
    return document


def read_text_request(document: Mapping[str, Any], is_chat: bool) -> TextWanted:
    """What a request asks for. Fault 400 that names what it may not hold."""
    own = {"messages", "max_completion_tokens"} if is_chat else {"prompt"}
    fields = {name: value for name, value in document.items() if value is not None}
    for name in fields.keys() - _READ - _IGNORED - own:
        if not any(type(fields[name]) is type(value) and fields[name] == value for value in _list_neutral(name)):
            reason = f"{name[:40]} {str(fields[name])[:40]!r} is not supported by models that go on with a text"
            raise Fault(400, "unsupported_parameter", reason)
    prompt = _join(fields.get("messages")) if is_chat else _read_prompt(fields.get("prompt"))
    if not 1 <= len(prompt) <= PROMPT_TOKENS_MAX:
        reason = f"the text has {len(prompt)} characters, a model is given 1 to {PROMPT_TOKENS_MAX}"
        raise Fault(400, "context_length_exceeded" if prompt else "bad_input", reason)
    usual = CHAT_TOKENS if is_chat else COMPLETION_TOKENS
    most = fields.get("max_completion_tokens", fields.get("max_tokens", usual))
    options = fields.get("stream_options", {})
    if not isinstance(options, dict) or type(options.get("include_usage", False)) is not bool:
        raise _refuse("stream_options is an object with include_usage, true or false")
    return TextWanted(
        is_chat,
        prompt,
        _read_whole("max_tokens", most, 1, TOKENS_MAX),
        _read_temperature(fields.get("temperature", 1)),
        _read_whole("seed", fields["seed"], 0, SEED_MAX) if "seed" in fields else None,
        _read_stop(fields.get("stop", [])),
        _read_switch("stream", fields.get("stream", False)),
        options.get("include_usage", False),
    )


def format_reply(reply: Reply, text: str, finish: str, usage: Usage, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """A whole answer. `finish` is stop or length."""
    said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if reply.is_chat else {"text": text}
    kind = "chat.completion" if reply.is_chat else "text_completion"
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
    return {**_describe(reply, kind), "choices": [choice], "usage": _count(usage), "x_receipt": dict(receipt)}


def format_piece(reply: Reply, text: str, is_first: bool) -> bytes:
    """An event of a stream: more of the text."""
    role = {"role": "assistant"} if is_first else {}
    return _format_event(_chunk(reply, {**role, "content": text} if reply.is_chat else text, None))


def format_end(reply: Reply, finish: str, usage: Usage, receipt: Mapping[str, Any], tells_usage: bool) -> bytes:
    """The last events of a stream: why it ended, with the receipt; what was used, if asked for; and the mark."""
    last = _chunk(reply, {} if reply.is_chat else "", finish) | {"x_receipt": dict(receipt)}
    events = _format_event(last)
    if tells_usage:
        events += _format_event(_chunk(reply, "", None) | {"choices": [], "usage": _count(usage)})
    return events + DONE


def format_broken(fault: Fault) -> bytes:
    """The last event of a stream that failed after it had begun."""
    return _format_event(describe_fault(fault))


def describe_fault(fault: Fault) -> dict[str, Any]:
    """A fault in OpenAI's words."""
    kind = "invalid_request_error" if fault.status < 500 else "api_error"
    return {"error": {"message": fault.reason, "type": kind, "param": None, "code": fault.code}}


def split_stop(text: str, stop: str) -> tuple[str, str]:
    """A text without the stop it ended with, and why it ended.

    >>> split_stop("one.", "."), split_stop("one", "."), split_stop("one", "")
    (('one', 'stop'), ('one', 'length'), ('one', 'length'))
    """
    return (text.removesuffix(stop), "stop") if stop and text.endswith(stop) else (text, "length")


def _refuse(reason: str) -> Fault:
    return Fault(400, "bad_input", reason)


def _list_neutral(name: str) -> tuple[Any, ...]:
    values = _NEUTRAL.get(name, ())
    return (*values, *(float(value) for value in values if type(value) is int))


def _read_prompt(prompt: Any) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise _refuse("prompt is one text")
    return prompt


def _join(messages: Any) -> str:
    """The texts of a conversation, a line each: such a model knows no roles."""
    if not isinstance(messages, list) or not 1 <= len(messages) <= MESSAGES_MAX:
        raise _refuse(f"messages is a list of 1 to {MESSAGES_MAX}")
    return "\n".join(_read_message(message) for message in messages)


def _read_message(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        texts = [part.get("text") for part in content]
        content = "".join(texts) if all(isinstance(text, str) for text in texts) else None
    if not isinstance(content, str) or not isinstance(message.get("role"), str):
        raise _refuse("a message is an object with role and content, which is text")
    return content


def _read_whole(name: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _refuse(f"{name} is a whole number from {least} to {most}, not {str(value)[:40]!r}")
    return value


def _read_temperature(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= TEMPERATURE_MAX / 1_000:
        raise _refuse(f"temperature is a number from 0 to {TEMPERATURE_MAX // 1_000}, not {str(value)[:40]!r}")
    return float(value)


def _read_stop(value: Any) -> str:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > 1 or not all(isinstance(s, str) and len(s) == 1 for s in stops):
        raise _refuse("stop is one character")
    return "".join(stops)


def _read_switch(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise _refuse(f"{name} is true or false")
    return value


def _describe(reply: Reply, kind: str) -> dict[str, Any]:
    return {"id": reply.id, "object": kind, "created": reply.created_s, "model": reply.model}


def _chunk(reply: Reply, said: Any, finish: str | None) -> dict[str, Any]:
    kind = "chat.completion.chunk" if reply.is_chat else "text_completion"
    choice = {"index": 0, "delta" if reply.is_chat else "text": said, "logprobs": None, "finish_reason": finish}
    return {**_describe(reply, kind), "choices": [choice]}


def _count(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.made,
        "total_tokens": usage.prompt + usage.made,
    }


def _format_event(document: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"
