"""The builder shows errors in the language's own words and takes nothing but the module's own sources."""

import shutil
from pathlib import Path

import pytest

from guests import wat
from guests_fixture import COMPILED, ROOT, Scripted, digest_of
from loket.contracts import BadInput, Limits
from loket.packages import resources
from loket.packages.build import build
from loket.packages.manifest import load_manifest
from loket.packages.scaffold import new_agent
from loket.sandbox import WasmSandbox


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    return new_agent("weather", tmp_path)


def test_a_new_agent_can_be_built_and_answers(agent: Path) -> None:
    """What `loket new agent` makes builds and counts visits through the counter; a package in `vendor` is found."""
    (agent / "vendor").mkdir()
    (agent / "vendor" / "polite.py").write_text('GREETING = "Selamat pagi"\n', encoding="utf-8")
    source = agent / "agent.py"
    source.write_text(
        source.read_text(encoding="utf-8").replace("import datetime", "import polite\nimport datetime") + "\n"
        "@operation\ndef polite_word() -> str:\n    return polite.GREETING\n",
        encoding="utf-8",
    )
    steps: list[str] = []
    built = build(agent, progress=steps.append)
    assert built.path == agent / "module.wasm"
    assert built.digest == digest_of(built.path)
    assert steps[-1] == "building the component"
    assert not list(agent.glob(".building-*"))
    sandbox = WasmSandbox(COMPILED)
    try:
        guest = sandbox.load(built.path, built.digest)
        host = Scripted({"kv.get": {"found": True, "value": 2}, "kv.set": {}})
        segment = guest.run(host, "message", '{"text": "Ana", "conversation": "x"}', Limits())
        assert segment.answer == '{"text":"Good morning, Ana. This is visit number 3."}'
        assert host.asked("log.write") == [{"text": "Ana was here 3 times", "level": "info"}]
        assert guest.run(host, "polite_word", "{}", Limits()).answer == '"Selamat pagi"'
    finally:
        sandbox.close()


def test_a_syntax_error_is_pythons_own_message(agent: Path) -> None:
    """File, line, message and the line itself; the build tool is not even started."""
    (agent / "agent.py").write_text("import json\n\ndef broken(:\n    pass\n", encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        build(agent)
    assert caught.value.message == "agent.py:3: SyntaxError: invalid syntax\n    def broken(:"
    assert not (agent / "module.wasm").exists()


def test_an_import_error_names_the_innermost_line_and_the_remedy(agent: Path) -> None:
    """The place is told without the tool's stack, and the packages of the environment that builds are not there."""
    (agent / "agent.py").write_text("import helper\n", encoding="utf-8")
    (agent / "helper.py").write_text("import json\n\nimport pytest\n", encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        build(agent)
    assert caught.value.message == "helper.py:3: ModuleNotFoundError: No module named 'pytest'\n    import pytest"
    assert caught.value.remedy == "put pure Python packages into vendor/: pip install --target vendor pytest"


def test_an_operation_that_the_manifest_promises_has_to_be_there(agent: Path) -> None:
    """A manifest cannot promise an operation that no function has."""
    (agent / "agent.py").write_text("from loket_guest import operation\n\n@operation\ndef other(): ...\n", "utf-8")
    with pytest.raises(BadInput, match="promises the operation message"):
        build(agent)


def test_a_missing_source_or_entry_is_told(agent: Path) -> None:
    """Without a source there is nothing to build, and without `entry` nothing is built from it."""
    (agent / "agent.py").unlink()
    with pytest.raises(BadInput, match=r"has no agent\.py"):
        build(agent)
    manifest = agent / "loket.toml"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('entry = "module.wasm"', ""), encoding="utf-8")
    with pytest.raises(BadInput, match="nothing to build"):
        build(agent)


def test_a_new_agent_never_overwrites(agent: Path) -> None:
    """A folder that is there is left alone, and a name that no agent can have is refused with the rule."""
    with pytest.raises(BadInput, match="there already"):
        new_agent("weather", agent.parent)
    with pytest.raises(BadInput, match="small letters"):
        new_agent("../weather", agent.parent)
    assert load_manifest(agent).id == "weather"


def test_resources_are_found_in_a_checkout_and_in_a_wheel(tmp_path: Path) -> None:
    """A checkout uses its own sources; an installed package its copies; what is missing is told."""
    assert resources.resource("wit") == ROOT / "wit"
    assert resources.resource("guests/python") == ROOT / "guests" / "python"
    installed = tmp_path / "lib" / "site-packages" / "loket"
    (installed / "packages").mkdir(parents=True)
    shutil.copy(resources.__file__, installed / "packages" / "resources.py")
    (installed / "_prebuilt" / "wit").mkdir(parents=True)
    namespace = {"__file__": str(installed / "packages" / "resources.py"), "__name__": "installed"}
    exec((installed / "packages" / "resources.py").read_text(encoding="utf-8"), namespace)  # noqa: S102 - the copy
    assert namespace["resource"]("wit") == installed / "_prebuilt" / "wit"
    with pytest.raises(Exception, match="lacks _prebuilt/agents/main"):
        namespace["resource"]("agents/main")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SECOND_IMPORT", "imports wasi:clocks/wall-clock"),
        ("NO_HANDLE", "exports nothing"),
        ("OTHER_TYPE", "exports handle"),
        ("SECOND_EXPORT", "exports also, handle"),
        ("CORE_MODULE", "no WebAssembly component"),
        ("CORRUPT", "no WebAssembly component"),
    ],
)
def test_a_component_of_another_type_is_no_module(tmp_path: Path, name: str, said: str) -> None:
    """The hand-written components are refused for the reason that each of them was written for."""
    content = getattr(wat, name)
    file = tmp_path / "module.wasm"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    sandbox = WasmSandbox(tmp_path / "cache")
    try:
        with pytest.raises(BadInput, match=said):
            sandbox.check(file)
    finally:
        sandbox.close()
