"""Stage 2: words that try to redefine an agent, in ten languages.

A pattern is a regular expression over lower-case text that is tried only around its keywords: finding a fixed string
is a hundred times cheaper than trying an expression at every character, and most texts have few of the keywords.
"""

# ruff: noqa: E501 - an expression in pieces is harder to read than a long line

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from loket.filter import shapes
from loket.filter.report import PATTERNS, Mark

_BEFORE = 90
"""Characters before a keyword in which a pattern may begin."""
_AFTER = 200
_MOST = 40
"""Places of one keyword that are looked at; a text with more of them is about the subject."""


@dataclass(frozen=True, slots=True)
class Part:
    """Expressions of a pattern. One of the texts `needs` is in whatever they find; none are named where that varies."""

    expression: re.Pattern[str]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind of attempt: found by one of `parts` around one of `keywords`, worth `score` as a mark."""

    name: str
    score: float
    keywords: tuple[str, ...]
    parts: tuple[Part, ...]


def _pattern(name: str, score: float, keywords: str, *expressions: str | Part) -> Pattern:
    """A pattern of expressions, or of parts."""
    parts = tuple(part for part in expressions if isinstance(part, Part))
    whole = "|".join(part for part in expressions if isinstance(part, str))
    return Pattern(name, score, tuple(keywords.split("|")), parts or (Part(re.compile(whole, re.MULTILINE)),))


def _part(needs: Iterable[str], *expression: str) -> Part:
    """A part that is tried only where one of these texts is: worth it for keywords that many pages are full of."""
    return Part(re.compile("".join(expression), re.MULTILINE), tuple(needs))


_VERBS = (
    r"\b(?:ignor(?:e|ing)|disregard(?:ing)?|forget(?:ting)?|overrid(?:e|ing)|neglect|abandon|dismiss|bypass|drop)\b"
)
_FILL = r"(?:[\s,'\"*]+(?:about|all|any|of|the|these|those|your|you|my|our|every|each|and|completely|whatever|other|most)\b){0,5}"
_EARLIER = (
    r"(?:previous(?:ly)?|prior|preceding|above|earlier|foregoing|former|initial|original|past|existing|given|last)"
)
_RULES = (
    r"(?:instructions?|prompts?|rules?|directions?|directives?|guidelines?|commands?|orders?|contexts?|messages?|tasks?"
    r"|assignments?|programming|training|information|restrictions|safeguards|documents|statements|guidance|text)"
)

_ENDS = [
    *",:\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000",
    *map(chr, range(0x2000, 0x200B)),
]
"""What can follow a greeting: `,`, `:`, and all that `\\s` stands for."""
_GREETINGS = [
    "dear",
    "hey",
    "hello",
    "attention",
    "attn",
    "note ",
    "message ",
    "instruction",
    *(f"hi{end}" for end in _ENDS),
]
_CALLED = [
    f"{name}{end} "
    for name in ("ai", "llm", "gpt", "claude", "gemini", "copilot", "assistant", "assistants", "agent", "agents")
    for end in ",:"
]

PATTERNS_KNOWN = (
    _pattern(
        "override",
        0.9,
        "ignor|disregard|forget|overrid|neglect|abandon|dismiss|bypass|drop|answer the|answer this|documents|articles|instructions|been told",
        rf"{_VERBS}{_FILL}[\s,'\"*]+{_EARLIER}\b[^.?!\n]{{0,30}}?\b{_RULES}\b",
        rf"{_VERBS}{_FILL}[\s,'\"*]+{_RULES}\b[^.?!\n]{{0,20}}\b(?:above|before|you (?:got|have|were|received)|so far|given)",
        rf"{_VERBS}(?:\s+about)?\s+(?:all|any)(?:\s+of)?(?:\s+(?:the|your|these|those))?\s+(?:instructions|prompts|rules"
        r"|guidelines|assignments|directives|commands|orders|documents|articles)\b",
        rf"{_VERBS}(?:\s+all)?\s+your\s+(?:\w+\s+)?(?:instructions|guidelines|programming|directives|thoughts|training)\b",
        r"\b(?:ignore|disregard|forget)\s+(?:everything|anything|all)\s+(?:that\s+)?(?:above|before|prior|previous|else|you(?:'ve|"
        r" have|\s+were|\s+know|\s+got|\s+learned)|i (?:said|told|have)|we (?:said|discussed)|and\b|i've\b)",
        r"\b(?:ignore|disregard|forget)\s+(?:all\s+)?(?:the\s+)?(?:above|previous)\s*(?:[.,:;!]|and\b|$)",
        r"\b(?:do not|don't|don'nt|never)\s+(?:answer|look (?:in|at)|use|follow)\s+(?:the|this|that|these|my|your)\s+(?:\w+\s+)?(?:question|documents?"
        r"|articles?|instructions)\b[^?\n]{0,60}\b(?:but|just|instead|rather|only)\b",
        r"\bdisregarding\s+(?:the|all|your)\s+(?:articles|documents|instructions|rules)",
        r"\b(?:despite|regardless of|contrary to|deviating from)\s+(?:what you(?:'ve| have) been told|(?:all |the |your |any )*(?:previous|earlier|prior) (?:instructions|tasks|rules))",
    ),
    _pattern(
        "override-german",
        0.9,
        "vergiss|vergessen|ignorier|missacht|abweichend",
        r"\bvergiss\s+(?:alles|alle|deine|die)\b",
        r"\b(?:ignorier\w*|missacht\w*|vergess\w*)\s+(?:sie\s+|bitte\s+)*(?:alle|die|deine|ihre|sämtliche|alles|obige)\w*\b[^.?!\n]{0,50}"
        r"(?:anweisung|instruktion|ausführung|aufgabe|regel|befehl|vorgabe|information|prompt|davor|gesagt|oben)",
        r"(?:anweisung|instruktion|ausführung|aufgabe|regel|befehl|vorgabe)\w*\s+(?:zu\s+)?(?:ignorier|vergess|missacht)",
        r"\babweichend\s+(?:zu|von)\s+(?:\w+\s+){0,3}(?:instruktion|anweisung|vorgabe)",
    ),
    _pattern(
        "override-dutch",
        0.9,
        "negeer|vergeet",
        r"\b(?:negeer|vergeet)\s+(?:alle?s?|de|je|uw|al)\b[^.?!\n]{0,40}"
        r"(?:instructies|opdrachten|hierboven|voorgaande|vorige|eerdere|hiervoor)",
    ),
    _pattern(
        "override-french",
        0.9,
        "oubli|ignore",
        r"\b(?:oubli(?:e|ez|er)|ignor(?:e|ez|er))\s+(?:toutes?|tout|les|tes|vos|ces)\b[^.?!\n]{0,40}"
        r"(?:instructions|consignes|règles|directives|précéd|ci-dessus|avant)",
    ),
    _pattern(
        "override-spanish",
        0.9,
        "olvid|ignor|esque",
        r"\b(?:olvid[aeo]\w*|ignor[aeo]\w*|esque[çc]\w+)\s+(?:todo|tudo|todas?|todos|las|los|lo|tus|sus|as|os|suas)\b[^.?!\n]{0,45}"
        r"(?:instruc|instruç|indicaciones|reglas|regras|órdenes|ordens|anterior|digo|dije|antes|sabes|dicho|dito)",
    ),
    _pattern(
        "override-italian",
        0.9,
        "dimentic|ignora",
        r"\b(?:dimentica\w*|ignora\w*)\s+(?:tutt[eio]|le|i|quanto)\b[^.?!\n]{0,40}(?:istruzioni|regole|precedent|sopra|detto)",
    ),
    _pattern(
        "override-indonesian",
        0.9,
        "abaikan|lupakan",
        r"\b(?:abaikan|lupakan)\s+(?:semua|seluruh|segala|instruksi|perintah|aturan)\b[^.?!\n]{0,40}"
        r"(?:instruksi|perintah|aturan|sebelum|di atas|tadi)",
    ),
    _pattern(
        "override-slavic",
        0.9,
        "игнорир|забудь|проигнорир|ігнору|zaboravi|zapomnij|zignoruj|ignoruj|zapomeň",
        r"(?:игнорир|забудь|ігнору)\w*\s+(?:все|всё|всі|предыдущ|попередн)\w*",
        r"\b(?:zaboravi|zapomnij|zignoruj|ignoruj|zapomeň)\w*\s+(?:sve|svi|wszystk|všech|poprzedni|předchoz|o\s)\w*",
    ),
    _pattern(
        "override-chinese",
        0.9,
        "忽略|无视|忘记|忘掉|無視|指示を",
        r"(?:忽略|无视|忘记|忘掉).{0,12}(?:指令|指示|说明|提示|规则|内容|命令)",
        r"(?:これまで|以前|上記|前).{0,8}(?:指示|命令).{0,6}(?:無視|忘れ)",
    ),
    _pattern(
        "new-instructions",
        0.7,
        "instruction|new task|your task|real task|next task|neue aufgabe|neue anweisung|nouvelle|nueva|nieuwe|neuen",
        r"(?:^|(?<=[.!?*#\]>])|(?<=[.!?*#\]>] ))(?:here are (?:your|the)\s+)?new\s+(?:\w+\s+)?instructions?\s*(?:\*+\s*)?(?:[:!]|are\b|follow|begin|\*|$)",
        r"\byour\s+(?:new|real|actual|true|next|only)\s+(?:task|instruction|goal|job|mission|objective|role)s?\b",
        r"\b(?:change|update|replace|modify)\s+your\s+(?:\w+\s+)?instructions\b",
        r"\byour\s+instructions\s+are\s+(?:now|as follows|to)\b",
        r"\b(?:follow|obey|execute|carry out)\s+(?:these|the following|my|only)\s+(?:new\s+|important\s+)?instructions\s+(?:instead|now|only)",
        r"\bnow\s+(?:focus|concentrate)\s+on\s+(?:your|the|a)\s+new\s+task",
        r"\bneuen?\s+(?:aufgaben?|anweisung\w*|instruktion\w*)\s*(?::|lautet|folgen|ist\b)",
        r"\b(?:nouvelles?\s+instructions?|nuevas?\s+instrucci\w+|nieuwe\s+instructies?)\s*:",
    ),
    _pattern(
        "persona",
        0.6,
        "you are now|from now on|pretend|act as|you're now|bist du|roleplay|role-play|role play|immerse yourself|ab jetzt|a partir de ahora|"
        "désormais|vanaf nu|mulai sekarang|fungier|you will be",
        r"\byou(?:'re| are)\s+now\s+(?!ready|able|logged|in\b|on\b|set|done|connected|subscribed|free|running|using|going|signed|"
        r"finished|one|two|three|four|five|at\b|part of|good|required|redirected|entitled|registered|enrolled|leaving|viewing|one step|all set)\w+",
        r"\bfrom now on,?\s+(?:you|your|act|respond|answer|reply|only|always|every)\b",
        r"(?:^|[.!?,;:\"]\s*|\b(?:you|to|please|and|now|will|must|should)\s+)pretend\s+(?:to be|that you|you are|you're|you have|you can)\b",
        r"\b(?:ab jetzt|von nun an)\s+(?:bist|wirst|antworte|sprich)",
        r"\b(?:jetzt|nun)\s+bist\s+du\b",
        r"\b(?:a partir de ahora|désormais|à partir de maintenant|vanaf nu|mulai sekarang),?\s+(?:eres|tu es|vous êtes|ben je|kamu|anda)\b",
        r"\bimmerse yourself into the role\b",
        r"\byou will be (?:impersonating|playing the role|acting as)\b",
    ),
    _pattern(
        "role-play",
        0.3,
        "act as|pretend|imagine you|fungier|act like|role of|stil eines",
        r"\b(?:i want you to|you (?:will|must|should|are going to)|please|now)\s+(?:\w+\s+)?act\s+(?:as|like)\b",
        r"^\W*act\s+(?:as|like)\b",
        r"\bimagine\s+(?:that\s+)?you(?:'re| are)\b",
        r"\bals\s+[\w -]{3,60}\s+fungier",
    ),
    _pattern(
        "jailbreak",
        0.7,
        "do anything now|developer mode|jailbr|dan mode|no restrictions|no limits|unfiltered|without restrictions|without any restrict|"
        "stay in character|god mode|maintenance mode|sudo mode|debug mode|no longer bound|freed from|broken free|stay a dan|no moral|"
        "no guidelines|amoral|content policy|ethical guidelines|without censor|uncensored|without limit|without ethical|training exercise",
        r"\bdo anything now\b",
        r"\b(?:developer|dan|god|maintenance|sudo|debug|jailbreak|admin)\s+mode\s+(?:(?:has been|is|now)\s+)*(?:enabled|activated|active|on\b|output)",
        r"\b(?:enable|activate|enter|entering|simulate)\s+(?:\w+\s+)?(?:developer|dan|god|maintenance|jailbreak|sudo)\s+mode\b(?!\s+(?:on|in|for|of|under)\b)",
        r"\b(?:you|must|always|should|will|to|and)\s+(?:\w+\s+){0,2}stay in character\b",
        r"\b(?:no longer bound|broken free|freed from|not bound by|free from)\b.{0,40}\b(?:rules|guidelines|polic|restrict|confines|limit)",
        r"\byou\s+(?:\w+\s+){0,4}(?:have|has|with)\s+no\s+(?:moral|ethical|restrictions|limits|guidelines|filters)\b",
        r"\bwithout\s+(?:any\s+)?(?:ethical|moral)\s+(?:\w+\s+)?(?:guidelines|restrictions|limits|considerations|constraints)\b",
        r"\bas part of a training exercise\b",
    ),
    _pattern(
        "system-prompt",
        0.7,
        "prompt|instructions|system message|anweisung|written above|said above|the text above|words above|everything above|before th|text before",
        r"\b(?:reveal|show|print|repeat|output|display|tell|leak|dump|give|write|recite|share|expose|summari[sz]e|translate|what (?:is|are|were|was))\b"
        r"[^.?!\n]{0,40}\byour\s+(?:\w+\s+)?(?:prompts?|instructions|system message|prompt.texts?|guidelines)\b",
        r"\b(?:reveal|show|print|repeat|output|display|tell|leak|dump|recite|copy)\b[^.?!\n]{0,30}\b(?:the|this)\s+"
        r"(?:system|full|hidden|secret|entire|initial|original|whole|above)\s+(?:\w+\s+)?(?:prompt|instructions|message)\b",
        r"\brepeat\s+(?:everything|all|the (?:text|words))\s+above\b",
        r"\bwhat\s+(?:is|was|are|were|stands)\s+(?:written|the \w+ sentences?|the text|said)\s+(?:above|before)\b",
        r"\b(?:the )?(?:\d+ )?sentences? before (?:the|this) (?:text|line|prompt)",
        r"\b(?:zeige?|schreibe?|nenne)\b[^.?!\n]{0,30}\b(?:deine|ihre)\w*\s+(?:\w+\s+)?(?:prompt|anweisung|instruktion)",
    ),
    _pattern(
        "chat-template",
        0.8,
        "<|im_|<|system|<|user|<|assistant|<|endof|<|start_|<|eot|[inst]|[/inst]|<<sys|<start_of_turn|<system|</system|<system-reminder|<|begin",
        r"<\|(?:im_start|im_end|system|user|assistant|endoftext|end_of_text|start_header_id|eot_id|begin_of_text|endofprompt)\|>",
        r"\[/?inst\]|<</?sys>>|<start_of_turn>",
        r"</?system(?:[-_ ](?:prompt|message|reminder|instructions?|note))?>",
    ),
    _pattern(
        "role-marker",
        0.6,
        "system|assistant|human:|instruction|response:|important",
        r"^\W{0,4}(?:system|assistant)(?: (?:prompt|message|note|override))?\s*:\s+(?:you|ignore|from|the user|new|override|important|do|please|disregard)\b",
        r"^\s*#{2,4}\s*(?:system|instruction|assistant|human|response)s?\s*:",
        r"\[(?:system|admin|developer)\s*(?:message|prompt|note|override|instructions?)?\]",
        r"\bhuman:\s+human:|\n\n(?:human|assistant):\s",
        r"<(?:important|instructions?|information)>",
    ),
    _pattern(
        "tool-call",
        0.6,
        "tool_call|function_call|<invoke|tool_use|<tool|function=",
        r"<\|?/?(?:tool_calls?|function_calls?|tool_use)\b[^>\n]{0,60}>",
        r"<(?:\w+:)?invoke\s+name=",
        r"<function=\w+>",
        r"\"(?:function_call|tool_calls?)\"\s*:\s*(?:\[\s*\{|\{\s*\"(?:name|arguments|id)\")",
    ),
    _pattern(
        "secrecy",
        0.8,
        "tell|inform|mention|notify|alert|reveal|disclos|without the user|sag dem",
        r"\b(?:do not|don't|dont|never|must not|should not|without)\s+(?:ever\s+)?(?:tell(?:ing)?|inform(?:ing)?|mention(?:ing)?|notify(?:ing)?|"
        r"alert(?:ing)?|reveal(?:ing)?|disclos(?:e|ing))\b[^.?!\n]{0,30}\b(?:the\s+|your\s+)?(?:user|owner|human|operator)s?\b(?!'| (?:name|id|agent|data|account))",
        r"\bwithout\s+the\s+(?:user|owner|human)(?:'s)?\s+(?:knowing|knowledge|noticing|consent|approval)\b",
    ),
    _pattern(
        "addressed-to-agent",
        0.7,
        "ai |ai:|ai,|if you are a|if you're a|assistant|agent|llm|language model|chatbot|gpt|claude|gemini|copilot",
        _part(
            _GREETINGS,
            r"(?:^|(?<=[.!?(\[<*-])|(?<=[.!?] ))[ \t]*(?:dear|hey|hello|hi|attention|note (?:to|for)|message (?:to|for)|instructions? (?:to|for)|attn)[,:]?\s+(?:(?:the|all|any|my|ye|an?)\s+)?",
            r"(?:ai|llm|gpt|claude|gemini|copilot|chatgpt|chatbot|virtual|language)(?:[- ](?:assistant|agent|model|system|bot)s?)?s?\b(?=\s*[,:.!\n-])",
        ),
        _part(
            _CALLED,
            r"(?:^|(?<=<!--) ?)(?:ai|llm|gpt|chatgpt|claude|gemini|copilot|ai assistants?|ai agents?)[:,] +\w",
        ),
        _part(
            ("if you",),
            r"\bif you(?:'re| are)\s+(?:an?\s+)?(?:ai|llm|large language model|language model|ai assistant|ai agent|automated agent)\b",
        ),
        _part(
            ("reading", "processing", "summari", "that read", "who read"),
            r"\b(?:any|all|every)\s+(?:ai|llm)(?:\s+(?:assistant|agent|model)s?)?\s+(?:reading|processing|summari[sz]ing|that reads?|who reads?)\b",
        ),
        _part(
            ("must", "should", "shall"),
            r"\b(?:assistant|agent|llm|ai)s?\s+(?:must|should|shall)\s+(?:now|immediately|also|instead|first)\s+\w+",
        ),
    ),
    _pattern(
        "exfiltration-link",
        0.8,
        "](http|src=",
        r"!\[[^\]\n]{0,80}\]\(https?://[^)\s]{1,200}[?&][^)\s=]{0,40}=(?:\{|\[|<|\$|%7b|%5b|query|data\b|secret|base64)",
        r"<img[^>\n]{0,80}src=[\"']?https?://[^\"'>\s]{1,200}[?&]\w{1,40}=(?:\{|\[|<|\$|%7b)",
    ),
    _pattern(
        "exfiltration",
        0.7,
        "password|secret|api key|api_key|token|credential|conversation|chat history|inbox|private key|e-mails|emails|contacts|.env|ssh key",
        r"\b(?:send|forward|e-?mail|post|upload|exfiltrate|transmit|leak)\s+(?:(?:me|us|him|them|over|all|any|every|the|your|their|its|of|user'?s?|full|entire|contents?|last|\d+)\s+){0,6}"
        r"(?:passwords?|secrets?|api[ _]keys?|(?:access )?tokens?|credentials?|conversations?|chat history|inbox|private keys?|ssh keys?|e-?mails|contacts)\b"
        r"[^.?!\n]{0,60}\b(?:to|at)\s+(?:https?://|[\w.+-]+@[\w-]+\.|the (?:following|attacker)|this (?:address|url|server|mail))",
    ),
    _pattern(
        "answer-steering",
        0.4,
        "your response|your answer|your reply|your output|after me|just say|only say|just output|only respond|say yes|only reply|deine antwort|antworte|stattdessen",
        r"\b(?:in|to|of|at the end of|from|into|for)\s+your\s+(?:final\s+)?(?:response|answer|reply|output)s?\b",
        r"\b(?:modify|change|alter|rewrite|reverse|scramble|replace|present|provide|deliver|make|format|end|start|begin|encode|preface|conclude)\s+"
        r"(?:\w+\s+){0,4}your\s+(?:\w+\s+)?(?:response|answer|reply|output)\b",
        r"\brepeat after me\b",
        r"\b(?:just|only)\s+(?:say|output|respond with|reply with|print)\b",
    ),
    _pattern(
        "forced-opinion",
        0.6,
        "that you hate|that you love|that you despise|you hate|dass du|sag dass|keine ",
        r"\b(?:say|state|tell (?:me|us|them)|include|write|output|print|answer|add)\s+that\s+you\s+(?:hate|love|despise|want to kill)\b",
        r"\bdo you hate \w+\?\s*say yes\b",
        r"\b(?:sag|schreib|erwähne)\w*\b[^.?!\n]{0,25}\bdass du\b[^.?!\n]{0,25}\bhass",
        r"\bdu bist kein\w*\s+[\w ]{2,30},?\s*sondern\b",
    ),
    _pattern(
        "praise-then-task",
        0.4,
        "well done|very good|excellent|great|nice work|good job|sehr gut|super gemacht|ausgezeichnet|fantastisch|that was ok",
        r"\b(?:well done|very good|excellent\w*(?: \w+)?|simply great|great|nice work|good job|that was ok)\b[^?\n]{0,80}?\bnow\b[^?\n]{0,30}\b(?:task|follow|come|forget|write|help|challenge|new)",
        r"\b(?:sehr gut|super|ausgezeichnet\w*|fantastisch)\b[^?\n]{0,80}\b(?:nun|jetzt|neue|aufgabe)",
    ),
    _pattern(
        "authority",
        0.4,
        "your developer|your creator|your boss|administrator|from openai|your admin|by anthropic|by openai|important message|emergency|priority task",
        r"\b(?:i am|i'm|as|this is)\s+(?:your|the)\s+(?:\w+\s+)?(?:developer|creator|administrator|admin|boss|owner|engineer)\b",
        r"\bthis is an important message from\b",
        r"\*\*\s*emergency\s*\*\*|^\W*priority task\b",
    ),
)
"""All patterns. Those below `SUSPICIOUS` are no sign by themselves: they are features of the classifier."""


_KEYWORDS = frozenset(keyword for pattern in PATTERNS_KNOWN for keyword in pattern.keywords)
_LETTERS = 4
_WORD = re.compile(r"[a-z]+")


def _needed(keyword: str) -> tuple[bytes, frozenset[bytes]]:
    """The first letters of words that a text with this keyword has: of the one that it begins with, and of the others.

    The last word of a keyword may go on in a text, so a short one says nothing.
    """
    words = [found.span() for found in _WORD.finditer(keyword)]
    first = words[0] if words and words[0][0] == 0 else None
    others = [(start, end) for start, end in words if start and (end < len(keyword) or end - start >= _LETTERS)]
    beginning = keyword[: min(first[1], _LETTERS)] if first is not None else ""
    return beginning.encode(), frozenset(keyword[start : min(end, start + _LETTERS)].encode() for start, end in others)


def _by_beginning() -> dict[bytes, tuple[tuple[str, frozenset[bytes]], ...]]:
    """Keywords by the first letters of their first word; those that begin with a sign by an empty text."""
    found: dict[bytes, list[tuple[str, frozenset[bytes]]]] = {b"": []}
    for keyword in sorted(_KEYWORDS):
        if keyword.isascii():
            beginning, others = _needed(keyword)
            found.setdefault(beginning, []).append((keyword, others))
    return {beginning: tuple(keywords) for beginning, keywords in found.items()}


_BEGINNINGS = _by_beginning()
_FOREIGN = tuple(sorted(keyword for keyword in _KEYWORDS if not keyword.isascii()))


def _candidates(lower: str) -> Iterator[str]:
    """The keywords that may be in a text, by the beginnings of its words: one pass instead of one a keyword."""
    beginnings = {word[:_LETTERS] for word in shapes.words_of(lower)}
    for beginning in (b"", *(beginnings & _BEGINNINGS.keys())):
        for keyword, others in _BEGINNINGS[beginning]:
            if others <= beginnings:
                yield keyword
    if not lower.isascii():
        yield from _FOREIGN


def lowered(text: str) -> str:
    """The text in lower case, character by character, so that positions stay."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(small if len(small := letter.lower()) == 1 else letter for letter in text)


def find_patterns(text: str) -> tuple[Mark, ...]:
    """Marks of all patterns in a text that is normalised already; each pattern at most once, at its first place."""
    lower = lowered(text)
    present = {keyword for keyword in _candidates(lower) if keyword in lower}
    if not present:
        return ()
    found = (_first(pattern, lower, present) for pattern in PATTERNS_KNOWN)
    return tuple(mark for mark in found if mark is not None)


def _first(pattern: Pattern, lower: str, present: set[str]) -> Mark | None:
    for keyword in pattern.keywords:
        if keyword not in present:
            continue
        for place in _places(keyword, lower):
            begin = max(0, place - _BEFORE)
            found = _leftmost(pattern, lower, begin, place + _AFTER)
            if found is not None:
                return Mark(PATTERNS, pattern.name, found.start(), found.end(), pattern.score)
    return None


def _leftmost(pattern: Pattern, lower: str, begin: int, end: int) -> re.Match[str] | None:
    """What any of a pattern's parts finds first between two places."""
    around = lower[begin:end]
    tried = [part for part in pattern.parts if not part.needs or any(map(around.__contains__, part.needs))]
    found = [match for part in tried if (match := part.expression.search(lower, begin, end)) is not None]
    return min(found, key=re.Match.start, default=None)


def _places(keyword: str, lower: str) -> Iterator[int]:
    """Where a keyword is, without those that stand well inside what is looked at around the one before."""
    place = -_AFTER
    for _ in range(_MOST):
        place = lower.find(keyword, max(0, place + _AFTER // 2))
        if place < 0:
            return
        yield place
