# SPDX-License-Identifier: GPL-3.0-or-later
"""A software TPM as a vendor delivers it: endorsement keys with certificates, by a CA of its own."""

from __future__ import annotations

import subprocess

from integration.software_tpm import SoftwareTpm

CONFIGURATION = """create_certs_tool = /usr/bin/swtpm_localca
create_certs_tool_config = {folder}/localca.conf
create_certs_tool_options = /etc/swtpm-localca.options
"""
AUTHORITY = """statedir = {folder}/ca
signingkey = {folder}/ca/signing-key.pem
issuercert = {folder}/ca/issuer.pem
certserial = {folder}/ca/serial
"""


class CertifiedTpm(SoftwareTpm):
    """Context manager. vendor_chain: PEM certificates of its CA, root first."""

    def __enter__(self) -> CertifiedTpm:
        for name in ("state", "ca"):
            (self.folder / name).mkdir()
        (self.folder / "setup.conf").write_text(CONFIGURATION.format(folder=self.folder))
        (self.folder / "localca.conf").write_text(AUTHORITY.format(folder=self.folder))
        command = "swtpm_setup --tpm2 --create-ek-cert --lock-nvram --overwrite --vmid host1 --pcr-banks"
        subprocess.run(
            [
                *command.split(),
                self._banks,
                "--tpmstate",
                self.folder / "state",
                "--config",
                self.folder / "setup.conf",
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
        self.power_on()
        return self

    @property
    def tcti(self) -> str:
        """libtss2's way to it."""
        return f"swtpm:path={self.folder / 'sock'}"

    @property
    def vendor_chain(self) -> list[str]:
        names = ("swtpm-localca-rootca-cert.pem", "issuer.pem")
        return [(self.folder / "ca" / name).read_text() for name in names]

    def reboot(self) -> None:
        """PCRs are zero again; the same TPM."""
        self.power_off()
        (self.folder / "sock").unlink(missing_ok=True)
        self.power_on()

    def handles(self, kind: str) -> list[str]:
        """Handles of a kind, such as 'transient' or 'loaded-session'."""
        listed = self.tool("tpm2_getcap", f"handles-{kind}").splitlines()
        return [line.removeprefix("- ") for line in listed if line]
