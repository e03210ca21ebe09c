"""The runner of console blocks: what is not as shown must not pass."""

from __future__ import annotations

from pathlib import Path

import pytest

import console


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        pytest.param("a\nb", "a\nb\n", True, id="equal"),
        pytest.param("a\nb", "a\nc", False, id="another line"),
        pytest.param("a", "a\nb", False, id="a line more"),
        pytest.param("a\nb", "a", False, id="a line less"),
        pytest.param("took ... s", "took 1.2 s", True, id="any part"),
        pytest.param("took ... s", "took 1.2 h", False, id="any part but the rest"),
        pytest.param("main@...", "main@1a2b", True, id="any end"),
        pytest.param("main@...\nb", "main@1a2b\nb", True, id="any end, then a line"),
        pytest.param("a...\nb", "a1\n2\nb", False, id="not over lines"),
        pytest.param("...\nb", "a\na\nb", True, id="any lines"),
        pytest.param("...\nb", "b", True, id="no lines"),
        pytest.param("a\n...", "a\nb\nc", True, id="any lines at the end"),
        pytest.param("a\n...\nz", "a\nb", False, id="any lines but the last"),
        pytest.param("a.c", "abc", False, id="no pattern language"),
        pytest.param("", "whatever", True, id="not looked at"),
    ],
)
def test_output_is_compared_with_what_is_shown(expected: str, output: str, same: bool) -> None:
    assert console.matches(expected, output) is same


def test_commands_are_found_with_their_lines_codes_and_outputs() -> None:
    text = (
        "# T\n```console\n$ one \\\n    two\nout\n$ cat <<'EOF'\n$ not a command\nEOF\n"
        "$ false   # exit 1\n```\n```console skip\n$ never\n```\n```yaml\na: 1\n```\n"
    )
    assert console.steps(text) == [
        console.Step("one \\\n    two", "out", 0, 3),
        console.Step("cat <<'EOF'\n$ not a command\nEOF", "", 0, 6),
        console.Step("false", "", 1, 9),
    ]


@pytest.mark.parametrize(
    "block",
    [
        pytest.param("$ echo a\nb\n", id="another output"),
        pytest.param("$ false\n", id="another exit code"),
        pytest.param("$ true   # exit 3\n", id="success where a failure is shown"),
        pytest.param("$ exit 0\n", id="the shell ends"),
    ],
)
def test_a_file_that_is_not_true_fails(tmp_path: Path, block: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```console\n{block}```\n", "utf-8")
    with pytest.raises(AssertionError):
        console.run_file(page, tmp_path, seconds=10)


def test_a_true_file_passes_and_its_commands_share_a_shell(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ a=1; mkdir x && cd x\n$ echo $a; basename $PWD\n1\nx\n```\n")
    console.run_file(page, tmp_path, seconds=10)
