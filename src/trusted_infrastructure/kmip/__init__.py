# SPDX-License-Identifier: GPL-3.0-or-later
"""The KMIP client: primary keys from key servers, over mutually authenticated TLS. docs/protocol.md 7.4.

connection.py  TLS to a key server, and the certificate that it presents
session.py     KMIP operations on one connection; the only module that touches PyKMIP
pool.py        sessions kept open to one key server; what its answer means
"""
