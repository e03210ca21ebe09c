"""Ten thousand workflows: generous bounds that only a change of order of magnitude breaks."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable

import pytest

from mycelial.schemas.catalog import Catalog
from mycelial.schemas.check import check_file
from mycelial.schemas.checked import CheckedFile
from mycelial.schemas.compile import compile_tree
from mycelial.schemas.parse import parse_file

FILES = 10_000


@pytest.mark.slow
def test_ten_thousand_workflows_are_checked_and_compiled_in_seconds(
    catalog: Catalog, make_workflow: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    tail = (
        "  schedule: every 30s\n  transforms:\n    - filter: qty > 0\n    - name: clean\n"
        "      sql: select id, ${daemon.labels.site} as site from input where void = 0\n"
        "  delivery: { guarantee: exactly-once }\n  onError: { retry: { upTo: 5m } }\n"
    )
    texts = [
        (make_workflow(f"wf-{i}", meta=", labels: { team: retail }") + tail).encode()
        for i in range(FILES)
    ]
    gc.collect()
    started = time.perf_counter()
    cached = [
        json.dumps(check_file(parse_file(f"w/{i}.yaml", text), catalog).to_json())
        for i, text in enumerate(texts)
    ]
    checked = time.perf_counter()
    files = [CheckedFile.from_json(json.loads(text)) for text in cached]
    decoded = time.perf_counter()
    state = compile_tree(files, revision="r", complete=True, catalog=catalog)
    compiled = time.perf_counter()

    assert len(state.workflows) == FILES
    assert state.problems == ()
    figures = {
        "check_ms_per_file": (checked - started) * 1000 / FILES,
        "decode_seconds": decoded - checked,
        "compile_seconds": compiled - decoded,
    }
    with capsys.disabled():
        print({name: round(value, 3) for name, value in figures.items()})
    assert figures["check_ms_per_file"] < 8
    assert figures["decode_seconds"] + figures["compile_seconds"] < 5
