"""What the builders of all languages share: which files are sources, and how an error in one of them is told."""

from loket.contracts import BadInput
from loket.packages.manifest import FILE


def is_left_out(name: str) -> bool:
    """Whether a file or folder of this name is no source in any language."""
    return name.startswith(".") or name == "__pycache__" or name.endswith((".wasm", ".cwasm", ".pyc"))


def source_error(kind: str, message: str, file: str, line: int, text: str, column: int = 0) -> BadInput:
    """`agent.py:3: NameError: name 'x' is not defined`, and the line itself below it. Without a line it is 0."""
    place = ":".join([file, *(str(number) for number in (line, column) if number)])
    shown = f"\n    {text.strip()}" if text.strip() else ""
    before = f"{place}: " if file else ""
    return BadInput("build.source", f"{before}{kind}: {message}{shown}", f"mend {file or FILE} and build again")
