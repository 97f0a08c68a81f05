"""`loket model list|use|pull|key`."""
import typer
def add_to(app: typer.Typer) -> None:
    pass
