#!/usr/bin/python
# Copyright: (c) 2026, trusted.infrastructure contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: standard_key_provider
short_description: Make a standard key provider on the workload manager
version_added: 0.1.0
author:
  - trusted.infrastructure contributors (@trusted-infrastructure)
description:
  - A standard key provider is a group of key servers from which the workload manager itself gets keys for its hosts.
  - One task makes the provider, its client certificate, and the trust in its key servers. What is not given is left as it is.
extends_documentation_fragment:
  - trusted.infrastructure.connection
  - trusted.infrastructure.attributes
attributes:
  idempotent:
    support: partial
    details: With O(renew_certificate=true), or another O(update_password) than V(on_create), a further run may change something.
options:
  name:
    description: Name of the provider, unique over all kinds of key providers of the manager.
    type: str
    required: true
  servers:
    description:
      - The key servers, of one vendor and with replicated keys, in the order in which they are asked. Needed with
        O(state=present).
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the key server, unique in the provider.
        type: str
        required: true
      address:
        description: Name or address; the certificate of the server must be for it.
        type: str
        required: true
      port:
        description: Port of its KMIP service.
        type: int
        default: 5696
  description:
    description: Free text.
    type: str
  kmip_username:
    description: User name for the key servers, where they want one. Empty for none.
    type: str
  kmip_password:
    description: Password for the key servers. It cannot be read, so O(update_password) says when it is sent.
    type: str
  update_password:
    description:
      - V(on_create) sends O(kmip_password) when the provider has none, or when its key servers, proxy or trusted certificates
        changed since it was set. It is bound to those, so that nobody can have it sent to a server of his own.
      - V(unhealthy) sends it also when the provider is not healthy, as after a change of the password on the key servers.
      - V(always) sends it each time, which is a change each time.
    type: str
    choices: [always, on_create, unhealthy]
    default: on_create
  client_certificate:
    description:
      - V(self_signed) makes a key and a certificate where there is none.
      - V(csr) makes a key and a certificate request where there is neither a certificate nor a request.
      - V(provided) installs O(certificate), which answers the request, renews the certificate of now, or comes with
        O(private_key). One that has ended is refused.
    type: str
    choices: [self_signed, csr, provided]
  certificate:
    description:
      - Certificate in PEM, which its intermediate certificates may follow. Needed with O(client_certificate=provided), and
        used with it only.
      - Without O(private_key), it is for the key of the outstanding request, or for the key of the certificate of now.
    type: str
  private_key:
    description: Private key in PEM of O(certificate), where it was made elsewhere.
    type: str
  renew_certificate:
    description: Whether to make a new key although there is one, or to install the same certificate again.
    type: bool
    default: false
  trusted_certificates:
    description:
      - Certificates in PEM, of the CA of the key servers or of the key servers themselves. The whole list; an empty one trusts
        nobody. Compare them with what the operator of the key servers says; M(trusted.infrastructure.standard_key_provider_info)
        shows what the servers present.
    type: list
    elements: str
  connection_timeout:
    description: Seconds to wait for a key server, from 1 to 300.
    type: int
  proxy:
    description: HTTP proxy (CONNECT) through which the key servers are reached.
    type: dict
    suboptions:
      address:
        description: Name or address.
        type: str
        required: true
      port:
        description: Port.
        type: int
        default: 1080
  force:
    description:
      - With O(state=absent), whether to delete the provider although the manager knows keys of it. What they encrypt cannot
        be opened after its host restarts, until the provider and its keys are known again. Without it, such a provider is
        refused; check mode warns of it.
    type: bool
    default: false
  state:
    description: Whether the provider is to be there.
    type: str
    choices: [present, absent]
    default: present
"""

EXAMPLES = r"""
- name: Provider with a certificate that it makes for itself
  trusted.infrastructure.standard_key_provider:
    name: finance
    servers:
      - name: kms1
        address: kms1.example.com
      - name: kms2
        address: kms2.example.com
    client_certificate: self_signed
    trusted_certificates: ["{{ lookup('ansible.builtin.file', 'trust/key_servers/ca.pem') }}"]
  register: provider

- name: Request for the operator of the key servers
  trusted.infrastructure.standard_key_provider:
    name: finance
    servers: "{{ finance_key_servers }}"
    client_certificate: csr
  register: request

- name: What the operator gave back
  trusted.infrastructure.standard_key_provider:
    name: finance
    servers: "{{ finance_key_servers }}"
    client_certificate: provided
    certificate: "{{ lookup('ansible.builtin.file', 'trust/key_servers/finance.pem') }}"
    kmip_username: finance
    kmip_password: "{{ vault_kmip_password }}"

- name: The provider is no more
  trusted.infrastructure.standard_key_provider:
    name: finance
    state: absent
"""

RETURN = r"""
resource:
  description: The provider as it is after the module, or would be in check mode; none when it is absent.
  type: dict
  returned: always
  sample: {"provider": "finance", "connection_timeout": 10, "has_credential": false}
csr:
  description: The certificate request that is outstanding, in PEM.
  type: str
  returned: when a request is outstanding
  sample: "-----BEGIN CERTIFICATE REQUEST-----"
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.trusted.infrastructure.plugins.module_utils import key_provider_names
from ansible_collections.trusted.infrastructure.plugins.module_utils.client_certificates import install
from ansible_collections.trusted.infrastructure.plugins.module_utils.connection_arguments import (
    connection_arguments,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.desired_state import (
    Plan,
    State,
    differs,
    run,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.key_servers import (
    PROXY_OPTIONS,
    SERVER_OPTIONS,
    wanted_proxy,
    wanted_servers,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.management_api import (
    ApiError,
    Call,
    ManagementClient,
    path,
)
from ansible_collections.trusted.infrastructure.plugins.module_utils.pem import certificates
from ansible_collections.trusted.infrastructure.plugins.module_utils.standard_key_providers import (
    RESOURCE,
    read,
)

# What POST and PATCH of the provider take.
FIELDS = ("servers", "description", "username", "proxy_server", "connection_timeout")
# What a password is bound to.
BOUND = ("servers", "proxy_server", "trusted_certificates")
PARAMETERS = {
    "provider": "name",
    "username": "kmip_username",
    "certificates": "trusted_certificates",
    "credential": "kmip_password",
}
NEW = "<new>"
CHANGED = "<changed>"


def find(
    client: ManagementClient, params: t.Mapping[str, t.Any], check: bool
) -> tuple[State, ApiError | None]:
    """The provider, or None; and, for check mode, why there will be none of this name."""
    current = read(client, params["name"])
    if current is not None or params["state"] == "absent" or not check:
        return current, None
    return None, key_provider_names.refusal(key_provider_names.of_all_kinds(client), params["name"])


def plan(current: State, params: t.Mapping[str, t.Any], taken: ApiError | None = None) -> Plan:
    """Provider first, then its certificate, whom it trusts, and the password, which is bound to all before it. taken:
    another provider has the name."""
    one = RESOURCE + path("/{name}", name=params["name"])
    if params["state"] == "absent":
        query = (("force", "true"),) if params["force"] else ()
        delete = Call("DELETE", one, query=query, task=True)
        hindered = None if current is None or params["force"] else refusal(current)
        return Plan(shown(current), None, (delete,) if current else (), hindered=hindered)
    wanted = wanted_of(params)
    calls, after = [], dict(current or {"provider": params["name"], "certificate": None, "csr": None})
    different = differs(after, wanted)
    if current is None:
        given = {key: value for key, value in wanted.items() if value is not None}
        calls.append(Call("POST", RESOURCE, {"provider": params["name"], **given}, task=True))
    elif different:
        calls.append(Call("PATCH", one, different, task=True))
    after.update(different)
    calls += certificate_calls(one, after, params)
    trusted = params["trusted_certificates"]
    if trusted is not None and sorted(certificates(trusted)) != sorted(
        after.get("trusted_certificates") or []
    ):
        after["trusted_certificates"] = certificates(trusted)
        calls.append(
            Call("PATCH", one + "/peer-certs/trusted", {"certificates": after["trusted_certificates"]})
        )
    calls += password_calls(one, current, after, params)
    return Plan(shown(current), shown(after), tuple(calls), hindered=taken)


def refusal(current: t.Mapping[str, t.Any]) -> ApiError | None:
    """What the manager says to the removal without force of a provider whose keys it knows."""
    if not current["keys"]:
        return None
    text = f"{current['keys']} keys of {current['provider']} are known, which nothing would open any more: use force"
    return ApiError(text, "NOT_ALLOWED_IN_CURRENT_STATE", 400)


def certificate_calls(one: str, after: dict[str, t.Any], params: t.Mapping[str, t.Any]) -> list[Call]:
    """The call that the client certificate needs, if any; `after` is brought up to date."""
    method, renew = params["client_certificate"], params["renew_certificate"]
    if method == "self_signed" and (renew or not after["certificate"]):
        after["certificate"] = NEW
        return [Call("POST", one + "/client-certificate")]
    if method == "csr" and (renew or not (after["certificate"] or after["csr"])):
        after["csr"] = NEW
        return [Call("POST", one + "/csr")]
    if method != "provided":
        return []
    installed, body = install(after, params, again=renew)
    after.update(installed)
    return [] if body is None else [Call("PUT", one + "/client-certificate", body)]


def password_calls(
    one: str, current: State, after: dict[str, t.Any], params: t.Mapping[str, t.Any]
) -> list[Call]:
    """The call that sends the password, if there is a reason; `after` is brought up to date."""
    before = current or {}
    if any(before.get(key) != after.get(key) for key in BOUND):
        after["has_credential"] = False
    missing = not after.get("has_credential")
    unhealthy = missing or before.get("health") != "OK"
    send = {"always": True, "on_create": missing, "unhealthy": unhealthy}[params["update_password"]]
    if params["kmip_password"] is None or not send:
        if current is not None:
            after["has_credential"] = before.get("has_credential") and not missing
        return []
    after |= {"has_credential": True, "password": CHANGED}
    return [Call("PUT", one + "/credential", params["kmip_password"])]


def shown(state: State) -> State:
    """What a result and a diff have: the provider without how it does and what is made of it, which no task sets."""
    return None if state is None else {key: state[key] for key in state if key not in ("health", "keys")}


def wanted_of(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What the parameters say of the provider itself; None for what is left alone."""
    return {
        "servers": wanted_servers(params),
        "description": params["description"],
        "username": params["kmip_username"],
        "proxy_server": wanted_proxy(params),
        "connection_timeout": params["connection_timeout"],
    }


def request_of(planned: Plan, answers: list[t.Any]) -> dict[str, t.Any]:
    """The outstanding request: the one that was just made, or the one that was there."""
    for answer in answers:
        if isinstance(answer, dict) and "csr" in answer:
            return {"csr": answer["csr"]}
    known = (planned.after or {}).get("csr")
    return {"csr": known} if known and known != NEW else {}


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec={
            **connection_arguments(),
            "name": {"type": "str", "required": True},
            "servers": {"type": "list", "elements": "dict", "options": SERVER_OPTIONS},
            "description": {"type": "str"},
            "kmip_username": {"type": "str"},
            "kmip_password": {"type": "str", "no_log": True},
            "update_password": {
                "type": "str",
                "choices": ["always", "on_create", "unhealthy"],
                "default": "on_create",
                "no_log": False,
            },
            "client_certificate": {"type": "str", "choices": ["self_signed", "csr", "provided"]},
            "certificate": {"type": "str"},
            "private_key": {"type": "str", "no_log": True},
            "renew_certificate": {"type": "bool", "default": False},
            "trusted_certificates": {"type": "list", "elements": "str"},
            "connection_timeout": {"type": "int"},
            "proxy": {"type": "dict", "options": PROXY_OPTIONS},
            "force": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[
            ("state", "present", ["servers"]),
            ("client_certificate", "provided", ["certificate"]),
        ],
        supports_check_mode=True,
    )
    for name in ("certificate", "private_key"):
        if module.params[name] and module.params["client_certificate"] != "provided":
            module.fail_json(msg=f"{name}: is used with client_certificate=provided only")
    run(
        module,
        lambda client: find(client, module.params, module.check_mode),
        lambda found: plan(found[0], module.params, found[1]),
        request_of,
        PARAMETERS,
    )


if __name__ == "__main__":
    raise SystemExit(main())
