"""The policy in Cedar: what is allowed, asked about and denied; the floor; the cache; files; the time machine."""

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import Handlers, Rig
from live import loket, prepare
from loket.app import Loket, running
from loket.contracts import (
    OWNER,
    Answer,
    BadInput,
    Capability,
    Effect,
    Failed,
    Finding,
    ModuleRef,
    Origin,
    Principal,
    Question,
    Refusal,
    RunRequest,
    Verdict,
)
from loket.contracts.catalogue import BY_ID, STOCK
from loket.home import Home
from loket.operations import Operations
from loket.policy import (
    NO_RULE,
    CedarPolicy,
    HomePolicy,
    PlainPolicy,
    Scope,
    Standing,
    generate_rule,
    load,
    narrower,
    packaged,
    parse,
)
from loket.policy.cases import Bench, read_cases
from loket.policy.entities import plain_host
from loket.policy.files import APPROVED, faults, read_folder
from loket.policy.rules import statements
from loket.testing.models import InstantModel

AGENT = Principal("agent", "main")
MODULE = ModuleRef("local", "main", "1.0.0", "d" * 64)


def tool(effect: Effect, *critical: str, name: str = "shop.order") -> Capability:
    """A capability of a tool's, with these critical arguments."""
    properties = {argument: {} for argument in (*critical, "text")}
    return Capability(name, "of a test", effect, {"type": "object", "properties": properties}, {}, critical=critical)


def question(
    capability: Capability | str,
    *,
    args: Mapping[str, Any] | None = None,
    origins: Mapping[str, Origin] | None = None,
    seen: Sequence[str] = ("owner",),
    labels: Mapping[str, tuple[str, ...]] | None = None,
    principal: Principal = AGENT,
    module: ModuleRef | None = MODULE,
    **run: Any,
) -> Question:
    known = BY_ID[capability] if isinstance(capability, str) else capability
    findings = {name: Finding(origin, "of a test") for name, origin in (origins or {}).items()}
    request = RunRequest(
        **{
            "id": "r1",
            "root": "r1",
            "agent": "main",
            "principal": principal,
            "module": module,
            "conversation": "c",
            "operation": "message",
            "args": {},
            "labels": tuple(seen),
            "accepted": 0.0,
            **run,
        }
    )
    given_args = args if args is not None else dict.fromkeys(known.critical, "x")
    return Question(principal, request, known, given_args, labels or {}, findings, tuple(seen))


def policy(*texts: str, capabilities: Sequence[Capability] = STOCK, **more: Any) -> CedarPolicy:
    """The floor, the default, and these rules of a home."""
    files = {f"mine{number}.cedar": text for number, text in enumerate(texts)}
    return CedarPolicy(load(files, capabilities), **more)


DEFAULT = policy()


# The default policy


@pytest.mark.parametrize("capability", STOCK, ids=lambda capability: capability.id)
@pytest.mark.parametrize(("principal", "module"), [(AGENT, MODULE), (OWNER, None)], ids=["an agent", "the owner"])
def test_without_findings_the_default_says_what_the_plain_policy_says(
    capability: Capability, principal: Principal, module: ModuleRef | None
) -> None:
    """For every capability of the catalogue: a kernel that establishes nothing keeps its behaviour."""
    if capability.family == "plan" and module is not None:
        pytest.skip("the plain policy knows no plans")
    asked = question(capability, args=capability.examples[0], principal=principal, module=module)
    assert DEFAULT.decide(asked).verdict is PlainPolicy().decide(asked).verdict


@pytest.mark.parametrize("capability", STOCK, ids=lambda capability: capability.id)
def test_loket_itself_reads_and_keeps_lessons_and_no_more(capability: Capability) -> None:
    """Calls of the host without a module: the brain, and what changes nothing."""
    asked = question(capability, args=capability.examples[0], principal=Principal("host", "lessons"), module=None)
    allowed = capability.family == "brain" or not capability.effect.changes
    assert DEFAULT.decide(asked).verdict is (Verdict.ALLOW if allowed else Verdict.DENY)


@pytest.mark.parametrize("capability", STOCK, ids=lambda capability: capability.id)
def test_nobody_but_the_owner_calls_by_themselves(capability: Capability) -> None:
    """Users without a role, senders and clients reach nothing without a module, reads included."""
    for kind in ("user", "sender", "client", "stranger"):
        asked = question(capability, args=capability.examples[0], principal=Principal(kind, "eve"), module=None)
        assert DEFAULT.decide(asked).verdict is Verdict.DENY


_EFFECTS = [effect for effect in Effect if effect.changes]


@pytest.mark.parametrize("effect", _EFFECTS)
@pytest.mark.parametrize("origin", [*Origin, None], ids=str)
def test_an_effect_needs_a_critical_argument_of_the_owners(effect: Effect, origin: Origin | None) -> None:
    """Named, selected, trusted and bounded values are allowed; untrusted and unknown ones are asked about."""
    found = {"to": origin} if origin is not None else {}
    decision = DEFAULT.decide(question(tool(effect, "to"), origins=found))
    harmless = origin is Origin.BOUNDED and effect is not Effect.FETCH  # a bounded address has an open end
    good = harmless or origin not in (None, Origin.UNTRUSTED, Origin.BOUNDED)
    assert decision.verdict is (Verdict.ALLOW if good else Verdict.ASK)


@pytest.mark.parametrize("effect", _EFFECTS)
def test_an_effect_is_as_good_as_its_worst_argument(effect: Effect) -> None:
    """One untrusted argument among good ones asks."""
    mixed = question(tool(effect, "to", "amount"), origins={"to": Origin.NAMED, "amount": Origin.UNTRUSTED})
    assert DEFAULT.decide(mixed).verdict is Verdict.ASK
    unknown = question(tool(effect, "to", "amount"), origins={"to": Origin.NAMED})
    assert DEFAULT.decide(unknown).verdict is Verdict.ASK


def test_an_effect_without_critical_arguments_is_asked_about() -> None:
    """Nothing says whom it is for."""
    assert DEFAULT.decide(question(tool(Effect.EGRESS))).rules == ("default.ask",)


def test_what_is_confidential_leaves_after_asking_only() -> None:
    """Also to a recipient whom the owner named."""
    asked = question(tool(Effect.EGRESS, "to"), origins={"to": Origin.NAMED}, seen=("confidential", "owner"))
    assert DEFAULT.decide(asked).rules == ("default.confidential",)


def test_the_shipped_policy_tests_pass() -> None:
    """`default_tests.toml` against the default policy, each case by its rule."""
    bench = Bench(load({}, STOCK), BY_ID.__getitem__, lambda: 0.0)
    cases = read_cases("default_tests.toml", packaged("default_tests.toml"))
    assert [result for result in bench.run(cases) if result.wrong] == []
    assert len(cases) >= 25


def test_what_comes_with_loket_is_sound() -> None:
    """The default, as a file of a home, has no fault by the schema; nor has the floor."""
    assert list(faults({"default.cedar": packaged("default.cedar")}, STOCK)) == []
    floor = packaged("floor.cedar").replace('"floor.', '"copy.')
    assert list(faults({"copy.cedar": floor}, STOCK)) == []


# The floor


_SCOPES = st.sampled_from(["principal", 'principal == Agent::"main"', "principal is Agent"])
_ACTIONS = st.sampled_from(["action", 'action in Action::"effect:egress"', 'action == Action::"shop.order"'])
_CONDITIONS = st.sampled_from(
    [
        "",
        "when { true }",
        'when { context.worst == "untrusted" }',
        'when { context.values has "to" }',
        'when { context.seen.contains("owner") }',
        "unless { context.direct }",
    ]
)
_NOTES = st.sampled_from(["", '@verdict("oblige") ', '@obligation("redact") ', '@reason("I said so") '])


@st.composite
def _home_rules(draw: st.DrawFn) -> str:
    count = draw(st.integers(1, 6))
    return "\n".join(
        f'@id("mine.{number}") {draw(_NOTES)}permit({draw(_SCOPES)}, {draw(_ACTIONS)}, resource) {draw(_CONDITIONS)};'
        for number in range(count)
    )


@settings(deadline=None, max_examples=60)
@given(_home_rules(), st.sampled_from(["mine.cedar", "default.cedar"]), st.sampled_from([None, Origin.UNTRUSTED]))
def test_no_rule_of_a_home_lifts_the_floor(text: str, name: str, origin: Origin | None) -> None:
    """Whatever a home permits: an effect that cannot be undone is never done silently for an untrusted value."""
    capabilities = {effect: tool(effect, "to") for effect in (Effect.EGRESS, Effect.MONEY, Effect.DESTROY)}
    made = CedarPolicy(load({name: text}, [*STOCK, capabilities[Effect.EGRESS]]))
    for capability in capabilities.values():
        asked = question(capability, origins={"to": origin} if origin is not None else {})
        assert made.decide(asked).verdict is not Verdict.ALLOW
    sealed = question("net.fetch", args={"url": "https://a.example/"}, labels={"url": ("canary:main",)})
    assert made.decide(sealed).verdict is Verdict.DENY
    metadata = question("net.fetch", args={"url": "http://169.254.169.254/"}, origins={"url": Origin.NAMED})
    assert made.decide(metadata).rules == ("floor.metadata",)


@pytest.mark.parametrize("name", ["floor.cedar", "mine.cedar"])
def test_the_floor_cannot_be_replaced(name: str) -> None:
    """Neither by a file of its name nor by rules of its ids."""
    text = '@id("floor.sealed") permit(principal, action, resource);'
    with pytest.raises(BadInput) as error:
        load({name: text}, STOCK)
    assert name in error.value.message


def test_only_a_rule_for_exactly_these_values_lifts_the_floor() -> None:
    """One that names principal, capability and every critical value; any part left out, and it is asked."""
    capability = tool(Effect.EGRESS, "to", "cc")
    asked = question(capability, args={"to": "eve@x.example"}, origins={"to": Origin.UNTRUSTED})
    rule = generate_rule(asked)
    assert policy(rule, capabilities=[*STOCK, capability]).decide(asked).verdict is Verdict.ALLOW
    for wider in (
        rule.replace('principal == Agent::"main"', "principal"),
        rule.replace('action == Action::"shop.order"', 'action in Action::"shop"'),
        rule.replace('context.values["to"] == "eve@x.example"', "true"),
        rule.replace(' when { !(context.values has "cc") }', ""),
    ):
        assert wider != rule
        assert policy(wider, capabilities=[*STOCK, capability]).decide(asked).rules == ("floor.untrusted",)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://169.254.169.254/latest", "169.254.169.254"),
        ("http://2852039166/", "169.254.169.254"),
        ("http://0xA9FEA9FE/", "169.254.169.254"),
        ("http://0251.0376.0251.0376/", "169.254.169.254"),
        ("http://\uff11\uff16\uff19\u3002254\uff0e169.254/", "169.254.169.254"),
        ("http://[::ffff:169.254.169.254]/", "169.254.169.254"),
        ("http://user@METADATA.google.internal.:80/", "metadata.google.internal"),
        ("https://example.org/?u=http://169.254.169.254/", "example.org"),
        ("http://[::1", ""),
    ],
)
def test_a_host_has_one_spelling(url: str, host: str) -> None:
    """Rules compare hosts, so another way to write an address is the same address."""
    assert plain_host(url) == host


# How verdicts follow from rules


def _only(*texts: str) -> CedarPolicy:
    return CedarPolicy([rule for text in texts for rule in parse("t.cedar", text)])


ALLOW = '@id("a") permit(principal, action, resource);'
ASK = '@id("b") @verdict("ask") permit(principal, action, resource);'
DENY = '@id("c") forbid(principal, action, resource);'
MUST = '@id("d") @verdict("ask") forbid(principal, action, resource);'
OBLIGE = '@id("e") @verdict("oblige") @obligation("redact, notify") permit(principal, action, resource);'


@pytest.mark.parametrize(
    ("texts", "verdict", "rules"),
    [
        ((), Verdict.DENY, (NO_RULE,)),
        ((OBLIGE,), Verdict.DENY, (NO_RULE,)),
        ((ALLOW,), Verdict.ALLOW, ("a",)),
        ((ASK,), Verdict.ASK, ("b",)),
        ((ALLOW, ASK), Verdict.ALLOW, ("a",)),
        ((ALLOW, ASK, MUST), Verdict.ASK, ("d",)),
        ((MUST,), Verdict.DENY, (NO_RULE,)),
        ((ALLOW, ASK, MUST, DENY), Verdict.DENY, ("c",)),
    ],
)
def test_a_verdict_follows_from_the_rules_that_match(
    texts: tuple[str, ...], verdict: Verdict, rules: tuple[str, ...]
) -> None:
    """Forbidding beats asking, asking by force beats allowing, allowing beats asking; nothing is a denial."""
    decision = _only(*texts).decide(question("kv.get"))
    assert (decision.verdict, decision.rules) == (verdict, rules)


def test_obligations_of_all_matching_rules_come_together() -> None:
    """Of rules that decide and of rules that only oblige; a denial has none."""
    more = '@id("f") @obligation("truncate") permit(principal, action, resource);'
    assert set(_only(OBLIGE, more).decide(question("kv.get")).obligations) == {"redact", "notify", "truncate"}
    assert _only(OBLIGE, more, DENY).decide(question("kv.get")).obligations == ()


def test_a_rule_that_cannot_be_evaluated_is_no_rule_that_is_passed_over() -> None:
    """Cedar skips a `forbid` that overflows; here the decision fails, which the counter takes for a denial."""
    overflow = '@id("c") forbid(principal, action, resource) when { context.depth * 9223372036854775807 > 1 };'
    with pytest.raises(Failed) as error:
        _only(ALLOW, overflow).decide(question("kv.get", depth=3))
    assert error.value.code == "policy.evaluation"


def test_rules_see_roles() -> None:
    """A principal's roles are its parents, and whoever is disabled can do nothing."""
    standing = [Standing(("reader",))]
    made = policy(members=lambda _principal: standing[0])
    asked = question("brain.search", principal=Principal("user", "ana"), module=None)
    assert made.decide(asked).rules == ("default.read",)
    standing[0] = Standing(())
    assert made.decide(asked).rules == (NO_RULE,)
    standing[0] = Standing(("reader",), enabled=False)
    assert made.decide(asked).rules == ("floor.disabled",)


def test_rules_see_the_clock_and_decisions_do_not_go_stale() -> None:
    """A rule about hours counts in its hours, though decisions are kept; without one the clock is not looked at."""
    hour = '@id("mine.night") forbid(principal, action, resource) when { context.hour < 6 };'
    now = [0.0]
    looked = []

    def clock() -> float:
        looked.append(now[0])
        return now[0]

    at_night, anytime = policy(hour, now=clock), policy(now=clock)
    verdicts = set()
    for step in range(24):
        now[0] = step * 3600.0
        verdicts.add(at_night.decide(question("kv.get")).verdict)
    assert verdicts == {Verdict.ALLOW, Verdict.DENY}
    looked.clear()
    anytime.decide(question("kv.get"))
    assert looked == []


def test_rules_see_what_is_left_of_the_budget() -> None:
    """As it is at the moment of the call."""
    left = [(1000, 1.0)]
    low = '@id("mine.low") forbid(principal, action, resource) when { context.left_cents < 10 };'
    made = policy(low, budget=lambda _run: left[0])
    assert made.decide(question("llm.complete")).verdict is Verdict.ALLOW
    left[0] = (1000, 0.05)
    assert made.decide(question("llm.complete")).rules == ("mine.low",)


# The cache


_LABELS = st.lists(
    st.sampled_from(["owner", "private", "confidential", "host:a.example", "host:b.example"]), max_size=4
)
_QUESTIONS = st.builds(
    lambda name, url, origin, seen, agent, run: question(
        name,
        args={"url": url} if name == "net.fetch" else {"id": 7},
        origins={"url" if name == "net.fetch" else "id": origin} if origin is not None else {},
        seen=tuple(sorted(set(seen))),
        principal=Principal("agent", agent),
        id=run,
    ),
    st.sampled_from(["net.fetch", "brain.forget", "brain.search"]),
    st.sampled_from(["https://a.example/1", "https://a.example/2", "http://169.254.169.254/"]),
    st.sampled_from([*Origin, None]),
    _LABELS,
    st.sampled_from(["main", "weather"]),
    st.sampled_from(["r1", "r2"]),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(_QUESTIONS, min_size=1, max_size=8))
def test_a_kept_decision_is_the_one_that_would_be_made(questions: list[Question]) -> None:
    """In any order of questions: what is kept equals what a policy without memory decides, and is one object."""
    for asked in questions:
        kept = DEFAULT.decide(asked)
        assert kept is DEFAULT.decide(replace(asked))
        assert kept == policy_afresh().decide(asked)


def policy_afresh() -> CedarPolicy:
    return CedarPolicy(list(DEFAULT.rules.values()))


def test_long_arguments_are_decided_and_not_kept() -> None:
    """A module cannot fill the memory with what it asks for: such a decision is right, and made anew."""
    capability = tool(Effect.EGRESS, "to")
    made = policy(capabilities=[*STOCK, capability])
    for number in range(20):
        asked = question(capability, args={"to": f"{number}" * 100_000}, origins={"to": Origin.UNTRUSTED})
        assert made.decide(asked).verdict is Verdict.ASK
    assert len(made._decided) == 1


def test_what_no_rule_looks_at_makes_no_other_decision() -> None:
    """The same object for other runs, conversations and addresses; another one where a rule looks at values."""
    first = question("net.fetch", args={"url": "https://a.example/1"})
    other = question("net.fetch", args={"url": "https://a.example/2"}, id="r9", conversation="d")
    assert DEFAULT.decide(first) is DEFAULT.decide(other)
    looks = policy(
        '@id("mine.v") forbid(principal, action, resource) when { context.values has url && '
        'context.values.url == "https://a.example/2" };'.replace("action,", 'action == Action::"net.fetch",')
    )
    assert looks.decide(first).verdict is Verdict.ALLOW
    assert looks.decide(other).rules == ("mine.v",)
    assert looks.decide(question("kv.get")) is looks.decide(question("kv.get", args={"key": "other"}))


# Rules made from questions


@settings(deadline=None, max_examples=80)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.text(max_size=10))
def test_a_generated_rule_allows_its_call_and_no_other_value(value: str, other: str) -> None:
    """For any text, quotes and control characters included: this value is allowed, others are not."""
    capability = tool(Effect.MONEY, "to")
    asked = question(capability, args={"to": value}, origins={"to": Origin.UNTRUSTED})
    rules = [*DEFAULT.rules.values(), *parse(APPROVED, generate_rule(asked))]
    made = CedarPolicy(rules)
    assert made.decide(asked).verdict is Verdict.ALLOW
    if other != value:
        assert made.decide(replace(asked, args={"to": other})).verdict is Verdict.ASK


def _others(asked: Question) -> list[Question]:
    """Questions that differ from one in what a rule for it must not let through."""
    another = replace(asked.run, module=replace(MODULE, publisher="mallory"))
    return [
        replace(asked, principal=Principal("agent", "other")),
        replace(asked, run=another),
        replace(asked, capability=tool(Effect.EGRESS, "to", "cc", name="shop.other")),
        replace(asked, args={"to": "ana@x.example", "cc": "eve@x.example"}),
        replace(asked, args={}),
        replace(asked, exposed=("confidential", "owner")),
    ]


def test_a_generated_rule_is_never_broader_than_its_call() -> None:
    """Another agent, publisher, capability or value, an argument more or less, and confidential things seen since."""
    asked = question(tool(Effect.EGRESS, "to", "cc"), args={"to": "ana@x.example"}, origins={"to": Origin.UNTRUSTED})
    made = CedarPolicy([*DEFAULT.rules.values(), *parse(APPROVED, generate_rule(asked))])
    assert made.decide(replace(asked, args={"to": "ana@x.example", "text": "hi"})).verdict is Verdict.ALLOW
    assert [made.decide(one).verdict for one in _others(asked)] == [Verdict.ASK] * 6


def test_a_rule_can_be_narrowed_and_not_widened() -> None:
    """Further conditions are narrower; a scope or a condition left out is not, and what is no permit is neither."""
    asked = question(tool(Effect.EGRESS, "to"), args={"to": "ana@x.example"}, conversation="trip")
    rule = generate_rule(asked)
    assert narrower(rule, asked)
    for scope in (Scope(conversation=True), Scope(digest=True), Scope(until=20261231)):
        assert narrower(generate_rule(asked, scope), asked)
    assert narrower(rule.replace(" };", ' } unless { context.seen.contains("host") };'), asked)
    for wrong in (
        rule.replace('principal == Agent::"main"', "principal"),
        rule.replace('"ana@x.example"', '"eve@x.example"'),
        rule.replace(' when { !(context.seen.containsAny(["confidential", "secret"])) }', ""),
        rule.replace(") permit(", ") forbid("),
        f"{rule}\n{ALLOW}",
        "no rule",
    ):
        assert wrong != rule.replace(") permit(", ")permit(")
        assert not narrower(wrong, asked)


def test_a_narrowed_rule_holds_where_it_says() -> None:
    """Only in its conversation, for its bytes, until its day."""
    asked = question(tool(Effect.EGRESS, "to"), args={"to": "a"}, conversation="trip")
    day = 86_400.0
    texts = [
        generate_rule(asked, scope) for scope in (Scope(conversation=True), Scope(digest=True), Scope(until=19700103))
    ]
    clock = [day]
    one, two, three = (
        CedarPolicy([*DEFAULT.rules.values(), *parse(APPROVED, text)], now=lambda: clock[0]) for text in texts
    )
    assert [made.decide(asked).verdict for made in (one, two, three)] == [Verdict.ALLOW] * 3
    assert one.decide(replace(asked, run=replace(asked.run, conversation="work"))).verdict is Verdict.ASK
    newer = replace(asked.run, module=replace(MODULE, digest="e" * 64))
    assert two.decide(replace(asked, run=newer)).verdict is Verdict.ASK
    clock[0] = 10 * day
    assert three.decide(asked).verdict is Verdict.ASK


# Files


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("permit(principal, action, resource);", 1, "no @id"),
        ('\n\n@id("a b") permit(principal, action, resource);', 3, "'a b' is no id"),
        ('@id("m") permit(principal, action, resource', 1, "no Cedar policy"),
        (
            '// x\n@id("m")\npermit(principal, action, resource) when { "; //" == context.foo };',
            2,
            "context has no foo",
        ),
        ('@id("m") @verdict("perhaps") permit(principal, action, resource);', 1, "perhaps"),
        ('@id("m") @verdict("oblige") forbid(principal, action, resource);', 1, "oblige"),
        ('@id("m") @colour("red") permit(principal, action, resource);', 1, "@colour"),
        ('@id("m") permit(principal == ?principal, action, resource);', 1, "template"),
        ('@id("m") permit(principal, action == Action::"net.fetsh", resource);', 1, 'Action::"net.fetsh"'),
        (
            '@id("m") permit(principal, action == Action::"net.fetch", resource) when { context.values.uri == "" };',
            1,
            "uri",
        ),
        ('@id("m") permit(principal, action, resource) when { context.hour == "nine" };', 1, "types"),
        (f"{ALLOW}\n{ALLOW}", 2, "line 1"),
        ('@id("default.mine") permit(principal, action, resource);', 1, "default.cedar"),
    ],
)
def test_a_fault_names_its_file_its_line_and_what_helps(text: str, line: int, says: str) -> None:
    """What is wrong is found where it is written, before it decides anything."""
    found = next(faults({"mine.cedar": text}, STOCK))
    assert found.message.startswith(f"mine.cedar, line {line}: ")
    assert says in found.message
    assert found.remedy


def test_every_fault_of_a_file_is_found_at_once() -> None:
    """A broken rule does not hide the next one."""
    text = 'permit(principal, action, resource);\n@id("m") permit(principal, action == Action::"x.y", resource);'
    assert [fault.message.partition(":")[0] for fault in faults({"m.cedar": text}, STOCK)] == [
        "m.cedar, line 1",
        "m.cedar, line 2",
    ]


_PIECES = st.sampled_from(['"a;b"', '"\\";"', "// c; d\n", "permit", "\n", " ", "(x)", '"//"', "/", "1"])


@given(st.lists(st.lists(_PIECES, max_size=6), max_size=5))
def test_policies_end_at_their_own_semicolons(parts: list[list[str]]) -> None:
    """Not at one in a text or a comment; each begins on the line where its first word stands."""
    text, expected = "", []
    for pieces in parts:
        begin = next((at for at, piece in enumerate(pieces) if not piece.isspace() and piece[:2] != "//"), len(pieces))
        before = text + "".join(f" {piece}" for piece in pieces[:begin]) + " "
        expected.append(before.count("\n") + 1)
        text += "".join(f" {piece}" for piece in pieces) + " ;"
    assert [line for line, _statement in statements(text)] == expected


_DEEP = {
    "brackets": lambda n: "(" * n + "true" + ")" * n,
    "sets": lambda n: "[" * n + "1" + "]" * n + " == 1",
    "conditions": lambda n: "true && " * n + "true",
    "sums": lambda n: "1 + " * n + "1 == 1",
    "branches": lambda n: "if true then true else " * n + "true",
    "members": lambda n: "context" + ".direct" * n,
}


@pytest.mark.parametrize("form", _DEEP)
@pytest.mark.parametrize("n", [40, 700, 100_000])
def test_a_rule_that_nests_too_deeply_is_a_fault_and_ends_no_process(form: str, n: int) -> None:
    """Cedar's parser would overflow the stack; a rule that passes can be decided by."""
    text = f'@id("mine.deep") permit(principal, action, resource) when {{ {_DEEP[form](n)} }};'
    found = list(faults({"mine.cedar": text}, STOCK))
    assert n == 40 or found
    if not found:
        assert policy(text).decide(question("kv.get")).verdict is Verdict.ALLOW


def test_a_generated_rule_has_room_for_many_arguments() -> None:
    """Of a capability with a hundred critical arguments it can still be read."""
    names = [f"argument-{number}" for number in range(100)]
    asked = question(tool(Effect.MONEY, *names), args=dict.fromkeys(names[:50], "x" * 50))
    assert len(parse(APPROVED, generate_rule(asked))) == 1


def test_a_broken_file_closes_the_policy_until_it_is_mended(tmp_path: Path) -> None:
    """Everything is denied, the owner's own calls too, with the file and the line; removing it opens it again."""
    (tmp_path / "bad.cedar").write_text("permit(principal action);\n")
    home = HomePolicy(tmp_path, lambda: STOCK)
    own = question("brain.search", principal=OWNER, module=None)
    decision = home.decide(own)
    assert decision.verdict is Verdict.DENY
    assert "bad.cedar, line 1" in decision.reason
    assert decision.remedy is not None
    assert decision.remedy.startswith("loket policy check")
    home.remove("bad.cedar")
    assert home.error is None
    assert home.decide(own).verdict is Verdict.ALLOW


def test_a_file_that_is_no_text_closes_the_policy(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are a fault like any other."""
    (tmp_path / "bad.cedar").write_bytes(b"\xff\xfe\x00")
    assert HomePolicy(tmp_path, lambda: STOCK).decide(question("kv.get")).rules == ("policy.broken",)


def test_files_are_added_whole_or_not_at_all(tmp_path: Path) -> None:
    """A file with a fault changes nothing on the disk nor in what is decided; a sound one counts at once."""
    home = HomePolicy(tmp_path / "policies", lambda: STOCK)
    before = home.digest
    with pytest.raises(BadInput):
        home.put("mine.cedar", "permit(principal, action, resource);")
    assert (home.digest, read_folder(home.folder)) == (before, {})
    home.put("mine.cedar", '@id("mine.no") forbid(principal, action == Action::"kv.get", resource);')
    assert home.decide(question("kv.get")).rules == ("mine.no",)
    with pytest.raises(BadInput, match="already"):
        home.put("mine.cedar", ALLOW)
    home.remove("mine.no")
    assert home.decide(question("kv.get")).verdict is Verdict.ALLOW


@pytest.mark.parametrize("name", ["../mine.cedar", "floor.cedar", "mine.txt", "", "Mine.cedar", "a/b.cedar"])
def test_a_file_of_rules_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    """Names are small letters with the ending .cedar, and none is the floor's."""
    with pytest.raises(BadInput):
        HomePolicy(tmp_path, lambda: STOCK).put(name, ALLOW)


def test_an_approved_rule_is_kept_once(tmp_path: Path) -> None:
    """Approving the same call twice leaves one rule; it is still there for the next start."""
    capability = tool(Effect.EGRESS, "to")
    asked = question(capability, args={"to": "ana@x.example"}, origins={"to": Origin.UNTRUSTED})
    home = HomePolicy(tmp_path, lambda: [*STOCK, capability])
    first, second = (home.save_rule(f"approval-{number}", generate_rule(asked)) for number in (1, 2))
    assert first == second
    again = HomePolicy(tmp_path, lambda: [*STOCK, capability])
    assert again.decide(asked).rules == (first.id,)


# Policy tests


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[case]]\ncapability = 'kv.get'", "no verdict"),
        ("[[case]]\ncapability = 'kv.get'\nverdict = 'maybe'", "maybe"),
        ("[[case]]\ncapability = 'kv.get'\nverdict = 'ask'\ncolour = 1", "colour"),
        ("[[case]]\ncapability = 'kv.get'\nverdict = 'ask'\nargs = 1", "args"),
        ("x = ", "no TOML"),
        ("[[cases]]\na = 1", "[[case]]"),
    ],
)
def test_a_file_of_policy_tests_is_read_strictly(text: str, says: str) -> None:
    """An unknown key is a mistake in a test, not a remark."""
    with pytest.raises(BadInput) as error:
        read_cases("t.toml", text)
    assert says in error.value.message


def test_a_case_that_comes_out_otherwise_says_how() -> None:
    """Verdict, rule and obligations are each compared."""
    bench = Bench(load({}, STOCK), BY_ID.__getitem__, lambda: 0.0)
    text = (
        "[[case]]\ncapability = 'kv.get'\nverdict = 'deny'\n"
        "[[case]]\ncapability = 'kv.get'\nverdict = 'allow'\nrule = 'default.ask'\n"
        "[[case]]\ncapability = 'llm.complete'\nverdict = 'allow'\nobligations = []\n"
    )
    wrong = [result.wrong for result in bench.run(read_cases("t.toml", text))]
    assert ["it is allow" in wrong[0], "default.read did" in wrong[1], "redact" in wrong[2]] == [True] * 3


# In the kernel


def test_a_refusal_names_its_rules_and_the_rule_that_would_allow_it(tmp_path: Path) -> None:
    """The row has the ids and the digest; the command in the remedy, done, lets the same call through."""
    capability = replace(tool(Effect.EGRESS, "to"), answer={"type": "object"})
    home = HomePolicy(tmp_path / "policies", lambda: [*STOCK, capability])
    sent: list[Any] = []

    def send(call: Any) -> Answer:
        sent.append(dict(call.args))
        return Answer({})

    rig = Rig(tmp_path, Handlers(shop__order=send), more=(capability,), policy=_dutiful(home))
    run = rig.run(rig.module("tester", "shop.order"))
    with pytest.raises(Refusal) as refused:
        rig.counter.call(run, "shop.order", '{"to":"ana@x.example"}')
    assert refused.value.rules == ("floor.untrusted",)
    assert "floor.untrusted" in refused.value.message
    words = shlex.split(refused.value.remedy or "")
    assert words[:4] == ["loket", "policy", "add", "--rule"]
    added = home.save_rule("by command", words[4])
    rig.counter.call(run, "shop.order", '{"to":"ana@x.example"}')
    with pytest.raises(Refusal):
        rig.counter.call(run, "shop.order", '{"to":"eve@x.example"}')
    assert sent == [{"to": "ana@x.example"}]
    rig.journal.sync()
    rows = [row.meta for row in rig.rows()]
    assert [row["rules"] for row in rows] == [["floor.untrusted"], [added.id], [added.id], ["floor.untrusted"]]
    assert rows[1]["policy"] == home.digest != rows[0]["policy"]
    rig.close()


class _Without:
    """A policy whose obligations nobody in a test's kernel carries out."""

    def __init__(self, inner: HomePolicy) -> None:
        self._inner = inner

    def decide(self, asked: Question) -> Any:
        return replace(self._inner.decide(asked), obligations=())


def _dutiful(inner: HomePolicy) -> Any:
    return _Without(inner)


# The time machine, on a real home


def _noting(messages: Sequence[Mapping[str, Any]]) -> Any:
    """A model that writes a file for the first message of the owner, and is then done."""
    if messages[-1]["role"] != "user":
        return "Done."
    args = {"path": "notes/today.md", "text": "Ana called."}
    return {"tool_calls": [{"id": "1", "name": "fs_write", "arguments": args}]}


def _on(root: Path) -> Any:
    return running(Home(root), llm=InstantModel(_noting))


async def perform(system: Loket, name: str, /, **args: Any) -> Any:
    return await Operations(system).perform(name, args, lambda _event: None)


NO_FILES = '@id("mine.no-files") forbid(principal is Agent, action == Action::"fs.write", resource);'


async def _replayed(root: Path) -> None:
    async with _on(root) as system:
        await perform(system, "grants.allow", agent="main", capability="fs.write")
        run = await system.send("main", "Note that Ana called")
        await system.finished(run)
        await system.direct("main", "brain.search", {"query": "Ana"})
        same = await perform(system, "policy.replay", files={"same.cedar": "// nothing"})
        assert (same["changed"], same["unknown"]) == (0, 0)
        assert same["calls"] >= 3
        found = await perform(system, "policy.replay", files={"new.cedar": NO_FILES})
        assert found["calls"] == same["calls"]
        changes = [(c["run"], c["capability"], c["from"]["verdict"], c["to"]["verdict"]) for c in found["changes"]]
        assert changes == [(run, "fs.write", "allow", "deny")]
        assert found["changes"][0]["to"]["rules"] == ["mine.no-files"]
        assert read_folder(system.policy.folder) == {}
        ordinal = found["changes"][0]["ordinal"]
        told = await perform(system, "policy.explain", call=f"{run}/{ordinal}", files={"new.cedar": NO_FILES})
        assert (told["verdict"], told["then"]["from"]["verdict"]) == ("deny", "allow")


def test_a_journal_is_decided_again_under_a_changed_policy(tmp_path: Path) -> None:
    """The same rules change nothing; a rule that forbids files changes that one call, and nothing is saved."""
    asyncio.run(_replayed(prepare(tmp_path / "home")))


async def _refused_before(root: Path) -> None:
    async with _on(root) as system:
        await perform(system, "grants.allow", agent="main", capability="fs.write")
        await perform(system, "policy.add", name="mine.cedar", text=NO_FILES)
        run = await system.send("main", "Note that Ana called")
        await system.finished(run)
        await perform(system, "policy.remove", name="mine.cedar")
        found = await perform(system, "policy.replay", files={"none.cedar": "// nothing"})
        changes = [(c["capability"], c["from"], c["to"]["verdict"]) for c in found["changes"]]
        assert changes == [("fs.write", {"verdict": "deny", "rules": ["mine.no-files"]}, "allow")]


def test_a_refused_call_is_decided_again_too(tmp_path: Path) -> None:
    """What a rule denied then is seen to be allowed without it."""
    asyncio.run(_refused_before(prepare(tmp_path / "home")))


async def _by_clock(root: Path) -> None:
    async with _on(root) as system:
        await system.direct("main", "brain.search", {"query": "Ana"})
        rule = '@id("mine.past") forbid(principal, action, resource) when { context.today < 20200101 };'
        found = await perform(system, "policy.replay", files={"past.cedar": rule})
        assert found["changed"] == 0
        recent = await perform(system, "policy.replay", files={"no.cedar": DENY}, since_days=0.0)
        assert recent["runs"] == 0


def test_a_replay_has_the_clock_of_each_call(tmp_path: Path) -> None:
    """Rules about time see when a call was made; runs that began before the time asked for are left out."""
    asyncio.run(_by_clock(prepare(tmp_path / "home")))


# The command line


def test_the_commands_do_what_they_say(tmp_path: Path) -> None:
    """Check, add, explain, test, replay, show and remove on one home, with real processes."""
    home = prepare(tmp_path / "home")
    mine, bad, tests = tmp_path / "mine.cedar", tmp_path / "bad.cedar", tmp_path / "mine.toml"
    mine.write_text(NO_FILES)
    bad.write_text("permit(principal, action, resource);\n")
    tests.write_text("[[case]]\ncapability = 'fs.write'\nargs = { path = 'a', text = '' }\nverdict = 'deny'\n")
    assert "bad.cedar, line 1" in loket(home, "policy", "check", str(bad), code=1)
    assert loket(home, "policy", "test", str(tests), "--json", code=1)["wrong"] != []
    assert loket(home, "policy", "test", str(tests), "--with", str(mine), "--json")["ok"]
    added = loket(home, "policy", "add", str(mine), "--json")
    assert [rule["id"] for rule in added["rules"]] == ["mine.no-files"]
    told = loket(home, "policy", "explain", "fs.write", "path=a", "text=b", "--json")
    assert (told["verdict"], [rule["id"] for rule in told["matching"] if rule["decided"]]) == (
        "deny",
        ["mine.no-files"],
    )
    assert "mine.no-files" in loket(home, "policy", "show")
    (listed,) = [one for one in loket(home, "policy", "list", "--json")["rules"] if one["id"] == "mine.no-files"]
    assert (listed["file"], listed["does"]) == ("mine.cedar", "deny")
    (line,) = [line for line in loket(home, "policy", "list").splitlines() if line.startswith("mine.no-files")]
    assert line.split()[1:3] == [f"mine.cedar:{listed['line']}", "deny"]
    said = loket(home, "policy", "explain", "fs.write", "path=a", "text=b", "--origin", "path=named")
    assert [line.split() for line in said.splitlines() if line.startswith("origin of path")] == [
        ["origin", "of", "path", "named"]
    ]
    loket(home, "policy", "remove", "mine.cedar")
    replayed = loket(home, "policy", "replay", str(mine), "--since", "1d", "--json")
    assert replayed["changed"] == 0
    assert loket(home, "policy", "test", "--json")["ok"]


def test_the_default_rules_are_named_in_the_documents() -> None:
    """Each rule that comes with Loket, each attribute and each annotation is on the page about the policy."""
    page = (Path(__file__).parents[1] / "docs" / "policy.md").read_text(encoding="utf-8")
    from loket.policy.words import CONTEXT

    names = [*DEFAULT.rules, *(f"context.{name}" for name in CONTEXT)]
    assert [name for name in names if f"`{name}`" not in page] == []
