# SPDX-License-Identifier: GPL-3.0-or-later
"""The TPM of this host, through libtss2: the only package that uses tpm2-pytss."""

from trusted_infrastructure.host.tpm_device.keys import TpmDevice

__all__ = ["TpmDevice"]
