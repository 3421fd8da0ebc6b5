import pytest

from homeserver.errors import InvalidParam, MethodNotAllowed, Unrecognized
from homeserver.http.router import Router


@pytest.fixture
def router() -> Router[str]:
    router: Router[str] = Router()
    router.add("GET", "/rooms/{room_id}/state", "state")
    router.add("GET", "/rooms/{room_id}/state/{type}", "state of type")
    router.add("GET", "/rooms/{room_id}/state/{type}/", "state of type, empty key")
    router.add("PUT", "/rooms/{room_id}/state/{type}/{key}", "set state")
    router.add("GET", "/rooms/known/state/{type}", "known room")
    return router


def test_find_unquotes_after_splitting(router: Router[str]) -> None:
    assert router.find("PUT", b"/rooms/!a%2Fb%3Ax/state/m.x/%40k") == (
        "set state",
        {"room_id": "!a/b:x", "type": "m.x", "key": "@k"},
    )


def test_find_tells_a_trailing_slash_apart(router: Router[str]) -> None:
    assert router.find("GET", b"/rooms/!a/state/m.x/")[0] == "state of type, empty key"


def test_find_prefers_literals_but_turns_back_where_they_lead_nowhere(router: Router[str]) -> None:
    assert router.find("GET", b"/rooms/known/state/m.x")[0] == "known room"
    assert router.find("GET", b"/rooms/known/state") == ("state", {"room_id": "known"})


@pytest.mark.behaviours("CS-API-05")
@pytest.mark.parametrize("path", [b"/", b"/rooms", b"/rooms/!a", b"/rooms//state", b"/rooms/!a/state/m.x/k/more"])
def test_find_of_an_unknown_path_is_unrecognized(router: Router[str], path: bytes) -> None:
    with pytest.raises(Unrecognized):
        router.find("GET", path)


@pytest.mark.behaviours("CS-API-05")
def test_find_with_a_wrong_method_says_so(router: Router[str]) -> None:
    with pytest.raises(MethodNotAllowed):
        router.find("DELETE", b"/rooms/!a/state")


def test_find_refuses_parameters_that_are_not_utf8(router: Router[str]) -> None:
    with pytest.raises(InvalidParam):
        router.find("GET", b"/rooms/%FF/state")


def test_add_twice_is_refused(router: Router[str]) -> None:
    with pytest.raises(ValueError, match="declared twice"):
        router.add("GET", "/rooms/{other}/state", "again")
