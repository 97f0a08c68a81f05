"""What travels with Loket: the contract, the guest library, the templates and the stock agents.

In a checkout the sources themselves are used; an installed wheel carries copies of them in `loket/_prebuilt`.
"""

from pathlib import Path

from loket.contracts import Damaged

_PACKAGE = Path(__file__).parents[1]
_CHECKOUT = _PACKAGE.parents[1]
_PREBUILT = _PACKAGE / "_prebuilt"


def resource(name: str) -> Path:
    """Find a resource by name: `wit`, `guests/python`, `guests/templates` or `agents/main`.

    Raises `Damaged` where the installation does not have it.
    """
    source = _CHECKOUT / name
    in_checkout = name.partition("/")[0] in ("wit", "guests") and (_CHECKOUT / "wit" / "loket.wit").is_file()
    path = source if in_checkout else _PREBUILT / name
    if not path.exists():
        raise Damaged(
            "install.incomplete",
            f"this installation of Loket lacks {path.relative_to(_PACKAGE) if not in_checkout else name}",
            "install it again: pip install --force-reinstall loket, or `make up` in a checkout",
        )
    return path
