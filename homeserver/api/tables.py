"""Every endpoint of the server, in one list."""

from homeserver.api import ops
from homeserver.api.client import versions, well_known

ENDPOINTS = [*versions.ENDPOINTS, *well_known.ENDPOINTS, *ops.ENDPOINTS]
