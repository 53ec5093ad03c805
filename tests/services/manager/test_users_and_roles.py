# SPDX-License-Identifier: GPL-3.0-or-later
"""Users, groups, roles and permissions through the API: what is refused, and that changes count at once."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from services.manager.harness import PASSWORD, Api, prepared, write_users

from trusted_infrastructure.manager.vapi.errors import Unauthenticated

SECRET = "a long enough password"
OTHER = "another long password"


def reason(response: Any) -> str:
    """Reason code of an error."""
    identifier: str = response.json()["messages"][0]["id"]
    return identifier.removeprefix("trusted.infrastructure.")


class Site:
    """A manager and what its administrator does with users."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.sessions = {"administrator": api.session}

    @contextlib.contextmanager
    def by(self, name: str) -> Iterator[Api]:
        """The client, as this user."""
        kept, self.api.session = self.api.session, self.sessions[name]
        yield self.api
        self.api.session = kept

    def user(self, name: str, role: str = "", cluster: str = "", member: bool = False) -> None:
        """A user who is logged in. member: of TrustedAdmins."""
        api = self.api
        assert api.request("POST", "/trust/users", json={"user": name, "password": SECRET}).status_code == 204
        if role:
            self.grant(name, role, cluster)
        if member:
            api.ok("PUT", f"/trust/groups/TrustedAdmins/members/{name}")
        self.login(name)

    def login(self, name: str, password: str = SECRET) -> int:
        """Status of a login; its session is kept."""
        kept = self.api.session
        response = self.api.login(name, password)
        if response.status_code == 201:
            self.sessions[name] = self.api.session
        self.api.session = kept
        return int(response.status_code)

    def grant(self, name: str, role: str, cluster: str = "", **more: Any) -> str:
        """A permission's id."""
        body = {"principal_type": "USER", "principal": name, "role": role, **more}
        identifier: str = self.api.ok(
            "POST", "/trust/permissions", json={**body, **({"cluster": cluster} if cluster else {})}
        )
        return identifier

    def status(self, name: str, method: str, path: str, **options: Any) -> int:
        """Status of what a user asks."""
        with self.by(name) as api:
            return int(api.request(method, path, **options).status_code)


@pytest.fixture
def site(make_api: Callable[..., Api]) -> Site:
    """A Trust Authority manager with the clusters "one" and "two"."""
    api = prepared(make_api())
    api.ok("POST", "/trust/clusters", json={"name": "two"})
    return Site(api)


SCOPES = "/trust/clusters/one/scopes?vmw-task=true"
CLUSTERS = "/trust/clusters"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"user": "a:b", "password": SECRET}, "spec.user"),
        ({"user": "", "password": SECRET}, "spec.user"),
        ({"user": " x", "password": SECRET}, "spec.user"),
        ({"user": "x" * 201, "password": SECRET}, "spec.user"),
        ({"user": "\u0430dmin", "password": SECRET}, "spec.user"),
        ({"user": "x"}, "spec.password"),
        ({"user": "x", "password": "eleven char"}, "spec.password"),
        ({"user": "x", "password": "a1" * 129}, "spec.password"),
        ({"user": "x", "password": "a" * 20}, "spec.password"),
        ({"user": "long.user.name", "password": "Long.User.Name"}, "spec.password"),
        ({"user": "x", "password": "long enough\nwith a line"}, "spec.password"),
        ({"user": "x", "password": SECRET, "privileges": ["*"]}, "spec.privileges"),
    ],
)
def test_users_that_nobody_can_make(site: Site, body: Any, field: str) -> None:
    response = site.api.request("POST", "/trust/users", json=body)
    assert (response.status_code, response.json()["messages"][0]["args"][0]) == (400, field)
    assert str(body.get("password") or SECRET) not in response.text
    assert [user["user"] for user in site.api.ok("GET", "/trust/users")] == ["administrator"]


def test_a_new_user_may_do_nothing_until_he_has_a_role(site: Site) -> None:
    site.user("eve")
    assert site.status("eve", "GET", "/session") == 200
    assert site.status("eve", "GET", "/vcenter/cluster") == 403
    permission = site.grant("eve", "ReadOnly")
    assert site.status("eve", "GET", "/vcenter/cluster") == 200
    assert site.status("eve", "POST", "/trust/clusters", json={"name": "three"}) == 403
    assert site.api.request("DELETE", f"/trust/permissions/{permission}").status_code == 204
    assert site.status("eve", "GET", "/vcenter/cluster") == 403


@pytest.mark.parametrize("name", ["eve", "EVE", "Administrator", "administrator"])
def test_a_name_is_given_once(site: Site, name: str) -> None:
    site.user("eve")
    response = site.api.request("POST", "/trust/users", json={"user": name, "password": SECRET})
    assert (response.status_code, response.json()["error_type"]) == (400, "ALREADY_EXISTS")


def test_the_inventorys_users_are_not_for_the_api(site: Site) -> None:
    api = site.api
    for method, path, body in [
        ("PATCH", "/trust/users/administrator", {"password": SECRET}),
        ("DELETE", "/trust/users/administrator", None),
        ("DELETE", "/trust/groups/TrustedAdmins/members/administrator", None),
        ("POST", "/trust/users?action=change-password", {"current_password": PASSWORD, "password": SECRET}),
    ]:
        response = api.request(method, path, json=body)
        assert (response.status_code, reason(response)) == (400, "inventory_user"), path
    site.grant("administrator", "NoAccess")
    site.grant("administrator", "NoAccess", "one")
    assert api.request("GET", "/trust/clusters/one").status_code == 200
    assert site.login("administrator", PASSWORD) == 201


def test_the_file_wins_over_a_user_of_the_same_name(site: Site) -> None:
    site.user("eve", "Administrator", member=True)
    users = site.api.manager.settings.users
    kept = json.loads(users.read_bytes())["users"]
    write_users(users, [*kept, {"name": "eve", "privileges": ["System.View"], "groups": []}])
    assert site.status("eve", "GET", "/session") == 401
    assert site.login("eve", SECRET) == 401
    assert site.login("eve", PASSWORD) == 201


def test_what_a_user_of_the_inventory_had_is_not_for_the_next_of_that_name(site: Site) -> None:
    users = site.api.manager.settings.users
    kept = json.loads(users.read_bytes())["users"]
    write_users(users, [*kept, {"name": "eve", "privileges": []}])
    site.grant("eve", "Administrator")
    site.api.ok("PUT", "/trust/groups/TrustedAdmins/members/eve")
    write_users(users, kept)
    site.user("eve")
    assert site.status("eve", "GET", "/vcenter/cluster") == 403
    assert site.api.ok("GET", "/trust/users/eve")["groups"] == []


def test_deleting_a_user_ends_his_sessions_and_what_he_could(site: Site) -> None:
    site.user("eve", "Administrator", member=True)
    assert site.status("eve", "GET", "/vcenter/cluster") == 200
    assert site.api.request("DELETE", "/trust/users/eve").status_code == 204
    assert site.status("eve", "GET", "/session") == 401
    assert site.login("eve") == 401
    assert site.api.request("DELETE", "/trust/users/eve").status_code == 404
    assert site.api.ok("GET", "/trust/permissions") == []
    site.user("eve")
    assert site.status("eve", "GET", "/vcenter/cluster") == 403


def test_another_password_ends_all_sessions(site: Site) -> None:
    site.user("eve", "ReadOnly")
    assert site.api.request("PATCH", "/trust/users/eve", json={"password": OTHER}).status_code == 204
    assert site.status("eve", "GET", "/session") == 401
    assert site.login("eve") == 401
    assert site.login("eve", OTHER) == 201
    assert site.api.request("PATCH", "/trust/users/eve", json={"description": "x"}).status_code == 204
    assert site.status("eve", "GET", "/session") == 200
    assert site.api.request("PATCH", "/trust/users/adam", json={"password": OTHER}).status_code == 404
    assert site.api.request("PATCH", "/trust/users/eve", json={"password": "eve"}).status_code == 400


def change(site: Site, current: str, new: str) -> Any:
    with site.by("eve") as api:
        body = {"current_password": current, "password": new}
        return api.request("POST", "/trust/users?action=change-password", json=body)


def test_everybody_changes_his_own_password_with_the_current_one(site: Site) -> None:
    site.user("eve")
    earlier = site.sessions["eve"]
    site.login("eve")
    wrong = change(site, "a wrong password", OTHER)
    assert (wrong.status_code, reason(wrong)) == (400, "wrong_credentials")
    assert change(site, SECRET, "short").status_code == 400
    assert change(site, SECRET, OTHER).status_code == 204
    # The session that did it goes on, others end.
    assert site.status("eve", "GET", "/session") == 200
    site.sessions["eve"] = earlier
    assert site.status("eve", "GET", "/session") == 401
    assert site.login("eve") == 401
    assert site.login("eve", OTHER) == 201


def test_guessing_the_current_password_is_slowed_down(site: Site) -> None:
    site.user("eve")
    for _attempt in range(5):
        assert reason(change(site, "a wrong password", OTHER)) == "wrong_credentials"
    refused = change(site, SECRET, OTHER)
    assert (refused.status_code, reason(refused)) == (Unauthenticated.status, "rate_limited")


def test_no_answer_record_or_file_has_a_password_or_hash(site: Site, tmp_path: Any, capfd: Any) -> None:
    site.user("eve", "ReadOnly")
    site.api.request("PATCH", "/trust/users/eve", json={"password": OTHER})
    site.login("eve", OTHER)
    change(site, OTHER, "a third long password")
    answers = [
        site.api.request("GET", path).text
        for path in ("/trust/users", "/trust/users/eve", "/trust/groups", "/trust/openapi", "/trust/events")
    ]
    log = (tmp_path / "audit.log").read_text()
    assert "users" in log
    for text in [*answers, log, *capfd.readouterr()]:
        assert "argon2" not in text
        for secret in (SECRET, OTHER, "a third long password"):
            assert secret not in text
    stored = str(sqlite3.connect(tmp_path / "manager.db").execute("SELECT * FROM accounts").fetchall())
    assert "$argon2id$" in stored
    assert "long" not in stored


# Roles


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"role": "x", "privileges": ["System.View", "Global.Nothing"]}, "spec.privileges[1]"),
        ({"role": "x", "privileges": ["*"]}, "spec.privileges[0]"),
        ({"role": "a/b", "privileges": []}, "spec.role"),
        ({"role": "Admin\u202e", "privileges": []}, "spec.role"),
        ({"role": "x"}, "spec.privileges"),
        ({"role": "x", "privileges": [], "system": True}, "spec.system"),
    ],
)
def test_roles_that_nobody_can_make(site: Site, body: Any, field: str) -> None:
    response = site.api.request("POST", "/trust/roles", json=body)
    assert (response.status_code, response.json()["messages"][0]["args"][0]) == (400, field)


def test_built_in_roles_stay(site: Site) -> None:
    names = ["Administrator", "NoCryptoAdmin", "TrustedAdmin", "ReadOnly", "NoAccess"]
    assert [role["role"] for role in site.api.ok("GET", "/trust/roles")] == names
    for name in names:
        assert site.api.ok("GET", f"/trust/roles/{name}")["system"] is True
        for method, body in (("PATCH", {"privileges": []}), ("DELETE", None)):
            response = site.api.request(method, f"/trust/roles/{name}", json=body)
            assert (response.status_code, reason(response)) == (400, "system_role")
        assert (
            site.api.request("POST", "/trust/roles", json={"role": name.lower(), "privileges": []}).json()[
                "error_type"
            ]
            == "ALREADY_EXISTS"
        )


def test_a_role_is_changed_under_those_who_have_it(site: Site) -> None:
    site.api.ok("POST", "/trust/roles", json={"role": "own", "privileges": []})
    site.user("eve", "own")
    assert site.status("eve", "GET", "/trust/clusters/one") == 403
    change = {"privileges": ["TrustedAdmin.ReadTrustedHosts"], "description": "Readers"}
    site.api.ok("PATCH", "/trust/roles/own", json=change)
    role = site.api.ok("GET", "/trust/roles/own")
    # The System privileges are in every role.
    assert role["privileges"] == [
        "System.Anonymous",
        "System.Read",
        "System.View",
        "TrustedAdmin.ReadTrustedHosts",
    ]
    assert role["description"] == "Readers"
    assert site.status("eve", "GET", "/trust/clusters/one") == 200
    response = site.api.request("DELETE", "/trust/roles/own")
    assert (response.status_code, reason(response)) == (500, "role_in_use")
    site.api.ok("DELETE", "/trust/users/eve")
    site.api.ok("DELETE", "/trust/roles/own")
    assert site.api.request("GET", "/trust/roles/own").status_code == 404


# Groups


def test_groups_and_their_members(site: Site) -> None:
    api = site.api
    site.user("eve")
    api.ok("POST", "/trust/groups", json={"group": "readers", "description": "They read"})
    for name in ("Readers", "trustedadmins"):
        taken = api.request("POST", "/trust/groups", json={"group": name})
        assert taken.json()["error_type"] == "ALREADY_EXISTS"
    assert api.request("PUT", "/trust/groups/readers/members/adam").status_code == 404
    assert api.request("PUT", "/trust/groups/writers/members/eve").status_code == 404
    assert api.request("DELETE", "/trust/groups/readers/members/eve").status_code == 404
    for _time in range(2):
        api.ok("PUT", "/trust/groups/readers/members/eve")
    assert api.ok("GET", "/trust/groups/readers/members") == [{"user": "eve", "source": "API"}]
    body = {"principal_type": "GROUP", "principal": "readers", "role": "ReadOnly"}
    api.ok("POST", "/trust/permissions", json=body)
    assert site.status("eve", "GET", "/vcenter/cluster") == 200
    api.ok("DELETE", "/trust/groups/readers/members/eve")
    assert site.status("eve", "GET", "/vcenter/cluster") == 403
    api.ok("PUT", "/trust/groups/readers/members/eve")
    api.ok("PATCH", "/trust/groups/readers", json={"description": "x"})
    assert api.ok("GET", "/trust/groups/readers")["description"] == "x"
    # A group goes with its permissions: the next of that name begins with none.
    api.ok("DELETE", "/trust/groups/readers")
    assert site.status("eve", "GET", "/vcenter/cluster") == 403
    api.ok("POST", "/trust/groups", json={"group": "readers"})
    assert api.ok("GET", "/trust/groups/readers")["members"] == []
    assert api.ok("GET", "/trust/permissions") == []


def test_trusted_admins_is_built_in(site: Site) -> None:
    group = site.api.ok("GET", "/trust/groups/TrustedAdmins")
    assert group["members"] == [{"user": "administrator", "source": "INVENTORY"}]
    for method, body in (("PATCH", {"description": "x"}), ("DELETE", None)):
        response = site.api.request(method, "/trust/groups/TrustedAdmins", json=body)
        assert (response.status_code, reason(response)) == (400, "system_group")


@pytest.mark.parametrize("side", ["trust_authority", "workload"])
def test_members_of_trusted_admins_alone_change_the_trusted_infrastructure(
    make_api: Callable[..., Api], side: str
) -> None:
    site = Site(prepared(make_api(side)))
    site.user("eve", "TrustedAdmin")
    body = {"name": "three"}
    assert site.status("eve", "GET", "/trust/clusters/one") == 200
    with site.by("eve") as api:
        response = api.request("POST", CLUSTERS, json=body)
    assert (response.status_code, reason(response)) == (403, "not_trusted_admin")
    site.api.ok("PUT", "/trust/groups/TrustedAdmins/members/eve")
    assert site.status("eve", "POST", CLUSTERS, json=body) == 201
    site.api.ok("DELETE", "/trust/groups/TrustedAdmins/members/eve")
    assert site.status("eve", "DELETE", "/trust/clusters/three") == 403


@pytest.mark.parametrize(
    ("entry", "member"),
    [
        ({"privileges": ["*"]}, True),
        ({"privileges": ["*"], "groups": []}, False),
        ({"privileges": ["*"], "groups": ["others"]}, False),
        ({"privileges": ["*"], "groups": ["TrustedAdmins"]}, True),
        # As before there were groups: what the inventory gives by name works.
        ({"privileges": ["TrustedAdmin.ManageTrustedHosts"]}, True),
        ({"privileges": ["TrustedAdmin.ReadTrustedHosts", "System.View"]}, False),
    ],
)
def test_membership_of_users_of_the_inventory(site: Site, entry: Any, member: bool) -> None:
    kept = [{"name": "administrator", "privileges": ["*"]}]
    write_users(site.api.manager.settings.users, [*kept, {"name": "eve", **entry}])
    assert site.login("eve", PASSWORD) == 201
    wanted = 201 if member else 403
    assert site.status("eve", "POST", CLUSTERS, json={"name": "three"}) == wanted
    site.api.login()
    assert ("TrustedAdmins" in site.api.ok("GET", "/trust/users/eve")["groups"]) is member


# Permissions


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"principal": "adam"}, 404),
        ({"principal_type": "GROUP"}, 404),
        ({"principal_type": "ROLE"}, 400),
        ({"role": "nothing"}, 404),
        ({"cluster": "three"}, 404),
        ({"propagate": 1}, 400),
        ({"surprise": 1}, 400),
    ],
)
def test_permissions_that_nobody_can_make(site: Site, change: Any, status: int) -> None:
    site.user("eve")
    body = {"principal_type": "USER", "principal": "eve", "role": "ReadOnly", **change}
    assert site.api.request("POST", "/trust/permissions", json=body).status_code == status
    assert site.api.ok("GET", "/trust/permissions") == []


def test_one_permission_for_each_object(site: Site) -> None:
    site.user("eve", "ReadOnly")
    site.grant("eve", "ReadOnly", "one")
    for cluster in ({}, {"cluster": "domain-c1"}):
        body = {"principal_type": "USER", "principal": "eve", "role": "NoAccess", **cluster}
        response = site.api.request("POST", "/trust/permissions", json=body)
        assert response.json()["error_type"] == "ALREADY_EXISTS"
    found = site.api.ok("GET", "/trust/permissions?principals=eve")
    assert [item.get("cluster") for item in found] == [None, "domain-c1"]
    assert site.api.ok("GET", "/trust/permissions?clusters=one") == found[1:]
    assert site.api.ok("GET", "/trust/permissions?roles=NoAccess") == []
    assert site.api.ok("GET", f"/trust/permissions/{found[0]['permission']}") == found[0]
    assert site.api.request("GET", "/trust/permissions/permission-99").status_code == 404


def test_what_stands_on_a_cluster_counts_there(site: Site) -> None:
    site.user("eve", "TrustedAdmin", member=True)
    here = site.grant("eve", "NoAccess", "one")
    assert site.status("eve", "GET", "/trust/clusters/one") == 403
    assert site.status("eve", "GET", SCOPES) == 403
    assert site.status("eve", "GET", "/trust/clusters/two") == 200
    with site.by("eve") as api:
        assert [item["name"] for item in api.ok("GET", "/vcenter/cluster")] == ["two"]
        assert api.ok("GET", "/vcenter/host") == []
        assert [item.get("cluster") for item in api.ok("GET", "/trust/permissions")] == [None]
    site.api.ok("PATCH", f"/trust/permissions/{here}", json={"role": "ReadOnly"})
    assert site.status("eve", "GET", "/trust/clusters/one") == 403
    with site.by("eve") as api:
        assert [item["name"] for item in api.ok("GET", "/vcenter/cluster")] == ["one", "two"]
        assert len(api.ok("GET", "/vcenter/host")) == 1
    site.api.ok("PATCH", f"/trust/permissions/{here}", json={"propagate": False})
    assert site.api.ok("GET", "/trust/users/eve/privileges?cluster=one")["privileges"] == [
        "System.Anonymous",
        "System.Read",
        "System.View",
    ]


def test_a_role_on_one_cluster(site: Site) -> None:
    site.user("eve", "TrustedAdmin", "two", member=True)
    assert site.status("eve", "DELETE", "/trust/clusters/one") == 403
    with site.by("eve") as api:
        response = api.request("POST", CLUSTERS, json={"name": "three"})
        assert (response.status_code, reason(response)) == (403, "limited_to_cluster")
        assert [item["name"] for item in api.ok("GET", "/vcenter/cluster")] == ["two"]
        assert api.ok("GET", "/trust/users/eve/privileges") == {
            "privileges": [],
            "host_privileges": [],
            "trusted_admin": True,
        }
        assert api.request("GET", "/trust/users/eve/privileges?cluster=one").status_code == 404
        held = api.ok("GET", "/trust/users/eve/privileges?cluster=two")
        assert "TrustedAdmin.ReadKMSTrust" in held["privileges"]
    assert site.status("eve", "DELETE", "/trust/clusters/two") == 204
    # Permissions go with their cluster.
    assert site.api.ok("GET", "/trust/permissions") == []


# Nobody gives away more than he holds


@pytest.fixture
def limited(site: Site) -> Site:
    """With the No cryptography administrator "adam", the users "eve" and "root" (an administrator), the
    group "strong" of root, and the role "crypto"."""
    site.user("adam", "NoCryptoAdmin")
    site.user("eve")
    site.user("root", "Administrator", member=True)
    api = site.api
    api.ok("POST", "/trust/roles", json={"role": "crypto", "privileges": ["Cryptographer.Access"]})
    api.ok("POST", "/trust/roles", json={"role": "weak", "privileges": ["System.View"]})
    api.ok("POST", "/trust/groups", json={"group": "strong"})
    api.ok("POST", "/trust/groups", json={"group": "empty"})
    strong = {"principal_type": "GROUP", "principal": "strong", "role": "Administrator"}
    api.ok("POST", "/trust/permissions", json=strong)
    api.ok("POST", "/trust/permissions", json={**strong, "principal": "empty", "role": "weak"})
    return site


EVE = {"principal_type": "USER", "principal": "eve"}
ESCALATIONS: dict[str, tuple[str, str, Any]] = {
    "a role with more": ("POST", "/trust/roles", {"role": "x", "privileges": ["Cryptographer.Access"]}),
    "more in a role": ("PATCH", "/trust/roles/weak", {"privileges": ["Cryptographer.Access"]}),
    "a strong role for another": ("POST", "/trust/permissions", {**EVE, "role": "Administrator"}),
    "a strong role on a cluster": ("POST", "/trust/permissions", {**EVE, "role": "crypto", "cluster": "one"}),
    "a strong role for oneself": (
        "POST",
        "/trust/permissions",
        {**EVE, "principal": "adam", "role": "crypto", "cluster": "one"},
    ),
    "a strong role for a group without members": (
        "POST",
        "/trust/permissions",
        {"principal_type": "GROUP", "principal": "empty", "role": "crypto", "cluster": "two"},
    ),
    "a stronger role in a permission": ("PATCH", "/trust/permissions/{adam}", {"role": "Administrator"}),
    "into a strong group": ("PUT", "/trust/groups/strong/members/eve", None),
    "oneself into a strong group": ("PUT", "/trust/groups/strong/members/adam", None),
    "into TrustedAdmins": ("PUT", "/trust/groups/TrustedAdmins/members/eve", None),
    "an administrator's password": ("PATCH", "/trust/users/root", {"password": OTHER}),
}


@pytest.mark.parametrize("case", ESCALATIONS)
def test_nobody_gives_away_more_than_he_holds(limited: Site, case: str) -> None:
    method, path, body = ESCALATIONS[case]
    own = limited.api.ok("GET", "/trust/permissions?principals=adam")[0]["permission"]
    before = [limited.api.ok("GET", f"/trust/{part}") for part in ("permissions", "roles", "groups")]
    with limited.by("adam") as api:
        response = api.request(method, path.format(adam=own), json=body)
    assert (response.status_code, reason(response)) == (403, "beyond_own_rights"), response.text
    after = [limited.api.ok("GET", f"/trust/{part}") for part in ("permissions", "roles", "groups")]
    assert after == before
    assert limited.login("root") == 201
    # The inventory's administrator may.
    made = limited.api.request(method, path.format(adam=own), json=body)
    assert made.is_success, made.text


def test_what_he_holds_he_may_give(limited: Site) -> None:
    with limited.by("adam") as api:
        api.ok("POST", "/trust/roles", json={"role": "x", "privileges": ["TrustedAdmin.ReadKMSTrust"]})
        api.ok("POST", "/trust/permissions", json={**EVE, "role": "x"})
        api.ok("PUT", "/trust/groups/empty/members/eve")
        api.ok("PATCH", "/trust/users/eve", json={"password": OTHER})
        # A role that has more already can be described, and lose what it has.
        api.ok("PATCH", "/trust/roles/crypto", json={"description": "x", "privileges": []})


def test_an_override_is_not_taken_away_by_whom_it_holds_down(site: Site) -> None:
    site.api.ok(
        "POST",
        "/trust/roles",
        json={"role": "permissions", "privileges": ["Authorization.ModifyPermissions"]},
    )
    site.user("adam", "NoCryptoAdmin")
    override = site.grant("adam", "permissions", "one")
    with site.by("adam") as api:
        response = api.request("DELETE", f"/trust/permissions/{override}")
    assert (response.status_code, reason(response)) == (403, "beyond_own_rights")


def test_the_last_administrator_stays(site: Site) -> None:
    site.user("root", "Administrator", member=True)
    users = site.api.manager.settings.users
    write_users(users, [{"name": "clerk", "privileges": ["Authorization.ModifyPermissions"]}])
    permission = "permission-1"
    with site.by("root") as api:
        for method, path, body in [
            ("DELETE", "/trust/users/root", None),
            ("DELETE", f"/trust/permissions/{permission}", None),
            ("PATCH", f"/trust/permissions/{permission}", {"role": "NoCryptoAdmin"}),
            ("PATCH", f"/trust/permissions/{permission}", {"propagate": False}),
            ("DELETE", "/trust/groups/TrustedAdmins/members/root", None),
        ]:
            response = api.request(method, path, json=body)
            assert (response.status_code, reason(response)) == (400, "last_administrator"), path
        assert api.request("GET", "/vcenter/cluster").status_code == 200
    # With a second one, the first may go.
    site.api.session = site.sessions["root"]
    site.user("second", "Administrator", member=True)
    assert site.status("second", "DELETE", "/trust/users/root") == 204
    assert site.status("second", "DELETE", "/trust/users/second") == 400


def test_changes_are_audited_with_what_was_given_to_whom(site: Site, tmp_path: Any) -> None:
    site.user("eve", "ReadOnly", "one")
    log = (tmp_path / "audit.log").read_text()
    for text in ("USER:eve", "ReadOnly", '"cluster":"one"', '"user":"eve"'):
        assert text in log
