# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of the signed PCR policies fits this host as it booted; and when none does, why not."""

from __future__ import annotations

from collections.abc import Mapping

from trusted_infrastructure.config.documents import PcrPolicy
from trusted_infrastructure.host.tpm_worker import Tpm
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm.policy import SignedPcrPolicy, policy_key_name

_NAMED = 8  # policies that a refusal describes; what an operator reads


def fitting_policy(
    tpm: Tpm, policies: Mapping[str, PcrPolicy], public_key: str, reference: bytes
) -> SignedPcrPolicy:
    """The first policy that `public_key` signed for `reference` and whose values the PCRs have now.

    policies: document id -> policy. public_key: PEM; a policy of another key is not looked at. Raises Refusal
    (409): pcr_policy_missing (none of this key), pcr_policy_invalid (none that its key signed for this
    reference), pcr_policy_mismatch (says which PCRs differ from which policy); Unavailable: the TPM's.
    """
    key_name = policy_key_name(public_key)
    own = {name: policy for name, policy in policies.items() if _name(policy.public_key) == key_name}
    others = len(policies) - len(own)
    if not own:
        found = f"; {others} of another key" if others else ""
        raise _refused(
            "pcr_policy_missing",
            f"no PCR policy is signed by the key that the provider was pushed with{found}",
        )
    invalid, differing = [], []
    for name, policy in sorted(own.items()):
        try:
            signed = signed_policy(policy, reference)
            differences = _differences(tpm, signed)
        except InvalidField as refusal:
            invalid.append(f"policy {name!r}: {refusal.message}")
            continue
        if not differences:
            return signed
        differing.append(f"{_listed(differences)} of policy {name!r}")
    if not differing:
        raise _refused("pcr_policy_invalid", _joined(invalid))
    message = f"other values than in the signed policies: {_joined(differing)}"
    raise _refused("pcr_policy_mismatch", "; ".join([message, *invalid[:_NAMED]]))


def signed_policy(policy: PcrPolicy, reference: bytes) -> SignedPcrPolicy:
    """The policy in a document. Raises InvalidField: values that no PCR has, or a signature that is not its
    key's for this reference."""
    try:
        values = {int(number): bytes.fromhex(value) for number, value in policy.pcrs.items()}
    except ValueError:
        raise InvalidField("pcrs", "has a value that is no hex") from None
    signed = SignedPcrPolicy(policy.bank, values, policy.public_key, policy.signature, reference)
    if not signed.is_signed():
        raise InvalidField(
            "signature", "is not its key's over these values for this cluster", "pcr_policy_invalid"
        )
    return signed


def _differences(tpm: Tpm, policy: SignedPcrPolicy) -> list[int]:
    values = tpm.read_pcrs(policy.bank, sorted(policy.pcrs))
    return [number for number, value in sorted(policy.pcrs.items()) if values.get(number) != value]


def _name(public_key: str) -> bytes | None:
    try:
        return policy_key_name(public_key)
    except InvalidField:
        return None


def _listed(numbers: list[int]) -> str:
    return f"PCR {', '.join(map(str, numbers))}"


def _joined(parts: list[str]) -> str:
    more = len(parts) - _NAMED
    return "; ".join(parts[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _refused(code: str, message: str) -> Refusal:
    return Refusal(
        code,
        message,
        "sign a PCR policy for the base image that this host runs, or push the provider again",
        status=409,
    )
