"""The conformance suite for guests: Loket's own libraries pass it, and modules that break a promise do not."""

import json
from pathlib import Path

import pytest

from guests import wat
from guests_fixture import COMPILED, Scripted, built_guest, digest_of
from loket.contracts import Limits
from loket.packages.build import build
from loket.sandbox import WasmSandbox
from loket.testing.guest_conformance import CHECKS, OPERATIONS, run_guest_conformance

BROKEN = """
import {{ call, operation, Refused }} from "loket_guest";
const kept = [];
{operations}
"""


@pytest.mark.parametrize("language", ["python", "javascript"])
def test_the_guest_library_of_a_language_passes_every_check(language: str) -> None:
    """The same operations, written in each language, keep every promise in the real sandbox."""
    results = run_guest_conformance(built_guest(f"conformance-{language}"), COMPILED)
    assert [result.name for result in results] == list(CHECKS)
    assert [f"{result.name}: {result.detail}" for result in results if not result.ok] == []


def test_a_module_in_typescript_is_one_in_javascript() -> None:
    """Types, enums, namespaces and parameter properties are gone, and what is left runs."""
    wasm = built_guest("conformance-typescript")
    sandbox = WasmSandbox(COMPILED)
    try:
        guest = sandbox.load(wasm, digest_of(wasm))
        host = Scripted({"kv.get": {"found": True, "value": 2}, "kv.set": {}})
        greeted = guest.run(host, "greet", '{"name": "Ana"}', Limits())
        assert json.loads(greeted.answer or "") == {"text": "Good morning, Ana", "visits": 3}
        refused = guest.run(host, "greet", '{"name": "Ana", "mood": "bad"}', Limits()).refusal
        assert refused is not None
        assert (refused.code, refused.remedy) == ("mood.bad", None)
        assert guest.run(host, "now", "{}", Limits()).answer == "1795000000.625"
    finally:
        sandbox.close()


def test_a_component_of_another_type_fails_the_first_check(tmp_path: Path) -> None:
    """A component with a second import is told, and never run."""
    wasm = tmp_path / "module.wasm"
    wasm.write_bytes(wat.SECOND_IMPORT if isinstance(wat.SECOND_IMPORT, bytes) else wat.SECOND_IMPORT.encode())
    results = run_guest_conformance(wasm)
    assert [(result.name, result.ok) for result in results] == [(next(iter(CHECKS)), False)]
    assert "wasi:clocks/wall-clock" in results[0].detail


def test_a_module_that_breaks_promises_fails_the_checks_that_name_them(tmp_path: Path) -> None:
    """Each check can fail: a module that does something else in every operation passes hardly any."""
    wrong = {
        "echo": "(args) => ({ ...args, more: 1 })",
        "ask": "({ capability, arguments: args }) => { try { call(capability, args); } catch { /* */ } return {}; }",
        "pass": "() => { throw new Refused('other.code', 'other words'); }",
        "swallow": "({ n }) => { call('test.refused'); return { swallowed: n }; }",
        "refuse": "() => { throw new Error('no'); }",
        "crash": "() => ({ fine: true })",
        "clock": "() => { call('test.echo'); return { built: Date.now(), now: 1 }; }",
        "random": "({ n }) => { for (let i = 0; i < 20; i += 1) { call('random.bytes', { n: 1 }); }"
        " return { built: Math.random(), numbers: Array(n).fill(0.5) }; }",
        "log": "({ text }) => { console.log('text:', text); return {}; }",
        "spin": "() => ({})",
        "memory": "() => { kept.push(1); return { kept }; }",
        "recursion": "() => ({})",
        "long": "({ kib }) => ({ text: 'x'.repeat(Math.min(kib, 50) * 1024) })",
    }
    assert wrong.keys() == OPERATIONS.keys()
    (tmp_path / "loket.toml").write_text(
        'id = "broken"\nversion = "1.0.0"\nkind = "tool"\nsummary = "Breaks"\nentry = "module.wasm"\nsource = "a.js"\n',
        encoding="utf-8",
    )
    operations = "\n".join(f"operation({json.dumps(name)}, {code});" for name, code in wrong.items())
    (tmp_path / "a.js").write_text(BROKEN.format(operations=operations), encoding="utf-8")
    results = run_guest_conformance(build(tmp_path).path)
    passed = {result.name for result in results if result.ok}
    assert passed == {
        "the counter is its one import, and handle its one export",
        "an unknown operation is refused with the list of those there are",
        "arguments that are no JSON object are refused",
        "the same answers lead to the same calls and the same answer",
    }
    assert all(result.detail for result in results if not result.ok)
