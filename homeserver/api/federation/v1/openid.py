"""Whose a token is that a user of this server gave away (server-server API, OpenID)."""

from typing import Any

from homeserver.http.bodies import Query
from homeserver.http.endpoint import NOBODY, Endpoint
from homeserver.services.users.accounts import Accounts


class TokenQuery(Query, frozen=True):
    access_token: str


async def user_of_token(query: TokenQuery, accounts: Accounts) -> dict[str, Any]:
    return {"sub": await accounts.user_of_openid_token(query.access_token)}


ENDPOINTS = [Endpoint("GET", "/openid/userinfo", user_of_token, auth=NOBODY, limit="lookup", body=None)]
