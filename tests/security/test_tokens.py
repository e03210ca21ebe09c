"""Tokens: strict in form, hashed at rest, never shown by accident."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycelial.kernel.errors import NotAllowed
from mycelial.security.tokens import (
    check_not_expired,
    check_pin,
    hash_token,
    is_expired,
    make_admin_token,
    make_join_token,
    matches_hash,
    parse_admin_token,
    parse_join_token,
    save_token,
)

PIN = "ab" * 32


def test_join_token_survives_being_written_down() -> None:
    token = make_join_token(PIN)
    again = parse_join_token(token.text().reveal())
    assert (again.ca_pin, again.hash()) == (PIN, token.hash())
    assert make_join_token(PIN).hash() != token.hash()


def test_token_is_not_shown() -> None:
    token = make_join_token(PIN)
    assert token.secret.reveal() not in repr(token) + str(token.text()) + f"{token}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "myc1",
        "myc1..",
        "myc2." + "a" * 43 + "." + PIN,
        "myc1." + "a" * 43,
        "myc1." + "a" * 31 + "." + PIN,
        "myc1." + "a" * 43 + "." + PIN[:-1],
        "myc1." + "a" * 43 + "." + PIN.upper(),
        "myc1." + "a" * 43 + "." + PIN + "\n",
        " myc1." + "a" * 43 + "." + PIN,
        "myc1." + "ä" * 43 + "." + PIN,
    ],
)
def test_malformed_join_token_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        parse_join_token(text)
    assert caught.value.code == "MYC-SEC-010"
    assert "aaaa" not in str(caught.value) + caught.value.problem.fix


@given(st.text(max_size=120))
def test_no_text_breaks_the_parser(text: str) -> None:
    with pytest.raises(NotAllowed):
        parse_join_token(text)


def test_admin_token_is_compared_by_hash() -> None:
    token = make_admin_token()
    stored = hash_token(token)
    assert token.reveal() not in stored
    assert matches_hash(parse_admin_token(token.reveal()), stored)
    assert not matches_hash(make_admin_token(), stored)
    assert not matches_hash(token, "")


@pytest.mark.parametrize(
    "text", ["", "myca_", "myca_short", "myc1." + "a" * 43, "myca_" + "é" * 43]
)
def test_malformed_admin_token_is_refused(text: str) -> None:
    with pytest.raises(NotAllowed):
        parse_admin_token(text)


@pytest.mark.parametrize(("now", "expired"), [(9.9, False), (10.0, True), (11.0, True)])
def test_expiry(now: float, expired: bool) -> None:
    assert is_expired(expires_at=10.0, now=now) is expired
    if expired:
        with pytest.raises(NotAllowed):
            check_not_expired(expires_at=10.0, now=now)
    else:
        check_not_expired(expires_at=10.0, now=now)


def test_another_authority_than_the_tokens_is_refused() -> None:
    token = make_join_token(PIN)
    check_pin(token, PIN)
    with pytest.raises(NotAllowed) as caught:
        check_pin(token, "cd" * 32)
    assert caught.value.code == "MYC-SEC-013"


def test_saved_token_is_private(tmp_path: Path) -> None:
    token = make_admin_token()
    save_token(tmp_path / "admin.token", token)
    assert (tmp_path / "admin.token").read_text().strip() == token.reveal()
    if os.name != "nt":
        assert stat.S_IMODE((tmp_path / "admin.token").stat().st_mode) == 0o600
