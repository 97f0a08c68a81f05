"""Runs `loket bench` and writes its rows to `results/`, as JSON and as a table, named after processor and cores.

`python benchmarks/record.py` in a checkout with `make test` done. The machine's own name and folders are not in it.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure, write both files, and name them."""
    command = [sys.executable, "-m", "loket.cli.main", "bench", "--json", *sys.argv[1:]]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    machine = report["machine"]
    name = re.sub(r"[^a-z0-9]+", "-", f"{machine['processor']} {machine['cores']} cores".lower()).strip("-")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(as_table(report), encoding="utf-8")
    print(f"benchmarks/results/{name}.json and .md are written")


def as_table(report: dict[str, Any]) -> str:
    """Write a report as Markdown: one table, each row with its peers below it."""
    facts = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    lines = [
        f"# {report['machine']['processor']}, {report['machine']['cores']} cores\n",
        f"{facts}.\n",
        "| row | p50 | p99 | unit | n | target | met |",
        "|---|--:|--:|---|--:|--:|---|",
    ]
    for row in report["rows"]:
        figures = f"{row['p50']:g} | {row['p99']:g} | {row['unit']} | {row['n']:,}"
        lines.append(f"| **{row['name']}** | {figures} | {row['target']:g} | {'yes' if row['met'] else 'no'} |")
        lines.extend(_peer(peer) for peer in row["peers"])
    commands = "\n".join(row["command"] for row in report["rows"])
    return "\n".join([*lines, f"\nEach row again:\n\n```\n{commands}\n```\n"])


def _peer(peer: dict[str, Any]) -> str:
    if "reason" in peer:
        return f"| {peer['name']} | | | | | | {peer['reason']} |"
    return f"| {peer['name']} | {peer['p50']:g} | {peer['p99']:g} | {peer['unit']} | {peer['n']:,} | | |"


if __name__ == "__main__":
    main()
