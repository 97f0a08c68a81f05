"""An agent that does what a message says, so that tests can have agents speak with each other.

"ask NAME: TEXT", "send NAME: TEXT", "publish TOPIC: TEXT", "subscribe TOPIC", "unsubscribe TOPIC", "think ABOUT: TEXT",
"heard", "try NAME: TEXT" (asks, and answers with the refusal); anything else is kept, and repeated with its own name.
"""

from typing import Any

from loket_guest import Refused, call, operation


@operation
def message(args: dict[str, Any]) -> dict[str, Any]:
    """Answer a message; the reply is `text`."""
    command, _, rest = args["text"].partition(" ")
    name, _, text = rest.partition(": ")
    do = _COMMANDS.get(command)
    return {"text": do(name, text) if do else _kept(args)}


def _ask(name: str, text: str) -> str:
    return f"{name} said: {call('agent.ask', agent=name, text=text)['text']}"


def _try(name: str, text: str) -> str:
    try:
        return _ask(name, text)
    except Refused as refused:
        return f"{refused.code}: {refused.message}"


def _send(name: str, text: str) -> str:
    return str(call("message.send", agent=name, text=text)["run"])


def _publish(topic: str, text: str) -> str:
    return " ".join(call("message.publish", topic=topic, text=text)["delivered"])


def _subscribe(topic: str, _text: str) -> str:
    return " ".join(call("message.subscribe", topic=topic)["topics"])


def _unsubscribe(topic: str, _text: str) -> str:
    return " ".join(call("message.unsubscribe", topic=topic)["topics"])


def _think(_name: str, text: str) -> str:
    return str(call("llm.complete", messages=[{"role": "user", "content": text}], max_tokens=64)["text"])


def _heard(_name: str, _text: str) -> str:
    return " | ".join(call("kv.get", key="heard")["value"] or [])


def _kept(args: dict[str, Any]) -> str:
    heard = call("kv.get", key="heard")["value"] or []
    heard.append(f"{args.get('topic', '')} {args.get('from', '')} {args['text']}".strip())
    call("kv.set", key="heard", value=heard)
    return f"{args['agent']} heard {args['text']}"


_COMMANDS = {
    "ask": _ask,
    "try": _try,
    "send": _send,
    "publish": _publish,
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "think": _think,
    "heard": _heard,
}
