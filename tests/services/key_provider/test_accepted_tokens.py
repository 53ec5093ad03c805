# SPDX-License-Identifier: GPL-3.0-or-later
"""A token that was accepted before is judged again in all but its signature; a refused one in all."""

from __future__ import annotations

from typing import Any

import pytest
from services.key_provider.harness import GROUP, NOW, AttestationKey, Authority, Host

from trusted_infrastructure import tokens
from trusted_infrastructure.key_provider.accepted_tokens import AcceptedTokens
from trusted_infrastructure.refusal import Refusal


@pytest.fixture
def authority() -> Authority:
    return Authority()


def verify(accepted: AcceptedTokens, authority: Authority, token: str, **changes: Any) -> Any:
    arguments = {
        "keys": authority.keys(),
        "audience": GROUP,
        "now": NOW,
        "issuers": authority.issuers(),
        **changes,
    }
    return accepted.verify(token, *arguments.values())


def test_the_answer_is_that_of_a_verification(authority: Authority) -> None:
    accepted, keys = AcceptedTokens(), authority.keys()
    token = Host(authority).token()
    expected = tokens.verify_token(token, keys, GROUP, NOW, authority.issuers())
    assert accepted.kid(token) == tokens.unverified_kid(token)
    for _again in range(3):
        assert verify(accepted, authority, token, keys=keys) == expected
    assert accepted.kid(token) == tokens.unverified_kid(token)


def test_a_signature_is_verified_once_for_each_key(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    real = tokens.verify_token
    monkeypatch.setattr(tokens, "verify_token", lambda *a: counted.append("verified") or real(*a))
    accepted, keys, token = AcceptedTokens(), authority.keys(), Host(authority).token()
    for _again in range(3):
        verify(accepted, authority, token, keys=keys)
    assert len(counted) == 1
    # The key set was read again: the same key, but nobody has seen yet that it signed this.
    pem = authority.attestation.key.public_key().public_numbers().public_key()
    verify(accepted, authority, token, keys={authority.attestation.kid: pem})
    assert len(counted) == 2


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"keys": {}}, "token_invalid"),
        ({"audience": "group-2"}, "token_audience"),
        ({"now": NOW + 3000}, "token_expired"),
        ({"now": NOW - 200}, "token_invalid"),
        ({"issuers": {}}, "token_invalid"),
    ],
)
def test_what_changed_since_is_seen(authority: Authority, changes: dict[str, Any], code: str) -> None:
    accepted, keys, token = AcceptedTokens(), authority.keys(), Host(authority).token()
    verify(accepted, authority, token, keys=keys)
    with pytest.raises(Refusal) as refused:
        verify(accepted, authority, token, **({"keys": keys} | changes))
    assert refused.value.code == code
    assert verify(accepted, authority, token, keys=keys).sub == "host1"


def test_another_key_under_the_same_id_accepts_nothing(authority: Authority) -> None:
    accepted, token = AcceptedTokens(), Host(authority).token()
    verify(accepted, authority, token)
    other = {authority.attestation.kid: AttestationKey().key.public_key()}
    for _again in range(2):
        with pytest.raises(Refusal) as refused:
            verify(accepted, authority, token, keys=other)
        assert refused.value.code == "token_invalid"


def test_a_refusal_and_a_changed_text_are_not_remembered(authority: Authority) -> None:
    accepted, keys, token = AcceptedTokens(), authority.keys(), Host(authority).token()
    verify(accepted, authority, token, keys=keys)
    head, payload, signature = token.split(".")
    changed = [
        f"{head}.{payload}.{signature[:-6]}AAAAAA",
        f"{head}.{payload[:-2]}AA.{signature}",
        f"{token}=",
        f" {token}",
        token + ".",
        "\ud800",
        "",
    ]
    for text in changed * 2:
        with pytest.raises(Refusal):
            verify(accepted, authority, text, keys=keys)
    assert len(accepted._known) == 1


def test_it_does_not_grow(authority: Authority) -> None:
    accepted, keys = AcceptedTokens(remembered=4), authority.keys()
    made = [Host(authority).token() for _number in range(9)]
    for token in made:
        verify(accepted, authority, token, keys=keys)
    assert len(accepted._known) == 4
    assert verify(accepted, authority, made[0], keys=keys).sub == "host1"
