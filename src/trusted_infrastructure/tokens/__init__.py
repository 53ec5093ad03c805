# SPDX-License-Identifier: GPL-3.0-or-later
"""The signed JSON that parts of the system show each other. Pure: no I/O; the time is an argument.

| what           | signed by                           | judged by             | `typ` header          |
| -------------- | ----------------------------------- | --------------------- | --------------------- |
| token          | token key of an attestation service | key provider services | ti-token+jwt          |
| host assertion | a workload manager's principal      | attestation services  | ti-host-assertion+jwt |
| proof          | the host's proof key (RFC 9449)     | key provider services | dpop+jwt              |
| key set        | a service's identity key (x5c)      | whoever uses its keys | ti-keys+jws           |
| audit head     | a service's identity key (x5c)      | peers, managers       | ti-audit-head+jws     |

Rules, for every one of them
- ES256 over P-256 and nothing else, whatever the header says; each kind has a `typ` of its own, so that none
  can be shown in place of another; an unknown header parameter is refused (so `crit`, `b64`, `jku` and their
  like are).
- A size limit comes before any parsing. All claims are required, unknown ones are refused, and `version` is
  1.
- Times are compared with the `now` of the caller, with SKEW seconds of tolerance for what is not valid yet;
  what has ended has ended. No lifetime above its limit is accepted, whoever signed.
- Nothing of a payload is used before its signature was verified, but for the issuer of an assertion and the
  jwk of a proof, which say which key to verify with.

What is not checked here: whether a jti was used before, deny lists, security generations, scopes. Callers do.
"""

from __future__ import annotations

from trusted_infrastructure.tokens.assertion import (
    ASSERTION_TYPE,
    AssertionClaims,
    Principal,
    certificate_boundaries,
    sign_assertion,
    verify_assertion,
)
from trusted_infrastructure.tokens.attestation_token import (
    MAX_TOKEN_LIFETIME,
    TOKEN_TYPE,
    Confirmation,
    SealingTarget,
    TokenClaims,
    check_token,
    sign_token,
    unverified_kid,
    verify_token,
)
from trusted_infrastructure.tokens.identity_signed import (
    AuditHeadClaims,
    KeySet,
    sign_audit_head,
    sign_key_set,
    verify_audit_head,
    verify_kept_audit_head,
    verify_key_set,
)
from trusted_infrastructure.tokens.jws import (
    MAX_SIZE,
    SKEW,
    PrivateKey,
    PublicKey,
    jwk,
    public_key_from_jwk,
    thumbprint,
)
from trusted_infrastructure.tokens.proof import (
    PROOF_WINDOW,
    make_proof,
    verify_proof,
)

__all__ = [
    "ASSERTION_TYPE",
    "AssertionClaims",
    "AuditHeadClaims",
    "Confirmation",
    "KeySet",
    "MAX_SIZE",
    "MAX_TOKEN_LIFETIME",
    "PROOF_WINDOW",
    "Principal",
    "PrivateKey",
    "PublicKey",
    "SKEW",
    "SealingTarget",
    "TOKEN_TYPE",
    "TokenClaims",
    "certificate_boundaries",
    "check_token",
    "jwk",
    "make_proof",
    "public_key_from_jwk",
    "sign_assertion",
    "sign_audit_head",
    "sign_key_set",
    "sign_token",
    "thumbprint",
    "unverified_kid",
    "verify_assertion",
    "verify_audit_head",
    "verify_kept_audit_head",
    "verify_key_set",
    "verify_proof",
    "verify_token",
]
