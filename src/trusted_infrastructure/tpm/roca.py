# SPDX-License-Identifier: GPL-3.0-or-later
"""The fingerprint of RSA keys that one vendor's faulty library made (ROCA, CVE-2017-15361).

The library's primes are k * M + (65537^a mod M), M the product of the first primes. So the modulus, too, is a
power of 65537 modulo each of those small primes; for a random modulus all of that together has a chance of
about 2^-28 (with the primes below). Many TPMs of the years to 2017 are affected.

Source: Nemec, Sys, Svenda, Klinec, Matyas: 'The Return of Coppersmith's Attack', ACM CCS 2017, section 3.
"""

from __future__ import annotations

_GENERATOR = 65537


def _primes_below(limit: int) -> list[int]:
    return [n for n in range(3, limit) if all(n % divisor for divisor in range(2, int(n**0.5) + 1))]


def _powers(prime: int) -> frozenset[int]:
    """The subgroup that 65537 generates modulo `prime`."""
    found: set[int] = set()
    value = 1
    while value not in found:
        found.add(value)
        value = value * _GENERATOR % prime
    return frozenset(found)


# Primes where 65537 generates everything tell nothing and are left out.
_SUBGROUPS = tuple((prime, group) for prime in _primes_below(168) if len(group := _powers(prime)) < prime - 1)


def has_fingerprint(modulus: int) -> bool:
    """Whether the RSA modulus has the fingerprint of the faulty library."""
    return all(modulus % prime in group for prime, group in _SUBGROUPS)
