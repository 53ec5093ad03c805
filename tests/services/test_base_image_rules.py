# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of base images: what an import refuses, what events keep them, how a refusal says what differs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from services.tpm import event_log_builder as build
from services.tpm.event_log_builder import SECURITY, SHA256, X509, LogBuilder, signature_list, utf16, variable

from trusted_infrastructure import base_images
from trusted_infrastructure.base_images import templates
from trusted_infrastructure.base_images.exact import ExactPcrs
from trusted_infrastructure.config.documents import BaseImage, content_of, typed
from trusted_infrastructure.refusal import InvalidField, Refusal
from trusted_infrastructure.tpm import event_types as types
from trusted_infrastructure.tpm.event_log import EventLog, initial_value, parse_event_log

Change = tuple[int, int, bytes] | tuple[int, int, bytes, bytes]
ZERO = bytes(4)
CONFIG = types.EV_EFI_VARIABLE_DRIVER_CONFIG
UUID_A, UUID_B = "d64f335d-4d71-46c8-9379-3375973830f3", "0c1f7ad2-0000-4b1b-8a39-4f6d3a3b9e11"
LINE = f"/vmlinuz root=UUID={UUID_A} ro quiet"
KEYS = signature_list(X509, [b"c" * 50])


def path_of(file: str) -> bytes:
    return build.image_load(build.PCI_ROOT + build.HARD_DRIVE + build.file_node(file) + build.END)


def boot(
    line: str = LINE,
    *,
    order: bytes = b"\1\0",
    entries: int = 2,
    disk: bytes = build.DISK.bytes_le,
    loader: bytes = b"shim",
    secure_boot: bytes = b"\1",
    dbx: bytes = bytes(32),
    attempts: int = 1,
    exits: int = 1,
    serial: bytes = b"SMBIOS serial 1",
) -> list[Change]:
    """One boot of a machine; each argument is something that differs between machines or states."""
    table = bytearray(build.gpt(2))
    table[56:72] = disk
    leave = [
        (5, types.EV_EFI_ACTION, b"Exit Boot Services Invocation"),
        (5, types.EV_EFI_ACTION, b"Exit Boot Services Returned with Failure"),
    ]
    return [
        (0, types.EV_S_CRTM_VERSION, utf16("1.0\0")),
        (1, types.EV_EFI_HANDOFF_TABLES, build.EVERY_CLASS[15][2], serial),
        (7, CONFIG, variable("SecureBoot", secure_boot)),
        (7, CONFIG, variable("PK", KEYS)),
        (7, CONFIG, variable("KEK", KEYS)),
        (7, CONFIG, variable("db", KEYS, SECURITY)),
        (7, CONFIG, variable("dbx", signature_list(SHA256, [dbx]), SECURITY)),
        (7, types.EV_SEPARATOR, ZERO),
        (1, types.EV_EFI_VARIABLE_BOOT, variable("BootOrder", order)),
        *(
            (1, types.EV_EFI_VARIABLE_BOOT, variable(f"Boot000{number}", order * number))
            for number in range(1, entries + 1)
        ),
        *(
            (4, types.EV_EFI_ACTION, b"Calling EFI Application from Boot Option")
            for _count in range(attempts)
        ),
        *((pcr, types.EV_SEPARATOR, ZERO) for pcr in range(7)),
        (5, types.EV_EFI_GPT_EVENT, bytes(table)),
        (7, types.EV_EFI_VARIABLE_AUTHORITY, variable("db", build.OWNER.bytes_le + b"c" * 50, SECURITY)),
        (4, types.EV_EFI_BOOT_SERVICES_APPLICATION, path_of("\\EFI\\debian\\shimx64.efi"), loader),
        (4, types.EV_EFI_BOOT_SERVICES_APPLICATION, path_of("\\vmlinuz-6.1"), b"kernel"),
        (
            8,
            types.EV_IPL,
            f"grub_cmd: search --fs-uuid {UUID_A}\0".encode(),
            f"search --fs-uuid {UUID_A}".encode(),
        ),
        (8, types.EV_IPL, f"kernel_cmdline: {line}\0".encode(), line.encode()),
        (9, types.EV_IPL, b"(hd0,gpt1)/initrd.img\0", b"initrd"),
        (
            9,
            types.EV_EVENT_TAG,
            build.tagged(0x8F3B22ED, b"LOADED_IMAGE::LoadOptions\0"),
            utf16(f"BOOT_IMAGE={line}\0"),
        ),
        *(leave * (exits - 1)),
        leave[0],
        (5, types.EV_EFI_ACTION, b"Exit Boot Services Returned with Success"),
    ]


def measured(events: list[Change], bank: str = "sha256") -> tuple[EventLog, dict[int, bytes]]:
    builder = LogBuilder((bank,))
    for event in events:
        builder.add(*event)
    values = {pcr: initial_value(pcr, bank) for pcr in range(24)} | builder.pcrs[bank]
    return parse_event_log(builder.data), values


def capture(events: list[Change], version: str = "v1", **options: Any) -> BaseImage:
    log, values = measured(events)
    return base_images.capture(
        log, values, bank="sha256", image_version=version, display_name=version, **options
    )


def appraise(events: list[Change], *images: BaseImage) -> BaseImage:
    log, values = measured(events)
    try:
        found = base_images.appraise(images, "sha256", values, log)
    except Refusal as refusal:
        with pytest.raises(Refusal) as quick:
            base_images.appraise(images, "sha256", values, log, ExactPcrs(images))
        assert (quick.value.code, quick.value.message) == (refusal.code, refusal.message)
        raise
    assert base_images.appraise(images, "sha256", values, log, ExactPcrs(images)) is found
    return found


IMAGE = capture(boot())
PLAIN = content_of(IMAGE)


def with_rule(pcr: int, position: int, rule: dict[str, Any]) -> dict[str, Any]:
    """The captured image with another rule."""
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(PLAIN))
    document["pcrs"][str(pcr)]["events"][position] = rule
    return document


def image_of(document: dict[str, Any]) -> BaseImage:
    image = typed("base_image", document)
    assert isinstance(image, BaseImage)
    return image


# ---- what capture writes


def test_every_event_has_a_class_and_every_rule_is_allowed() -> None:
    base_images.check_image(IMAGE)
    classes = {
        pcr: [event.class_ for event in reference.events or ()] for pcr, reference in IMAGE.pcrs.items()
    }
    assert classes["7"] == ["secure_boot", "pk", "kek", "db", "dbx", "separator", "authority"]
    assert classes["1"] == ["firmware_tables", "boot_entry", "separator"]
    assert classes["4"] == ["action", "separator", "boot_loader", "kernel"]
    assert classes["8"] == ["boot_loader_command", "command_line"]
    assert classes["9"] == ["initrd", "command_line"]
    assert classes["5"][:2] == ["separator", "partition_table"]
    assert IMAGE.pcrs["7"].secure_boot is True
    assert typed("base_image", msgspec.json.decode(msgspec.json.encode(PLAIN))) == IMAGE


def test_a_document_of_the_first_release_is_read_as_it_was() -> None:
    old = {
        "image_version": "v1",
        "display_name": "v1",
        "bank": "sha256",
        "pcrs": {
            pcr: {
                "value": None,
                "events": [{"type": e.type, "digest": e.digest, "description": "x"} for e in r.events],
            }
            if r.events and pcr not in ("1", "5")
            else {"value": "00" * 32, "events": None}
            for pcr, r in IMAGE.pcrs.items()
            if pcr not in ("1", "5")
        },
        "userspace": "none",
    }
    image = image_of(old)
    base_images.check_image(image)
    assert appraise(boot(), image) is image


# ---- equal machines, and what is not equal


EQUAL: dict[str, list[Change]] = {
    "itself": boot(),
    "another boot order": boot(order=b"\2\0\1\0"),
    "more boot entries": boot(entries=7),
    "no boot entries but the order": boot(entries=0),
    "another disk": boot(disk=build.OWNER.bytes_le),
    "another serial number": boot(serial=b"SMBIOS serial 2"),
    "another root file system": boot(LINE.replace(UUID_A, UUID_B)),
    "another root file system, upper case": boot(LINE.replace(UUID_A, UUID_B.upper())),
    "three attempts to boot": boot(attempts=3),
    "left the firmware at the second attempt": boot(exits=2),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_machines_match(name: str) -> None:
    assert appraise(EQUAL[name], IMAGE) is IMAGE


def changed(place: int, event: Change | None = None) -> list[Change]:
    events = boot()
    events[place : place + 1] = [] if event is None else [event]
    return events


def place_of(pcr: int, position: int) -> int:
    return [place for place, event in enumerate(boot()) if event[0] == pcr][position]


UNEQUAL: dict[str, tuple[list[Change], str]] = {
    "option added to the command line": (
        boot(LINE + " init=/bin/sh"),
        r"event \d+ \(PCR 8, EV_IPL, .*\): expected '.*ro quiet', found '.*ro quiet init=/bin/sh'; "
        r"found digest .*; PCR 9 differ too; closest base image: v1",
    ),
    "option taken from the command line": (
        boot(LINE.replace(" ro", "")),
        r"expected '.* ro quiet', found '.* quiet'",
    ),
    "a word in the place of an identifier": (
        boot(LINE.replace(UUID_A, "x")),
        r"PCR 8.*expected '.*root=UUID=\{uuid\} ro quiet', found '.*root=UUID=x ro quiet'",
    ),
    "an identifier that is too long": (boot(LINE.replace(UUID_A, UUID_A + "0")), "PCR 8"),
    "boot loader": (
        boot(loader=b"evil"),
        r"event \d+ \(PCR 4, EV_EFI_BOOT_SERVICES_APPLICATION, boot loader: boot application "
        r"\\EFI\\debian\\shimx64.efi\): expected EV_EFI_BOOT_SERVICES_APPLICATION \(boot application "
        r"\\EFI\\debian\\shimx64.efi\) with digest [0-9a-f]{64}, found digest [0-9a-f]{64}",
    ),
    "Secure Boot off": (
        boot(secure_boot=b"\0"),
        r"PCR 7, .*Secure Boot is off\): expected .*\(Secure Boot is on\) with digest",
    ),
    "another dbx": (
        boot(dbx=b"\1" * 32),
        r"revocation database \(dbx\): dbx with 0 certificates and 1 hashes",
    ),
    "an event too many": (
        [*boot(), (4, types.EV_IPL, b"late"), (14, types.EV_IPL, b"MokList\0", b"x")],
        r"PCR 4, EV_IPL, boot loader.*expected no further event in PCR 4",
    ),
    "an event where none is": (
        [*boot(), (14, types.EV_IPL, b"MokList\0", b"x")],
        r"event \d+ \(PCR 14, EV_IPL, machine owner keys: shim variable MokList\): expected no event in PCR",
    ),
    "an event too few": (
        changed(place_of(9, 1)),
        r"PCR 9: expected a further event, EV_EVENT_TAG \(kernel command line\) with digest .*, found none",
    ),
    "boot entry that is no boot variable": (
        changed(place_of(1, 1), (1, types.EV_EFI_VARIABLE_BOOT, variable("Setup", b"x"))),
        r"PCR 1, EV_EFI_VARIABLE_BOOT",
    ),
    "boot entry of another vendor": (
        changed(place_of(1, 1), (1, types.EV_EFI_VARIABLE_BOOT, variable("BootOrder", b"x", SECURITY))),
        r"PCR 1, EV_EFI_VARIABLE_BOOT",
    ),
    "boot entry whose content was not measured": (
        changed(place_of(1, 1), (1, types.EV_EFI_VARIABLE_BOOT, variable("BootOrder", b"x"), b"other")),
        "which its digest is not of",
    ),
    "boot entry under another type": (
        changed(place_of(1, 1), (1, types.EV_EFI_ACTION, variable("BootOrder", b"\1\0"))),
        r"PCR 1, EV_EFI_ACTION",
    ),
    "partition of another type": (
        changed(
            place_of(5, 1),
            (
                5,
                types.EV_EFI_GPT_EVENT,
                build.gpt(2).replace(build.LINUX_ROOT.bytes_le, build.X509.bytes_le, 1),
            ),
        ),
        r"partition table.*expected '.*type 4f68bce3.*found '.*type a5c059a1",
    ),
    "partition more": (
        changed(place_of(5, 1), (5, types.EV_EFI_GPT_EVENT, build.gpt(3))),
        r"PCR 5, EV_EFI_GPT_EVENT, partition table",
    ),
    "separator of an error": (
        changed(place_of(2, 0), (2, types.EV_SEPARATOR, b"\1\0\0\0")),
        r"PCR 2, EV_SEPARATOR, separator that reports an error",
    ),
    "separator that is missing": (
        changed(place_of(2, 0)),
        "PCR 2: expected value|PCR 2: expected a further event",
    ),
    "the variable again, after the separator": (
        [*boot(), (7, CONFIG, variable("SecureBoot", b"\1"))],
        "variable SecureBoot after the separator, which is no configuration.*no further event in PCR 7",
    ),
    "never left the firmware": (boot()[:-2], r"PCR 5: expected a further event, EV_EFI_ACTION \(.*Exit Boot"),
    "left the firmware at the third attempt": (boot(exits=3), "PCR 5, EV_EFI_ACTION"),
    "no attempt to boot": (boot(attempts=0), r"PCR 4, EV_SEPARATOR.*expected EV_EFI_ACTION"),
    "another kind of event with the same digest": (
        changed(place_of(4, 0), (4, types.EV_ACTION, b"Calling EFI Application from Boot Option")),
        "which is right, but of type EV_ACTION",
    ),
}


@pytest.mark.parametrize("name", UNEQUAL)
def test_a_refusal_says_event_expected_and_found(name: str) -> None:
    events, words = UNEQUAL[name]
    with pytest.raises(Refusal, match=words) as refusal:
        appraise(events, IMAGE)
    assert refusal.value.code == "base_image_mismatch"
    assert refusal.value.message.isprintable() and len(refusal.value.message) < 1200
    assert refusal.value.remedy


@pytest.mark.parametrize("where", [200, 2000, 20_000])
def test_a_long_command_line_is_shown_where_it_differs(where: int) -> None:
    words = " ".join(f"option{number}" for number in range(where // 8))
    image = capture(boot(f"{words} ro"))
    with pytest.raises(Refusal, match=r"expected '\.\.\..* ro', found '\.\.\..* rw\.'") as refusal:
        appraise(boot(f"{words} rw\x1b"), image)
    assert len(refusal.value.message) < 1200 and refusal.value.message.isprintable()


_EXITS = [
    b"Exit Boot Services " + end
    for end in (b"Invocation", b"Returned with Failure", b"Returned with Success")
]
EVENTS = st.one_of(
    st.sampled_from(build.EVERY_CLASS[3:]),
    st.tuples(st.just(5), st.just(types.EV_EFI_ACTION), st.sampled_from(_EXITS), st.none()),
    st.tuples(
        st.just(4),
        st.sampled_from([types.EV_EFI_ACTION, types.EV_ACTION]),
        st.sampled_from([b"Calling EFI Application from Boot Option", b"x"]),
        st.sampled_from([None, b"Calling EFI Application from Boot Option"]),
    ),
    st.tuples(
        st.sampled_from([1, 4]),
        st.sampled_from([types.EV_EFI_VARIABLE_BOOT, types.EV_EFI_VARIABLE_BOOT2]),
        st.sampled_from(
            [variable("BootOrder", b"x"), variable("Boot0001", b"y"), variable("Setup", b"z"), b"?"]
        ),
        st.sampled_from([None, b"x"]),
    ),
    st.tuples(
        st.sampled_from([8, 9, 12]),
        st.just(types.EV_IPL),
        st.sampled_from([b"{uuid}", b"}", UUID_A.encode()]),
        st.none(),
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENTS, max_size=14))
def test_whatever_a_host_booted_it_matches_what_was_captured_of_it(events: list[Any]) -> None:
    log, values = measured([event if event[3] is not None else event[:3] for event in events])
    for pcrs in (None, range(24)):
        image = base_images.capture(
            log, values, bank="sha256", image_version="v", display_name="v", pcrs=pcrs
        )
        base_images.check_image(image)
        assert base_images.appraise([image], "sha256", values, log) is image


# ---- rules that people write


def test_several_digests() -> None:
    other = capture(boot(loader=b"newer"))
    digests = [image.pcrs["4"].events[2].digest for image in (IMAGE, other) if image.pcrs["4"].events]
    rule = {"type": "EV_EFI_BOOT_SERVICES_APPLICATION", "digests": digests, "class": "boot_loader"}
    image = image_of(with_rule(4, 2, rule))
    base_images.check_image(image)
    for loader in (b"shim", b"newer"):
        assert appraise(boot(loader=loader), image) is image
    with pytest.raises(Refusal, match="with one of 2 digests, such as"):
        appraise(boot(loader=b"evil"), image)


def test_optional_and_repeated_outside_the_required_pcrs() -> None:
    digest = IMAGE.pcrs["2"].events[0].digest if IMAGE.pcrs["2"].events else ""
    rules: list[dict[str, Any]] = [
        {"type": "EV_SEPARATOR", "digest": digest},
        {"type": "EV_ACTION", "digest": build_digest(b"a"), "presence": "optional"},
        {"type": "EV_ACTION", "digest": build_digest(b"b"), "presence": "any"},
        {"type": "EV_ACTION", "digest": build_digest(b"c"), "presence": "repeated"},
    ]
    image = image_of({**PLAIN, "pcrs": {**PLAIN["pcrs"], "3": {"events": rules}}})
    base_images.check_image(image)

    def with_actions(text: bytes) -> list[Change]:
        return [*boot(), *((3, types.EV_ACTION, bytes([letter])) for letter in text)]

    for good in (b"c", b"ac", b"abc", b"abbbbcccc", b"bc"):
        assert appraise(with_actions(good), image) is image
    for bad in (b"", b"a", b"ab", b"aac", b"ba", b"cb", b"ca", b"abcd"):
        with pytest.raises(Refusal, match="PCR 3"):
            appraise(with_actions(bad), image)


def build_digest(content: bytes) -> str:
    return measured([(3, types.EV_ACTION, content)])[0].events[-1].digests["sha256"].hex()


DIGEST = "ab" * 32
BAD_RULES: dict[str, tuple[int, dict[str, Any], str]] = {
    "nothing": (4, {}, r"pcrs.4.events\[2\]: must have one of digest, digests, content and varies"),
    "varies in PCR 0": (0, {"varies": True, "class": "firmware"}, r"pcrs.0.events\[0\].varies: PCR 0 holds"),
    "varies in PCR 4": (4, {"varies": True, "class": "kernel"}, r"pcrs.4.events\[2\].varies: PCR 4 holds"),
    "varies in PCR 7": (7, {"varies": True, "class": "db"}, r"varies: PCR 7 holds"),
    "varies in PCR 8": (8, {"varies": True, "class": "command_line"}, r"varies: PCR 8 holds"),
    "varies without class": (1, {"varies": True}, r"pcrs.1.events\[0\].varies: stands alone"),
    "varies with a digest": (
        1,
        {"varies": True, "class": "boot_entry", "digest": DIGEST},
        "varies: stands alone",
    ),
    "varies with content": (
        1,
        {"varies": True, "class": "boot_entry", "content": "x"},
        "varies: stands alone",
    ),
    "unknown class": (4, {"digest": DIGEST, "class": "kernal"}, r"pcrs.4.events\[2\].class: 'kernal' is not"),
    "optional boot loader": (
        4,
        {"digest": DIGEST, "presence": "optional"},
        r"events\[2\].presence: in PCR 4 only",
    ),
    "repeated boot loader": (4, {"digest": DIGEST, "presence": "repeated"}, r"presence: in PCR 4 only"),
    "any number of authorities": (7, {"digest": DIGEST, "presence": "any"}, r"presence: in PCR 7 only"),
    "a type that is none": (4, {"type": "EV\n", "digest": DIGEST}, r"events\[2\].type: is not the name"),
    "a long description": (
        4,
        {"digest": DIGEST, "description": "x" * 1025},
        r"description: must be printable",
    ),
    "a description with a line break": (4, {"digest": DIGEST, "description": "a\nb"}, r"must be printable"),
    "short digest": (4, {"digest": "ab"}, r"pcrs.4.events\[2\].digest: must have 64 lower-case"),
    "digest in upper case": (4, {"digest": DIGEST.upper()}, "digest: must have 64 lower-case"),
    "digest with a line break": (4, {"digest": DIGEST + "\n"}, "digest: must have 64 lower-case"),
    "a short one of several": (4, {"digests": [DIGEST, "ab"]}, r"events\[2\].digests\[1\]: must have 64"),
    "too many digests": (4, {"digests": [DIGEST] * 257}, r"digests: has 257: expected at most 256"),
    "placeholder in PCR 4": (
        4,
        {"content": "boot {uuid}"},
        r"content: placeholders are for the command lines",
    ),
    "unknown placeholder": (8, {"content": "{anything}"}, r"content: has '\{anything\}' at character 0"),
    "regular expression": (8, {"content": "root={.*}"}, r"content: has '\{' at character 5"),
    "open brace": (8, {"content": "a { b"}, r"content: has '\{' at character 2"),
    "closing brace": (8, {"content": "a } b"}, r"content: has '\}' at character 2"),
    "long content": (8, {"content": "x" * 65537}, "content: is 65537 characters long"),
    "too many placeholders": (8, {"content": "{uuid}" * 2049}, "has more than 2048"),
}


@pytest.mark.parametrize("name", BAD_RULES)
def test_an_import_refuses_a_rule_and_names_the_field(name: str) -> None:
    pcr, fields, words = BAD_RULES[name]
    position = 2 if pcr in (4,) else 0
    document = with_rule(pcr, position, {"type": "EV_EFI_ACTION_X"} | fields)
    with pytest.raises(InvalidField, match=words):
        base_images.check_image(image_of(document))


BAD_PCRS: dict[str, tuple[dict[str, Any], str]] = {
    "no PCRs": ({"pcrs": {}}, "pcrs: must have"),
    "value and events": ({"pcrs": {"4": {"value": DIGEST, "events": []}}}, "pcrs.4: must have exactly one"),
    "neither": ({"pcrs": {"4": {}}}, "pcrs.4: must have exactly one"),
    "no events": ({"pcrs": {"4": {"events": []}}}, "pcrs.4.events: must not be empty"),
    "short value": ({"pcrs": {"4": {"value": "ab"}}}, "pcrs.4.value: must have 64"),
    "value of another bank": ({"pcrs": {"4": {"value": "ab" * 48}}}, "pcrs.4.value: must have 64"),
    "Secure Boot of PCR 4": (
        {"pcrs": {"4": {"events": [{"type": "X", "digest": DIGEST}], "secure_boot": True}}},
        "pcrs.4.secure_boot: is for PCR 7",
    ),
    "Secure Boot of a value": ({"pcrs": {"7": {"value": DIGEST, "secure_boot": True}}}, "pcrs.7.secure_boot"),
    "too many events": (
        {"pcrs": {"4": {"events": [{"type": "X", "digest": DIGEST}] * 8193}}},
        "more than 8192",
    ),
}


@pytest.mark.parametrize("name", BAD_PCRS)
def test_an_import_refuses_a_pcr_and_names_the_field(name: str) -> None:
    fields, words = BAD_PCRS[name]
    with pytest.raises(InvalidField, match=words):
        base_images.check_image(image_of({**PLAIN, **fields}))


@pytest.mark.parametrize(
    ("pcr", "position", "rule"),
    [
        (4, 2, {"type": "EV_EFI_BOOT_SERVICES_APPLICATION", "varies": True, "class": "boot_loader"}),
        (8, 1, {"type": "EV_IPL", "varies": True, "class": "command_line"}),
        (0, 0, {"type": "EV_S_CRTM_VERSION", "varies": True, "class": "firmware", "presence": "any"}),
        (8, 1, {"type": "EV_IPL", "content": "{anything}"}),
        (5, 1, {"type": "EV_EFI_GPT_EVENT", "content": "disk {"}),
    ],
)
def test_a_loose_rule_that_came_past_the_import_opens_nothing(
    pcr: int, position: int, rule: dict[str, Any]
) -> None:
    image = image_of(with_rule(pcr, position, rule))
    for events in (boot(), boot(loader=b"evil"), boot("anything")):
        with pytest.raises(Refusal) as refusal:
            appraise(events, image)
        assert refusal.value.code == "base_image_mismatch"


def test_an_optional_rule_that_came_past_the_import_must_have_its_event() -> None:
    events = PLAIN["pcrs"]["9"]["events"]
    image = image_of(with_rule(9, 1, {**events[1], "presence": "optional"}))
    assert appraise(boot(), image) is image
    with pytest.raises(Refusal, match="PCR 9: expected a further event"):
        appraise(changed(place_of(9, 1)), image)


@pytest.mark.parametrize(("wanted", "found"), [(True, b"\0"), (False, b"\1")])
def test_secure_boot_is_asked_of_the_log_itself(wanted: bool, found: bytes) -> None:
    """Also where the digests would let it pass: whoever wrote the image took the wrong machine."""
    plain = content_of(capture(boot(secure_boot=found)))
    plain["pcrs"]["7"]["secure_boot"] = wanted
    words = "expected Secure Boot on, found off" if wanted else "expected Secure Boot off, found on"
    with pytest.raises(Refusal, match=words):
        appraise(boot(secure_boot=found), image_of(plain))


def test_secure_boot_that_cannot_be_known_is_not_taken_for_on() -> None:
    events = [event for event in boot() if event[:2] != (7, types.EV_SEPARATOR)]
    image = capture(events)
    assert image.pcrs["7"].secure_boot is None
    assert appraise(events, image) is image
    plain = content_of(image)
    plain["pcrs"]["7"]["secure_boot"] = True
    with pytest.raises(Refusal, match="nothing that can be believed: PCR 7 has no separator"):
        appraise(events, image_of(plain))


# ---- the life of an image


def state(image: BaseImage, value: str, version: str = "v1") -> BaseImage:
    return image_of({**content_of(image), "state": value, "image_version": version})


def test_a_staged_image_is_accepted_after_an_active_one() -> None:
    staged, active = state(IMAGE, "STAGED", "a"), state(IMAGE, "ACTIVE", "b")
    assert appraise(boot(), staged) is staged
    for images in ((staged, active), (active, staged)):
        assert appraise(boot(), *images) is active


def test_a_retired_image_is_refused_by_name() -> None:
    retired, active = state(IMAGE, "RETIRED", "old"), capture(boot(loader=b"new"), "new")
    for images in ([retired], [retired, active], [active, retired]):
        with pytest.raises(Refusal, match="boots base image old .*, which is retired") as refusal:
            appraise(boot(), *images)
        assert refusal.value.code == "base_image_retired"
        assert "reactivate" in refusal.value.remedy
    assert appraise(boot(loader=b"new"), retired, active) is active
    again = state(IMAGE, "ACTIVE", "again")
    assert appraise(boot(), retired, again) is again


def test_a_retired_image_is_not_what_a_host_is_told_to_be_closest_to() -> None:
    retired, active = state(IMAGE, "RETIRED", "old"), capture(boot("other line", loader=b"new"), "new")
    with pytest.raises(Refusal, match="closest base image: new"):
        appraise(boot(dbx=b"\1" * 32), retired, active)
    with pytest.raises(Refusal, match=r"closest base image: old \(all are retired\)") as refusal:
        appraise(boot(dbx=b"\1" * 32), retired)
    assert refusal.value.code == "base_image_mismatch"


def test_the_quote_covers_retired_images_and_takes_the_bank_of_the_others() -> None:
    log, values = measured(boot(), "sha384")
    active = base_images.capture(log, values, bank="sha384", image_version="n", display_name="n")
    retired = state(capture(boot(), pcrs=[6]), "RETIRED", "old")
    assert base_images.quote_selection([active, retired]) == ("sha384", base_images.DEFAULT_PCRS)
    bank, pcrs = base_images.quote_selection([capture(boot()), retired])
    assert bank == "sha256" and 6 in pcrs
    assert base_images.quote_selection([retired])[0] == "sha256"


# ---- replay


def test_a_pcr_that_does_not_replay_is_named_before_everything_else() -> None:
    log, values = measured(boot(loader=b"evil"))
    values[8] = b"\1" * 32
    with pytest.raises(
        Refusal, match="PCR 8: the event log leads to [0-9a-f]{64}, but the TPM signed 0101"
    ) as refusal:
        base_images.appraise([IMAGE], "sha256", values, log)
    assert refusal.value.code == "event_log_replay"
    assert "PCR 4 differ too" in refusal.value.message


def test_only_a_pinned_value_admits_what_is_not_logged() -> None:
    log, values = measured(boot())
    values[11] = b"\1" * 32
    with pytest.raises(Refusal, match="PCR 11: expected value 00"):
        base_images.appraise([IMAGE], "sha256", values, log)
    pinned = image_of({**PLAIN, "pcrs": {**PLAIN["pcrs"], "11": {"value": "01" * 32}}})
    assert base_images.appraise([pinned], "sha256", values, log) is pinned


# ---- templates

UUIDS = f"a{{b}} {UUID_A} /{'0a' * 16}/linux UUID=4B2E-1C3D a.cfg-01-52:54:00:12:34:56 usrhash={'0a' * 32}"


def test_template_of_a_text() -> None:
    template = templates.template_of(UUIDS)
    assert (
        template
        == f"a{{{{b}}}} {{uuid}} /{{machine_id}}/linux UUID={{fat_id}} a.cfg-01-{{mac}} usrhash={'0a' * 32}"
    )
    assert templates.matches(template, UUIDS) and templates.has_placeholder(template)
    assert templates.filled(template, UUIDS) == UUIDS
    assert not templates.matches(template, UUIDS.replace("usrhash=0a", "usrhash=0b"))


@pytest.mark.parametrize(
    ("template", "text", "matches"),
    [
        ("", "", True),
        ("", "x", False),
        ("{uuid}", UUID_A, True),
        ("{uuid}", UUID_A + "a", False),
        ("{uuid}", UUID_A[:-1], False),
        ("{uuid}x", UUID_A + "x", True),
        ("{machine_id}", "0a" * 16, True),
        ("{machine_id}", "0A" * 16, False),
        ("{machine_id}", "0a" * 32, False),
        ("{fat_id}", "4B2E-1C3D", True),
        ("{fat_id}", "4B2E-1C3D-1", False),
        ("{mac}", "52:54:00:12:34:56", True),
        ("{mac}", "52:54:00:12:34", False),
        ("ip={ipv4} x", "ip=192.0.2.1 x", True),
        ("ip={ipv4} x", "ip=192.0.2.1.5 x", False),
        ("ip={ipv4} x", "ip=init=/bin/sh x", False),
        ("{{}}", "{}", True),
        ("{{uuid}}", "{uuid}", True),
        ("{{uuid}}", UUID_A, False),
    ],
)
def test_matching(template: str, text: str, matches: bool) -> None:
    assert templates.matches(template, text) is matches
    assert (templates.filled(template, text) == text) is matches


def test_text_is_decoded_without_loss() -> None:
    assert templates.decoded(b"ro quiet\0") == templates.decoded(utf16("ro quiet\0")) == "ro quiet"
    assert templates.decoded(b"ro\0\0") == "ro\0"
    assert templates.decoded(b"ro \xff") is None
    assert templates.decoded(b"x" * 65537) is None
