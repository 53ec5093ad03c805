# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's TPM vendor: root CA and issuing CA of the EK certificates; and a Secure Boot certificate."""

from __future__ import annotations

import shutil
from pathlib import Path

from .command import run

_CENTURY = "36500"


class VendorCa:
    """The vendor's folder (0700). Made once for each lab."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chain = folder / "chain.pem"
        self.issuer = folder / "issuing.pem"
        self.issuer_key = folder / "issuing.key"
        self.platform = folder / "platform.der"
        self.setup_configuration = folder / "swtpm_setup.conf"

    def exists(self) -> bool:
        return self.setup_configuration.exists()

    def create(self, lab: str) -> None:
        """Make keys, certificates and swtpm's configuration. The chain file: root, then issuing CA."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700, parents=True)
        root, root_key = self.folder / "root.pem", self.folder / "root.key"
        self._certificate("root", f"/O=Lab TPM Vendor/CN=Lab TPM Root CA ({lab})", "CA:TRUE")
        self._certificate(
            "issuing",
            f"/O=Lab TPM Vendor/CN=Lab TPM EK Issuing CA ({lab})",
            "CA:TRUE,pathlen:0",
            (root, root_key),
        )
        self._certificate("platform", f"/O=Lab Platform Vendor/CN=Lab Secure Boot ({lab})", "CA:FALSE")
        run(["openssl", "x509", "-in", str(self.folder / "platform.pem"), "-outform", "DER",
             "-out", str(self.platform)])  # fmt: skip
        # The firmware only shows this certificate; nothing is ever signed with its key.
        (self.folder / "platform.key").unlink()
        self.chain.write_text(
            root.read_text(encoding="ascii") + self.issuer.read_text(encoding="ascii"), "ascii"
        )
        self._configure()

    def _certificate(
        self, name: str, subject: str, constraints: str, issuer: tuple[Path, Path] | None = None
    ) -> None:
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.pem"
        request = self.folder / f"{name}.csr"
        extensions = self.folder / f"{name}.ext"
        usage = "keyCertSign,cRLSign" if constraints.startswith("CA:TRUE") else "digitalSignature"
        identifiers = "subjectKeyIdentifier=hash\n" + ("authorityKeyIdentifier=keyid\n" if issuer else "")
        extensions.write_text(
            f"basicConstraints=critical,{constraints}\nkeyUsage=critical,{usage}\n{identifiers}",
            encoding="ascii",
        )
        run([
            "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-subj", subject, "-keyout", str(key), "-out", str(request),
        ])  # fmt: skip
        key.chmod(0o600)
        by = ["-signkey", str(key)] if issuer is None else ["-CA", str(issuer[0]), "-CAkey", str(issuer[1])]
        serial = [] if issuer is None else ["-CAcreateserial"]
        run([
            "openssl", "x509", "-req", "-in", str(request), "-sha256", "-days", _CENTURY,
            "-extfile", str(extensions), "-out", str(certificate), *by, *serial,
        ])  # fmt: skip
        for intermediate in (request, extensions):
            intermediate.unlink()

    def _configure(self) -> None:
        options = self.folder / "swtpm-localca.options"
        options.write_text(
            "--platform-manufacturer TrustedInfrastructure\n"
            "--platform-version 1.0\n--platform-model LabHost\n",
            encoding="ascii",
        )
        authority = self.folder / "swtpm-localca.conf"
        authority.write_text(
            f"statedir = {self.folder}\nsigningkey = {self.issuer_key}\nissuercert = {self.issuer}\n"
            f"certserial = {self.folder / 'ek.serial'}\n",
            encoding="utf-8",
        )
        tool = shutil.which("swtpm_localca") or "/usr/bin/swtpm_localca"
        self.setup_configuration.write_text(
            f"create_certs_tool = {tool}\ncreate_certs_tool_config = {authority}\n"
            f"create_certs_tool_options = {options}\nactive_pcr_banks = sha1,sha256\n",
            encoding="utf-8",
        )
