"""Tracing: one trace a run that follows from the journal, exported by OTLP where that is on, without a value in it."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from kit import EngineRig, Script
from live import loket, prepare, serving
from loket.app import Loket, running
from loket.contracts import BadInput, RowKind
from loket.home import Home
from loket.ids import derived_id, new_id
from loket.operations import Operations
from loket.testing.models import InstantModel
from loket.tracing import Fact, Layer, Span, Tracer, remote, settings_of, span_id, spans_of, trace_id

HEX = "0123456789abcdef"


class Receiver:
    """A real OTLP/HTTP receiver on loopback: it decodes what it gets, and can refuse it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[Mapping[str, str]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces" and receiver.status == 200:
                    receiver.bodies.append(body)
                    receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def resources(self) -> list[Any]:
        return [part for body in self.bodies for part in ExportTraceServiceRequest.FromString(body).resource_spans]

    def spans(self) -> list[Any]:
        return [span for part in self.resources() for scope in part.scope_spans for span in scope.spans]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def exporting(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The standard variables that switch export on, in the environment of this process."""
    said = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "20"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    return said


@contextmanager
def tracer_of(rig: Any, environment: Mapping[str, str] | None = None, **more: Any) -> Iterator[Tracer]:
    """A tracer on the journal of a kernel or of a whole system."""
    made = Tracer(rig.journal.rows, lambda after: rig.database.rows("", after=after), environment or {}, **more)
    try:
        yield made
    finally:
        made.close()


@asynccontextmanager
async def system_on(root: Path) -> AsyncIterator[Loket]:
    async with running(Home(root), llm=InstantModel(lambda _messages: "I know")) as system:
        yield system


async def perform(system: Loket, name: str, **args: Any) -> Any:
    return await Operations(system).perform(name, args, lambda _event: None)


def values_of(attributes: Sequence[Any]) -> dict[str, Any]:
    """Attributes of the protocol as a mapping."""
    found = {}
    for one in attributes:
        kind = one.value.WhichOneof("value")
        value = getattr(one.value, kind)
        found[one.key] = [part.string_value for part in value.values] if kind == "array_value" else value
    return found


def test_a_run_is_one_trace_with_a_span_of_each_layer(tmp_path: Path) -> None:
    """Gateway, run, counter, provider and model are spans; each decision is an event with its rule and policy."""
    root = prepare(tmp_path / "home")

    async def go() -> None:
        async with system_on(root) as system:
            run = (await perform(system, "ask", agent="main", text="Hello"))["run"]
            found = await perform(system, "runs.trace", run=run)
            spans = {span["id"]: span for span in found["spans"]}
            assert {span["layer"] for span in spans.values()} == {"gateway", "run", "counter", "provider", "model"}
            assert {span["trace"] for span in spans.values()} == {trace_id(run)}
            model = next(span for span in spans.values() if span["layer"] == "model")
            layers = []
            at: Any = model
            while at is not None:
                layers.append(at["layer"])
                at = spans.get(at.get("parent"))
            assert layers == ["model", "provider", "counter", "run"]
            assert model["attributes"]["gen_ai.usage.output_tokens"] == 2
            assert model["attributes"]["gen_ai.request.model"] == "instant"
            calls = [row for row in system.journal.rows(run) if row.kind in (RowKind.CALL, RowKind.OUTCOME)]
            counted = [span for span in spans.values() if span["layer"] == "counter"]
            assert len(counted) == len(calls)
            for row, span in zip(calls, counted, strict=True):
                (event,) = span["events"]
                assert event["attributes"]["loket.rules"] == row.meta["rules"]
                assert event["attributes"]["loket.policy"] == row.meta["policy"]
                assert span["attributes"]["loket.commitment"] == row.commitment.hex()

    asyncio.run(go())


def asker() -> Script:
    return Script(lambda call, _args: call("kv.get", key="k"))


def test_a_child_run_is_below_the_call_that_started_it(tmp_path: Path) -> None:
    """Its trace is the root's, and its parent is the span of the very call, asked or published."""
    rig = EngineRig(tmp_path, scripts={"one": asker()})

    async def go() -> None:
        root = new_id(time.time())
        await rig.ask("one", root)
        asked, told = derived_id(root, 1), derived_id(root, 1, "one")
        for child in (asked, told):
            request = rig.request("one", child, parent=root, depth=2)
            await rig.engine.submit(_rooted(request, root), awaited=False)
            await rig.engine.result(child)
        with tracer_of(rig) as tracer:
            for child in (asked, told):
                first = tracer.spans(child)[0]
                assert (first.trace, first.parent) == (trace_id(root), span_id(root, 1, Layer.COUNTER))
                assert Layer.GATEWAY not in {span.layer for span in tracer.spans(child)}
        await rig.engine.close()

    asyncio.run(go())
    rig.close()


def _rooted(request: Any, root: str) -> Any:
    from dataclasses import replace

    return replace(request, root=root)


def test_spans_lie_within_their_parents(tmp_path: Path) -> None:
    """Whatever the clock did, no span begins before the one above it, or ends before it began."""
    rig = EngineRig(tmp_path, scripts={"one": Script(_busy)})

    async def go() -> list[Span]:
        await rig.ask("one", new_id(time.time()))
        run = rig.database.ended_runs()[0]
        with tracer_of(rig) as tracer:
            found = tracer.spans(run)
        await rig.engine.close()
        return found

    spans = asyncio.run(go())
    by_id = {span.id: span for span in spans}
    for span in spans:
        assert span.end is not None
        assert span.start <= span.end
        above = by_id.get(span.parent or "")
        if above is not None and above.end is not None:
            assert above.start <= span.start
            assert span.end <= above.end
    rig.close()


def _busy(call: Any, _args: Any) -> dict[str, Any]:
    call("kv.set", key="a", value=1)
    call("kv.get", key="a")
    return {}


def test_a_refused_call_is_a_span_with_its_error_and_rule(tmp_path: Path) -> None:
    """Nothing was performed, so there is no provider below it."""
    rig = EngineRig(tmp_path, scripts={"one": Script(lambda call, _args: call("fs.read", path="a"))})

    async def go() -> list[Span]:
        rig.grants.accept("local", "one", "d" * 64, 0.0)
        await rig.ask("one", "r1")
        with tracer_of(rig) as tracer:
            found = tracer.spans("r1")
        await rig.engine.close()
        return found

    spans = asyncio.run(go())
    refused = next(span for span in spans if span.layer is Layer.COUNTER)
    assert refused.error
    assert refused.events[0].attributes["loket.decision"] == "deny"
    assert not [span for span in spans if span.layer is Layer.PROVIDER]
    rig.close()


def test_spans_arrive_at_a_real_receiver(tmp_path: Path, receiver: Receiver, exporting: dict[str, str]) -> None:
    """OTLP over HTTP as the protocol has it: service, ids, parents, events, times and token counts."""
    root = prepare(tmp_path / "home")

    async def go() -> tuple[str, list[Span]]:
        async with system_on(root) as system:
            run = str((await perform(system, "ask", agent="main", text="Hello"))["run"])
            with tracer_of(system, exporting) as tracer:
                tracer.ended(run)
                local = tracer.spans(run)
            assert tracer.counts.exported == len(local)
            assert tracer.fault == ""
            return run, local

    run, local = asyncio.run(go())
    sent_as = {values_of(one.resource.attributes)["service.name"] for one in receiver.resources()}  # one for each batch
    assert sent_as == {"loket"}
    got = {span.span_id.hex(): span for span in receiver.spans()}
    assert got.keys() == {span.id for span in local}
    for span in local:
        sent = got[span.id]
        assert sent.trace_id.hex() == trace_id(run)
        assert sent.parent_span_id.hex() == (span.parent or "")
        assert sent.name == span.name
        assert abs(sent.start_time_unix_nano / 1e9 - span.start) < 0.001
        assert [event.name for event in sent.events] == [event.name for event in span.events]
        expected = {name: list(value) if isinstance(value, tuple) else value for name, value in span.attributes.items()}
        assert values_of(sent.attributes) == expected


def test_standard_variables_name_service_and_headers(
    tmp_path: Path, receiver: Receiver, exporting: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_SERVICE_NAME and OTEL_EXPORTER_OTLP_HEADERS are the exporter's own."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "home-of-ana")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=t1")
    rig = EngineRig(tmp_path, scripts={"one": asker()})
    asyncio.run(_asked(rig, "r1"))
    with tracer_of(rig, {**exporting, "OTEL_SERVICE_NAME": "home-of-ana"}) as tracer:
        tracer.ended("r1")
    assert values_of(receiver.resources()[0].resource.attributes)["service.name"] == "home-of-ana"
    assert receiver.headers[0]["x-tenant"] == "t1"
    rig.close()


async def _asked(rig: EngineRig, run: str, **more: Any) -> None:
    await rig.ask("one", run, **more)
    await rig.engine.close()


LETTERS = st.text(st.characters(min_codepoint=0x61, max_codepoint=0x7A), min_size=12, max_size=24)


@given(said=LETTERS, key=LETTERS, value=LETTERS, answer=LETTERS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_value_of_a_run_is_in_an_exported_byte(
    tmp_path_factory: pytest.TempPathFactory,
    receiver: Receiver,
    exporting: dict[str, str],
    said: str,
    key: str,
    value: str,
    answer: str,
) -> None:
    """Requests, arguments, answers, errors, names that a module made up, conversations: none of them gets out."""
    receiver.bodies.clear()

    def body(call: Any, _args: Any) -> dict[str, Any]:
        call("kv.set", key=key, value=value)
        call("kv.get", key=key)
        for name, wrong in ((value, {}), ("kv.get", {value: key}), ("fs.read", {"path": value})):
            _tried(call, name, wrong)
        return {"text": answer}

    rig = EngineRig(tmp_path_factory.mktemp("traced"), scripts={"one": Script(body)})
    asyncio.run(_asked(rig, "r1", args={"text": said}, conversation=said, words=said))
    with tracer_of(rig, exporting) as tracer:
        tracer.ended("r1")
    sent = b"".join(receiver.bodies)
    assert sent
    assert len(receiver.spans()) == tracer.counts.exported
    assert not [word for word in (said, key, value, answer) if word.encode() in sent]
    rig.close()


def _tried(call: Any, name: str, args: dict[str, Any]) -> None:
    from loket.contracts import Failed, Refusal

    try:
        call(name, **args)
    except (Refusal, Failed):
        return


def test_nothing_is_imported_or_started_where_export_is_off(tmp_path: Path) -> None:
    """Without the variables a run's end costs a comparison, and OpenTelemetry's exporter is never imported."""
    program = """
import sys
from loket.tracing import Tracer
tracer = Tracer(None, None, {})
for _ in range(1000):
    tracer.ended("r1")
tracer.close()
import threading
assert threading.active_count() == 1
assert not [name for name in sys.modules if name.startswith(("opentelemetry", "google.protobuf"))]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=tmp_path)


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console,otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, False),
    ],
)
def test_the_standard_variables_switch_export_on_and_off(environment: dict[str, str], on: bool) -> None:
    """As OpenTelemetry's specification has them; an empty one counts as not set."""
    found = settings_of(environment)
    assert (found.on, found.why_not) == (on, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "much"),
    ],
)
def test_what_is_asked_for_and_not_there_is_said(name: str, value: str) -> None:
    """Nothing is exported in another way than the owner asked for, and the reason is told."""
    said = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_SAMPLER": "traceidratio"}
    found = settings_of({**said, name: value})
    assert not found.on
    assert name in found.why_not or value in found.why_not


def test_a_share_of_traces_is_the_same_share_everywhere() -> None:
    """The sampler decides by the trace's id, so the runs of one trace are all taken, or none."""
    half = settings_of(
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    )
    taken = [half.sampled(trace_id(str(number))) for number in range(2000)]
    assert 850 < sum(taken) < 1150
    none = settings_of({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER": "always_off"})
    assert not any(none.sampled(trace_id(str(number))) for number in range(100))


class Broken:
    """A sink that takes nothing, and may wait for long."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.stuck = stuck
        self.free = threading.Event()

    def send(self, _spans: Sequence[Span]) -> bool:
        if self.stuck:
            self.free.wait()
        raise ConnectionError("nobody listens")

    def close(self) -> None:
        self.free.set()


def test_an_exporter_that_fails_disturbs_nothing_and_is_counted(tmp_path: Path) -> None:
    """What was not taken is counted with its reason; the next run is tried again."""
    rig = EngineRig(tmp_path, scripts={"one": asker()})
    asyncio.run(_asked(rig, "r1"))
    with tracer_of(rig, {"OTEL_TRACES_EXPORTER": "otlp"}, connect=lambda _environment: Broken()) as tracer:
        tracer.ended("r1")
        tracer.ended("unknown")
    assert tracer.counts.failed == len(tracer.spans("r1"))
    assert "nobody listens" in tracer.fault
    rig.close()


def test_an_exporter_that_hangs_fills_a_bounded_queue(tmp_path: Path) -> None:
    """Runs that find no room are dropped and counted at once, and a close does not wait for it."""
    rig = EngineRig(tmp_path, scripts={"one": asker()})
    asyncio.run(_asked(rig, "r1"))
    said = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_BSP_MAX_QUEUE_SIZE": "4", "OTEL_BSP_SCHEDULE_DELAY": "1"}
    with tracer_of(rig, said, connect=lambda _environment: Broken(stuck=True)) as tracer:
        for _ in range(1000):
            tracer.ended("r1")
        assert tracer.counts.dropped > 0
    rig.close()


def test_a_receiver_that_refuses_is_told(tmp_path: Path, receiver: Receiver, exporting: dict[str, str]) -> None:
    """A status that means no is a failure of the export, and of nothing else."""
    receiver.status = 400
    rig = EngineRig(tmp_path, scripts={"one": asker()})
    asyncio.run(_asked(rig, "r1"))
    with tracer_of(rig, exporting) as tracer:
        tracer.ended("r1")
    assert (tracer.counts.exported, tracer.counts.failed) == (0, len(tracer.spans("r1")))
    assert tracer.fault
    rig.close()


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from loket.app import running
from loket.home import Home
from loket.testing.models import InstantModel

def die(_messages):
    print(sys.argv[1], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

async def go(root):
    async with running(Home(Path(root)), llm=InstantModel(die)) as system:
        await system.finished(await system.send("main", "Hello"))

asyncio.run(go(sys.argv[1]))
"""


def test_a_run_that_was_killed_has_the_same_ids_after_the_restart(tmp_path: Path) -> None:
    """`kill -9` within a call: the trace of before is a part of the one after, and an attempt is one more event."""
    root = prepare(tmp_path / "home")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(root)], check=False, timeout=300, capture_output=True)
    assert killed.returncode == -signal.SIGKILL

    async def look(*, resume: bool) -> dict[str, dict[str, Any]]:
        async with running(Home(root), llm=InstantModel(lambda _messages: "yes"), resume=resume) as system:
            (run,) = [one["id"] for one in system.database.runs("main", 9) if one["operation"] == "message"]
            if resume:
                await system.finished(run)
            found = await perform(system, "runs.trace", run=run)
            return {span["id"]: span for span in found["spans"] if span["run"] == run}

    before = asyncio.run(look(resume=False))
    after = asyncio.run(look(resume=True))
    assert before.keys() < after.keys()
    unfinished = next(span for span in before.values() if span["layer"] == "counter" and "end" not in span)
    finished = after[unfinished["id"]]
    assert unfinished["name"] == finished["name"] == "call llm.complete"
    assert [event["attributes"]["loket.attempt"] for event in finished["events"]] == [1, 2]
    assert all("end" in span for span in after.values())


def test_an_erased_run_keeps_its_trace(tmp_path: Path) -> None:
    """Spans are made of what an erasure leaves: the same before and after it."""
    root = prepare(tmp_path / "home")

    async def go() -> None:
        async with system_on(root) as system:
            run = (await perform(system, "ask", agent="main", text="Hello"))["run"]
            before = await perform(system, "runs.trace", run=run)
            await perform(system, "erase", runs=[run], only=True)
            assert await perform(system, "runs.trace", run=run) == before

    asyncio.run(go())


def test_an_incoming_traceparent_is_linked(tmp_path: Path) -> None:
    """The run's own trace stays; the sender's is a link, which the journal keeps over a restart."""
    root = prepare(tmp_path / "home")
    header = f"00-{'ab' * 16}-{'cd' * 8}-01"

    async def before() -> str:
        async with system_on(root) as system:
            run = str((await perform(system, "ask", agent="main", text="Hello"))["run"])
            await perform(system, "runs.link", run=run, traceparent=header)
            with pytest.raises(BadInput, match="names no trace"):
                await perform(system, "runs.link", run=run, traceparent="ana@example.org")
            return run

    async def after(run: str) -> None:
        async with system_on(root) as system:
            found = await perform(system, "runs.trace", run=run)
            assert found["spans"][0]["links"] == [{"trace": "ab" * 16, "span": "cd" * 8}]
            assert (await perform(system, "runs.verify"))["ok"]

    asyncio.run(after(asyncio.run(before())))


def test_the_door_links_what_carries_a_traceparent(tmp_path: Path) -> None:
    """A message by the API with the header, answered at once or as a stream of events; a wrong one is passed over."""
    root = prepare(tmp_path / "home")
    with serving(root) as server:
        for accept, header, linked in (
            ("application/json", f"00-{'ab' * 16}-{'cd' * 8}-01", True),
            ("text/event-stream", f"00-{'ab' * 16}-{'cd' * 8}-01", True),
            ("application/json", "nonsense", False),
        ):
            more = {"traceparent": header, "Accept": accept, "Content-Type": "application/json"}
            status, said = server.request("/v1/agents/main/messages", {"text": "Hello"}, **more)
            assert status in (200, 202), said
            lines = [line.removeprefix("data: ") for line in said.splitlines() if line.startswith(("data: ", "{"))]
            found = loket(root, "runs", "show", json.loads(lines[0])["run"], "--trace", "--json")
            assert ("links" in found["spans"][0]) is linked


@given(
    trace=st.text(HEX, min_size=32, max_size=32),
    span=st.text(HEX, min_size=16, max_size=16),
)
def test_a_traceparent_is_read_as_its_standard_has_it(trace: str, span: str) -> None:
    """All zeros name nothing; a later version is read by its first fields; version ff is never valid."""
    wanted = (trace, span) if int(trace, 16) and int(span, 16) else None
    assert remote(f"00-{trace}-{span}-00") == wanted
    assert remote(f"01-{trace}-{span}-01-more") == wanted
    assert remote(f"ff-{trace}-{span}-01") is None
    assert remote(f"00-{trace}-{span}-01-more") is None


@given(st.text(max_size=80))
def test_any_other_header_names_no_trace(text: str) -> None:
    """Nothing that a header can hold is an error, or a link."""
    assert remote(text) is None


FACTS = {"root": "r1", "parent": None, "principal": "owner", "operation": "go", "module": None, "version": None}
START = Fact("r1", 0, RowKind.START, 10.0, {**FACTS, "digest": None, "agent": "main"}, "aa")


@given(
    ats=st.lists(st.floats(0, 1e6), min_size=1, max_size=6),
    took=st.lists(st.floats(0, 1e7), min_size=6, max_size=6),
)
def test_a_clock_that_jumps_makes_no_span_that_ends_before_it_begins(ats: list[float], took: list[float]) -> None:
    """Times come from the wall clock, which an owner may set back while a run goes on."""
    decided = {"capability": "kv.get", "decision": "allow", "rules": ["r"], "policy": "p", "principal": "owner"}
    rows = [
        Fact("r1", place + 1, RowKind.CALL, at, {**decided, "ms": took[place]}, "bb") for place, at in enumerate(ats)
    ]
    for span in spans_of([START, *rows]):
        assert span.start >= START.at or span.layer is Layer.RUN
        assert span.end is None or span.end >= span.start
        assert all(event.at >= span.start for event in span.events)


def test_ids_of_runs_and_calls_differ() -> None:
    """No two spans of a home share an id, whatever layers and ordinals they have."""
    runs = [new_id(float(number)) for number in range(50)]
    ids = [span_id(run, ordinal, layer) for run in runs for ordinal in range(20) for layer in Layer]
    assert len(set(ids)) == len(ids)
    assert {len(trace_id(run)) for run in runs} == {32}
    assert json.loads(json.dumps(ids)) == ids
