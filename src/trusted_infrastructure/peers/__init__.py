# SPDX-License-Identifier: GPL-3.0-or-later
"""What the services of a Trust Authority host know of their peers, and keep for them.

Each service reads the signed audit head of the same service on every peer, all the time. One answer says
three things: where the peer's audit log stands (kept, so that a cut tail shows), what its clock shows, and
under which security generation the peer judges.

`anchored`  which peers count
`heads`     what is kept of their heads, and what is wrong with one; pure
`watch`     asks them, and judges this service by what they say
`routes`    where they ask us, and what managers may ask
"""
