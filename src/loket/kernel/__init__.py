"""The kernel: the counter, the journal, grants, tokens, quotas and the engine that runs modules on them.

A part earns its place here only if a module could do harm or a promise of the journal could break without it. What can
be decided elsewhere (policy, labels) or done elsewhere (providers, packages) stays outside, behind a protocol.
"""
