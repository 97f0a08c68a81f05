"""Components in WebAssembly text, for what no honest tool builds. The engine takes the text as it is.

`ECHO` is a module of the contract that answers with its arguments; it compiles in milliseconds.
"""

_COUNTER = """
  (import "loket:kernel/counter@1.0.0" (instance $counter
    (type $fields (record (field "code" string) (field "message" string) (field "remedy" (option string))))
    (export "refusal" (type $refusal (eq $fields)))
    (type $call (func (param "capability" string) (param "args" string) (result (result string (error $refusal)))))
    (export "call" (func (type $call)))))
  (alias export $counter "refusal" (type $refusal))
"""

_CODE = """
  (core module $code
    (memory (export "memory") 1)
    (global $next (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $start i32)
      (local.set $start (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $start) (local.get 3)))
      (block $enough
        (br_if $enough (i32.le_u (global.get $next) (i32.mul (memory.size) (i32.const 65536))))
        (drop (memory.grow (i32.add (i32.shr_u (local.get 3) (i32.const 16)) (i32.const 1)))))
      (local.get $start))
    (func (export "handle") (param i32 i32 i32 i32) (result i32)
      (i32.store (i32.const 16) (i32.const 0))
      (i32.store (i32.const 20) (local.get 2))
      (i32.store (i32.const 24) (local.get 3))
      (i32.const 16)))
  (core instance $instance (instantiate $code))
"""

_HANDLE = """
  (func $handle (param "operation" string) (param "args" string) (result (result string (error $refusal)))
    (canon lift (core func $instance "handle")
      (memory (core memory $instance "memory")) (realloc (core func $instance "realloc"))))
  (export "handle" (func $handle))
"""

ECHO = f"(component {_COUNTER} {_CODE} {_HANDLE})"

SECOND_IMPORT = f"""(component {_COUNTER}
  (import "wasi:clocks/wall-clock@0.2.0" (instance (export "now" (func (result u64)))))
  {_CODE} {_HANDLE})"""

NO_HANDLE = f"(component {_COUNTER} {_CODE})"

OTHER_TYPE = f"""(component {_COUNTER} {_CODE}
  (core module $other (func (export "handle") (param i32) (result i32) (local.get 0)))
  (core instance $number (instantiate $other))
  (func $handle (param "number" u32) (result u32) (canon lift (core func $number "handle")))
  (export "handle" (func $handle)))"""

SECOND_EXPORT = f"""(component {_COUNTER} {_CODE} {_HANDLE}
  (export "also" (func $handle)))"""

CORE_MODULE = "(module)"

CORRUPT = b"\x00asm\x0d\x00\x01\x00" + bytes(range(64))
"""Begins like a component."""
