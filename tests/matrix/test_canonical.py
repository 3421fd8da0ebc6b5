"""Canonical JSON against the specification's examples and the reference implementation in Python."""

import json
from pathlib import Path

import canonicaljson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.canonical import (
    CanonicalJsonError,
    canonical_json,
    canonicalize,
    check_canonical,
    sha256_base64,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "canonical_json.json").read_text(encoding="utf-8"))
LARGEST = 2**53 - 1

values = st.recursive(
    st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=30,
)


@pytest.mark.behaviours("SIG-02")
@pytest.mark.parametrize("vector", VECTORS)
def test_canonicalize_of_specification_examples(vector: dict[str, str]) -> None:
    # The last example has -0 and an exponent, which strict parsing refuses.
    assert canonicalize(vector["json"].encode(), strict=False) == vector["canonical"].encode()


@pytest.mark.behaviours("SIG-02")
@given(values)
def test_canonical_json_equals_reference(value: object) -> None:
    expected = canonicaljson.encode_canonical_json(value)
    assert canonical_json(value) == expected
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert canonicalize(text.encode()) == expected
        assert canonicalize(text.encode(), strict=False) == expected
        check_canonical(text.encode())
    assert canonicalize(expected) == expected


@given(st.binary())
def test_any_bytes_are_json_or_an_error(raw: bytes) -> None:
    for strict in (True, False):
        try:
            result = canonicalize(raw, strict=strict)
        except CanonicalJsonError:
            continue
        assert canonicalize(result, strict=strict) == result


@given(st.text(alphabet='{}[]",:\\u0123eE.-+ truefalsn\ud800'))
def test_whatever_passes_is_json_to_python_too(text: str) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    try:
        result = canonicalize(raw)
    except CanonicalJsonError:
        return
    assert json.loads(result) == json.loads(raw)


@pytest.mark.behaviours("SIG-02")
@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        LARGEST + 1,
        -LARGEST - 1,
        10**30,
        "\ud800",
        {"\udfff": 1},
        {1: 2},
        {None: 1},
        b"bytes",
        {1, 2},
        object(),
        [1.5],
        {"a": {"b": 1e10}},
    ],
)
def test_canonical_json_of_what_json_cannot_hold_is_an_error(value: object) -> None:
    with pytest.raises(CanonicalJsonError):
        canonical_json(value)


@pytest.mark.behaviours("SIG-02")
@pytest.mark.parametrize(
    "text",
    [
        "1.0",
        "1e2",
        "-0",
        "9007199254740992",
        "-9007199254740992",
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '{"\\udfff":1}',
        "NaN",
    ],
)
def test_check_canonical_of_what_events_must_not_hold_is_an_error(text: str) -> None:
    with pytest.raises(CanonicalJsonError):
        check_canonical(f'{{"a":[{text}]}}'.encode() if not text.startswith("{") else text.encode())


@pytest.mark.behaviours("RV-03")
@pytest.mark.parametrize("text", ["1.0", "50.57", "9007199254740992", "123456789012345678901234567890", "1e+16"])
def test_canonicalize_lenient_keeps_numbers(text: str) -> None:
    assert canonicalize(f" [ {text} ] ".encode(), strict=False) == f"[{text}]".encode()
    # Peers whose JSON is Python's show these numbers in the same way.
    assert json.dumps(json.loads(text)) == text


def test_nesting_has_a_limit() -> None:
    def nested(depth: int) -> list[object]:
        value: list[object] = []
        for _ in range(depth - 1):
            value = [value]
        return value

    assert canonical_json(nested(100)) == b"[" * 100 + b"]" * 100
    check_canonical(b"[" * 100 + b"]" * 100)
    with pytest.raises(CanonicalJsonError, match="deep"):
        canonical_json(nested(101))
    with pytest.raises(CanonicalJsonError, match="deep"):
        check_canonical(b"[" * 101 + b"]" * 101)
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(CanonicalJsonError, match="deep"):
        canonical_json(circle)


def test_duplicate_keys_the_last_wins() -> None:
    assert canonicalize(b'{"a":1,"b":2,"a":3}') == b'{"a":3,"b":2}'


def test_canonical_json_error_is_a_value_error_that_says_where() -> None:
    with pytest.raises(ValueError, match="fraction or an exponent at byte 6"):
        canonicalize(b'{"a": 1.5}')


def test_sha256_base64_is_unpadded() -> None:
    assert sha256_base64(b"") == "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
