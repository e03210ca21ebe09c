"""How soon a change is reported: at once after a commit, ever more calmly when it flaps."""

from __future__ import annotations

import itertools

from mycelial.daemon.reports import (
    COALESCE_MAX_SECONDS,
    COALESCE_SECONDS,
    PROMPT_REPORTS,
    coalesce_seconds,
)


def test_the_reports_that_one_commit_causes_are_all_prompt():
    paces = [coalesce_seconds(number) for number in range(PROMPT_REPORTS)]
    assert paces == [COALESCE_SECONDS] * PROMPT_REPORTS


def test_a_pipeline_that_keeps_changing_is_reported_ever_more_seldom_up_to_a_bound():
    paces = [coalesce_seconds(number) for number in range(PROMPT_REPORTS, 1_000)]
    assert all(later >= earlier for earlier, later in itertools.pairwise(paces))
    assert paces[-1] == max(paces) == COALESCE_MAX_SECONDS
