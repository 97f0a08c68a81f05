"""Looks at web addresses, asks another agent about what it found, and publishes the answer.

"look at URL ..." keeps addresses, "listen" subscribes to what other scouts publish; anything else goes and looks.
"""

from typing import Any

from loket_guest import Refused, call, lessons, operation

PLACES = "notes/places.txt"
HEARD = "notes/heard.txt"
TOPIC = "scout/"
SHOWN = 2_000
"""Characters of a page that the other agent is asked about."""


@operation
def message(args: dict[str, Any]) -> dict[str, Any]:
    """Answer a message; the reply is `text`."""
    urls = [word for word in args["text"].split() if word.startswith(("http://", "https://"))]
    if "topic" in args:
        return {"text": keep(HEARD, f"{args['from']} on {args['topic']}: {args['text']}")}
    if args["text"].strip() == "listen":
        return {"text": f"I hear {', '.join(call('message.subscribe', topic=TOPIC)['topics'])}."}
    if urls:
        return {"text": keep(PLACES, "\n".join(urls))}
    return scout()


def keep(path: str, text: str) -> str:
    """Write a text into the agent's own folder."""
    call("fs.write", path=path, text=text)
    return f"Kept in {path}."


def scout() -> dict[str, Any]:
    """Look at every place once, and tell the others. Answers `text`, and `heard_by`: who got it."""
    urls = call("fs.read", path=PLACES)["text"].split()
    learned = [lesson["text"] for lesson in lessons("net.fetch", 50) if lesson["source"] == "host:lessons"]
    report = "\n".join(look(url, learned) for url in urls)
    return {"text": report, "heard_by": call("message.publish", topic=f"{TOPIC}report", text=report)["delivered"]}


def look(url: str, learned: list[str]) -> str:
    """Look at one place, unless that was refused before. What would allow it is passed on."""
    host = url.split("/")[2]
    for lesson in learned:
        if lesson.startswith(f"net.fetch for {host} was refused"):
            return f"{host}: not tried again.\n{lesson}"
    try:
        page = call("net.fetch", url=url)["text"][:SHOWN]
        return f"{host}: {call('agent.ask', agent='main', text=f'What is this page about? {page}')['text']}"
    except Refused as refused:
        return f"{host}: {refused}\nThis would help: {refused.remedy}"
