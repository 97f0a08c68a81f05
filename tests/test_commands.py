"""Lines that owners copy into a shell: nothing that a module said runs there."""

import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loket.contracts import BadInput, Refusal, command
from loket.contracts.catalogue import STOCK
from loket.kernel.constraints import keep
from loket.packages.build_javascript import _missing
from loket.packages.install import read_package

CAPABILITIES = {capability.id: capability for capability in STOCK}


def ran(line: str, folder: Path) -> list[str]:
    """The words that a real shell gives to `loket`, where it stands for a function that prints them."""
    script = f"loket() {{ printf '%s\\0' \"$@\"; }}\n{line}\n"
    done = subprocess.run(["/bin/sh", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert list(folder.iterdir()) == []
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("path", ["x; touch PWNED #", "$(touch PWNED)", "`touch PWNED`", "a'; touch PWNED; '", "a b"])
def test_a_refused_path_is_one_word_of_the_remedy(tmp_path: Path, path: str) -> None:
    """What a module asked for stands in the line that would allow it, and is not run by whoever copies that."""
    with pytest.raises(Refusal) as caught:
        keep(CAPABILITIES["fs.read"], "main", {"paths": ["ok/"]}, {"path": path})
    assert ran(caught.value.remedy or "", tmp_path) == ["grants", "allow", "main", "fs.read", "--add", f"paths={path}"]


@pytest.mark.parametrize("path", ["a\nb", "a\x1b[2K", "a\u202eb", "a\0b", "x" * 201])
def test_what_nobody_would_see_or_read_gives_no_line(path: str) -> None:
    """Control characters, text that turns its direction, and what is longer than 200 characters."""
    with pytest.raises(Refusal) as caught:
        keep(CAPABILITIES["fs.read"], "main", {"paths": ["ok/"]}, {"path": path})
    assert caught.value.remedy is None
    assert caught.value.code == "grant.constraint"


def test_a_refused_host_is_one_word_of_the_remedy(tmp_path: Path) -> None:
    """Also where the URL holds what no host has."""
    with pytest.raises(Refusal) as caught:
        keep(CAPABILITIES["net.fetch"], "main", {"hosts": ["ok.example"]}, {"url": "http://x;touch${IFS}PWNED;/"})
    words = ran(caught.value.remedy or "", tmp_path)
    assert words[-1].startswith("hosts=x;touch${ifs}pwned;")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=4))
@example(["'", '"', "\\", "!!"])
def test_the_words_of_a_line_are_the_words_that_went_in(words: list[str]) -> None:
    """Whatever they hold: or there is no line."""
    line = command(*words)
    if line is None:
        assert not all(word.isprintable() for word in words)
    else:
        assert shlex.split(line) == ["loket", *words]
        assert line.isprintable()


def test_the_name_of_a_package_and_of_a_folder_are_words_too(tmp_path: Path) -> None:
    """`npm install` of a name from somebody's sources, `loket build` of a folder with a name of somebody's choice."""
    assert "npm install 'x; touch PWNED #'," in _missing("x; touch PWNED #")
    assert "npm install," not in _missing("left\x1bpad")
    assert "install it with npm" in _missing("left\x1bpad")
    assert "install it with npm" in _missing("--prefix")
    folder = tmp_path / "a; touch PWNED #"
    folder.mkdir()
    text = 'id = "echo"\nversion = "1.0.0"\nkind = "agent"\nsummary = "Answers"\nentry = "module.wasm"\n'
    (folder / "loket.toml").write_text(text)
    with pytest.raises(BadInput) as caught:
        read_package(folder)
    assert shlex.split(caught.value.remedy or "") == ["loket", "build", str(folder)]
