# SPDX-License-Identifier: GPL-3.0-or-later
"""The reverse proxy's configuration: what nginx itself answers has the form of the service behind it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jinja2
import pytest

TEMPLATES = Path(__file__).parents[2] / "roles" / "service_runtime" / "templates"
UPSTREAMS = {"upstreams": [{"name": "one", "socket": "one/public.sock"}]}
PUBLIC = {"public_name": "host.example", "public": [{"path": "/one", "upstream": "one"}], **UPSTREAMS}
PROXIES: dict[str, dict[str, Any]] = {
    "manager": {**PUBLIC, "api": True},
    "host": {**PUBLIC, "management": [{"path": "/manage", "upstream": "one"}]},
}
# Statuses of ngx_http_request.h that nginx gives by itself; 408 and 499 are sent to nobody.
OWN_STATUSES = {
    400,
    404,
    405,
    411,
    412,
    413,
    414,
    415,
    416,
    421,
    429,
    494,
    497,
    500,
    501,
    502,
    503,
    504,
    505,
    507,
}
# Those of the vSphere API.
ALLOWED = {400, 401, 403, 404, 500, 503}
VARIABLE = re.compile(r"\$[a-z_]+")


def rendered(name: str) -> str:
    """nginx.conf of a kind of machine."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("nginx.conf.j2").render(proxy=PROXIES[name])


def servers(name: str) -> list[str]:
    """The text of each server block."""
    found = re.findall(r"^    server \{\n(.*?)^    \}$", rendered(name), re.DOTALL | re.MULTILINE)
    assert len(found) == (2 if "management" in PROXIES[name] else 1)
    return found


def pages(server: str) -> dict[int, tuple[int, str]]:
    """status of nginx -> (status that is sent, location that answers)."""
    found: dict[int, tuple[int, str]] = {}
    for codes, sent, location in re.findall(r"error_page ([0-9 ]+) =(\d+) (/error/\w+);", server):
        for code in codes.split():
            assert int(code) not in found
            found[int(code)] = (int(sent), location)
    return found


def answers(server: str) -> dict[str, tuple[int, Any]]:
    """location -> (status, body)."""
    expression = r"location = (/error/\w+) \{\s+internal;\s+return (\d+) '(.*)';"
    return {
        location: (int(status), json.loads(VARIABLE.sub("x", body)))
        for location, status, body in re.findall(expression, server)
    }


@pytest.mark.parametrize("name", PROXIES)
def test_every_status_of_nginx_has_an_answer_that_says_the_same(name: str) -> None:
    for server in servers(name):
        found = answers(server)
        assert OWN_STATUSES <= set(pages(server))
        assert {location for _sent, location in pages(server).values()} == set(found)
        for sent, location in pages(server).values():
            assert found[location][0] == sent


def test_the_manager_answers_in_the_form_of_the_api() -> None:
    (server,) = servers("manager")
    types = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 503: "SERVICE_UNAVAILABLE"}
    for status, body in answers(server).values():
        assert status in ALLOWED
        assert set(body) == {"error_type", "messages", "data"}
        assert body["error_type"] == types[status]
        (message,) = body["messages"]
        assert set(message) == {"id", "default_message", "args"}
        if status == 400:
            assert message["default_message"].startswith(message["args"][0] + ": ")


def test_services_answer_in_their_form() -> None:
    for server in servers("host"):
        for _status, body in answers(server).values():
            assert set(body) == {"error"}
            assert set(body["error"]) == {"code", "message", "remedy"}


def test_a_refused_client_certificate_is_explained() -> None:
    _public, management = servers("host")
    found = pages(management)
    assert (found[495][0], found[496][0]) == (403, 401)
    assert '"FAILED:certificate has expired" certificate_expired;' in rendered("host")
    assert "$ssl_client_v_end" in management


@pytest.mark.parametrize("name", PROXIES)
def test_nothing_can_be_resumed_and_old_ciphers_are_off(name: str) -> None:
    text = rendered(name)
    for line in (
        "ssl_protocols TLSv1.2 TLSv1.3;",
        "ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;",
        "ssl_session_tickets off;",
        "ssl_conf_command NumTickets 0;",
        "ssl_session_cache off;",
        'proxy_set_header X-Client-Certificate "";',
    ):
        assert line in text, line
