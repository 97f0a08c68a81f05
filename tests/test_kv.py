"""Values under keys: what was set is read, a repeated effect changes nothing, agents are apart."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loket.contracts import OWNER, Call, Refusal
from loket.providers.kv import KV_MIGRATIONS, KvProvider
from loket.store.agents import AgentDatabases

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


class Agent:
    """Calls the provider as one agent, each call with the next ordinal."""

    def __init__(self, store: AgentDatabases, name: str = "main") -> None:
        self._handlers = KvProvider(store).handlers()
        self._name = name
        self.ordinal = 0

    def __call__(self, capability: str, *, ordinal: int | None = None, run: str = "run", **args: object) -> dict:
        self.ordinal += 1
        number = self.ordinal if ordinal is None else ordinal
        call = Call(run, number, self._name, "", OWNER, f"kv.{capability}", args, ())
        return dict(self._handlers[f"kv.{capability}"](call).value)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AgentDatabases]:
    store = AgentDatabases(tmp_path, KV_MIGRATIONS)
    yield store
    store.close()


@pytest.fixture
def kv(store: AgentDatabases) -> Agent:
    return Agent(store)


def test_what_was_set_is_read(kv: Agent) -> None:
    """A value comes back as it was, a missing key is not found, a second set replaces the first."""
    assert kv("get", key="a") == {"found": False, "value": None}
    assert kv("set", key="a", value={"day": [1, None]}) == {}
    assert kv("get", key="a") == {"found": True, "value": {"day": [1, None]}}
    kv("set", key="a", value=None)
    assert kv("get", key="a") == {"found": True, "value": None}


def test_a_deleted_key_is_gone(kv: Agent, tmp_path: Path) -> None:
    """Deleting says whether there was one, and leaves no trace of the value in the files."""
    kv("set", key="a", value="xylophone-secret")
    assert kv("delete", key="a") == {"existed": True}
    assert kv("delete", key="a") == {"existed": False}
    assert kv("get", key="a")["found"] is False
    assert not any(b"xylophone" in path.read_bytes() for path in tmp_path.iterdir())


def test_a_repeated_effect_changes_nothing(kv: Agent) -> None:
    """The same run and ordinal gets the stored answer, also when the world has moved on."""
    kv("set", key="a", value=1, ordinal=50)
    kv("delete", key="a", ordinal=51)
    kv("set", key="a", value=2, ordinal=52)
    assert kv("set", key="a", value=1, ordinal=50) == {}
    assert kv("get", key="a")["value"] == 2
    assert kv("delete", key="a", ordinal=51) == {"existed": True}
    assert kv("get", key="a")["value"] == 2
    assert kv("delete", key="a", ordinal=51, run="another") == {"existed": True}
    assert kv("get", key="a")["found"] is False


def test_agents_do_not_share_keys(store: AgentDatabases, kv: Agent) -> None:
    """A key is private to its agent."""
    kv("set", key="a", value=1)
    assert Agent(store, "other")("get", key="a")["found"] is False


def test_keys_are_listed_in_order_by_prefix(kv: Agent) -> None:
    """A list holds the keys with the prefix, goes on after a key, and stops at the limit."""
    for key in ("b", "a/1", "a/2", "a/3", "a", "a\U0010ffffz", "ab", "%", "a_1"):
        kv("set", key=key, value=0)
    assert kv("list")["keys"] == ["%", "a", "a/1", "a/2", "a/3", "a_1", "ab", "a\U0010ffffz", "b"]
    assert kv("list", prefix="a/")["keys"] == ["a/1", "a/2", "a/3"]
    assert kv("list", prefix="a/", limit=2)["keys"] == ["a/1", "a/2"]
    assert kv("list", prefix="a/", after="a/2")["keys"] == ["a/3"]
    assert kv("list", prefix="a", after="b")["keys"] == []
    assert kv("list", prefix="nothing")["keys"] == []


def test_half_a_surrogate_pair_is_no_key(kv: Agent) -> None:
    """A key that a database cannot hold is refused by name; a value may hold it."""
    with pytest.raises(Refusal, match="key"):
        kv("get", key="\ud800")
    kv("set", key="a", value="\ud800")
    assert kv("get", key="a")["value"] == "\ud800"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["set", "delete"]), keys, json_values), max_size=12))
def test_the_store_behaves_like_a_dictionary(store: AgentDatabases, steps: list[tuple[str, str, object]]) -> None:
    """Any series of sets and deletes leaves what the same series leaves in a dictionary."""
    kv = Agent(store, f"agent-{next(NUMBERS)}")
    model: dict[str, object] = {}
    with store.open(kv._name) as connection:
        connection.pragma("synchronous", "off")
    for step, key, value in steps:
        if step == "set":
            kv("set", key=key, value=value)
            model[key] = value
        else:
            assert kv("delete", key=key)["existed"] == (key in model)
            model.pop(key, None)
    assert kv("list", limit=1000)["keys"] == sorted(model)
    assert all(kv("get", key=key) == {"found": True, "value": value} for key, value in model.items())


NUMBERS = iter(range(10_000))
