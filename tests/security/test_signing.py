"""A daemon believes what the reconciler signed, and nothing else."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mycelial.kernel.errors import NotAllowed, OperationFailed, StateCorrupt
from mycelial.schemas.desired import PipelineSpec, PluginUse
from mycelial.schemas.wire import Assignment, AssignmentSet, SignedSet, Tombstone, spec_hash_of
from mycelial.security.signing import Signer, verify

SPEC = PipelineSpec(
    workflow="orders",
    uid="u1",
    scope="s",
    source=PluginUse("sqlite", {"path": "läden.db", "password": {"secret": "pw"}}),
    destination=PluginUse("postgres", {"table": "orders", "batch": 3.5}),
)
SET = AssignmentSet(
    daemon_id="d1",
    store_id="st",
    rev=7,
    assignments=(Assignment("u1", "orders", 2, 3, spec_hash_of(SPEC), SPEC, "main@abc"),),
    tombstones=(Tombstone("u2", "old", 1, 1),),
    labels={"site": "käln"},
)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer.create_or_load(tmp_path_factory.mktemp("keys") / "sign.key")


def keys(signer: Signer) -> dict[str, str]:
    return {signer.key_id: signer.public_key}


def test_what_is_signed_is_what_is_verified(signer: Signer) -> None:
    assert verify(signer.sign(SET), keys(signer)) == SET


def test_the_key_is_private_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "sign.key"
    first = Signer.create_or_load(path)
    assert Signer.create_or_load(path).public_key == first.public_key
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o640)
        with pytest.raises(OperationFailed):
            Signer.create_or_load(path)


@pytest.mark.parametrize("data", [b"", b"x", base64.b64encode(b"short")])
def test_a_damaged_key_is_not_replaced(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "sign.key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(StateCorrupt):
        Signer.create_or_load(path)
    assert path.read_bytes() == data


@settings(max_examples=50)
@given(st.data())
def test_any_changed_byte_is_noticed(signer: Signer, data: st.DataObject) -> None:
    signed = signer.sign(SET)
    at = data.draw(st.integers(0, len(signed.payload) - 1))
    char = data.draw(st.characters().filter(lambda c: c != signed.payload[at]))
    payload = signed.payload[:at] + char + signed.payload[at + 1 :]
    with pytest.raises(NotAllowed) as caught:
        verify(dataclasses.replace(signed, payload=payload), keys(signer))
    assert caught.value.code == "MYC-SEC-021"


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "x",
        "!!!!",
        base64.b64encode(bytes(64)).decode(),
        base64.b64encode(bytes(63)).decode(),
        "é",
    ],
)
def test_no_made_up_signature_passes(signer: Signer, signature: str) -> None:
    signed = dataclasses.replace(signer.sign(SET), signature=signature)
    with pytest.raises(NotAllowed) as caught:
        verify(signed, keys(signer))
    assert caught.value.code == "MYC-SEC-021"


def test_unknown_key_is_refused(signer: Signer) -> None:
    with pytest.raises(NotAllowed) as caught:
        verify(signer.sign(SET), {})
    assert caught.value.code == "MYC-SEC-020"


def test_another_key_under_a_known_name_is_refused(signer: Signer, tmp_path: Path) -> None:
    other = Signer.create_or_load(tmp_path / "other.key")
    forged = dataclasses.replace(other.sign(SET), key_id=signer.key_id)
    with pytest.raises(NotAllowed) as caught:
        verify(forged, keys(signer))
    assert caught.value.code == "MYC-SEC-021"


def test_a_key_that_is_no_key_verifies_nothing(signer: Signer) -> None:
    with pytest.raises(NotAllowed):
        verify(signer.sign(SET), {signer.key_id: "AAAA"})


def _sign_text(signer: Signer, text: str) -> SignedSet:
    raw = signer._key.sign(b"mycelial assignment set v1\n" + text.encode())
    return SignedSet(text, base64.b64encode(raw).decode(), signer.key_id)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"daemon_id": 1}', "[" * 100_000, "null"])
def test_signed_nonsense_is_refused(signer: Signer, text: str) -> None:
    with pytest.raises(NotAllowed) as caught:
        verify(_sign_text(signer, text), keys(signer))
    assert caught.value.code == "MYC-SEC-022"


def test_a_signature_over_the_bare_payload_is_for_another_purpose(signer: Signer) -> None:
    payload = signer.sign(SET).payload
    raw = signer._key.sign(payload.encode())
    signed = SignedSet(payload, base64.b64encode(raw).decode(), signer.key_id)
    with pytest.raises(NotAllowed):
        verify(signed, keys(signer))


def test_fields_of_a_newer_version_are_ignored(signer: Signer) -> None:
    value = json.loads(signer.sign(SET).payload)
    value["added_later"] = 1
    assert verify(_sign_text(signer, json.dumps(value)), keys(signer)) == SET
