"""Which servers a room lets in (client-server API, Server Access Control Lists).

:class:`ServerAcl` is made of the content of an ``m.room.server_acl`` event, as JSON text. ``allows(server_name)`` tells
whether a server may take part; its port and the case of letters do not matter, and no pattern takes long.
"""

from homeserver._rust.push import ServerAcl

__all__ = ["ServerAcl"]
