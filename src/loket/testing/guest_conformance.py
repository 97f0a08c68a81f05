"""A conformance suite for guests: whoever makes a guest library proves with it that modules keep their promises.

Write a *conformance module* with the operations of `OPERATIONS` in your language, build it into a component, and give
it to `run_guest_conformance`, which runs it in the real sandbox. Loket's own are in `tests/guests/conformance-*`.
"""

import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loket.contracts import Guest, Json, Limits, LoketError, Refusal, Segment
from loket.sandbox import WasmSandbox

OPERATIONS: Mapping[str, str] = {
    "echo": "answers its arguments as they came",
    "ask": "takes `capability` and `arguments`, makes the call, and answers `answer` with what came, or `refused` with "
    "the refusal's `code`, `message` and `remedy` (null where it has none)",
    "pass": "takes `capability` and `arguments`, makes the call, and lets a refusal out; answers what came",
    "swallow": "takes `n`, makes so many calls of `test.refused` without arguments, ignores their refusals, and "
    "answers `swallowed` with their number",
    "refuse": "refuses with the code `test.refused`, the message `not today`, the remedy `ask tomorrow`",
    "crash": "calls a function named `mistake`, which fails in the way of the language with the message `the module's "
    "own mistake`",
    "clock": "answers `built`, a time read with the language's own clock where the file is loaded, and `now`, a time "
    "read with it in the operation: seconds since 1970",
    "random": "takes `n`; answers `built`, a number drawn with the language's own generator where the file is loaded, "
    "and `numbers`, a list of `n` drawn in the operation",
    "log": "takes `text`, a line, and writes it in the language's usual way",
    "spin": "computes without end and without a call",
    "memory": "takes memory without end, keeping it",
    "recursion": "recurses without end",
    "long": "takes `kib`; answers `text`, so many times 1,024 letters x",
}
"""The operations of a conformance module, and what each of them does. Arguments and answers are JSON objects."""

_LIMITS = Limits(memory_mb=64, cpu_ms=1_000, args_kb=1_024, answer_kb=256)
_REFUSAL = Refusal("test.refused", "no \u2014 not “today”", "loket grants allow conformance test.refused")
_START = 1_795_000_000.5
_VALUES: tuple[Json, ...] = (
    {"words": 'Selamat pagi, Łódź, 東京, 🙂, \u0000\u001f"\\/', "": {"nested": [[], {}, [None, True, False]]}},
    {"whole": [0, -1, 2**31, 2**53 - 1, -(2**53) + 1], "real": [0.1, -2.5, 1e300, 5e-324, 1.7976931348623157e308]},
    {
        "beyond": [2**53 + 1, -(2**63), 2**64 - 1, 10**30],
        "looks like one": ["9007199254740993", "12345678901234567890"],
    },
    {"many": list(range(2_000)), "long": "é" * 20_000},
)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Whether a module passed one check; `detail` says what was found where it did not."""

    name: str
    ok: bool
    detail: str = ""


class Unmet(Exception):
    """A check found something else than it has to be."""


class ConformanceHost:
    """Answers the calls of a conformance module and remembers them.

    The clock goes on by a quarter of a second at each reading; `random.bytes` gives bytes that depend on `seed` and
    on how many calls came before; `test.refused` is refused; `test.echo` answers its arguments.
    """

    live = True
    stopped: LoketError | None = None

    def __init__(self, seed: str = "") -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[str] = []
        self._seed = seed

    def __call__(self, capability: str, args: str) -> str:
        arguments: dict[str, Any] = json.loads(args)
        self.calls.append((capability, arguments))
        if capability == "test.refused":
            raise _REFUSAL
        if capability == "test.plain":
            raise Refusal("test.plain", "without a remedy")
        self.answers.append(json.dumps(self._answer(capability, arguments)))
        return self.answers[-1]

    def _answer(self, capability: str, arguments: dict[str, Any]) -> Json:
        if capability == "clock.now":
            return {"seconds": _START + self.names().count("clock.now") / 4}
        if capability == "random.bytes":
            seed = f"{self._seed}{len(self.calls)}".encode()
            return {"hex": hashlib.shake_256(seed).hexdigest(arguments["n"])}
        if capability in ("test.echo", "log.write"):
            return arguments if capability == "test.echo" else {}
        raise Refusal("capability.unknown", f"there is no capability {capability}", "loket caps")

    def names(self) -> list[str]:
        """The capabilities in the order in which they were asked for."""
        return [name for name, _ in self.calls]


@dataclass(frozen=True, slots=True)
class _Module:
    """A built conformance module."""

    guest: Guest

    def run(
        self, operation: str, args: str | Mapping[str, Json], host: ConformanceHost, limits: Limits = _LIMITS
    ) -> Segment:
        text = args if isinstance(args, str) else json.dumps(args, ensure_ascii=False)
        return self.guest.run(host, operation, text, limits)

    def answer(self, operation: str, host: ConformanceHost | None = None, /, **args: Json) -> Any:
        """The decoded answer. Raises `Unmet` where there is none."""
        segment = self.run(operation, args, host or ConformanceHost())
        if segment.answer is None:
            raise Unmet(f"{operation} gave no answer: {_told(segment)}")
        return json.loads(segment.answer)

    def error(self, operation: str, args: str | Mapping[str, Json], limits: Limits = _LIMITS) -> LoketError:
        """The refusal or the end. Raises `Unmet` where there is an answer."""
        segment = self.run(operation, args, ConformanceHost(), limits)
        error = segment.refusal or segment.ended
        if error is None:
            raise Unmet(f"{operation} answered {(segment.answer or '')[:100]}")
        return error


def run_guest_conformance(wasm: Path, cache: Path | None = None) -> list[CheckResult]:
    """Run every check on a built conformance module; one result a check, in the order of `CHECKS`.

    `cache` is a folder for compiled code, which spares some seconds the next time. A component that the sandbox does
    not load fails the first check, and is not run.
    """
    with tempfile.TemporaryDirectory(prefix="loket-conformance-") as made:
        sandbox = WasmSandbox(cache or Path(made))
        try:
            return _run_all(sandbox, wasm)
        finally:
            sandbox.close()


def _run_all(sandbox: WasmSandbox, wasm: Path) -> list[CheckResult]:
    first, *others = CHECKS
    try:
        module = _Module(sandbox.load(wasm, sandbox.check(wasm)))
    except LoketError as error:
        return [CheckResult(first, False, error.message)]
    results = [CheckResult(first, True)]
    for name in others:
        try:
            CHECKS[name](module)
        except Unmet as unmet:
            results.append(CheckResult(name, False, str(unmet)))
        except (KeyError, TypeError, AttributeError) as error:
            detail = f"an answer has not the form that OPERATIONS says: {type(error).__name__}: {error}"
            results.append(CheckResult(name, False, detail))
        else:
            results.append(CheckResult(name, True))
    return results


def _told(segment: Segment) -> str:
    error = segment.refusal or segment.ended
    return f"{error.code}: {error.message}" if error else "it waits"


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise Unmet(f"{what}: {_short(found)} instead of {_short(wanted)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004 - characters of a readable line


def _one_import(_module: _Module) -> None:
    """Checked where the module is loaded."""


def _echo(module: _Module) -> None:
    for value in _VALUES:
        _expect("echo", module.answer("echo", **value), value)


def _echo_through_the_counter(module: _Module) -> None:
    for value in _VALUES:
        host = ConformanceHost()
        found = module.answer("ask", host, capability="test.echo", arguments=value)
        _expect("the call's arguments", host.calls, [("test.echo", value)])
        _expect("the call's answer", found, {"answer": value})


def _refusal_is_a_value(module: _Module) -> None:
    found = module.answer("ask", capability="test.refused", arguments={})
    wanted = {"code": _REFUSAL.code, "message": _REFUSAL.message, "remedy": _REFUSAL.remedy}
    _expect("the refusal in the module", found, {"refused": wanted})
    plain = module.answer("ask", capability="test.plain", arguments={})
    _expect("a refusal without a remedy", plain["refused"]["remedy"], None)


def _refusal_goes_out(module: _Module) -> None:
    error = module.error("pass", {"capability": "test.refused", "arguments": {}})
    _expect("code", error.code, _REFUSAL.code)
    _expect("message", error.message, _REFUSAL.message)
    _expect("remedy", error.remedy, _REFUSAL.remedy)


def _refusal_swallowed(module: _Module) -> None:
    host = ConformanceHost()
    _expect("swallow", module.answer("swallow", host, n=50), {"swallowed": 50})
    _expect("calls", host.names(), ["test.refused"] * 50)


def _own_refusal(module: _Module) -> None:
    error = module.error("refuse", {})
    found = (type(error), error.code, error.message, error.remedy)
    _expect("its own refusal", found, (Refusal, "test.refused", "not today", "ask tomorrow"))


def _crash(module: _Module) -> None:
    error = module.error("crash", {})
    _expect("code", error.code, "guest.error")
    *places, sentence = error.message.splitlines()
    if "the module's own mistake" not in sentence or not any("mistake" in place for place in places):
        raise Unmet(f"the places and the message are not told: {error.message}")
    if not error.remedy:
        raise Unmet("it has no remedy")


def _unknown_operation(module: _Module) -> None:
    error = module.error("no-such-operation", {})
    _expect("code", error.code, "operation.unknown")
    if "echo" not in (error.remedy or ""):
        raise Unmet(f"the remedy lists no operations: {error.remedy}")


def _bad_arguments(module: _Module) -> None:
    for text in ("[]", '"x"', "3", "null"):
        _expect(f"code for {text}", module.error("echo", text).code, "arguments.invalid")
    module.error("echo", "{no json")


def _clock(module: _Module) -> None:
    host, other = ConformanceHost(), ConformanceHost()
    found, again = module.answer("clock", host), module.answer("clock", other)
    _expect("calls", host.names(), ["clock.now"])
    if abs(found["now"] - (_START + 0.25)) > 0.001:  # noqa: PLR2004 - a millisecond
        raise Unmet(f"the clock shows {found['now']} and the counter said {_START + 0.25}")
    _expect("the time of the build, in another run", again["built"], found["built"])
    if not found["built"] > 1_700_000_000:  # noqa: PLR2004 - a day in 2023
        raise Unmet(f"the clock showed {found['built']} while it was built")


def _random(module: _Module) -> None:
    host, other = ConformanceHost("a"), ConformanceHost("b")
    found, again = module.answer("random", host, n=1_000), module.answer("random", other, n=1_000)
    _expect("calls", set(host.names()), {"random.bytes"})
    if len(host.calls) > 10:  # noqa: PLR2004 - 100 numbers a call
        raise Unmet(f"1,000 numbers took {len(host.calls)} calls: draw a seed, or many at once")
    if len({*found["numbers"], *again["numbers"]}) < 1_990:  # noqa: PLR2004 - of 2,000
        raise Unmet("the numbers do not depend on what the counter gave")
    _expect("the number of the build, in another run", again["built"], found["built"])


def _log(module: _Module) -> None:
    host = ConformanceHost()
    module.answer("log", host, text="Łódź 🙂 % %s {}")
    _expect("calls", [(name, args.get("text")) for name, args in host.calls], [("log.write", "Łódź 🙂 % %s {}")])


def _same_again(module: _Module) -> None:
    """With the same answers of the counter a module makes the same calls and gives the same answer, byte for byte."""
    arguments: tuple[tuple[str, Mapping[str, Json]], ...] = (
        ("clock", {}),
        ("random", {"n": 50}),
        ("log", {"text": "again"}),
        ("echo", {"z": 1, "a": {"y": 2, "b": 3}}),
        ("ask", {"capability": "test.echo", "arguments": {"z": 1, "a": 2}}),
        ("crash", {}),
    )
    for operation, args in arguments:
        runs = [(host := ConformanceHost(), module.run(operation, args, host)) for _ in range(3)]
        for (host, one), (other, two) in itertools.pairwise(runs):
            _expect(f"calls of {operation}, done again", other.calls, host.calls)
            _expect(f"answer of {operation}, done again", _outcome(two), _outcome(one))


def _outcome(segment: Segment) -> tuple[str | None, str]:
    error = segment.refusal or segment.ended
    return segment.answer, f"{error.code} {error.message} {error.remedy}" if error else ""


def _spin(module: _Module) -> None:
    _expect("code", module.error("spin", {}, replace(_LIMITS, cpu_ms=200)).code, "limit.cpu")


def _memory(module: _Module) -> None:
    code = module.error("memory", {}, replace(_LIMITS, cpu_ms=20_000)).code
    if code not in ("guest.memory", "limit.memory", "module.trap"):
        raise Unmet(f"code: {code}")


def _recursion(module: _Module) -> None:
    code = module.error("recursion", {}).code
    if code not in ("guest.recursion", "limit.stack"):
        raise Unmet(f"code: {code}")


def _long(module: _Module) -> None:
    _expect("100 KiB", len(module.answer("long", kib=100)["text"]), 100 << 10)
    _expect("code", module.error("long", {"kib": 300}).code, "limit.answer")


def _fresh(module: _Module) -> None:
    """Whatever an instance went through, the next one starts anew."""
    for operation in ("recursion", "memory", "crash"):
        module.run(operation, {}, ConformanceHost(), replace(_LIMITS, cpu_ms=20_000))
        _expect(f"echo after {operation}", module.answer("echo", x=1), {"x": 1})


CHECKS: Mapping[str, Callable[[_Module], None]] = {
    "the counter is its one import, and handle its one export": _one_import,
    "JSON comes and goes unchanged: every letter, large numbers, long texts": _echo,
    "arguments and answers of calls do, too": _echo_through_the_counter,
    "a refusal is a value with code, message and remedy": _refusal_is_a_value,
    "a refusal that is let out arrives unchanged": _refusal_goes_out,
    "a refusal can be swallowed, and the run goes on": _refusal_swallowed,
    "a module refuses in its own words": _own_refusal,
    "an error names its places and has the code guest.error": _crash,
    "an unknown operation is refused with the list of those there are": _unknown_operation,
    "arguments that are no JSON object are refused": _bad_arguments,
    "the clock is the counter's, and stands still from the build on": _clock,
    "chance is the counter's, in few calls, and stands still from the build on": _random,
    "what is printed goes to the log as it is": _log,
    "the same answers lead to the same calls and the same answer": _same_again,
    "a busy loop ends at the limit of CPU time": _spin,
    "memory ends at its limit": _memory,
    "recursion ends, and nothing else does": _recursion,
    "an answer that is too long is refused": _long,
    "nothing of one run is there in the next": _fresh,
}
"""Every check by the sentence that it proves."""
