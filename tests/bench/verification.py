# SPDX-License-Identifier: GPL-3.0-or-later
"""Attestation in process: everything that is judged and signed, without network, state and audit log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from bench.site import HOST, Site
from bench.timing import rate

from trusted_infrastructure.attestation import challenges, verifier
from trusted_infrastructure.attestation.challenges import ChallengeEnvelope
from trusted_infrastructure.attestation.issuing import Issuer
from trusted_infrastructure.attestation.token_keys import ServiceIdentity, TokenKeys
from trusted_infrastructure.config.snapshot import parse_snapshot
from trusted_infrastructure.messages import AttestationResult, Challenge, encode

SERVICE_ID = f"attestation@{HOST}"


class LeftOut:
    """In place of what writes: the state, the audit log, the table of used challenges, the rate limit."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_arguments, **_named: None


@dataclass
class Verification:
    """The service's own order of judging over the configuration of a site, for its first host.

    load_seconds: what a change of the configuration costs each worker, in processor time.
    """

    site: Site

    def __post_init__(self) -> None:
        settings = self.site.write()
        data = (self.site.folder / "run" / "snapshot.json").read_bytes()
        began = time.process_time()
        self.configuration = verifier.configuration_of(parse_snapshot(data))
        self.load_seconds = time.process_time() - began
        left_out: Any = LeftOut()
        identity = ServiceIdentity(settings.with_name("attestation-service.pem"), Path("/nonexistent"))
        self._issuer = Issuer(
            SERVICE_ID,
            ChallengeEnvelope(bytes(challenges.KEY_SIZE)),
            left_out,
            left_out,
            left_out,
            TokenKeys(SERVICE_ID, identity, bytes(32)),
            left_out,
            lambda: self.site.now,
        )
        self._request = self.site.attesters[0].request
        self._evidence = self.site.attesters[0].evidence(self._challenge())

    def _challenge(self) -> Challenge:
        answer = self._issuer.judge_challenge(self._request, "192.0.2.7", self.configuration)
        if not isinstance(answer, Challenge):
            raise answer.refusal
        return answer

    def challenge(self) -> bytes:
        """From the body of the challenge request to the body of its answer."""
        return encode(self._challenge())

    def verify(self) -> AttestationResult:
        """From the body of the evidence to the token."""
        return self._issuer.evidence(self._evidence, "192.0.2.7", self.configuration)

    def verify_stranger(self) -> AttestationResult:
        """`verify` when nothing of this host was verified before in this configuration."""
        self.configuration.assertions.clear()
        self.configuration.endorsement_policy._endorsed.clear()
        self.configuration._areas.clear()
        return self.verify()

    def attest(self) -> bytes:
        """Both: all that one attestation costs the service, but for the host's own work in between."""
        self.challenge()
        return msgspec.json.encode(self.verify())

    def verifications(self, seconds: float) -> float:
        """`verify`, so often in a second of a core."""
        return rate(self.verify, seconds)
