"""Write a Loket module in Python.

    from loket_guest import Refused, call, operation

    @operation
    def greet(name: str) -> dict:
        visits = call("kv.get", key=f"visits/{name}")["value"] or 0
        call("kv.set", key=f"visits/{name}", value=visits + 1)
        return {"text": f"Hello {name}, visit {visits + 1}"}

`call` is the only way out of a module: there are no files, sockets, environment variables, threads or processes.
`time`, `datetime.now`, `random`, `os.urandom`, `secrets`, `uuid`, `print` and `logging` work as always; inside an
operation they ask `clock.now`, `random.bytes` and `log.write`, which the module's `loket.toml` has to ask for.

A module is started anew for each run and nothing that it keeps in variables survives: store what has to stay with
`kv.set` or `brain.add`. After a wait the run is done again from its start with the answers that the counter gave
before, so an operation must not depend on anything that does not come from its arguments or from `call`.

What was refused or failed in a run is remembered as a lesson: `lessons("net.fetch")` recalls those about a capability,
before the same thing is tried again.
"""

from loket_guest import files, imports, randomness, streams
from loket_guest.counter import Refused, call
from loket_guest.lessons import lessons
from loket_guest.operations import operation

__all__ = ["Refused", "call", "lessons", "operation"]

imports.install()
files.install()
randomness.install()
streams.install()
