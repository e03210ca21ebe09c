"""What the documentation says is true: links, files, manifests, names in the code, the code's own
pages."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import console
import generated_docs
from mycelial.cli.wire_up import installed_catalog
from mycelial.daemon import config
from mycelial.kernel.errors import ExitCode
from mycelial.schemas.validate import validate

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE_NAME = re.compile(r"`((?:mycelial|tests|benchmarks)/[\w/.-]+\.(?:py|sql))(?::([\w.]+))?`")
_PATH = re.compile(
    r"`((?:mycelial|tests|docs|examples|manifests|benchmarks|requirements)/[^`\s]*)`"
)


def _id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(params=PAGES, ids=_id)
def page(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(_without_fences(page.read_text("utf-8"))):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{target}: no such file"
        if anchor:
            assert anchor in set(_anchors(file.read_text("utf-8"))), f"{target}: no such heading"


def test_files_and_names_in_the_code_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for path in _PATH.findall(text):
        if not _CODE_NAME.fullmatch(f"`{path}`") and "*" not in path and "NAME" not in path:
            assert (ROOT / path.rstrip("/")).exists(), f"{path} does not exist"
    for path, name in _CODE_NAME.findall(text):
        file = ROOT / path
        assert file.exists(), f"{path} does not exist"
        if name:
            assert name in _names(file), f"{path} has no {name}"


def test_manifests_are_valid(page: Path) -> None:
    """A block of whole documents is checked by itself, a fragment inside a workflow."""
    for fence in console.fences(page.read_text("utf-8")):
        if fence.language == "yaml" and "skip" not in fence.flags:
            for text in _documents(fence):
                found = validate({"mycelial.yaml": text.encode()}, installed_catalog())
                where = f"{_id(page)}:{fence.line}"
                assert found.ok, "\n".join([where, text, *(str(p) for p in found.problems)])


@pytest.mark.parametrize("name", generated_docs.PAGES)
def test_generated_pages_are_current(name: str, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        generated_docs.write([name])
    text = (ROOT / name).read_text("utf-8")
    assert text == generated_docs.PAGES[name](), f"run: make golden ({name})"


def test_code_compiles_and_imports_what_there_is(page: Path) -> None:
    for fence in console.fences(page.read_text("utf-8")):
        if fence.language == "python":
            for node in ast.walk(ast.parse(fence.text)):
                if isinstance(node, ast.ImportFrom) and node.module:
                    module = importlib.import_module(node.module)
                    assert [a.name for a in node.names if not hasattr(module, a.name)] == []


def test_config_files_are_valid(page: Path) -> None:
    for fence in console.fences(page.read_text("utf-8")):
        if fence.language == "toml":
            read = tomllib.loads(fence.text)
            if "node" in read:
                assert config.parse(fence.text.encode()).node.name == read["node"]["name"]


def test_every_option_of_the_daemons_config_is_documented() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    (shown,) = [
        tomllib.loads(fence.text)
        for fence in console.fences(text)
        if fence.language == "toml" and "[node]" in fence.text
    ]
    assert set(shown) == set(config._ROOT)
    assert set(shown["node"]) == set(config._NODE)
    assert set(shown["server"]) == set(config._SERVER) - {"url"}
    assert set(shown["secrets"]) == set(config._SECRETS)
    assert set(shown["policy"]) == set(config._POLICY)
    assert set(shown["sources"][0]) == set(config._ENDPOINT)


def test_every_exit_code_is_documented() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8").split("## Exit codes")[1]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == [*ExitCode]


def test_every_decision_is_listed_and_says_what_it_must() -> None:
    folder = ROOT / "docs" / "adr"
    records = sorted(folder.glob("[0-9]*.md"))
    index = (folder / "README.md").read_text("utf-8")
    assert [path.name for path in records if path.name not in index] == []
    for path in records:
        headings = re.findall(r"^## (.+)$", path.read_text("utf-8"), re.MULTILINE)
        assert headings == ["Context", "Decision", "Rejected", "Consequences"], path.name
        rejected = path.read_text("utf-8").split("## Rejected")[1].split("## ")[0]
        assert len(re.findall(r"^- \*\*", rejected, re.MULTILINE)) >= 2, path.name


def test_every_command_and_option_shown_exists() -> None:
    """`mycelial verb --option` in any page is one that the command line knows."""
    known = (ROOT / "docs" / "cli.md").read_text("utf-8")
    verbs = set(re.findall(r"^## (\w+)$", known, re.MULTILINE))
    for path in PAGES:
        for verb, rest in re.findall(r"`mycelial (?:-C \S+ )?(\w+)([^`]*)`", path.read_text()):
            assert verb in verbs, f"{_id(path)}: there is no verb {verb}"
            for option in re.findall(r"(?<!\S)(--[a-z-]+)", rest):
                assert re.search(rf"{option}\b", known), f"{_id(path)}: {verb} has no {option}"


def _without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _anchors(text: str) -> Iterator[str]:
    for heading in re.findall(r"^#+ (.+)$", _without_fences(text), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def _names(file: Path) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{item.name}"
                for item in node.body
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


_HEAD = "apiVersion: mycelial/v1\nkind: Workflow\nmetadata: {{ name: fragment }}\nspec:\n{}"
_WHOLE = {
    "daemon": "daemon: shop-01",
    "source": "source: { generate: { rows: 1 } }",
    "destination": "destination: { inspect: {} }",
}


def _documents(fence: console.Fence) -> Iterator[str]:
    if "fragment" not in fence.flags:
        yield fence.text
        return
    for part in fence.text.split("# or\n"):
        given = set(re.findall(r"^(\w+):", part, re.MULTILINE))
        rest = [
            line
            for key, line in _WHOLE.items()
            if key not in given and not (key == "daemon" and "selector" in given)
        ]
        lines = [*part.splitlines(), *rest]
        yield _HEAD.format("".join(f"  {line}\n" for line in lines))
