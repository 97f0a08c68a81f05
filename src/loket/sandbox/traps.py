"""Says in a sentence what a module tried that its world does not have.

A component's WASI functions are stubs that trap; the trap's backtrace names the stub and, for a guest in Python, the
function of the interpreter that called it. A guest in JavaScript has its stubs in a core module named `quickjs`
(`loket.packages.component`).
"""

import re

_COUNTER = "ask the counter instead; `loket caps` lists what there is"

_FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("_PyErr_ProgramDecodedTextObject", "compile text that is no valid Python", "check it with ast.literal_eval"),
    (r"std(in|out|err)_get|terminal_std", "use the standard streams directly", "use print or logging: log.write"),
    (r"filesystem_|__wasilibc_populate_preopens", "use a file", "keep values with kv.set, and read them with kv.get"),
    (r"tcp_|udp_|instance_network|ip_name_lookup|sockets_", "use the network", f"{_COUNTER}: net.fetch"),
    (r"wall_clock_|monotonic_clock_|clock_time_get", "read a clock", "use time.time or datetime.now: clock.now"),
    (r"random_get|random_insecure|insecure_seed", "draw random bytes", "use os.urandom or random: random.bytes"),
    (r"exit_exit|proc_exit", "end its process", "return from the operation, or raise Refused"),
    (r"environment_get|environ_get|get_arguments", "read environment variables", "take it as an argument"),
    (r"\bpoll_|poll_oneoff|subscribe_", "wait for the system", f"{_COUNTER}"),
)
"""Pattern of the backtrace, what the module tried, and what to do instead; the first that fits counts."""

_JAVASCRIPT: tuple[tuple[str, str, str], ...] = (
    (r"clock_", "read a clock", "use Date or performance.now: clock.now"),
    (r"std(in|out|err)_|terminal_|streams_", "use the standard streams", "use console: log.write"),
    (r"filesystem_", "use a file", "keep values with kv.set, and read them with kv.get"),
    (r"random_", "draw random bytes", "use crypto or Math.random: random.bytes"),
)
"""The same for QuickJS, whose standard library has none of the rest."""

_GAVE_UP = "quickjs!cli_environment_get_environment"
"""What QuickJS's host asks for first when it gives up, mostly for want of memory: no wish of the module's."""

_PYTHON = re.compile(
    r"libpython[0-9.]+so!_?(os|time|posix|select|socket|sock|builtin|io)_([a-z_]+?)(?:_impl)?$", re.MULTILINE
)

_NAMES = {
    "builtin_input": "input",
    "sock_initobj": "socket.socket",
    "socket_getaddrinfo": "socket.getaddrinfo",
}


def explain_trap(backtrace: str) -> tuple[str, str] | None:
    """Explain a trap of a WASI stub: what the module tried (a sentence) and the remedy; None for any other trap."""
    plain = backtrace.replace("-", "_").replace(":", "_")
    if _GAVE_UP in plain:
        return None
    for pattern, tried, remedy in _JAVASCRIPT if "quickjs!" in plain else _FAMILIES:
        if re.search(pattern, plain):
            called = _python_call(backtrace)
            with_it = f" ({called})" if called else ""
            return f"the module tried to {tried}{with_it}, which it has no import for", remedy
    return None


def _python_call(backtrace: str) -> str | None:
    """Name the innermost Python function of the standard library in a backtrace: `os.mkdir`."""
    for match in _PYTHON.finditer(backtrace):
        name = f"{match[1]}_{match[2]}"
        module = {"builtin": "", "posix": "os.", "sock": "socket.", "io": "io."}.get(match[1], f"{match[1]}.")
        return _NAMES.get(name, f"{module}{match[2]}")
    return None
