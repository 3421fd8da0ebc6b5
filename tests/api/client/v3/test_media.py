"""Uploading, downloading and shrinking files; on both databases."""

import asyncio
import io
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from homeserver.outbound.blobs import DiskBlobs
from tests.world import User, World, until


def picture(width: int, height: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width, height), "teal" if mode == "RGB" else None).save(out, kind)
    return out.getvalue()


def broken_avif() -> bytes:
    """A file that begins well, and whose pixels are nonsense."""
    whole = bytearray(picture(800, 800, "AVIF"))
    start = whole.index(b"mdat") + 4
    whole[start:] = bytes(len(whole) - start)
    return bytes(whole)


async def request(user: User, method: str, path: str, **options: Any) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {user.token}", **options.pop("headers", {})}
    return await user.client.send(method, f"/_matrix{path}", headers=headers, **options)


async def upload(user: User, body: bytes, content_type: str = "image/png", name: str | None = None) -> str:
    """The path of the file below `download/`."""
    query = "" if name is None else f"?filename={name}"
    answer = await request(
        user, "POST", f"/media/v3/upload{query}", content=body, headers={"Content-Type": content_type}
    )
    assert answer.status_code == 200, answer.text
    uri: str = answer.json()["content_uri"]
    return uri.removeprefix("mxc://")


@pytest.mark.behaviours("CS-MEDIA-08", "CS-MEDIA-09", "CS-MEDIA-10")
async def test_a_file_comes_back_as_it_was_with_safe_headers(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    body = bytes(range(256)) * 4000
    path = await upload(alice, body, "text/html; charset=utf-8", "p%C3%A4ge.html")
    answer = await request(bob, "GET", f"/client/v1/media/download/{path}")
    assert answer.content == body
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''p%C3%A4ge.html"
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    named = await request(bob, "GET", f"/client/v1/media/download/{path}/other.txt")
    assert named.headers["content-disposition"] == "attachment; filename*=utf-8''other.txt"
    image = await upload(alice, picture(4, 4))
    shown = await request(bob, "GET", f"/client/v1/media/download/{image}")
    assert shown.headers["content-disposition"] == "inline"
    empty = await upload(alice, b"")
    assert (await request(bob, "GET", f"/client/v1/media/download/{empty}")).content == b""


@pytest.mark.behaviours("CS-MEDIA-02")
async def test_nobody_gets_a_file_without_logging_in(world: World) -> None:
    alice = await world.user("alice")
    path = await upload(alice, b"secret", "text/plain")
    answer = await world.client.get(f"/_matrix/client/v1/media/download/{path}")
    assert (answer.status_code, answer.json()["errcode"]) == (401, "M_MISSING_TOKEN")
    for old in (f"download/{path}", f"download/{path}/x.txt", f"thumbnail/{path}?width=1&height=1"):
        answer = await world.client.get(f"/_matrix/media/v3/{old}")
        assert (answer.status_code, answer.json()["errcode"]) == (404, "M_NOT_FOUND")


@pytest.mark.behaviours("CS-MEDIA-01")
@pytest.mark.parametrize("path", ["localhost/..%2F..%2Fsigning.key", "localhost/a.b", "localhost/nosuch", "..%2F/x"])
async def test_strange_addresses_lead_nowhere(world: World, path: str) -> None:
    alice = await world.user("alice")
    answer = await request(alice, "GET", f"/client/v1/media/download/{path}")
    assert answer.status_code in (400, 404)


@pytest.mark.behaviours("CS-MEDIA-07", "CS-MEDIA-15")
async def test_what_is_too_large_is_refused_and_leaves_nothing(world: World) -> None:
    alice = await world.user("alice")
    largest = (await request(alice, "GET", "/client/v1/media/config")).json()["m.upload.size"]
    assert (await request(alice, "GET", "/media/v3/config")).json() == {"m.upload.size": largest}

    async def endless() -> Any:
        for _ in range(largest // 1_000_000 + 2):
            yield b"x" * 1_000_000

    for content in (endless(), b"x" * (largest + 1)):
        answer = await request(alice, "POST", "/media/v3/upload", content=content)
        assert (answer.status_code, answer.json()["errcode"]) == (413, "M_TOO_LARGE")
    folder = world.container.config.data_dir
    assert not [path for path in Path(folder, "media").rglob("*") if path.is_file()]


@pytest.mark.behaviours("CS-MEDIA-05", "CS-MEDIA-06")
async def test_a_file_can_be_announced_and_waited_for(world: World) -> None:
    alice, bob = await world.user("alice"), await world.user("bob")
    made = (await request(alice, "POST", "/media/v1/create")).json()
    path = made["content_uri"].removeprefix("mxc://")
    assert made["unused_expires_at"] > world.clock.time
    early = await request(bob, "GET", f"/client/v1/media/download/{path}?timeout_ms=1")
    assert (early.status_code, early.json()["errcode"]) == (504, "M_NOT_YET_UPLOADED")
    waiting = asyncio.ensure_future(request(bob, "GET", f"/client/v1/media/download/{path}?timeout_ms=60000"))
    media_id = path.partition("/")[2]
    await until(lambda: world.container.notifier.waits(f"media {media_id}"))
    assert (await request(bob, "PUT", f"/media/v3/upload/{path}", content=b"no")).status_code == 403
    assert (await request(alice, "PUT", f"/media/v3/upload/{path}", content=b"yes")).status_code == 200
    async with asyncio.timeout(5):
        assert (await waiting).content == b"yes"
    again = await request(alice, "PUT", f"/media/v3/upload/{path}", content=b"other")
    assert (again.status_code, again.json()["errcode"]) == (409, "M_CANNOT_OVERWRITE_MEDIA")
    late = (await request(alice, "POST", "/media/v1/create")).json()["content_uri"].removeprefix("mxc://")
    world.clock.time += 24 * 3600 * 1000 + 1
    assert (await request(alice, "PUT", f"/media/v3/upload/{late}", content=b"x")).status_code == 404
    assert (await request(alice, "GET", f"/client/v1/media/download/{late}")).status_code == 404


@pytest.mark.behaviours("CS-MEDIA-11", "CS-MEDIA-12")
@pytest.mark.parametrize(
    ("wish", "size"),
    [
        ("width=96&height=96&method=crop", (96, 96)),
        ("width=20&height=20&method=crop", (32, 32)),
        ("width=300&height=200&method=scale", (480, 240)),
        ("width=640&height=480", (960, 480)),
        ("width=3000&height=3000", (2000, 1000)),
        ("width=1700&height=900", (2000, 1000)),
        ("width=100&height=300&method=crop", (100, 300)),
        ("width=1500&height=900&method=crop", (1500, 900)),
        ("width=3000&height=900&method=crop", (2000, 900)),
    ],
)
@pytest.mark.by_turns
async def test_thumbnails_are_never_smaller_than_asked_nor_larger_than_the_picture(
    world: World, wish: str, size: tuple[int, int]
) -> None:
    alice = await world.user("alice")
    path = await upload(alice, picture(2000, 1000))
    for _ in range(2):  # Made, then kept.
        answer = await request(alice, "GET", f"/client/v1/media/thumbnail/{path}?{wish}")
        assert answer.status_code == 200
        with Image.open(io.BytesIO(answer.content)) as shown:
            assert shown.size == size


def animation(kind: str) -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGBA", (400, 300), (shade, 0, 0, 255)) for shade in (0, 100, 200)]
    frames[0].save(out, kind, save_all=True, append_images=frames[1:], duration=80)
    return out.getvalue()


@pytest.mark.behaviours("CS-MEDIA-13")
@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
async def test_a_thumbnail_moves_only_where_that_is_asked_for(world: World, kind: str) -> None:
    alice = await world.user("alice")
    body = animation(kind)
    path = await upload(alice, body, f"image/{kind.lower()}")

    async def frames(wish: str) -> tuple[tuple[int, int], int]:
        answer = await request(alice, "GET", f"/client/v1/media/thumbnail/{path}?{wish}")
        assert answer.status_code == 200, answer.text
        with Image.open(io.BytesIO(answer.content)) as shown:
            assert answer.headers["content-type"] == Image.MIME[shown.format or ""]
            return shown.size, getattr(shown, "n_frames", 1)

    for _ in range(2):  # Made, then kept.
        assert await frames("width=96&height=96&method=crop&animated=true") == ((96, 96), 3)
        assert await frames("width=96&height=96&method=crop&animated=false") == ((96, 96), 1)
        assert await frames("width=96&height=96&method=crop") == ((96, 96), 1)
        # As it is, and yet not moving.
        assert await frames("width=800&height=600&animated=true") == ((400, 300), 3)
        assert await frames("width=800&height=600&animated=false") == ((400, 300), 1)


async def test_many_who_want_one_thumbnail_get_it(world: World) -> None:
    alice = await world.user("alice")
    path = await upload(alice, picture(2000, 1000))
    wish = f"/client/v1/media/thumbnail/{path}?width=96&height=96&method=crop"
    answers = await asyncio.gather(*[request(alice, "GET", wish) for _ in range(10)])
    assert {answer.content for answer in answers} == {answers[0].content}


@pytest.mark.behaviours("CS-MEDIA-06")
async def test_of_two_uploads_at_once_one_is_kept_whole(world: World) -> None:
    alice = await world.user("alice")
    path = (await request(alice, "POST", "/media/v1/create")).json()["content_uri"].removeprefix("mxc://")
    bodies = [b"a" * 10, b"b" * 300_000]
    answers = await asyncio.gather(
        *[request(alice, "PUT", f"/media/v3/upload/{path}", content=body) for body in bodies]
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    kept = next(body for body, answer in zip(bodies, answers, strict=True) if answer.status_code == 200)
    assert (await request(alice, "GET", f"/client/v1/media/download/{path}")).content == kept


async def test_a_file_whose_bytes_are_lost_is_not_found(world: World) -> None:
    alice = await world.user("alice")
    path = await upload(alice, picture(200, 100))
    blobs = DiskBlobs(Path(world.container.config.data_dir) / "media")
    await blobs.delete(path.partition("/")[2])
    for wish in (f"download/{path}", f"thumbnail/{path}?width=32&height=32&method=crop"):
        answer = await request(alice, "GET", f"/client/v1/media/{wish}")
        assert (answer.status_code, answer.json()["errcode"]) == (404, "M_NOT_FOUND")


async def test_names_in_headers_cannot_make_headers(world: World) -> None:
    alice = await world.user("alice")
    path = await upload(alice, b"x", "text/plain")
    answer = await request(alice, "GET", f"/client/v1/media/download/{path}/a%0D%0AX-Bad:%20%22%FF.txt")
    assert answer.status_code in (200, 400)
    assert "x-bad" not in answer.headers
    for headers, query in (
        ({"Content-Type": "text/x\x7f"}, ""),
        ({"Content-Type": "t" * 300}, ""),
        ({}, "?filename=%00"),
    ):
        sent = await request(alice, "POST", f"/media/v3/upload{query}", content=b"x", headers=headers)
        assert sent.status_code in (200, 400)


@pytest.mark.behaviours("CS-MEDIA-11")
async def test_a_small_picture_is_its_own_thumbnail(world: World) -> None:
    alice = await world.user("alice")
    body = picture(40, 30, "GIF")
    path = await upload(alice, body, "image/gif")
    for _ in range(2):
        answer = await request(alice, "GET", f"/client/v1/media/thumbnail/{path}?width=96&height=96&method=crop")
        assert (answer.content, answer.headers["content-type"]) == (body, "image/gif")


@pytest.mark.parametrize(
    ("body", "wish", "status"),
    [
        (b"no picture", "width=96&height=96", 400),
        (b"", "width=96&height=96", 400),
        (picture(2000, 2000)[:100], "width=96&height=96", 400),
        (broken_avif(), "width=96&height=96", 400),
        (picture(200, 200), "width=0&height=96", 400),
        (picture(200, 200), "width=-5&height=96", 400),
        (picture(200, 200), "width=1000000&height=96", 400),
        (picture(200, 200), "height=96", 400),
        (picture(200, 200), "width=96&height=96&method=stretch", 400),
        (picture(10_000, 6_000, mode="1"), "width=96&height=96", 413),
    ],
    ids=range(10),
)
@pytest.mark.by_turns
async def test_no_thumbnail_can_be_made_of_this(world: World, body: bytes, wish: str, status: int) -> None:
    alice = await world.user("alice")
    path = await upload(alice, body)
    answer = await request(alice, "GET", f"/client/v1/media/thumbnail/{path}?{wish}")
    assert answer.status_code == status, answer.text
