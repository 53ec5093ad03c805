# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's key server: PyKMIP's server, with what a trusted infrastructure expects and it lacks.

engine.py        vendor attributes (x-*), AddAttribute, and keys that have the same id on every server
server.py        the TLS front: client certificates from a folder, no debug log, a quick end
primary_keys.py  the primary keys, made through KMIP on the first server and replicated to the others
certificates.py  the CA of the key servers, and leaves for servers and clients
command.py       the command line

Not for production: its keys lie in a SQLite file in the clear.
"""
