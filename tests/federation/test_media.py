"""Files of other servers: given, fetched, kept."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from homeserver.config.model import Limits
from homeserver.errors import Unreachable
from homeserver.matrix.multipart import file_part
from homeserver.outbound.transport import Reply
from tests.api.client.v3.test_media import picture, request, upload
from tests.federation.network import Network, Peer
from tests.federation.test_queries import refusing
from tests.federation.test_reads import V1
from tests.world import User, World

pytestmark = pytest.mark.anyio

DOWNLOAD = f"{V1}/media/download/"
OLD = "/_matrix/media/v3/download/"
EMPTY = b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\n"


def parts(headers: str, body: bytes) -> Reply:
    """A good answer."""
    whole = EMPTY + headers.encode() + b"\r\n\r\n" + body + b"\r\n--b--\r\n"
    return Reply(200, {"content-type": "multipart/mixed; boundary=b"}, whole)


async def get(user: User, path: str) -> httpx2.Response:
    return await request(user, "GET", f"/client/v1/media/{path}")


async def refusal(user: User, path: str) -> tuple[int, str]:
    answer = await get(user, path)
    return answer.status_code, answer.json()["errcode"]


@pytest.fixture
async def scene(network: Network) -> tuple[World, User, Peer]:
    a = await network.server("a.test")
    return a, await a.user("alice"), network.peer("p.test")


@pytest.mark.behaviours("SS-MEDIA-01", "SS-MEDIA-02", "CS-MEDIA-03")
async def test_file_of_another_server_is_fetched_once(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    body = bytes(range(256)) * 1000 + b"\r\n--"
    path = await upload(bob, body, "text/html", "p%C3%A4ge.html")
    for _ in range(2):
        answer = await get(alice, f"download/{path}")
        assert answer.content == body
        assert answer.headers["content-type"] == "text/html"
        assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''p%C3%A4ge.html"
        assert answer.headers["content-security-policy"].startswith("sandbox;")
        network.cut("b.test")
    assert (await get(alice, f"download/{path}/other.txt")).headers["content-disposition"].endswith("other.txt")


async def test_picture_of_another_server_is_made_smaller_here(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    path = await upload(bob, picture(500, 400))
    first = await get(alice, f"thumbnail/{path}?width=32&height=32&method=crop")
    assert (first.status_code, first.headers["content-type"]) == (200, "image/jpeg")
    network.cut("b.test")
    assert (await get(alice, f"thumbnail/{path}?width=96&height=96&method=crop")).status_code == 200
    small = await upload(alice, picture(4, 4))
    assert (await get(alice, f"thumbnail/{small}?width=96&height=96")).headers["content-type"] == "image/png"


@pytest.mark.behaviours("SS-MEDIA-01", "SS-MEDIA-04")
async def test_servers_are_given_own_files_in_two_parts(scene: tuple[World, User, Peer]) -> None:
    _, alice, peer = scene
    media_id = (await upload(alice, b"--b\r\n", "text/plain", "n.txt")).partition("/")[2]
    answer = await peer.call("a.test", "GET", DOWNLOAD + media_id)
    assert answer.status_code == 200
    part = file_part(answer.headers["content-type"], answer.content)
    assert part.body == b"--b\r\n"
    assert part.headers["content-type"] == "text/plain"
    assert part.headers["content-disposition"] == "inline; filename*=utf-8''n.txt"
    image = (await upload(alice, picture(500, 400))).partition("/")[2]
    target = f"{V1}/media/thumbnail/{image}?width=32&height=32&method=crop"
    answer = await peer.call("a.test", "GET", target)
    assert file_part(answer.headers["content-type"], answer.content).headers["content-type"] == "image/jpeg"
    # Text cannot be made smaller, nobody else's files are given, and nobody without a signature gets any.
    answer = await peer.call("a.test", "GET", f"{V1}/media/thumbnail/{media_id}?width=32&height=32")
    assert (answer.status_code, answer.json()["errcode"]) == (400, "M_UNKNOWN")
    peer.on("GET", DOWNLOAD, lambda seen: parts("Content-Type: text/plain", b"theirs"))
    assert (await get(alice, "download/p.test/theirs")).content == b"theirs"
    for other in ("theirs", "..%2Fsigning.key", "p.test%2Ftheirs"):
        assert (await peer.call("a.test", "GET", DOWNLOAD + other)).status_code in (400, 404)
    assert (await peer.call("a.test", "GET", DOWNLOAD + media_id, header="X-Matrix nonsense")).status_code == 401


async def test_file_that_is_only_announced_is_waited_for_by_both(network: Network) -> None:
    a, b = await network.server("a.test"), await network.server("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    path = (await request(bob, "POST", "/media/v1/create")).json()["content_uri"].removeprefix("mxc://")
    assert await refusal(alice, f"download/{path}?timeout_ms=1") == (504, "M_NOT_YET_UPLOADED")
    assert (await request(bob, "PUT", f"/media/v3/upload/{path}", content=b"now")).status_code == 200
    assert (await get(alice, f"download/{path}")).content == b"now"


@pytest.mark.behaviours("SS-MEDIA-02")
async def test_older_server_is_asked_the_old_way_and_not_for_others_files(scene: tuple[World, User, Peer]) -> None:
    _, alice, peer = scene
    peer.on("GET", OLD, lambda seen: Reply(200, {"content-type": "image/png"}, b"old"))
    answer = await get(alice, "download/p.test/x")
    assert (answer.content, answer.headers["content-type"]) == (b"old", "image/png")
    first, second = (seen for seen in peer.seen if "/media/" in seen.target)
    assert (first.origin, first.target.partition("?")[0]) == ("a.test", DOWNLOAD + "x")
    assert (second.origin, second.target) == (None, OLD + "p.test/x?allow_remote=false")
    # Any other refusal is believed.
    for status, errcode in ((404, "M_NOT_FOUND"), (403, "M_UNRECOGNIZED"), (500, "M_UNRECOGNIZED")):
        peer.on("GET", DOWNLOAD, refusing(status, errcode))
        seen = len(peer.seen)
        assert (await get(alice, f"download/p.test/{status}")).status_code in (404, 502)
        assert len(peer.seen) == seen + 1


@pytest.mark.behaviours("SS-MEDIA-02")
async def test_older_server_is_asked_for_thumbnails_the_old_way(scene: tuple[World, User, Peer]) -> None:
    _, alice, peer = scene
    made, old = picture(32, 32), "/_matrix/media/v3/thumbnail/"
    peer.on("GET", OLD, lambda seen: Reply(200, {"content-type": "video/mp4"}, b"no picture"))
    peer.on("GET", old, lambda seen: Reply(200, {"content-type": "image/png"}, made))
    answer = await get(alice, "thumbnail/p.test/x?width=32&height=32&method=crop&animated=true")
    assert (answer.content, answer.headers["content-type"]) == (made, "image/png")
    query = "width=32&height=32&method=crop&animated=true"
    first, second = peer.seen[-2:]
    assert (first.origin, first.target) == ("a.test", f"{V1}/media/thumbnail/x?{query}")
    assert (second.origin, second.target) == (None, f"{old}p.test/x?{query}&allow_remote=false")
    # Any other refusal is believed.
    peer.on("GET", f"{V1}/media/thumbnail/", refusing(404, "M_NOT_FOUND"))
    seen = len(peer.seen)
    assert (await get(alice, "thumbnail/p.test/x?width=96&height=96")).status_code == 400
    assert len(peer.seen) == seen + 1


@pytest.mark.behaviours("SS-MEDIA-03")
async def test_file_may_be_elsewhere(network: Network, scene: tuple[World, User, Peer]) -> None:
    _, alice, peer = scene
    url = "https://cdn.test/x?signature=1"
    peer.on("GET", DOWNLOAD, lambda seen: parts(f"Location: {url}", b""))
    assert await refusal(alice, "download/p.test/gone") == (502, "M_UNKNOWN")
    network.pages[url] = Reply(200, {"content-type": "image/png", "content-disposition": "inline"}, b"bytes")
    for _ in range(2):
        answer = await get(alice, "download/p.test/x")
        assert (answer.content, answer.headers["content-type"]) == (b"bytes", "image/png")
    assert network.fetched == [url, url]
    network.pages[url] = Reply(403, {}, b"<html>")
    assert await refusal(alice, "download/p.test/y") == (404, "M_NOT_FOUND")


@pytest.mark.trust("S7", "R6")
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refusing(401), (502, "M_UNKNOWN")),
        (refusing(403, "M_FORBIDDEN"), (404, "M_NOT_FOUND")),
        (refusing(404, "M_NOT_FOUND"), (404, "M_NOT_FOUND")),
        (refusing(502, "M_TOO_LARGE"), (502, "M_TOO_LARGE")),
        (refusing(429, "M_LIMIT_EXCEEDED"), (502, "M_UNKNOWN")),
        (lambda seen: Reply(200, {}, b"x"), (502, "M_UNKNOWN")),
        (lambda seen: parts("nonsense", b"x"), (502, "M_UNKNOWN")),
        (lambda seen: parts("Content-Type: image/png", b"x" * 1001), (502, "M_TOO_LARGE")),
        (lambda seen: parts("Content-Type: image/png", b"x" * 100_000), (502, "M_TOO_LARGE")),
    ],
)
@pytest.mark.by_turns
async def test_failure_is_told_in_own_words_and_not_sought_again(
    network: Network, answer: Any, expected: tuple[int, str]
) -> None:
    a = await network.server("a.test", limits=Limits(rate_limits=False, upload_bytes=1000))
    alice, peer = await a.user("alice"), network.peer("p.test")
    peer.on("GET", DOWNLOAD, answer)
    for _ in range(3):
        failure = await get(alice, "download/p.test/x")
        assert (failure.status_code, failure.json()["errcode"]) == expected
        assert "logged out" not in failure.text
    assert len(peer.seen) <= 2
    assert not [path for path in Path(a.container.config.data_dir, "media").rglob("*") if path.is_file()]


@pytest.mark.trust("S6")
async def test_what_another_server_says_of_a_file_is_not_believed(scene: tuple[World, User, Peer]) -> None:
    _, alice, peer = scene
    headers = 'Content-Type: text/html<script>\r\nContent-Disposition: inline; filename="../../x\u202e.html"'
    peer.on("GET", DOWNLOAD, lambda seen: parts(headers, b"<script>"))
    answer = await get(alice, "download/p.test/x")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''....x.html"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_many_who_want_a_file_fetch_it_once(scene: tuple[World, User, Peer]) -> None:
    _, alice, peer = scene
    peer.on("GET", DOWNLOAD, lambda seen: parts("Content-Type: image/png", b"x"))
    answers = await asyncio.gather(*(get(alice, "download/p.test/x") for _ in range(10)))
    assert {answer.content for answer in answers} == {b"x"}
    assert len(peer.seen) == 1


@pytest.mark.trust("R6")
async def test_oldest_copies_go_when_there_are_too_many(network: Network) -> None:
    limits = Limits(rate_limits=False, remote_media_bytes=2500)
    a = await network.server("a.test", limits=limits)
    alice, peer = await a.user("alice"), network.peer("p.test")
    peer.on("GET", DOWNLOAD, lambda seen: parts("Content-Type: text/plain", b"x" * 1000))
    own = await upload(alice, b"own", "text/plain")
    for number in range(4):
        network.clock.time += 1000
        assert (await get(alice, f"download/p.test/{number}")).status_code == 200
    folder = Path(a.container.config.data_dir, "media")
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 3
    network.cut("p.test")
    statuses = [(await get(alice, f"download/p.test/{number}")).status_code for number in range(4)]
    assert statuses == [502, 502, 200, 200]
    assert (await get(alice, f"download/{own}")).content == b"own"


async def test_copy_whose_bytes_were_lost_is_fetched_again(scene: tuple[World, User, Peer]) -> None:
    a, alice, peer = scene
    peer.on("GET", DOWNLOAD, lambda seen: parts("Content-Type: text/plain", b"x"))
    assert (await get(alice, "download/p.test/x")).content == b"x"
    for path in Path(a.container.config.data_dir, "media").rglob("*"):
        if path.is_file():
            path.unlink()
    assert (await get(alice, "download/p.test/x")).content == b"x"
    assert len(peer.seen) == 2


async def test_thumbnail_is_asked_for_where_none_can_be_made_here(scene: tuple[World, User, Peer]) -> None:
    _, alice, peer = scene
    peer.on("GET", DOWNLOAD, lambda seen: parts("Content-Type: video/mp4", b"no picture"))
    path = "thumbnail/p.test/x?width=32&height=32&method=crop"
    assert await refusal(alice, path) == (400, "M_UNKNOWN")
    made = picture(32, 32)
    peer.on("GET", f"{V1}/media/thumbnail/", lambda seen: parts("Content-Type: image/png", made))
    answer = await get(alice, path)
    assert (answer.content, answer.headers["content-type"]) == (made, "image/png")
    assert peer.seen[-1].target == f"{V1}/media/thumbnail/x?width=32&height=32&method=crop"
    peer.on("GET", f"{V1}/media/thumbnail/", lambda seen: parts("Content-Type: text/html", made))
    assert await refusal(alice, path) == (400, "M_UNKNOWN")

    def unreachable(seen: Any) -> Any:
        raise Unreachable("It is off.")

    peer.on("GET", f"{V1}/media/thumbnail/", unreachable)
    assert await refusal(alice, path) == (400, "M_UNKNOWN")


async def test_large_file_is_asked_for_again_when_it_is_its_turn(scene: tuple[World, User, Peer]) -> None:
    _, alice, peer = scene
    body = b"x" * (5 << 20)
    peer.on("GET", DOWNLOAD, lambda seen: parts("Content-Type: text/plain", body))
    assert (await get(alice, "download/p.test/x")).content == body
    assert len(peer.seen) == 2
    assert (await get(alice, "download/p.test/x")).content == body
    assert len(peer.seen) == 2
