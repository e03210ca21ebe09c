from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.kernel.errors import StateCorrupt
from mycelial.runtime.attempt import raise_attempt, read_attempt
from mycelial.runtime.journal import Entry, Journal, parse, quarantine, render
from mycelial.sdk.envelope import FenceToken, Part, Position

ENTRIES = st.builds(
    Entry,
    scope=st.text(max_size=4),
    part=st.text(max_size=8).map(Part),
    seq=st.integers(1, 10**9),
    position=st.text(max_size=30).map(Position),
    fence=st.builds(FenceToken, st.integers(0, 99), st.integers(0, 99)),
    rows=st.integers(0, 10**9),
    ends_run=st.booleans(),
)


def entry(seq, part="0"):
    return Entry("s", Part(part), seq, Position(f'{{"id":{seq}}}'), FenceToken(1, 2), 10)


@given(st.lists(ENTRIES, max_size=8))
def test_what_is_rendered_is_parsed_again(entries):
    data = b"".join(render(item) for item in entries)
    assert parse(data) == (tuple(entries), len(data))


@given(st.lists(ENTRIES, min_size=1, max_size=5), st.data())
def test_a_torn_tail_costs_only_itself(entries, data):
    whole = [render(item) for item in entries]
    torn = data.draw(st.integers(0, len(whole[-1]) - 1))
    text = b"".join(whole[:-1]) + whole[-1][:torn]
    found, good = parse(text)
    assert found == tuple(entries[:-1])
    assert good == sum(map(len, whole[:-1]))


@given(st.lists(ENTRIES, min_size=2, max_size=5), st.data())
def test_a_flipped_bit_never_changes_a_position_silently(entries, data):
    whole = [render(item) for item in entries]
    text = bytearray(b"".join(whole))
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found, _ = parse(bytes(text))
    except StateCorrupt:
        return
    # A flipped newline joins the last two lines, and both are then one torn tail.
    assert found == tuple(entries[: len(found)])
    assert len(found) >= len(entries) - 2


def test_it_remembers_over_reopening_and_goes_on_after_a_torn_line(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.append(entry(1))
    journal.append(entry(2))
    journal.close()
    with path.open("ab") as file:
        file.write(render(entry(3))[:-4])

    journal = Journal(path)
    assert journal.latest == {("s", "0"): entry(2)}
    journal.append(entry(3))
    journal.close()
    assert Journal(path).latest == {("s", "0"): entry(3)}


def test_it_stays_small(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path, compact_after_lines=10)
    for seq in range(1, 101):
        journal.append(entry(seq))
        journal.append(entry(seq, "1"))
    journal.close()
    assert len(path.read_bytes().splitlines()) <= 12
    assert Journal(path).latest == {("s", "0"): entry(100), ("s", "1"): entry(100, "1")}


def test_a_corrupt_middle_is_set_aside(tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(render(entry(1)) + b"garbage\n" + render(entry(2)))
    with pytest.raises(StateCorrupt, match="MYC-RUN-030"):
        Journal(path)
    assert quarantine(path).name == "journal.corrupt-1"
    assert Journal(path).latest == {}


def test_attempts_only_rise(tmp_path):
    path = tmp_path / "p" / "attempt"
    assert [raise_attempt(path) for _ in range(3)] == [1, 2, 3]
    path.write_text("x")
    with pytest.raises(StateCorrupt, match="MYC-RUN-031"):
        read_attempt(path)
