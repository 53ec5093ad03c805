#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tpm2_endorsement_key_replace
short_description: Replace the TPM of a trusted host, or accept that it was cleared
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - The endorsement key is the identity of a host. A host that attests with another key than before is refused
    (reason V(ek_changed)), as is another host that attests with its key (V(ek_other_host)), until an administrator releases
    the host. This module does that, and enrolls the key of the new TPM in place of the old one's.
  - A TPM whose counters, clock or firmware went back is refused (V(tpm_cleared), V(clock_unsafe)) until an administrator
    accepts it as it is now. O(accept_clock) does that.
  - Every Trust Authority host writes a release and an acceptance to its audit log. When one of them does not answer the
    module fails and names it; run it again then.
  - The workload manager vouches for the host with its old key until the new one is recorded there too
    (M(trusted.infrastructure.cluster_host), or site.yml after enroll.yml).
  - vCenter Server has no such operations.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
options:
  cluster:
    description: Name or id of the Trust Authority Cluster.
    type: str
    required: true
  host:
    description: Name of the trusted host, as its workload manager calls it.
    type: str
    required: true
  principal:
    description: Issuer of the workload manager that vouches for the host. Needed when the cluster has several principals.
    type: str
  name:
    description: Name of the enrolled key. Without it, that of the host.
    type: str
  public_key:
    description: Public key of the new TPM in PEM.
    type: str
  certificate:
    description: Certificate of the new TPM's endorsement key in PEM. It must chain to a CA that is registered.
    type: str
  enroll:
    description:
      - Whether the new key is enrolled. Set it to false where the policy asks for certificates alone.
      - Then turn the old machine off before. Until the new TPM has attested, the old one could do so again.
    type: bool
    default: true
  release:
    description:
      - Whether the host is released though no new key is named. Its next attestation then binds it to whatever key is enrolled
        and vouched for.
      - With a new key, the host is released from another one in any case.
    type: bool
    default: false
  accept_clock:
    description:
      - Whether the history of the TPM that the host has attested with begins anew.
      - That is an act, not a state. It is a change each time.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: The mainboard of a host was replaced
  trusted.infrastructure.tpm2_endorsement_key_replace:
    cluster: trust-authority
    host: host1
    public_key: "{{ (lookup('ansible.builtin.file', 'trust/endorsement_keys/host1.json') | from_json).public_key }}"

- name: A host is no more, and its name or its TPM is free
  trusted.infrastructure.tpm2_endorsement_key_replace:
    cluster: trust-authority
    host: host1
    release: true

- name: Its TPM was cleared in the firmware's menu
  trusted.infrastructure.tpm2_endorsement_key_replace:
    cluster: trust-authority
    host: host1
    accept_clock: true
"""

RETURN = r"""
resource:
  description:
    - The host as it is after the module, or would be in check mode.
    - C(enrolled) is the enrolled key. C(bound_to) has, for each Attestation Service that has attested
      the host, the digest (SHA-256 of SubjectPublicKeyInfo) of the one key that it takes of this host.
  type: dict
  returned: always
  sample: {"host": "host1", "enrolled": "-----BEGIN PUBLIC KEY-----", "bound_to": {}}
"""

import base64
import hashlib
import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import (
    Plan,
    cluster_id,
    run,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
    path,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.pem import key_of_certificate, public_key

KEYS = "/vcenter/trusted-infrastructure/trust-authority-clusters/{cluster}/attestation/tpm2/endorsement-keys"
IDENTITIES = "/trust/clusters/{cluster}/host-identities"
CLOCK = "/trust/clusters/{cluster}/tpm-clocks/{digest}"


class Wanted(t.TypedDict):
    """host, principal, name: see the options. key: public key in the one form, "" where none was given. certificate: PEM,
    "" where none was given."""

    host: str
    principal: str | None
    name: str
    key: str
    certificate: str
    enroll: bool
    release: bool
    accept_clock: bool


class Found(t.TypedDict):
    """cluster: id. enrolled: public key in the one form, "" where none is. identities: what each service has seen of hosts
    of this name."""

    cluster: str
    enrolled: str
    identities: list[dict[str, t.Any]]


def read(client: ManagementClient, cluster: str, wanted: Wanted) -> Found:
    """What is known of the host."""
    identifier = cluster_id(client, cluster)
    entry = client.find(
        Call("GET", path(KEYS, cluster=identifier) + path("/{name}", name=wanted["name"]), task=True)
    )
    seen = client.call(
        Call("GET", path(IDENTITIES, cluster=identifier), query=(("host", wanted["host"]),), task=True)
    )
    principal = wanted["principal"]
    return {
        "cluster": identifier,
        "enrolled": public_key(entry["public_key"]) if entry else "",
        "identities": [one for one in seen if principal in (None, one["principal"])],
    }


def key_digest(pem: str) -> str:
    """SHA-256 (hex) of a public key (PEM in the one form)."""
    return hashlib.sha256(base64.b64decode("".join(pem.splitlines()[1:-1]))).hexdigest()


def plan(found: Found, wanted: Wanted) -> Plan:
    """Calls that enroll the new key, release the host from another one, and begin the history of its TPM anew.

    The key is enrolled first: until it is, nobody but the old TPM could be bound again. Raises ApiError when the host is
    known under several principals and none was given.
    """
    principals = sorted({one["principal"] for one in found["identities"]})
    if len(principals) > 1:
        raise ApiError(
            f"several principals have a host {wanted['host']}: {', '.join(principals)}; say which one",
            "AMBIGUOUS",
        )
    calls, undo = enrolment(found, wanted)
    before = {one["service"]: one["key_digest"] for one in found["identities"]}
    after = before
    if wanted["key"]:
        digest = key_digest(wanted["key"])
        after = {service: bound for service, bound in before.items() if bound == digest}
    elif wanted["release"]:
        after = {}
    if after != before:
        one = path(IDENTITIES + "/{host}", cluster=found["cluster"], host=wanted["host"])
        calls.append(
            Call("POST", one, {"principal": principals[0]}, query=(("action", "release"),), task=True)
        )
    if wanted["accept_clock"]:
        for digest in sorted(
            {
                one["ek_digest"]
                for one in found["identities"]
                if after.get(one["service"]) == one["key_digest"]
            }
        ):
            clock = path(CLOCK, cluster=found["cluster"], digest=digest)
            calls.append(Call("POST", clock, query=(("action", "accept"),), task=True))
    enrolled = wanted["key"] if wanted["key"] and wanted["enroll"] else found["enrolled"]
    return Plan(
        {"host": wanted["host"], "enrolled": found["enrolled"], "bound_to": before},
        {"host": wanted["host"], "enrolled": enrolled, "bound_to": after},
        tuple(calls),
        undo,
    )


def enrolment(found: Found, wanted: Wanted) -> tuple[list[Call], tuple[Call, ...]]:
    """Calls that enroll the new key, and what puts the old one back."""
    if not wanted["key"] or not wanted["enroll"] or wanted["key"] == found["enrolled"]:
        return [], ()
    base = path(KEYS, cluster=found["cluster"])
    name = wanted["name"]
    calls, undo = [], ()
    if found["enrolled"]:
        calls.append(Call("DELETE", base + path("/{name}", name=name), task=True))
        undo = (Call("POST", base, {"name": name, "public_key": found["enrolled"]}, task=True),)
    key = {"certificate": wanted["certificate"]} if wanted["certificate"] else {"public_key": wanted["key"]}
    calls.append(Call("POST", base, {"name": name, **key}, task=True))
    return calls, undo


def wanted_of(params: t.Mapping[str, t.Any]) -> Wanted:
    """What the parameters describe. Raises ValueError for what is no key, no certificate, or nothing at all."""
    key = ""
    if not any(params[name] for name in ("certificate", "public_key", "release", "accept_clock")):
        raise ValueError("one of these is needed: public_key, certificate, release, accept_clock")
    if params["certificate"]:
        key = key_of_certificate(params["certificate"]) or ""
        if not key:
            raise ValueError("certificate: this is not one certificate in PEM")
    elif params["public_key"]:
        key = public_key(params["public_key"])
        if not key.startswith("-----BEGIN"):
            raise ValueError("public_key: this is not a public key in PEM")
    return {
        "host": params["host"],
        "principal": params["principal"],
        "name": params["name"] or params["host"],
        "key": key,
        "certificate": params["certificate"] or "",
        "enroll": params["enroll"],
        "release": params["release"],
        "accept_clock": params["accept_clock"],
    }


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "cluster": {"type": "str", "required": True},
            "host": {"type": "str", "required": True},
            "principal": {"type": "str"},
            "name": {"type": "str"},
            "public_key": {"type": "str"},
            "certificate": {"type": "str"},
            "enroll": {"type": "bool", "default": True},
            "release": {"type": "bool", "default": False},
            "accept_clock": {"type": "bool", "default": False},
        },
        mutually_exclusive=[("public_key", "certificate")],
        supports_check_mode=True,
    )
    try:
        wanted = wanted_of(module.params)
    except ValueError as error:
        module.fail_json(msg=str(error))
    run(
        module,
        lambda client: read(client, module.params["cluster"], wanted),
        lambda found: plan(found, wanted),
    )


if __name__ == "__main__":
    raise SystemExit(main())
