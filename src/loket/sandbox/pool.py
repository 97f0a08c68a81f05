"""Memory for instances is taken from a pool, through the engine's C API (the binding has no words for it).

A fresh instance for every segment means hundreds of page faults for a guest in Python; they were a third of its CPU
time. A slot of the pool keeps its first pages mapped when an instance goes, and the engine puts their first contents
back (zero, or the module's image), so that nothing of one run is there in the next; a test holds it to that. Measured
with the stock agent, one turn: 6.6 ms of CPU without the pool, 6.1 with it, 4.8 with 16 MiB kept.
"""

from wasmtime import Config
from wasmtime import _ffi as ffi

INSTANCES = 64
"""Instances at the same time; the sandbox lets no more in."""

MOST_MEMORY_MB = 4096
"""Linear memory that a module can have at most, MiB: so much address space is reserved for each slot."""

TABLE_ELEMENTS = 200_000
_KEPT_BYTES = 16 << 20
_TABLE_KEPT_BYTES = 1 << 20
_INSTANCE_BYTES = 16 << 20
_PARTS = 200
"""Core instances that a component may be made of."""

_TABLES = 40
_MEMORIES = 2
_WARM = 8
"""Idle slots that keep their pages."""


def use_pool(config: Config) -> None:
    """Have an engine with this configuration take memory from a pool."""
    pool = ffi.wasmtime_pooling_allocation_config_new()
    settings = {
        "total_component_instances": INSTANCES,
        "max_component_instance_size": _INSTANCE_BYTES,
        "max_core_instances_per_component": _PARTS,
        "max_memories_per_component": _MEMORIES,
        "max_tables_per_component": _TABLES,
        "total_core_instances": INSTANCES * _PARTS,
        "max_core_instance_size": _INSTANCE_BYTES,
        "total_memories": INSTANCES * _MEMORIES,
        "max_memories_per_module": _MEMORIES,
        "max_memory_size": MOST_MEMORY_MB << 20,
        "total_tables": INSTANCES * _TABLES,
        "max_tables_per_module": _TABLES,
        "table_elements": TABLE_ELEMENTS,
        "linear_memory_keep_resident": _KEPT_BYTES,
        "table_keep_resident": _TABLE_KEPT_BYTES,
        "max_unused_warm_slots": _WARM,
    }
    try:
        for name, value in settings.items():
            getattr(ffi, f"wasmtime_pooling_allocation_config_{name}_set")(pool, value)
        ffi.wasmtime_pooling_allocation_strategy_set(config.ptr(), pool)
    finally:
        ffi.wasmtime_pooling_allocation_config_delete(pool)
