# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask key provider services for a key with what somebody else was given. Runs on a trusted host.

stdin: {"ca": path of a PEM file, "attempts": {name: attempt}}. An attempt:
  url     of the key provider service, with the action
  token   the token to show; without it, no authorization is sent
  scheme  of the authorization, DPoP by default
  proof   the proof to show; null: none; without it, one is made with a key of our own
  body    the body to send, as text; without it, it asks for a new key, sealed to a key of our own
stdout: {name: {"status": HTTP status, "code": reason code of the refusal or ""}}
"""

import json
import sys
import time

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from trusted_infrastructure.messages import CreateKeyRequest, encode
from trusted_infrastructure.sealing import SealingKey
from trusted_infrastructure.tokens import make_proof

PROOF_KEY = ec.generate_private_key(ec.SECP256R1())
OWN_BODY = encode(
    CreateKeyRequest(
        object_label="stolen", hpke_public_key=SealingKey.generate("MLKEM768_X25519").public_bytes()
    )
)


def ask(client, attempt):
    """One attempt; status and reason code."""
    url, token = attempt["url"], attempt.get("token")
    body = attempt["body"].encode() if "body" in attempt else OWN_BODY
    headers = {"content-type": "application/json"}
    if token is not None:
        headers["authorization"] = f"{attempt.get('scheme', 'DPoP')} {token}"
    proof = attempt["proof"] if "proof" in attempt else None
    if "proof" not in attempt:
        proof, _jti = make_proof(PROOF_KEY, "POST", url, body, token or "", int(time.time()))
    if proof is not None:
        headers["dpop"] = proof
    answer = client.post(url, content=body, headers=headers)
    code = answer.json().get("error", {}).get("code", "")
    return {"status": answer.status_code, "code": code}


def main():
    given = json.load(sys.stdin)
    with httpx.Client(verify=given["ca"], trust_env=False, timeout=30) as client:
        found = {name: ask(client, attempt) for name, attempt in given["attempts"].items()}
    json.dump(found, sys.stdout)


main()
