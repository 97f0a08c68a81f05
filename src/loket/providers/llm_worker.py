"""The embedded model's own process: llama.cpp on one GGUF file, asked and answering in JSON lines.

Run as `python llm_worker.py MODEL.gguf CONTEXT THREADS`. It imports nothing of Loket, gets no secrets and ends when its
standard input does, so it never outlives the kernel that started it. A crash in here is a crash of this process only.

On stdin: `{"id", "messages", "tools"?, "max_tokens", "temperature"}` asks, `{"cancel": id}` stops.
On stdout: `{"ready": true}` or `{"broken": reason}` once; then `{"id", "piece"}` and at the end `{"id", "finish",
"calls": [[id, name, arguments]], "in", "out"}` or `{"id", "error": {"type", "message"}}`.
"""

import contextlib
import json
import os
import queue
import secrets
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

Say: TypeAlias = Callable[[Mapping[str, Any]], None]


def main(arguments: list[str]) -> None:
    """Load the model, then serve until stdin ends. Leaves without the library's own teardown."""
    say = _claim_stdout()
    model, context, threads = arguments
    try:
        server = _load(model, int(context), int(threads))
    except (ImportError, RuntimeError, ValueError, OSError) as error:
        say({"broken": f"{type(error).__name__}: {error}"})
        return
    say({"ready": True})
    cancelled: set[int] = set()
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_work, args=(server, jobs, cancelled, say), daemon=True).start()
    for line in sys.stdin.buffer:
        job = json.loads(line)
        if "cancel" in job:
            cancelled.add(job["cancel"])
        else:
            jobs.put(job)
    os._exit(0)


def _claim_stdout() -> Say:
    """Keep stdout for the protocol: whatever the library prints goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: Mapping[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    return say


def _load(model: str, context: int, threads: int) -> Any:
    """Load the model, in a library that always opens a web server of its own.

    That gets a socket in a private folder, which is removed at once (or, where there are no such sockets, a random
    key), so that nobody else can talk to it.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = context
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_threads_http = 1
    params.api_keys = [secrets.token_hex(32)]
    params.fit_params = params.warmup = params.ui = False
    params.cache_ram_mib = 0
    params.offline = True
    params.verbosity = -1
    with tempfile.TemporaryDirectory(prefix="loket-", ignore_cleanup_errors=True) as private:
        if hasattr(socket, "AF_UNIX"):
            params.hostnames = [str(Path(private) / "model.sock")]
        return xllamacpp.Server(params)


def _work(server: Any, jobs: "queue.SimpleQueue[dict[str, Any]]", cancelled: set[int], say: Say) -> None:
    while True:
        job = jobs.get()
        answer = _Answer(job["id"], cancelled, say)
        try:
            server.handle_chat_completions(_request(job), answer.chunk)
        except (ValueError, RuntimeError) as error:
            answer.error = {"type": "invalid_request_error", "message": str(error)}
        say(answer.end())
        cancelled.discard(job["id"])


def _request(job: Mapping[str, Any]) -> dict[str, Any]:
    asked = {name: job[name] for name in ("messages", "tools", "max_tokens", "temperature") if name in job}
    return {**asked, "stream": True, "stream_options": {"include_usage": True}}


class _Answer:
    """Puts one streamed answer together."""

    def __init__(self, ident: int, cancelled: set[int], say: Say) -> None:
        self._ident = ident
        self._cancelled = cancelled
        self._say = say
        self._calls: dict[int, list[str]] = {}
        self._finish = "cancelled"
        self._usage: Mapping[str, Any] = {}
        self.error: Mapping[str, Any] | None = None

    def chunk(self, chunk: Mapping[str, Any]) -> bool:
        """Take one chunk in; true stops the generation."""
        if "error" in chunk:
            self.error = chunk["error"]
            return True
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk["choices"]:
            self._finish = choice["finish_reason"] or self._finish
            self._delta(choice["delta"])
        return self._ident in self._cancelled

    def _delta(self, delta: Mapping[str, Any]) -> None:
        if delta.get("content"):
            self._say({"id": self._ident, "piece": delta["content"]})
        for piece in delta.get("tool_calls") or []:
            call = self._calls.setdefault(piece["index"], ["", "", ""])
            call[0] = piece.get("id") or call[0]
            call[1] += piece["function"].get("name") or ""
            call[2] += piece["function"].get("arguments") or ""

    def end(self) -> dict[str, Any]:
        if self.error is not None:
            kind, message = self.error.get("type", ""), self.error.get("message", "")
            return {"id": self._ident, "error": {"type": kind, "message": message}}
        return {
            "id": self._ident,
            "finish": self._finish,
            "calls": list(self._calls.values()),
            "in": self._usage.get("prompt_tokens"),
            "out": self._usage.get("completion_tokens"),
        }


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        main(sys.argv[1:])
