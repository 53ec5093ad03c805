# SPDX-License-Identifier: GPL-3.0-or-later
"""Every operation, every role, both managers: made from the table, asked through the real application.

Each request has a query parameter that no operation knows, and that is looked at after everything that this
is about: who may ask gets another error than 403, and nothing is ever done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from services.manager.harness import PASSWORD, Api, Clock, FakeNodes, Side, open_api, prepared, write_users
from services.manager.test_every_route import label, path_of

from trusted_infrastructure.manager.operations import TABLE
from trusted_infrastructure.manager.vapi.operation import AnyOperation

LONG_PASSWORD = "a long enough password"
MEMBERS = "TrustedAdmins"
OWN_ROLE = ["TrustedAdmin.ManageKMSTrust", "TrustedAdmin.ReadKMSTrust", "Cryptographer.ManageKeys"]
SESSION = [item for item in TABLE if not item.public]


@dataclass(frozen=True)
class Caller:
    """role: of his permission, None for none. cluster: on which. group: he has it through a group. member: of
    TrustedAdmins."""

    role: str | None = None
    member: bool = False
    cluster: str | None = None
    group: bool = False


CALLERS: dict[str, Caller] = {
    "admin": Caller("Administrator", member=True),
    "admin.no-member": Caller("Administrator"),
    "no-crypto": Caller("NoCryptoAdmin", member=True),
    "trusted-admin": Caller("TrustedAdmin", member=True),
    "trusted-admin.no-member": Caller("TrustedAdmin"),
    "trusted-admin.group": Caller("TrustedAdmin", member=True, group=True),
    "read-only": Caller("ReadOnly"),
    "no-access": Caller("NoAccess", member=True),
    "own-role": Caller("own", member=True),
    "nothing": Caller(),
    "member": Caller(member=True),
    "elsewhere": Caller("Administrator", member=True, cluster="two"),
    "here": Caller("Administrator", member=True, cluster="one"),
}
SIDES: tuple[Side, ...] = ("trust_authority", "workload")


def set_up(api: Api) -> dict[str, str]:
    """Makes the callers; the session of each."""
    api.ok("POST", "/trust/clusters", json={"name": "two"})
    api.ok("POST", "/trust/roles", json={"role": "own", "privileges": OWN_ROLE})
    sessions = {}
    for name, caller in CALLERS.items():
        api.ok("POST", "/trust/users", json={"user": name, "password": LONG_PASSWORD})
        principal = {"principal_type": "USER", "principal": name}
        if caller.group:
            principal = {"principal_type": "GROUP", "principal": f"of {name}"}
            api.ok("POST", "/trust/groups", json={"group": f"of {name}"})
            api.ok("PUT", f"/trust/groups/of {name}/members/{name}")
        if caller.role:
            body = {**principal, "role": caller.role, "cluster": caller.cluster}
            api.ok("POST", "/trust/permissions", json={key: value for key, value in body.items() if value})
        if caller.member:
            api.ok("PUT", f"/trust/groups/{MEMBERS}/members/{name}")
    administrator = api.session
    for name in CALLERS:
        assert api.login(name, LONG_PASSWORD).status_code == 201
        sessions[name] = api.session
    # Limited by the file, as it was before there were roles.
    users = api.manager.settings.users
    kept = [{"name": "administrator", "privileges": ["*"]}]
    write_users(users, [*kept, {"name": "file", "privileges": ["*"], "cluster": "two"}])
    api.login("file", PASSWORD)
    sessions["file.elsewhere"] = api.session
    api.session = administrator
    return sessions


class Matrix:
    """The managers, the sessions of the callers, and what each of them was answered."""

    def __init__(self) -> None:
        self.managers: dict[Side, tuple[Api, dict[str, str]]] = {}
        self._refused: dict[tuple[Side, str, str, str], bool] = {}

    def refuses(self, side: Side, caller: str, operation: AnyOperation) -> bool:
        """Whether the operation on the cluster "one" or its host is 403, asked with an unknown parameter."""
        key = (side, caller, operation.service, operation.wire_id)
        if key not in self._refused:
            api, sessions = self.managers[side]
            api.session = sessions[caller]
            path = path_of(operation)
            response = api.request(operation.method, f"{path}{'&' if '?' in path else '?'}surprise=1")
            assert response.status_code in {400, 403, 404}, key
            self._refused[key] = response.status_code == 403
        return self._refused[key]

    def allowed(self, caller: str) -> list[AnyOperation]:
        """Operations that the caller may ask, of one of the managers."""
        return [item for item in SESSION if not all(self.refuses(side, caller, item) for side in SIDES)]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """A manager of each side, with the callers."""
    with contextlib.ExitStack() as stack:
        made = Matrix()
        for side in SIDES:
            directory = tmp_path_factory.mktemp(side)
            api = prepared(stack.enter_context(open_api(directory, side, FakeNodes(), Clock())))
            made.managers[side] = api, set_up(api)
        yield made


# What each role holds, said again: not taken from the code under test.
HOLDS: dict[str | None, Callable[[str], bool]] = {
    "Administrator": lambda _privilege: True,
    "NoCryptoAdmin": lambda privilege: (
        not privilege.startswith("Cryptographer.")
        and privilege
        not in {
            "Global.Diagnostics",
            "Host.Inventory.AddHostToCluster",
            "Host.Inventory.AddStandaloneHost",
            "Host.Local.ManageUserGroups",
        }
    ),
    "TrustedAdmin": lambda privilege: privilege.startswith(("TrustedAdmin.", "System.")),
    "ReadOnly": lambda privilege: privilege.startswith("System."),
    "NoAccess": lambda _privilege: False,
    "own": lambda privilege: privilege.startswith("System.") or privilege in OWN_ROLE,
    None: lambda _privilege: False,
}


def changes_trust(operation: AnyOperation) -> bool:
    """Whether the operation is for members of TrustedAdmins."""
    parts = [item.id.split(".") for item in operation.privileges]
    return any(part[0] == "TrustedAdmin" and part[-1].startswith(("Manage", "Configure")) for part in parts)


def forbidden(operation: AnyOperation, caller: Caller, side: Side) -> bool:
    """Whether the declaration says that the caller may not, on the cluster "one"."""
    wanted = [item.id for item in operation.privileges]
    if not wanted:
        return False
    if not all(HOLDS[caller.role](privilege) for privilege in wanted):
        return True
    if changes_trust(operation) and not caller.member:
        return True
    if caller.cluster is None:
        return False
    if not {"cluster", "host"} & set(operation.path_parameters):
        return operation.changes
    return caller.cluster == "two" and operation.side in (None, side)


@pytest.mark.parametrize("operation", SESSION, ids=label)
def test_every_role(operation: AnyOperation, matrix: Matrix) -> None:
    found, expected = {}, {}
    for side, (_api, sessions) in matrix.managers.items():
        for name in sessions:
            caller = CALLERS.get(name) or CALLERS["elsewhere"]
            found[side, name] = matrix.refuses(side, name, operation)
            expected[side, name] = forbidden(operation, caller, side)
    assert found == expected


def groups_of(operations: list[AnyOperation]) -> set[str]:
    """First parts of the privileges that the operations ask for."""
    return {item.id.split(".")[0] for operation in operations for item in operation.privileges}


CHANGES_OF_ONESELF = {"change_password", "cancel", "delete"}


def test_what_must_hold_whatever_is_declared(matrix: Matrix) -> None:
    everything = matrix.allowed("admin")
    assert everything == SESSION
    assert "Cryptographer" in groups_of(everything)

    no_crypto = matrix.allowed("no-crypto")
    assert "Cryptographer" not in groups_of(no_crypto)
    assert {"TrustedAdmin", "System", "Host", "Authorization"} <= groups_of(no_crypto)

    for name in ("read-only", "no-access", "nothing", "member"):
        for operation in matrix.allowed(name):
            if operation.changes:
                assert not operation.privileges, (name, operation.service)
                assert operation.operation in CHANGES_OF_ONESELF, (name, operation.service)
    assert groups_of(matrix.allowed("read-only")) == {"System"}
    for name in ("no-access", "nothing", "member"):
        assert groups_of(matrix.allowed(name)) == set()

    for name in ("admin.no-member", "trusted-admin.no-member"):
        assert [item.service for item in matrix.allowed(name) if changes_trust(item)] == []
    trusted = matrix.allowed("trusted-admin")
    assert groups_of(trusted) == {"TrustedAdmin", "System"}
    assert trusted == matrix.allowed("trusted-admin.group")
    assert all(item in trusted for item in SESSION if groups_of([item]) == {"TrustedAdmin"})

    assert all(
        not operation.privileges or not operation.changes
        for operation in matrix.allowed("elsewhere")
        if operation.side is None
    )


def test_only_login_and_what_has_a_token_of_its_own_is_public() -> None:
    assert {item.path for item in TABLE if item.public} <= {
        "/session",
        "/trust/native-key-provider-backups/{backup}",
    }


def test_operations_without_privileges_are_about_the_caller_alone() -> None:
    free = {(item.service.rpartition(".")[2], item.operation) for item in SESSION if not item.privileges}
    assert free == {
        ("session", "get"),
        ("session", "delete"),
        ("tasks", "get"),
        ("tasks", "list"),
        ("tasks", "cancel"),
        ("users", "change_password"),
    }
