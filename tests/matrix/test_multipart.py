"""Taking answers apart that hold a file."""

import pytest

from homeserver.matrix.multipart import MalformedMultipart, file_part, filename_of, safe_type

TYPE = "multipart/mixed; boundary=b"
GOOD = b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nContent-Type: image/png\r\n\r\nbytes\r\n--b--\r\n"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (TYPE, GOOD),
        ('Multipart/Mixed; charset=x; BOUNDARY="b"', GOOD),
        (TYPE, b"ignore this\r\n" + GOOD + b"and this"),
        (TYPE, GOOD.replace(b"--b\r\n", b"--b \t\r\n")),
        (TYPE, GOOD.replace(b"Content-Type: image", b"CONTENT-TYPE:image")),
    ],
)
def test_second_part_is_the_file(content_type: str, body: bytes) -> None:
    part = file_part(content_type, body)
    assert (part.headers, part.body) == ({"content-type": "image/png"}, b"bytes")


def test_file_may_be_empty_or_have_lines_like_boundaries() -> None:
    assert file_part(TYPE, GOOD.replace(b"bytes", b"")).body == b""
    assert file_part(TYPE, GOOD.replace(b"bytes", b"x--b\r\n-b--")).body == b"x--b\r\n-b--"
    assert file_part(TYPE, GOOD.replace(b"Content-Type: image/png\r\n", b"")).headers == {}
    bare = GOOD.replace(b"Content-Type: image/png\r\n\r\nbytes", b"Location: https://x.test/\r\n")
    assert file_part(TYPE, bare).headers == {"location": "https://x.test/"}


@pytest.mark.trust("S6", "R6")
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("", GOOD),
        ("multipart/mixed", GOOD),
        ("multipart/mixed; boundary=", GOOD),
        ("multipart/mixed; boundary=\u00fc", GOOD),
        ("multipart/mixed; boundary=" + "b" * 300, GOOD),
        ("multipart/form-data; boundary=b", GOOD),
        ("application/json", b"{}"),
        (TYPE, b""),
        (TYPE, b"--b"),
        (TYPE, b"--b--"),
        (TYPE, b"--b\r\n"),
        (TYPE, b"--b\r\n--b\r\n--b--"),
        (TYPE, GOOD[: GOOD.index(b"\r\n--b--")]),
        (TYPE, GOOD.replace(b"--b--", b"--b\r\nX: y\r\n\r\nthird\r\n--b--")),
        (TYPE, GOOD.replace(b"application/json", b"text/html")),
        (TYPE, GOOD.replace(b"Content-Type: image/png", b"no colon here")),
        (TYPE, GOOD.replace(b"Content-Type: image/png", b"X: " + b"y" * 10_000)),
        (TYPE, GOOD.replace(b"\r\n", b"\n")),
        (TYPE, b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b--\r\n"),
        (TYPE, b"x" * 100_000 + b"\r\n" + GOOD),
    ],
)
def test_what_is_not_two_parts_is_malformed(content_type: str, body: bytes) -> None:
    with pytest.raises(MalformedMultipart):
        file_part(content_type, body)


@pytest.mark.trust("C38")
@pytest.mark.parametrize(
    "body", [b"\r\n--b" * 200_000, b"--b\r\n" * 200_000, b"\r\n" * 500_000, b"--b\r\n" + b"a:" * 500_000]
)
def test_much_of_nothing_takes_no_time(body: bytes) -> None:
    with pytest.raises(MalformedMultipart):
        file_part(TYPE, body)


@pytest.mark.trust("S6")
def test_types_and_names_are_harmless() -> None:
    assert safe_type("text/html; charset=utf-8") == "text/html; charset=utf-8"
    for bad in (None, "", "html", "text/", "text/html\r\nX: y", "text/h\u00fc", "a/" + "b" * 300, "a b/c"):
        assert safe_type(bad) is None
    assert filename_of("attachment; filename=plain.txt") == "plain.txt"
    assert filename_of('inline; filename="a \\"quoted\\"; name.txt"') == 'a "quoted"; name.txt'
    assert filename_of("attachment; filename=x; filename*=UTF-8''p%C3%A4ge.html") == "p\u00e4ge.html"
    assert filename_of("attachment; filename=../../etc/passwd\u202e\x00") == "....etcpasswd"
    assert len(filename_of("attachment; filename=" + "x" * 1000) or "") == 255
    for bad in (None, "", "inline", "attachment; filename", "attachment; filename*=latin-9''x"):
        assert filename_of(bad) is None
