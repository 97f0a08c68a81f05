"""Packs: the same modules make the same pack, and a pack that is not exactly that is refused with its reason."""

import dataclasses
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from guests import wat
from loket.contracts import BadInput, Json
from loket.packages.content import check_names, wrong_name
from loket.packages.install import read_package
from loket.packages.pack import LIST, SIGNATURE, PackList, Signer, list_bytes, make_pack, read_list
from loket.packages.signature import fingerprint, new_key, public_key, public_of, sign, written
from loket.packages.unpack import read_pack, unpacked

PRIVATE = bytes(range(32))
SIGNER = Signer("acme", public_of(PRIVATE), lambda data: sign(PRIVATE, data))

MANIFEST = 'id = "{id}"\nversion = "1.0.0"\nkind = "agent"\nsummary = "Answers"\nentry = "module.wasm"\n'


def module(place: Path, name: str = "echo") -> Path:
    folder = place / name
    (folder / "skills" / "one").mkdir(parents=True)
    (folder / "loket.toml").write_text(MANIFEST.format(id=name))
    (folder / "module.wasm").write_text(wat.ECHO)
    (folder / "skills" / "one" / "SKILL.md").write_text("Be brief.")
    (folder / "agent.py").write_text("raise SystemExit\n")
    return folder


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    made = tmp_path / "echo.loket"
    make_pack([module(tmp_path)], made, SIGNER)
    return made


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    (tmp_path / "staging").mkdir()
    return tmp_path / "staging"


def refused(pack: Path, staging: Path) -> BadInput:
    """The error of opening a pack, once it is certain that nothing was left behind."""
    with pytest.raises(BadInput) as caught, unpacked(pack, staging):
        pass
    assert list(staging.iterdir()) == []
    assert caught.value.remedy
    with pytest.raises(BadInput):
        _whole(pack, staging)
    return caught.value


def _whole(pack: Path, staging: Path) -> None:
    with unpacked(pack, staging):
        pass


def test_a_pack_is_unpacked_as_it_was_packed(pack: Path, staging: Path) -> None:
    """What belongs to a module is there with its bytes, sources are not, and nothing is left when it is done."""
    with unpacked(pack, staging) as (listed, folder):
        assert (listed.name, listed.version, listed.publisher) == ("echo", "1.0.0", "acme")
        assert listed.fingerprint == fingerprint(SIGNER.key)
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert found == {"echo/loket.toml", "echo/module.wasm", "echo/skills/one/SKILL.md"}
        package = read_package(folder / "echo")
        assert package.content == read_package(pack.parent / "echo").content
    assert list(staging.iterdir()) == []


def test_the_same_modules_make_the_same_pack(tmp_path: Path, pack: Path) -> None:
    """No time, no order of a file system and no name of a user gets into it."""
    folder = module(tmp_path / "elsewhere")
    (folder / "loket.toml").touch()
    again = tmp_path / "again.loket"
    make_pack([folder], again, SIGNER)
    assert again.read_bytes() == pack.read_bytes()


def test_several_modules_travel_in_one_pack(tmp_path: Path, staging: Path) -> None:
    """Each in a folder of its id; the pack is called like its file unless it is said."""
    made = make_pack([module(tmp_path, "one"), module(tmp_path, "two")], tmp_path / "both.loket")
    assert (made.name, [one.id for one in made.modules]) == ("both", ["one", "two"])
    with unpacked(tmp_path / "both.loket", staging) as (listed, folder):
        assert listed == dataclasses.replace(made, files=listed.files)
        assert sorted(path.name for path in folder.iterdir()) == ["one", "two"]
        assert listed.key is None


def test_an_agent_on_the_stock_component_is_packed_without_one(tmp_path: Path, staging: Path) -> None:
    """It runs on the stock agent's of whoever installs it."""
    folder = module(tmp_path)
    (folder / "module.wasm").unlink()
    (folder / "loket.toml").write_text(MANIFEST.format(id="echo").replace('entry = "module.wasm"\n', ""))
    made = make_pack([folder], tmp_path / "echo.loket")
    assert made.modules[0].entry is None
    with unpacked(tmp_path / "echo.loket", staging) as (_listed, unpacked_to):
        assert read_package(unpacked_to / "echo", pack_stock(tmp_path)).wasm == tmp_path / "stock.wasm"


def pack_stock(place: Path) -> Path:
    (place / "stock.wasm").write_text(wat.ECHO)
    return place / "stock.wasm"


def test_what_is_not_built_is_not_packed(tmp_path: Path) -> None:
    """The error names the command that builds it."""
    folder = module(tmp_path)
    (folder / "module.wasm").unlink()
    with pytest.raises(BadInput) as caught:
        make_pack([folder], tmp_path / "echo.loket")
    assert caught.value.remedy == f"loket build {folder}"
    assert not (tmp_path / "echo.loket").exists()


def test_a_folder_with_a_link_is_not_packed(tmp_path: Path) -> None:
    """Whatever it points to would leave with the pack."""
    folder = module(tmp_path)
    (folder / "skills" / "secret").symlink_to("/etc/passwd")
    with pytest.raises(BadInput, match="no plain file"):
        make_pack([folder], tmp_path / "echo.loket")
    assert not (tmp_path / "echo.loket").exists()


# Hostile packs


Entry = tuple[zipfile.ZipInfo, bytes]


def entry(name: str, *, mode: int = 0o100644, method: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("placeholder", (1980, 1, 1, 0, 0, 0))
    info.filename = name
    info.create_system, info.external_attr, info.compress_type = 3, mode << 16, method
    return info


def rebuilt(pack: Path, change: Callable[[dict[str, bytes], PackList], list[Entry] | None]) -> Path:
    """The pack again with other entries, its list signed afresh: all but what the change does is right."""
    with zipfile.ZipFile(pack) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    extra = change(files, read_list(files[LIST])) or []
    with zipfile.ZipFile(pack, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(entry(name), data)
        for info, data in extra:
            archive.writestr(info, data)
    return pack


def resigned(files: dict[str, bytes], /, **more: Json) -> None:
    """Put keys into the list, or other values, and sign it."""
    value = {**json.loads(files[LIST]), **more}
    files[LIST] = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    files[SIGNATURE] = sign(PRIVATE, files[LIST])


def with_file(files: dict[str, bytes], name: str, data: bytes) -> None:
    """List one more file, and sign that."""
    import hashlib

    listed = json.loads(files[LIST])["files"]
    listed[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    resigned(files, files=listed)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../evil",
        "echo/../../evil",
        "echo/./a",
        "echo//a",
        "C:/evil",
        "echo/a:b",
        "echo/con",
        "echo/aux.md",
        "echo/dot.",
        "echo/ blank",
        "echo/new\nline",
        "echo/\x1b[2J",
        "echo/\u202ereversed",
        "echo/e\u0301",
        "echo/" + "x" * 300,
        "echo/" + "/".join("abcdefghijk"),
        "echo/back\\slash",
    ],
)
def test_names_that_lead_elsewhere_are_refused(pack: Path, staging: Path, name: str) -> None:
    """Absolute, with `..`, devices, control characters, what does not print, two spellings of one name."""

    def change(files: dict[str, bytes], _listed: PackList) -> list[Entry]:
        with_file(files, name, b"x")
        return [(entry(name), b"x")]

    error = refused(rebuilt(pack, change), staging)
    assert error.code == "package.name", error.message
    assert not (staging.parent / "evil").exists()


def test_a_nul_in_a_name_is_refused(pack: Path, staging: Path) -> None:
    """A reader that stops there would see another name than the list."""

    def change(files: dict[str, bytes], _listed: PackList) -> list[Entry]:
        with_file(files, "echo/skills/aXb", b"x")
        return [(entry("echo/skills/aXb"), b"x")]

    rebuilt(pack, change)
    pack.write_bytes(pack.read_bytes().replace(b"skills/aXb", b"skills/a\0b"))
    assert refused(pack, staging).code == "package.name"


@pytest.mark.parametrize("name", ["echo/Loket.toml", "echo/LOKET.TOML", "Echo/more", "echo/SKILLS/two"])
def test_names_that_differ_in_case_alone_are_refused(pack: Path, staging: Path, name: str) -> None:
    """Some file systems would keep one of them."""

    def change(files: dict[str, bytes], _listed: PackList) -> list[Entry]:
        with_file(files, name, b"x")
        return [(entry(name), b"x")]

    assert "case" in refused(rebuilt(pack, change), staging).message


def test_an_entry_that_is_there_twice_is_refused(pack: Path, staging: Path) -> None:
    """Readers differ in which of the two they take."""
    with pytest.warns(UserWarning, match="Duplicate"):
        rebuilt(pack, lambda _files, _listed: [(entry("echo/loket.toml"), b"other")])
    assert "twice" in refused(pack, staging).message


def test_a_file_that_is_a_folder_too_is_refused(pack: Path, staging: Path) -> None:
    """`a` and `a/b` cannot both be there."""

    def change(files: dict[str, bytes], _listed: PackList) -> list[Entry]:
        with_file(files, "echo/skills", b"x")
        return [(entry("echo/skills"), b"x")]

    assert "file and a folder" in refused(rebuilt(pack, change), staging).message


@pytest.mark.parametrize(
    ("mode", "code"),
    [(0o120777, "pack.link"), (0o010644, "pack.link"), (0o040755, "pack.link"), (0o060644, "pack.link")],
)
def test_links_devices_and_folders_are_refused(pack: Path, staging: Path, mode: int, code: str) -> None:
    """A link, a pipe, a folder, a block device."""

    def change(files: dict[str, bytes], _listed: PackList) -> list[Entry]:
        with_file(files, "echo/skills/odd", b"/etc/passwd")
        return [(entry("echo/skills/odd", mode=mode), b"/etc/passwd")]

    assert refused(rebuilt(pack, change), staging).code == code


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_odd_compression_is_refused(pack: Path, staging: Path, method: int) -> None:
    """Two ways of packing are enough; each more is a parser more."""
    extra = [(entry("echo/README.md", method=method), b"x" * 50)]

    def change(files: dict[str, bytes], _listed: PackList) -> list[Entry]:
        with_file(files, "echo/README.md", b"x" * 50)
        return extra

    assert refused(rebuilt(pack, change), staging).code == "pack.compression"


def test_an_encrypted_entry_is_refused(pack: Path, staging: Path) -> None:
    """Nobody could look at it before it is installed."""
    data = bytearray(pack.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.rindex(mark) + place] |= 1
    pack.write_bytes(bytes(data))
    assert refused(pack, staging).code == "pack.encrypted"


def test_a_file_that_grows_without_bound_is_refused(pack: Path, staging: Path) -> None:
    """Some kilobytes that become 64 MB, of the right digest even."""

    def change(files: dict[str, bytes], _listed: PackList) -> list[Entry]:
        with_file(files, "echo/skills/blanks", bytes(64 << 20))
        return [(entry("echo/skills/blanks"), bytes(64 << 20))]

    assert refused(rebuilt(pack, change), staging).code == "pack.bomb"


def test_a_pack_of_too_many_entries_is_refused(pack: Path, staging: Path) -> None:
    """Before its directory is read."""
    extra = [(entry(f"echo/skills/{number}"), b"") for number in range(5_001)]
    assert refused(rebuilt(pack, lambda _files, _listed: extra), staging).code == "pack.count"


def test_a_pack_whose_end_lies_about_its_entries_is_refused(pack: Path, staging: Path) -> None:
    """The number that is said does not matter; the size of the directory does."""
    extra = [(entry(f"echo/skills/{'x' * 150}{number}"), b"") for number in range(12_000)]
    data = bytearray(rebuilt(pack, lambda _files, _listed: extra).read_bytes())
    data[-14:-10] = struct.pack("<HH", 4, 4)
    pack.write_bytes(bytes(data))
    assert refused(pack, staging).code == "pack.count"


def test_a_pack_that_becomes_too_large_is_refused(pack: Path, staging: Path) -> None:
    """Each file is within its bound, and all together are not."""

    def change(files: dict[str, bytes], _listed: PackList) -> None:
        value = json.loads(files[LIST])
        for number in range(3):
            value["files"][f"echo/skills/{number}"] = {"size": 100 << 20, "sha256": "0" * 64}
        resigned(files, files=value["files"])

    rebuilt(pack, change)
    _append_lying(pack, [f"echo/skills/{number}" for number in range(3)], 100 << 20)
    assert refused(pack, staging).code in ("pack.size", "pack.bomb")


def _append_lying(pack: Path, names: list[str], size: int) -> None:
    with zipfile.ZipFile(pack, "a") as archive:
        for name in names:
            archive.writestr(entry(name, method=zipfile.ZIP_STORED), b"x" * (2 << 20))
    data = bytearray(pack.read_bytes())
    for name in names:
        at = data.rindex(name.encode()) - 46
        assert data[at : at + 4] == b"PK\x01\x02"
        data[at + 24 : at + 28] = struct.pack("<I", size)
    pack.write_bytes(bytes(data))


def test_a_wrong_digest_is_refused(pack: Path, staging: Path) -> None:
    """One byte of the component is another one."""

    def change(files: dict[str, bytes], _listed: PackList) -> None:
        files["echo/module.wasm"] = b"(" + files["echo/module.wasm"][1:-1] + b" "

    assert refused(rebuilt(pack, change), staging).code == "pack.digest"


def test_a_changed_list_is_refused(pack: Path, staging: Path) -> None:
    """Who changes a digest in the list changes what was signed."""

    def change(files: dict[str, bytes], _listed: PackList) -> None:
        signature = files[SIGNATURE]
        files["echo/loket.toml"] = files["echo/loket.toml"].replace(b"1.0.0", b"1.0.1")
        with_file(files, "echo/loket.toml", files["echo/loket.toml"])
        files[SIGNATURE] = signature

    assert refused(rebuilt(pack, change), staging).code == "pack.signature"


def test_another_keys_signature_is_refused(pack: Path, staging: Path) -> None:
    """A publisher's name with the key of somebody else, signed by neither."""

    def change(files: dict[str, bytes], _listed: PackList) -> None:
        files[SIGNATURE] = sign(new_key(), files[LIST])

    assert refused(rebuilt(pack, change), staging).code == "pack.signature"


def test_a_signature_that_is_gone_is_refused(pack: Path, staging: Path) -> None:
    """A pack that names a publisher is signed, or is none."""

    def change(files: dict[str, bytes], _listed: PackList) -> None:
        del files[SIGNATURE]

    assert refused(rebuilt(pack, change), staging).code == "pack.signature"


def test_a_signature_of_nobody_is_refused(pack: Path, staging: Path) -> None:
    """An unsigned pack has none."""

    def change(files: dict[str, bytes], _listed: PackList) -> None:
        resigned(files, publisher=None)

    assert refused(rebuilt(pack, change), staging).code == "pack.signature"


def test_a_file_that_no_list_names_is_refused(pack: Path, staging: Path) -> None:
    """Whatever is not signed does not travel."""
    extra = [(entry("echo/skills/more.md"), b"x")]
    assert refused(rebuilt(pack, lambda _files, _listed: extra), staging).code == "pack.unlisted"


def test_a_file_that_is_listed_and_missing_is_refused(pack: Path, staging: Path) -> None:
    """A pack is whole or none."""

    def change(files: dict[str, bytes], _listed: PackList) -> None:
        with_file(files, "echo/skills/two.md", b"x")

    assert refused(rebuilt(pack, change), staging).code == "pack.missing"


def test_a_file_of_no_module_is_refused(pack: Path, staging: Path) -> None:
    """Every file lies in the folder of one of the modules."""

    def change(files: dict[str, bytes], _listed: PackList) -> list[Entry]:
        with_file(files, "other/readme", b"x")
        return [(entry("other/readme"), b"x")]

    assert refused(rebuilt(pack, change), staging).code == "pack.unlisted"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("modules", []),
        ("modules", [{"id": "../x", "version": "1.0.0", "kind": "agent", "entry": None}]),
        ("modules", [{"id": "echo", "version": "1.0.0", "kind": "agent", "entry": "../module.wasm"}]),
        ("modules", [{"id": "echo", "version": "1.0.0", "kind": "worm", "entry": None}]),
        ("publisher", {"name": "ACME", "key": written(SIGNER.key)}),
        ("publisher", {"name": "acme", "key": "ed25519:AAAA"}),
        ("files", {"echo/loket.toml": {"size": -1, "sha256": "0" * 64}}),
        ("files", {"echo/loket.toml": {"size": True, "sha256": "0" * 64}}),
        ("files", {"echo/loket.toml": {"size": 1, "sha256": "zz"}}),
        ("files", []),
        ("more", "keys"),
    ],
)
def test_a_list_of_another_form_is_refused(pack: Path, staging: Path, key: str, value: Json) -> None:
    """Strict, signed or not."""

    def change(files: dict[str, bytes], _listed: PackList) -> None:
        resigned(files, **{key: value})

    assert refused(rebuilt(pack, change), staging).code in ("pack.list", "key.invalid", "pack.missing")


def test_a_list_that_says_a_key_twice_is_refused(pack: Path, staging: Path) -> None:
    """Readers of JSON differ in which one they take."""

    def change(files: dict[str, bytes], _listed: PackList) -> None:
        files[LIST] = files[LIST].replace(b'"name":"echo"', b'"name":"evil","name":"echo"')
        files[SIGNATURE] = sign(PRIVATE, files[LIST])

    assert refused(rebuilt(pack, change), staging).code == "pack.list"


@pytest.mark.parametrize("where", ["before", "behind", "between"])
def test_what_stands_around_the_entries_is_refused(pack: Path, staging: Path, where: str) -> None:
    """Another zip could hide there, which another reader would find."""
    data = pack.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    directory = struct.unpack("<I", data[end + 16 : end + 20])[0]
    if where == "before":
        pack.write_bytes(b"#!/bin/sh\n" + data)
    elif where == "behind":
        pack.write_bytes(data + b"more")
    else:
        moved = data[end : end + 16] + struct.pack("<I", directory + 4) + data[end + 20 :]
        pack.write_bytes(data[:directory] + b"more" + data[directory:end] + moved)
    assert refused(pack, staging).code == "pack.zip"


def test_an_entry_that_says_two_things_is_refused(pack: Path, staging: Path) -> None:
    """What stands before a file is what the directory says, its length to the byte."""
    data = bytearray(pack.read_bytes())
    data[18:22] = struct.pack("<I", struct.unpack("<I", data[18:22])[0] + 1)
    pack.write_bytes(bytes(data))
    assert refused(pack, staging).code == "pack.zip"


def test_entries_that_overlap_are_refused(tmp_path: Path, staging: Path) -> None:
    """Many names for one kernel of bytes is how small files become petabytes."""
    kernel = zlib.compress(bytes(100_000))[2:-4]
    local = struct.pack(
        "<4s5H3L2H", b"PK\x03\x04", 20, 0, 8, 0, 33, zlib.crc32(bytes(100_000)), len(kernel), 100_000, 1, 0
    )
    body = local + b"a" + kernel
    central = b"".join(
        struct.pack(
            "<4s4B4H3L5H2L",
            *(b"PK\x01\x02", 20, 3, 20, 0, 0, 8, 0, 33, zlib.crc32(bytes(100_000)), len(kernel), 100_000),
            *(1, 0, 0, 0, 0, 0o100644 << 16, 0),
        )
        + name
        for name in (b"a", b"b")
    )
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, len(central), len(body), 0)
    pack = tmp_path / "overlap.loket"
    pack.write_bytes(body + central + end)
    assert refused(pack, staging).code == "pack.zip"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_pack_with_any_byte_changed_is_refused_or_the_same(pack: Path, staging: Path, data: st.DataObject) -> None:
    """No change of a byte gets other files in; those that no reader looks at (times) change nothing."""
    whole = pack.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    value = data.draw(st.integers(0, 255))
    changed = pack.with_name("changed.loket")
    changed.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
    try:
        with unpacked(changed, staging) as (listed, _folder):
            assert listed == read_pack(pack)
    except BadInput:
        pass
    assert list(staging.iterdir()) == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=400))
@example(junk=b"")
@example(junk=b"PK\x05\x06" + bytes(18))
def test_junk_is_refused(staging: Path, junk: bytes) -> None:
    """Whatever the bytes: an error of ours, and nothing left behind."""
    pack = staging.parent / "junk.loket"
    pack.write_bytes(junk)
    assert refused(pack, staging).code.startswith("pack.")


@given(path=st.text(max_size=60))
@example(path="a/../b")
@example(path="a/b")
def test_a_name_that_is_taken_stays_below_its_folder(path: str) -> None:
    """Of all texts, those that pass name a place below, and print as they are."""
    if wrong_name(path) is None:
        joined = Path("/place") / path
        assert joined.as_posix() == f"/place/{path}"
        assert ".." not in joined.parts
        assert path.isprintable()
        check_names([path])


@given(paths=st.lists(st.sampled_from(["a", "A", "a/b", "b", "B/c", "b/d"]), min_size=1, max_size=4))
def test_names_that_pass_together_can_lie_in_any_file_system(paths: list[str]) -> None:
    """No twins, whatever the case, and nothing that is a file and a folder."""
    try:
        check_names(paths)
    except BadInput:
        return
    folded = [path.casefold() for path in paths]
    assert len(set(folded)) == len(folded)
    for path in folded:
        assert not any(other.startswith(f"{path}/") for other in folded)


def test_keys_are_read_as_they_are_written() -> None:
    """The text of a public key names that key, and nothing else does."""
    public = public_of(new_key())
    assert public_key(written(public)) == public
    for text in ("", "ed25519:", written(public)[:-4], written(public).removeprefix("ed25519:"), "ed25519:!!!!"):
        with pytest.raises(BadInput, match="no public key"):
            public_key(text)


def test_the_list_is_signed_for_this_purpose_alone(pack: Path) -> None:
    """A signature of the plain bytes with the same key is none of a pack."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    data = list_bytes(read_pack(pack))
    assert Ed25519PrivateKey.from_private_bytes(PRIVATE).sign(data) != sign(PRIVATE, data)
