# SPDX-License-Identifier: GPL-3.0-or-later
"""Mutations of evidence: quote, freshness, event log, base image, session keys. Numbers: steps of the
protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from services.attestation.mutations import Fault, Prepare
from services.attestation.world import (
    BOOT,
    BOOT_LOADER,
    EVIDENCE,
    KERNEL,
    SEPARATORS,
    Boot,
    Host,
    World,
)
from services.tpm import software_keys
from services.tpm.event_log_builder import LogBuilder

from trusted_infrastructure import tokens
from trusted_infrastructure.messages import ProofKey, encode
from trusted_infrastructure.sealing import SealingKey
from trusted_infrastructure.tpm import event_types
from trusted_infrastructure.tpm.keys import endorsement_hierarchy_names


def jwk_of(key: Any) -> ProofKey:
    jwk = tokens.jwk(key.public_key())
    return ProofKey(x=jwk["x"], y=jwk["y"])


SHA1_PCRS = ((0x0004, b"\x95\x7b\x00"),)
CHANGED_LOADER = (*BOOT[:BOOT_LOADER], (4, BOOT[BOOT_LOADER][1], b"evil"), *BOOT[BOOT_LOADER + 1 :])
OTHER_KEY = software_keys.private_key("p256:somebody")
CLASSICAL = SealingKey.generate("X25519")

GOOD_LOG = Host().event_log
CLAIM_4 = b'{"pcr_values":{"4":"%s"}}' % (b"22" * 32)
JWK = jwk_of(OTHER_KEY)
_EK = Host().ek
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def bitmaps(change: Callable[[bytes], list[bytes]]) -> Callable[[Any], Any]:
    """The selection with other bitmaps, of the same bank."""
    return lambda good: tuple((good[0][0], bits) for bits in change(good[0][1]))


def changed(index: int, content: bytes) -> Boot:
    """A boot with the content of one event changed."""
    position = index % len(BOOT)
    pcr, kind, _content = BOOT[position]
    return (*BOOT[:position], (pcr, kind, content), *BOOT[position + 1 :])


def log(boot: Boot, banks: tuple[str, ...] = ("sha256",), legacy: bool = False) -> bytes:
    builder = LogBuilder(banks, legacy)
    for pcr, kind, content in boot:
        builder.add(pcr, kind, content)
    return builder.data


def after_header(data: bytes) -> bytes:
    """The events of a log without its first."""
    return data[len(LogBuilder(("sha256",)).data) :]


def header(count: bytes) -> bytes:
    """The log with another number of algorithms in its header."""
    offset = 32 + 24
    return GOOD_LOG[:offset] + count + GOOD_LOG[offset + 4 :]


def locality(*values: int) -> bytes:
    """The log, with StartupLocality first."""
    builder = LogBuilder(("sha256",))
    for value in values:
        builder.startup_locality(value)
    return builder.data + after_header(GOOD_LOG)


def without_digest() -> bytes:
    """A log whose header names two banks, and whose events have the digest of the other one alone."""
    builder = LogBuilder(("sha1", "sha256"))
    builder.data += builder.event(0, 13, {"sha1": bytes(20)}, b"x")
    return builder.data


def digest_twice() -> bytes:
    builder = LogBuilder(("sha1", "sha256"))
    good = builder.event(0, 13, {"sha1": bytes(20), "sha256": bytes(32)}, b"x")
    digest = b"\x04\x00" + bytes(20)
    return builder.data + good[:12] + digest + digest + good[12 + 22 + 34 :]


def extended(pcr: int) -> Callable[[World], None]:
    """Something extends a PCR and writes no event."""

    def extend(world: World) -> None:
        world.host.pcrs[pcr] = b"\x22" * 32

    return extend


def withdrawn(**documents: Any) -> Callable[[World], None]:
    """Documents of a kind go (None), or change."""

    def change(world: World) -> None:
        for kind, fields in documents.items():
            names = [name for name in world.documents if name[0] == kind] or [(kind, "new")]
            for name in names:
                if fields is None:
                    del world.documents[name]
                else:
                    world.documents[name] = world.documents.get(name, {}) | fields
        world.publish()

    return change


def later(seconds: int) -> Callable[[World], None]:
    def wait(world: World) -> None:
        world.now += seconds

    return wait


def short_assertion(world: World) -> None:
    """The manager vouches for ten more seconds."""
    made = world.assertion(world.host, exp=world.now + 10)
    world.assertion = lambda *_arguments, **_changes: made


def other_tpm(world: World) -> Host:
    """Another TPM, enrolled and certified, in a host of the same name."""
    host = Host("host1", "p256:ek2", "p256:ak2")
    host.certificates = [world.vendor.certify(host.ek)]
    world.documents["endorsement_key", "other"] = {"public_key": host.ek.subject_public_key_info()}
    world.publish()
    return host


def other_name(world: World) -> Host:
    """The same TPM, for which the manager vouches under another name."""
    host = Host("host2", world.host.ek_kind, world.host.ak_kind)
    host.certificates = world.host.certificates
    return host


def quote_of_another_challenge(world: World, made: Any) -> dict[str, Any]:
    request = world.request()
    other = world.host.evidence(request, world.challenge(request))
    return {"quote": other.quote, "signature": other.signature}


def good(world: World) -> bytes:
    return Fault("").evidence(world)


def json(change: Callable[[bytes], bytes]) -> Prepare:
    """Good evidence, its text changed."""
    return lambda world: change(good(world))


def challenge(change: Callable[[str], str]) -> Prepare:
    """Good evidence for a challenge whose text was changed."""

    def prepare(world: World) -> bytes:
        plain = msgspec.json.decode(good(world))
        return msgspec.json.encode(plain | {"challenge": change(plain["challenge"])})

    return prepare


def flipped(text: str, index: int) -> str:
    return text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]


def same_bytes(text: str) -> str:
    """Another base64url text of the same bytes: bits that are not used."""
    return text[:-1] + _ALPHABET[_ALPHABET.index(text[-1]) ^ 1]


def restarted(world: World) -> bytes:
    body = good(world)
    world.service.close()
    world.start()
    return body


def ended(seconds: int) -> Prepare:
    def prepare(world: World) -> bytes:
        body = good(world)
        world.now += seconds
        return body

    return prepare


def used(world: World) -> bytes:
    body = good(world)
    assert world.public.post(EVIDENCE, content=body).status_code == 200
    return body


def used_with_other_evidence(world: World) -> bytes:
    """The challenge was used; a new quote is made for it."""
    request = world.request()
    challenge = world.challenge(request)
    for _index in range(2):
        body = encode(world.host.evidence(request, challenge))
        world.public.post(EVIDENCE, content=body)
    return encode(world.host.evidence(request, challenge))


# What the TPM signed, and who signed it.
QUOTE: dict[str, Fault] = {
    # 3.4.1
    "magic": Fault("quote_magic", {"magic": 0xFF544348}),
    "type: certify": Fault("quote_type", {"kind": 0x8017}),
    "type: time": Fault("quote_type", {"kind": 0x8019}),
    "trailing bytes": Fault("malformed_request", {"trailing": b"\0"}),
    "safe is 2": Fault("malformed_request", {"safe": 2}),
    "cut": Fault("malformed_request", message=lambda world, made: {"quote": made.quote[:-1]}),
    "empty": Fault("malformed_request", message=lambda world, made: {"quote": b""}),
    "huge": Fault("malformed_request", message=lambda world, made: {"quote": made.quote + bytes(2000)}),
    # 3.4.2
    "signed by another key": Fault("quote_signature", signing_key="p256:somebody"),
    "signed by the EK's machine in software": Fault("quote_signature", signing_key="p256:otherak"),
    "signature of RSA": Fault(
        "quote_signature",
        message=lambda world, made: {"signature": b"\x00\x14\x00\x0b\x01\x00" + bytes(256)},
    ),
    "signature says SHA-1": Fault(
        "quote_signature",
        message=lambda world, made: {"signature": b"\x00\x18\x00\x04" + made.signature[4:]},
    ),
    "signature of zeros": Fault(
        "quote_signature",
        message=lambda world, made: {
            "signature": b"\x00\x18\x00\x0b\x00\x20" + bytes(32) + b"\x00\x20" + bytes(32)
        },
    ),
    "signature empty": Fault("quote_signature", message=lambda world, made: {"signature": b""}),
    "signature with a tail": Fault(
        "quote_signature", message=lambda world, made: {"signature": made.signature + b"\0"}
    ),
    "quote changed after signing": Fault(
        "quote_signature",
        message=lambda world, made: {"quote": made.quote[:-1] + bytes([made.quote[-1] ^ 1])},
    ),
    # 3.4.4
    "AK of the owner hierarchy": Fault("quote_qualified_name", {"signer": b"\x00\x0b" + bytes(32)}),
    "no signer": Fault("quote_qualified_name", {"signer": b""}),
    # 3.4.5
    "no PCR": Fault("quote_pcr_selection", {"selections": ()}),
    "empty selection": Fault("quote_pcr_selection", {"selections": ((0x000B, bytes(3)),)}),
    "fewer PCRs": Fault("quote_pcr_selection", {"selections": ((0x000B, b"\x95\x6b\x00"),)}),
    "PCR 23 too": Fault("quote_pcr_selection", {"selections": ((0x000B, b"\x95\x7b\x80"),)}),
    "bank sha1": Fault("quote_pcr_selection", {"selections": SHA1_PCRS}),
    "two banks": Fault("quote_pcr_selection", {"selections": ((0x000B, b"\x9d\x7b\x00"), *SHA1_PCRS)}),
    # 3.4.6
    "PCR digest": Fault("event_log_replay", {"digest": bytes(32)}),
    "PCR digest empty": Fault("event_log_replay", {"digest": b""}),
    "claimed values are not the signed ones": Fault(
        "quote_pcr_digest", bound={"claims": b'{"pcr_values":{"4":"%s"}}' % (b"00" * 32)}
    ),
    "claimed value of another size": Fault(
        "malformed_request", bound={"claims": b'{"pcr_values":{"4":"%s"}}' % (b"00" * 20)}
    ),
    "claimed PCR 24": Fault(
        "malformed_request", bound={"claims": b'{"pcr_values":{"24":"%s"}}' % (b"00" * 32)}
    ),
    "claims are no JSON": Fault("malformed_request", bound={"claims": b"{"}),
    "claims nested": Fault("malformed_request", bound={"claims": b"[" * 4000}),
    "unknown claim": Fault("malformed_request", bound={"claims": b'{"secure":true}'}),
    "claims too long": Fault("malformed_request", bound={"claims": b"{%s}" % (b" " * 5000)}),
    # the selection: every form in which the same PCRs, or other ones, can be said
    "the same bank twice": Fault("quote_pcr_selection", {"selections": lambda good: good * 2}),
    "PCRs split over two selections": Fault(
        "quote_pcr_selection", {"selections": bitmaps(lambda bits: [bits[:1] + bytes(2), b"\0" + bits[1:]])}
    ),
    "a further bank without PCRs": Fault(
        "quote_pcr_selection", {"selections": lambda good: (*good, (0x000C, bytes(3)))}
    ),
    "a bank without PCRs first": Fault(
        "quote_pcr_selection", {"selections": lambda good: ((0x0004, bytes(3)), *good)}
    ),
    "PCR 24 in a fourth octet": Fault(
        "quote_pcr_selection", {"selections": bitmaps(lambda bits: [bits + b"\1"])}
    ),
    "bitmap of one octet": Fault("quote_pcr_selection", {"selections": bitmaps(lambda bits: [bits[:1]])}),
    "bitmap of no octet": Fault("quote_pcr_selection", {"selections": bitmaps(lambda bits: [b""])}),
    "PCR 0 left out": Fault(
        "quote_pcr_selection", {"selections": bitmaps(lambda bits: [bytes([bits[0] & 0xFE]) + bits[1:]])}
    ),
    "PCR 16 too": Fault("quote_pcr_selection", {"selections": bitmaps(lambda bits: [bits[:2] + b"\1"])}),
    "all PCRs": Fault("quote_pcr_selection", {"selections": bitmaps(lambda bits: [b"\xff\xff\xff"])}),
    "bank sha384": Fault("quote_pcr_selection", {"selections": lambda good: ((0x000C, good[0][1]),)}),
    "bank that is no hash": Fault("quote_pcr_selection", {"selections": lambda good: ((0, good[0][1]),)}),
    "17 selections": Fault("malformed_request", {"selections": lambda good: good * 17}),
    # sizes inside
    "signer of 70 bytes": Fault("malformed_request", {"signer": bytes(70)}),
    "extra data of 70 bytes": Fault("malformed_request", {"extra": bytes(70)}),
    "digest of 70 bytes": Fault("malformed_request", {"digest": bytes(70)}),
    "signer by SHA-1": Fault("quote_qualified_name", {"signer": b"\0\4" + bytes(20)}),
    "signer is the EK": Fault(
        "quote_qualified_name",
        {"signer": endorsement_hierarchy_names(_EK, _EK)[0]},
    ),
    # the clock, by this EK's history: 3.4.7
    "fewer resets than before": Fault("tpm_cleared", {"resets": 6}),
    "no reset at all": Fault("tpm_cleared", {"resets": 0, "restarts": 0, "clock": 5}),
    "fewer restarts in the same boot": Fault("tpm_cleared", {"restarts": 0}),
    "firmware downgraded": Fault("tpm_cleared", {"firmware": 1}),
    "clock goes back in the same boot": Fault("tpm_cleared", {"clock": 1_000_000 - 120_001}),
    "clock no more safe in the same boot": Fault("clock_unsafe", {"safe": 0}),
}

# The identity of a host is its endorsement key; both are bound at the first attestation.
IDENTITY: dict[str, Fault] = {
    "another TPM for the host": Fault("ek_changed", host=other_tpm),
    "the host's TPM for another host": Fault("ek_other_host", host=other_name),
}

# What binds the quote to this challenge, host, service and purpose.
FRESHNESS: dict[str, Fault] = {
    # 3.4.3
    "no qualifying data": Fault("quote_qualifying_data", {"extra": b""}),
    "other purpose": Fault("quote_qualifying_data", bound={"purpose": "enrolment"}),
    "other service": Fault("quote_qualifying_data", bound={"service_id": "attestation@ta2"}),
    "other nonce": Fault("quote_qualifying_data", bound={"nonce": bytes(32)}),
    "other secret": Fault("quote_qualifying_data", bound={"secret": bytes(32)}),
    "other request": Fault("quote_qualifying_data", bound={"challenge_request": b"{}"}),
    "other selection bound": Fault("quote_qualifying_data", bound={"pcrs": [0]}),
    "proof key exchanged": Fault(
        "quote_qualifying_data", message=lambda world, made: {"proof_key": jwk_of(OTHER_KEY)}
    ),
    "sealing key exchanged": Fault(
        "quote_qualifying_data",
        message=lambda world, made: {"hpke_public_key": SealingKey.generate().public_bytes()},
    ),
    "log exchanged": Fault(
        "quote_qualifying_data", message=lambda world, made: {"event_log": made.event_log[:-1]}
    ),
    "claims exchanged": Fault("quote_qualifying_data", message=lambda world, made: {"claims": b"{ }"}),
    "nonce as text": Fault("quote_qualifying_data", bound={"nonce": bytes(32).hex().encode()}),
    "quote of an earlier challenge": Fault("quote_qualifying_data", message=quote_of_another_challenge),
    # 3.4.0: trust that was withdrawn since the challenge
    "host denied since": Fault(
        "host_denied", after=withdrawn(denied_host={"host": "host1", "ek_digest": "00" * 32})
    ),
    "EK withdrawn since": Fault("ek_not_enrolled", after=withdrawn(endorsement_key=None)),
    "principal withdrawn since": Fault(
        "principal_unknown", after=withdrawn(consumer_principal=None), vouched=False
    ),
    "scope withdrawn since": Fault("scope_unknown", after=withdrawn(scope=None)),
    "image withdrawn since": Fault("no_base_image", after=withdrawn(base_image=None)),
    "CA withdrawn since": Fault("ek_certificate_invalid", after=withdrawn(ca_certificate=None)),
    "assertion ended since": Fault(
        "assertion_expired", before=short_assertion, after=later(20), vouched=False
    ),
}

# Evidence that does not get as far as the challenge's state: nobody is known to vouch for the caller.
NOT_OPENED: dict[str, tuple[str, Prepare]] = {
    "empty body": ("malformed_request", lambda world: b""),
    "empty object": ("malformed_request", lambda world: b"{}"),
    "too large": ("request_too_large", lambda world: b"x" * ((2 << 20) + 1)),
    "list": ("malformed_request", lambda world: b"[1]"),
    "nested": ("malformed_request", lambda world: b'{"claims":' + b"[" * 100_000),
    "proof key nested": ("malformed_request", lambda world: b'{"proof_key":' + b'{"x":' * 100_000),
    "field twice": ("malformed_request", json(lambda good: good[:-1] + b',"claims":"e30="}')),
    "field twice in the proof key": (
        "malformed_request",
        json(lambda good: good.replace(b'"kty":"EC"', b'"kty":"EC","kty":"EC"')),
    ),
    "unknown field": ("malformed_request", json(lambda good: good[:-1] + b',"nonce":""}')),
    "unknown field in the proof key": (
        "malformed_request",
        json(lambda good: good.replace(b'"kty":', b'"d":"AA","kty":')),
    ),
    "proof key of P-384": ("malformed_request", json(lambda good: good.replace(b"P-256", b"P-384"))),
    "proof key of RSA": ("malformed_request", json(lambda good: good.replace(b'"EC"', b'"RSA"'))),
    "invalid UTF-8": (
        "malformed_request",
        json(lambda good: good.replace(b'"challenge":"', b'"challenge":"\xfe')),
    ),
    "byte order mark": ("malformed_request", json(lambda good: b"\xef\xbb\xbf" + good)),
    "challenge flipped": ("challenge_invalid", challenge(lambda text: flipped(text, 40))),
    "challenge with another nonce": ("challenge_invalid", challenge(lambda text: flipped(text, 5))),
    "challenge of another version": ("challenge_invalid", challenge(lambda text: "B" + text[1:])),
    "challenge cut": ("challenge_invalid", challenge(lambda text: text[:-8])),
    "challenge longer": ("challenge_invalid", challenge(lambda text: text + "AAAA")),
    "challenge empty": ("challenge_invalid", challenge(lambda text: "")),
    "challenge foreign": ("challenge_invalid", challenge(lambda text: "AQ" + "A" * 100)),
    "challenge not base64": ("challenge_invalid", challenge(lambda text: "\u00e9" * 30)),
    "challenge of 200000 characters": ("challenge_invalid", challenge(lambda text: "A" * 200_000)),
    "challenge from before a restart": ("challenge_invalid", restarted),
    "challenge ended": ("challenge_expired", ended(30)),
    "challenge ended long ago": ("challenge_expired", ended(86400)),
    "challenge used": ("challenge_used", used),
    "challenge used, with other evidence": ("challenge_used", used_with_other_evidence),
}

# The firmware's log.
EVENT_LOG: dict[str, Fault] = {
    # 3.4.8
    "log empty": Fault("event_log_malformed", bound={"event_log": b""}),
    "log is noise": Fault("event_log_malformed", bound={"event_log": b"\x01" * 100}),
    "log of another boot": Fault(
        "event_log_replay", bound={"event_log": Host(boot=CHANGED_LOADER).event_log}
    ),
    "log without the last event": Fault(
        "event_log_replay", bound={"event_log": Host(boot=BOOT[:-1]).event_log}
    ),
    "log cut in an event": Fault("event_log_malformed", bound={"event_log": GOOD_LOG[:-3]}),
    "log with a tail": Fault("event_log_malformed", bound={"event_log": GOOD_LOG + b"\1\2\3"}),
    "log twice": Fault("event_log_replay", bound={"event_log": GOOD_LOG + after_header(GOOD_LOG)}),
    "log in reverse": Fault("event_log_replay", bound={"event_log": Host(boot=BOOT[::-1]).event_log}),
    "log of SHA-1 alone": Fault("event_log_replay", bound={"event_log": log(BOOT, ("sha1",))}),
    "log of the legacy form": Fault("event_log_replay", bound={"event_log": log(BOOT, legacy=True)}),
    "log of another bank": Fault("event_log_replay", bound={"event_log": log(BOOT, ("sha384",))}),
    "log with a bank that it has not": Fault("event_log_replay", bound={"event_log": without_digest()}),
    "log with a digest twice": Fault("event_log_malformed", bound={"event_log": digest_twice()}),
    "log with PCR 24": Fault("event_log_malformed", bound={"event_log": log((*BOOT, (24, 13, b"x")))}),
    "log with PCR 0xffffffff": Fault(
        "event_log_malformed", bound={"event_log": log((*BOOT, (0xFFFFFFFF, 13, b"x")))}
    ),
    "log with locality 2": Fault("event_log_malformed", bound={"event_log": locality(2)}),
    "log with two localities": Fault("event_log_malformed", bound={"event_log": locality(3, 4)}),
    "log with locality 3": Fault("event_log_replay", bound={"event_log": locality(3)}),
    "log with 20000 events": Fault(
        "event_log_malformed", bound={"event_log": GOOD_LOG + after_header(log(((0, 13, b""),))) * 20_000}
    ),
    "log with an event of 4 GB": Fault(
        "event_log_malformed", bound={"event_log": GOOD_LOG[:-12] + b"\xff" * 12}
    ),
    "log whose header names no bank": Fault("event_log_malformed", bound={"event_log": header(b"\0" * 4)}),
    "log whose header names 2^32 banks": Fault(
        "event_log_malformed", bound={"event_log": header(b"\xff" * 4)}
    ),
    "log with an event more": Fault(
        "event_log_replay", bound={"event_log": log((*BOOT, (4, 13, b"never extended")))}
    ),
    "PCR extended behind the log's back": Fault("event_log_replay", before=extended(4)),
    "PCR extended, and its value claimed": Fault(
        "event_log_replay", before=extended(4), bound={"claims": CLAIM_4}
    ),
    "values claimed for PCRs that the log gives": Fault(
        "quote_pcr_digest", bound={"claims": b'{"pcr_values":{"0":"%s"}}' % (b"11" * 32)}
    ),
    "claimed PCR twice": Fault(
        "malformed_request",
        bound={"claims": b'{"pcr_values":{"4":"%s","4":"%s"}}' % (b"00" * 32, b"11" * 32)},
    ),
    "claims twice": Fault(
        "malformed_request", bound={"claims": b'{"pcr_values":{},"pcr_values":{"4":"%s"}}' % (b"00" * 32)}
    ),
    "claimed PCR 04": Fault(
        "malformed_request", bound={"claims": b'{"pcr_values":{"04":"%s"}}' % (b"00" * 32)}
    ),
    "claimed PCR -1": Fault(
        "malformed_request", bound={"claims": b'{"pcr_values":{"-1":"%s"}}' % (b"00" * 32)}
    ),
    "claimed PCR in Arabic": Fault(
        "malformed_request",
        bound={"claims": '{"pcr_values":{"\u0664":"%s"}}'.encode() % (b"00" * 32)},
    ),
    "claimed value in capitals": Fault(
        "malformed_request", bound={"claims": b'{"pcr_values":{"4":"%s"}}' % (b"AA" * 32)}
    ),
    "claims are a list": Fault("malformed_request", bound={"claims": b"[]"}),
    "claims are null": Fault("malformed_request", bound={"claims": b"null"}),
    "claims are empty": Fault("malformed_request", bound={"claims": b""}),
    "claims are UTF-16": Fault("malformed_request", bound={"claims": "{}".encode("utf-16")}),
}

# What was booted is not what is blessed.
BASE_IMAGE: dict[str, Fault] = {
    "boot loader changed": Fault("base_image_mismatch", boot=CHANGED_LOADER, reason="event 11 (PCR 4"),
    "event added": Fault(
        "base_image_mismatch", boot=(*BOOT, (9, event_types.EV_EVENT_TAG, b"x")), reason="no further event"
    ),
    "event left out": Fault("base_image_mismatch", boot=BOOT[:-1], reason="expected a further event"),
    "events exchanged": Fault(
        "base_image_mismatch",
        boot=(*BOOT[:BOOT_LOADER], BOOT[BOOT_LOADER + 2], BOOT[BOOT_LOADER + 1], BOOT[BOOT_LOADER]),
    ),
    "event of another type": Fault("base_image_mismatch", boot=((0, 1, b"firmware 1"), *BOOT[1:])),
    "secure boot variable": Fault(
        "base_image_mismatch",
        boot=(BOOT[0], (7, event_types.EV_EFI_VARIABLE_DRIVER_CONFIG, b"SecureBoot=0"), *BOOT[2:]),
        reason="PCR 7",
    ),
    "nothing measured": Fault("base_image_mismatch", boot=SEPARATORS),
    "PCR that had no event": Fault("base_image_mismatch", boot=(*BOOT, (14, 0xD, b"MOK")), reason="PCR 14"),
    "kernel changed": Fault("base_image_mismatch", boot=changed(KERNEL, b"kernel 2"), reason="PCR 4"),
    "initrd changed": Fault("base_image_mismatch", boot=changed(-1, b"initrd 2"), reason="PCR 9"),
    "command line changed": Fault(
        "base_image_mismatch",
        boot=changed(11, "root=/dev/vda1 init=/bin/sh\0".encode("utf-16-le")),
        reason="PCR 12",
    ),
    "firmware changed": Fault("base_image_mismatch", boot=changed(0, b"firmware 2"), reason="PCR 0"),
    "separator of an error": Fault(
        "base_image_mismatch", boot=changed(2, b"\xff\xff\xff\xff"), reason="PCR 0"
    ),
    "configuration after the separator": Fault(
        "base_image_mismatch", boot=(BOOT[0], *SEPARATORS, BOOT[1], *BOOT[10:]), reason="PCR 7"
    ),
    "boot loader twice": Fault("base_image_mismatch", boot=(*BOOT[:10], BOOT[10], *BOOT[10:])),
    "image retired": Fault("base_image_retired", before=withdrawn(base_image={"state": "RETIRED"})),
    "image retired since": Fault("base_image_retired", after=withdrawn(base_image={"state": "RETIRED"})),
    "image of another scope alone": Fault(
        "no_base_image", after=withdrawn(scope={"base_images": ["image-9"]})
    ),
}

# What keys will be bound and sealed to.
SESSION_KEYS: dict[str, Fault] = {
    # session keys
    "suite below the minimum": Fault(
        "malformed_request",
        bound={"hpke_suite": "X25519", "hpke_public_key": CLASSICAL.public_bytes()},
        reason="below the configured MLKEM768_X25519",
    ),
    "suite unknown": Fault("malformed_request", bound={"hpke_suite": "ROT13"}),
    "sealing key of another suite": Fault("malformed_request", bound={"hpke_public_key": bytes(32)}),
    "proof key off the curve": Fault(
        "malformed_request", bound={"proof_key": ProofKey(x="AA" * 21 + "A", y="AA" * 21 + "A")}
    ),
    "sealing key empty": Fault("malformed_request", bound={"hpke_public_key": b""}),
    "sealing key longer": Fault(
        "malformed_request", bound={"hpke_public_key": SealingKey.generate().public_bytes() + b"\0"}
    ),
    "suite empty": Fault("malformed_request", bound={"hpke_suite": ""}),
    "suite in another case": Fault("malformed_request", bound={"hpke_suite": "mlkem768_x25519"}),
    "proof key with padding": Fault(
        "malformed_request", bound={"proof_key": ProofKey(x=JWK.x + "=", y=JWK.y)}
    ),
    "proof key with a short coordinate": Fault(
        "malformed_request", bound={"proof_key": ProofKey(x="AA", y="AA")}
    ),
    "proof key in another text": Fault(
        "malformed_request", bound={"proof_key": ProofKey(x=JWK.x, y=same_bytes(JWK.y))}
    ),
    "proof key is infinity": Fault("malformed_request", bound={"proof_key": ProofKey(x="", y="")}),
}
