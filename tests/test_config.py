"""Settings: `loket.config`."""

from pathlib import Path

import pytest

from loket.config import Config, load_config
from loket.contracts import BadInput


def settings(tmp_path: Path, text: str) -> Path:
    (tmp_path / "config.toml").write_text(text)
    return tmp_path / "config.toml"


def test_settings_are_decoded_into_types(tmp_path: Path) -> None:
    """Numbers and switches come out under their names; what is left out has its default."""
    path = settings(
        tmp_path, "[vault]\nkeyring = true\n[brains]\nencrypted = true\n[limits]\nmoney_per_day = 2\nopen_brains = 8\n"
    )
    assert load_config(path) == Config(money_per_day=2, open_brains=8, vault_keyring=True, brains_encrypted=True)
    assert load_config(settings(tmp_path, '[retention]\nmain = 365\n"*" = 90')).retention == {"main": 365, "*": 90}
    assert load_config(tmp_path / "none.toml") == Config(vault_keyring=False, brains_encrypted=False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[brains]\nencrypted = 1", "brains.encrypted in .* is 1, and true or false is needed"),
        ('[vault]\nkeyring = "yes"', "vault.keyring in .* is 'yes', and true or false"),
        ("[server]\nworkers = true", "server.workers in .* is True, and a whole number of at least 1"),
        ("[server]\nworkers = 0", "at least 1"),
        ("[limits]\nopen_brains = 1.5", "whole number"),
        ("[vault]\nkeyrings = true", "unknown setting vault.keyrings"),
        ("vault = true", "vault must be a table"),
        ("[retention]\nmain = 0", "retention.main in .* is 0, and a whole number of days of at least 1"),
        ("[vault", "cannot be read"),
    ],
)
def test_a_wrong_setting_is_named_with_what_it_should_be(tmp_path: Path, text: str, says: str) -> None:
    """A switch takes true or false alone, a number no switch; the remedy says what the setting means."""
    with pytest.raises(BadInput, match=says) as caught:
        load_config(settings(tmp_path, text))
    assert caught.value.remedy
