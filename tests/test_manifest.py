"""The manifest is strict, and every error names the file, the key and the remedy."""

from pathlib import Path

import pytest

from loket.contracts import BadInput, Effect, Limits
from loket.packages.manifest import RANGES, Manifest, load_manifest

WEATHER = """
id = "weather"
version = "1.2.0"
kind = "agent"
summary = "Tells the weather and warns of storms"
entry = "module.wasm"

[[capability]]
name = "kv.get"
reason = "reads the last place"
constraints = { keys = ["place"] }

[[operation]]
name = "forecast"
summary = "Forecast for a place"
effect = "read"
arguments = { type = "object", required = ["place"], properties = { place = { type = "string" } } }

[limits]
memory_mb = 128
money = 2
"""


def load(folder: Path, text: str) -> Manifest:
    (folder / "loket.toml").write_text(text, encoding="utf-8")
    return load_manifest(folder)


def refused(folder: Path, text: str) -> BadInput:
    with pytest.raises(BadInput) as caught:
        load(folder, text)
    return caught.value


def test_a_manifest_is_decoded_into_types(tmp_path: Path) -> None:
    """Every part of the design's example arrives in its field, and limits that are left out have their defaults."""
    manifest = load(tmp_path, WEATHER)
    assert (manifest.id, manifest.version, manifest.kind, manifest.entry) == (
        "weather",
        "1.2.0",
        "agent",
        "module.wasm",
    )
    assert manifest.source == "agent.py"
    assert manifest.capabilities[0].constraints == {"keys": ["place"]}
    assert manifest.operations[0].effect is Effect.READ
    assert manifest.operations[0].arguments["required"] == ["place"]
    assert manifest.limits == Limits(memory_mb=128, money=2.0)


def test_an_agent_without_entry_runs_on_the_stock_agent(tmp_path: Path) -> None:
    """`entry` may be left out by an agent, and by nothing else."""
    assert load(tmp_path, WEATHER.replace('entry = "module.wasm"', "")).entry is None
    error = refused(tmp_path, WEATHER.replace('entry = "module.wasm"', "").replace('"agent"', '"tool"'))
    assert '"entry" is missing' in error.message


@pytest.mark.parametrize(
    ("old", "new", "said", "remedy"),
    [
        ('id = "weather"', 'id = "Weather"', '"id" is "Weather"', 'id = "weather"'),
        ('version = "1.2.0"', 'version = "1.2"', '"version" is "1.2"', "1.0.0"),
        ('version = "1.2.0"', "version = 1", '"version" is 1, and has to be a text', "1.0.0"),
        ('summary = "Tells', 'sumary = "Tells', '"summary" is missing', "summary = "),
        ('kind = "agent"', 'kind = "agant"', '"kind" is "agant"', 'did you mean "agent"?'),
        ("memory_mb", "memory", '[limits] "memory" is no key', 'did you mean "memory_mb"?'),
        ("memory_mb = 128", "memory_mb = 1e9", "has to be a whole number", "memory_mb"),
        ("memory_mb = 128", "memory_mb = 100000", '"memory_mb" is 100000', "between 1 and 4,096"),
        ("memory_mb = 128", "cpu_ms = true", "has to be a whole number", "cpu_ms"),
        ("money = 2", "money = nan", "has to be a number", "money"),
        ('name = "kv.get"', 'name = "kv.gett"', "no such capability", 'did you mean "kv.get"?'),
        ('reason = "reads the last place"', "", '[[capability]] 1 "reason" is missing', "reason = "),
        ('reason = "reads', 'why = 1\nreason = "reads', '[[capability]] 1 "why" is no key', "known here"),
        ("[[capability]]", "[capability]", "has to be a list of tables", "[[capability]]"),
        ('{ keys = ["place"] }', "{ since = 2026-01-01 }", "which JSON cannot say", "texts"),
        ('effect = "read"', 'effect = "reed"', 'is "reed"', 'did you mean "read"?'),
        ('type = "string"', 'type = "strin"', '"arguments.properties.place.type" is no valid', "2020-12"),
        ('type = "object", req', 'type = "array", req', "no schema of an object", 'type = "object"'),
        ('entry = "module.wasm"', 'entry = "../other.wasm"', '"entry" is "../other.wasm"', "module.wasm"),
        ("[[operation]]", "[[operation", "line", "TOML"),
    ],
)
def test_every_error_names_the_key_and_the_remedy(tmp_path: Path, old: str, new: str, said: str, remedy: str) -> None:
    """What is missing, unknown, of another type or out of range is told with the place and what to do."""
    assert old in WEATHER
    error = refused(tmp_path, WEATHER.replace(old, new, 1))
    assert error.message.startswith("loket.toml: ")
    assert said in error.message
    assert error.remedy is not None
    assert remedy in error.remedy


def test_a_key_that_is_unknown_at_the_top_is_an_error(tmp_path: Path) -> None:
    """A publisher does not come from the manifest."""
    error = refused(tmp_path, 'publisher = "me"\n' + WEATHER)
    assert '"publisher" is no key' in error.message


def test_the_same_capability_twice_is_an_error(tmp_path: Path) -> None:
    """Two reasons for one capability would leave it open which was granted."""
    error = refused(tmp_path, WEATHER + '\n[[capability]]\nname = "kv.get"\nreason = "again"\n')
    assert 'names "kv.get" twice' in error.message


CONTEXT = """
[[context]]
name = "places"
effect = "read"
summary = "Where it was asked about"
allows = { "kv.get" = { prefixes = ["place/"] } }
"""


def test_a_context_names_capabilities_with_their_constraints(tmp_path: Path) -> None:
    """It is called by effect and name, so the same name may stand for reading and for changing."""
    both = WEATHER + CONTEXT + CONTEXT.replace('"read"', '"private"')
    contexts = load(tmp_path, both).contexts
    assert [context.id for context in contexts] == ["read:places", "private:places"]
    assert contexts[0].allows == {"kv.get": {"prefixes": ["place/"]}}
    assert 'names "read:places" twice' in refused(tmp_path, WEATHER + CONTEXT + CONTEXT).message


@pytest.mark.parametrize(
    ("old", "new", "said", "remedy"),
    [
        (
            '"kv.get" =',
            '"kv.list" =',
            "allows kv.list, and the module does not ask for it",
            '[[capability]] name = "kv',
        ),
        ('"kv.get" =', '"kv.set" =', 'is "read", and kv.set has the effect "modify"', 'effect = "modify"'),
        ('"kv.get" =', '"agent.ask" =', "has other modules do the work", "leave it out"),
        ('"kv.get" =', '"message.send" =', "has other modules do the work", "leave it out"),
        ('{ prefixes = ["place/"] }', '["place/"]', "is no table of constraints", '"kv.get" = {}'),
        ('name = "places"', 'name = "Places"', '"name" is "Places"', "inventory_data"),
        ("summary", "sumary", '"summary" is missing', "summary = "),
        ("allows", "grants", '"grants" is no key', "known here"),
    ],
)
def test_a_context_that_says_more_than_its_effect_is_an_error(
    tmp_path: Path, old: str, new: str, said: str, remedy: str
) -> None:
    """What an owner reads on the command line, `read:places`, is what a module gets."""
    error = refused(tmp_path, WEATHER + CONTEXT.replace(old, new, 1))
    assert said in error.message
    assert remedy in (error.remedy or "")


def test_other_capabilities_can_be_known(tmp_path: Path) -> None:
    """A system with more capabilities than the stock ones passes their names."""
    (tmp_path / "loket.toml").write_text(WEATHER.replace("kv.get", "net.fetch"), encoding="utf-8")
    assert load_manifest(tmp_path, known={"net.fetch"}).capabilities[0].name == "net.fetch"


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    """A missing file names the command that makes one; bytes that are not UTF-8 name the byte."""
    with pytest.raises(BadInput, match="cannot read") as caught:
        load_manifest(tmp_path)
    assert "loket new agent" in str(caught.value.remedy)
    (tmp_path / "loket.toml").write_bytes(b'id = "\xff"')
    with pytest.raises(BadInput, match="byte 6 is not UTF-8"):
        load_manifest(tmp_path)


def test_every_limit_has_a_range_that_holds_its_default() -> None:
    """A limit without a range could not be set."""
    for name, (low, high) in RANGES.items():
        assert low <= getattr(Limits(), name) <= high
    assert set(RANGES) == set(Limits.__slots__)


@pytest.mark.parametrize("kind", ["skill", "checks"])
def test_files_alone_need_no_component_and_have_no_operations(tmp_path: Path, kind: str) -> None:
    """Skills and checks are read, and nothing of them runs: an operation would have nobody to perform it."""
    words = f'id = "words"\nversion = "1.0.0"\nkind = "{kind}"\nsummary = "Says words"\n'
    assert load(tmp_path, words).passive
    error = refused(tmp_path, words + '[[operation]]\nname = "say"\nsummary = "Say"\neffect = "read"\n')
    assert '"entry" is missing' in error.message


@pytest.mark.parametrize("name", ["inventory.lookup", "mcp.time.now", "customers.find@2"])
def test_what_comes_and_goes_can_be_asked_for(tmp_path: Path, name: str) -> None:
    """Operations of other modules and tools of connected servers: whether they are there shows at the install."""
    manifest = load(tmp_path, WEATHER.replace('name = "kv.get"', f'name = "{name}"'))
    assert manifest.capabilities[0].name == name


@pytest.mark.parametrize("name", ["brian.search", "kv.gett", "net.fech"])
def test_a_slip_of_the_pen_is_no_other_modules_operation(tmp_path: Path, name: str) -> None:
    """What is nearly a capability of the catalogue, or in one of its families, is an error that names it."""
    error = refused(tmp_path, WEATHER.replace('name = "kv.get"', f'name = "{name}"'))
    assert "did you mean" in (error.remedy or "")


def test_a_table_of_another_kind_is_an_unknown_key(tmp_path: Path) -> None:
    """`[channel]` says something in a channel's manifest alone."""
    error = refused(tmp_path, WEATHER + '\n[channel]\nwire = "poll"\n')
    assert '"channel" is no key' in error.message
