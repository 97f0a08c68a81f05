"""The vault: `loket.providers.vault`."""

import json
import os
import stat
import traceback
from pathlib import Path

import pytest

from loket.contracts import BadInput, Damaged
from loket.providers.vault import FileVault

SECRET = "sk-very-secret-0123456789"


def test_a_secret_is_found_again_by_another_vault_on_the_same_folder(tmp_path: Path) -> None:
    """What was put is there for the next process, and only under its name."""
    FileVault(tmp_path / "vault").put("openai", SECRET)
    again = FileVault(tmp_path / "vault")
    assert again.get("openai") == SECRET
    assert again.get("other") is None
    assert again.names() == ["openai"]


def test_an_empty_home_has_no_secrets(tmp_path: Path) -> None:
    """A vault that was never written to is empty, and reading creates nothing."""
    vault = FileVault(tmp_path / "vault")
    assert (vault.names(), vault.get("x"), vault.delete("x")) == ([], None, False)
    assert not (tmp_path / "vault").exists()


def test_the_file_and_its_folder_are_the_owners_alone(tmp_path: Path) -> None:
    """The file has mode 0600 and the folder 0700, and no half-written file stays behind."""
    vault = FileVault(tmp_path / "vault")
    vault.put("one", "1")
    vault.put("two", "2")
    assert vault.delete("one")
    assert stat.S_IMODE((tmp_path / "vault").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "vault" / "secrets.json").stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "vault") == ["secrets.json"]  # noqa: PTH208 - hidden files count here
    assert vault.names() == ["two"]


@pytest.mark.parametrize(("what", "mode", "remedy"), [("secrets.json", 0o640, "chmod 600"), ("", 0o755, "chmod 700")])
def test_what_others_can_read_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, what: str, mode: int, remedy: str
) -> None:
    """A file or folder that others can read is never used."""
    vault = FileVault(tmp_path / "vault")
    vault.put("openai", SECRET)
    place = tmp_path / "vault" / what
    place.chmod(mode)
    for use in (lambda: vault.get("openai"), vault.names, lambda: vault.put("a", "b")):
        with pytest.raises(BadInput) as caught:
            use()
        assert caught.value.remedy == f"{remedy} {place}"


def test_a_link_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    """A link could point the vault at somebody else's file."""
    vault = FileVault(tmp_path / "vault")
    vault.put("openai", SECRET)
    (tmp_path / "vault" / "secrets.json").rename(tmp_path / "elsewhere")
    (tmp_path / "vault" / "secrets.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="is a link"):
        vault.get("openai")


@pytest.mark.parametrize("text", [f'{{"openai": "{SECRET}"', f'["{SECRET}"]', f'{{"openai": ["{SECRET}"]}}', "\x00"])
def test_a_damaged_file_is_named_and_its_content_shown_nowhere(tmp_path: Path, text: str) -> None:
    """A file that the vault did not write is `Damaged`; no part of the error holds what is in it."""
    vault = FileVault(tmp_path / "vault")
    vault.put("openai", "x")
    (tmp_path / "vault" / "secrets.json").write_text(text)
    with pytest.raises(Damaged) as caught:
        vault.get("openai")
    shown = "".join(traceback.format_exception(caught.value)) + json.dumps(caught.value.as_dict())
    assert SECRET not in shown
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("name", ["", "a b", "../x", "-a", "x" * 101])
def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    """Names are plain words, so that they can stand in settings and commands."""
    with pytest.raises(BadInput, match="cannot name a secret"):
        FileVault(tmp_path / "vault").put(name, "value")


@pytest.mark.parametrize("value", ["", "se\ncret", " secret", "secret\r\nX: y", "x" * 8193])
def test_a_value_that_would_break_a_header_is_refused_without_being_shown(tmp_path: Path, value: str) -> None:
    """Line breaks in a key would add headers to a request."""
    with pytest.raises(BadInput) as caught:
        FileVault(tmp_path / "vault").put("openai", value)
    assert "secret" not in caught.value.message


def test_the_vault_shows_no_values(tmp_path: Path) -> None:
    """`repr` names the folder only."""
    vault = FileVault(tmp_path / "vault")
    vault.put("openai", SECRET)
    assert SECRET not in repr(vault)
    assert SECRET not in repr(vars(vault))
