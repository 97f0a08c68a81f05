"""What an upgrade asks for beyond the version before: nothing wider passes unseen."""

from dataclasses import fields, replace

from hypothesis import example, given
from hypothesis import strategies as st

from loket.contracts import Capability, Constraint, Effect, Limits, Match, Refusal
from loket.kernel.constraints import keep
from loket.packages.asks import more_than, wider
from loket.packages.manifest import AskedCapability, Manifest, Operation

_SCHEMA = {"type": "object"}


def known(match: Match, *, required: bool) -> Capability:
    rules = (Constraint("texts", "value", match, required=required),)
    return Capability("some.thing", "x", Effect.READ, _SCHEMA, _SCHEMA, constraints=rules)


HOSTS = ("example.org", "a.example.org", "b.a.example.org", "*.example.org", "*.a.example.org", "evil.org", "*.org")
WORDS = ("", "a", "a/", "a/b", "b", "ab")


def allowed(capability: Capability, constraints: dict[str, list[str]], value: str) -> bool:
    try:
        keep(capability, "m", constraints, {"value": value})
    except Refusal:
        return False
    return True


@given(data=st.data(), match=st.sampled_from([Match.PREFIX, Match.EXACT, Match.HOST]), required=st.booleans())
def test_what_is_not_wider_allows_nothing_that_was_not_allowed(
    data: st.DataObject, match: Match, required: bool
) -> None:
    """By the kernel's own check of a call, for every way of comparing, with and without the constraint."""
    texts = HOSTS if match is Match.HOST else WORDS
    asked = st.one_of(
        st.just({}), st.fixed_dictionaries({"texts": st.lists(st.sampled_from(texts), min_size=1, max_size=3)})
    )
    before, after = data.draw(asked), data.draw(asked)
    values = [f"https://{host.replace('*', 'x')}/" for host in HOSTS] if match is Match.HOST else list(WORDS)
    capability = known(match, required=required)
    if not wider(capability, before, after):
        for value in values:
            assert not allowed(capability, after, value) or allowed(capability, before, value), value


def manifest(**more: object) -> Manifest:
    base = Manifest("echo", "1.0.0", "agent", "x", "module.wasm", "agent.py", (), (), Limits())
    return replace(base, **more)  # type: ignore[arg-type] - fields of the dataclass


_NAMES = st.sampled_from(["kv.get", "kv.set", "net.fetch", "inventory.lookup"])
_ASKED = st.lists(_NAMES, unique=True).map(lambda names: tuple(AskedCapability(name, "x") for name in names))
_OPERATIONS = st.lists(
    st.builds(Operation, st.sampled_from("abc"), st.just("x"), st.sampled_from(Effect), st.just(_SCHEMA), st.just({})),
    unique_by=lambda one: one.name,
).map(tuple)


@given(capabilities=_ASKED, operations=_OPERATIONS)
def test_the_same_again_asks_for_nothing_more(
    capabilities: tuple[AskedCapability, ...], operations: tuple[Operation, ...]
) -> None:
    """Nor does less of it."""
    whole = manifest(capabilities=capabilities, operations=operations)
    assert more_than(whole, replace(whole, version="1.0.1")) == []
    assert more_than(whole, replace(whole, capabilities=capabilities[1:], operations=operations[1:])) == []


@given(before=_ASKED, after=_ASKED)
@example(before=(), after=(AskedCapability("kv.get", "x"),))
def test_every_capability_that_is_new_is_named(
    before: tuple[AskedCapability, ...], after: tuple[AskedCapability, ...]
) -> None:
    """Those and no others."""
    found = more_than(manifest(capabilities=before), manifest(capabilities=after))
    new = {one.name for one in after} - {one.name for one in before}
    assert {one.name for one in found} == new


@given(st.sampled_from([field.name for field in fields(Limits)]), st.integers(1, 100))
def test_every_limit_that_is_higher_is_named(name: str, by: int) -> None:
    """A lower one is not."""
    raised = manifest(limits=replace(Limits(), **{name: getattr(Limits(), name) + by}))
    assert [one.name for one in more_than(manifest(), raised)] == [name]
    assert more_than(raised, manifest()) == []


def test_another_kind_and_another_wire_are_named() -> None:
    """A tool that becomes a channel is something else; a channel with another table too."""
    assert [one.kind for one in more_than(manifest(), manifest(kind="tool"))] == ["kind"]
    channel = manifest(kind="channel", own=("poll", "a.example.org"))
    assert [one.kind for one in more_than(channel, replace(channel, own=("poll", "b.example.org")))] == ["wire"]
    assert more_than(channel, channel) == []
