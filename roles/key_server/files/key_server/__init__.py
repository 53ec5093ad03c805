# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's key server: PyKMIP's server, with what a trusted infrastructure expects and it lacks.

engine.py        KMIP operations: what PyKMIP's engine lacks
vendor_attributes.py  x-* attributes and the operation AddAttribute
journal.py       versions of objects, and objects as records
replication.py   changes go to the other servers, which bring each other what they missed
endpoint.py      connections between key servers
server.py        the TLS front: client certificates from a folder, no debug log, a quick end
primary_keys.py  the primary keys, made through KMIP on the first server
certificates.py  the CA of the key servers, and leaves for servers and clients
command.py       the command line

Not for production: its keys lie in a SQLite file in the clear.
"""
