"""A second reader of `X-Matrix` headers, for comparison: the grammar of RFC 9110 rule by rule, with no regard to speed.

    credentials   = auth-scheme 1*SP #auth-param           (section 11.4; X-Matrix has no token68)
    #element      = [ element ] *( OWS "," OWS [ element ] )       (5.6.1.2, as recipients are to read it)
    auth-param    = token BWS "=" BWS ( token / quoted-string )    (11.2; each name once, in either case)
    quoted-string = DQUOTE *( qdtext / quoted-pair ) DQUOTE        (5.6.4)
    OWS, BWS      = *( SP / HTAB )                                 (5.6.3)

The specification of Matrix adds that colons may stand in values that are not quoted. What else we take there, for
servers that never quoted anything, is `MORE_UNQUOTED`.
"""

from collections.abc import Set

ALPHA = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
DIGIT = set("0123456789")
TCHAR = ALPHA | DIGIT | set("!#$%&'*+-.^_`|~")
VCHAR = {chr(code) for code in range(0x21, 0x7F)}
OBS_TEXT = {chr(code) for code in range(0x80, 0x100)}
BLANK = {" ", "\t"}
QDTEXT = BLANK | {"!"} | {chr(code) for code in [*range(0x23, 0x5C), *range(0x5D, 0x7F)]} | OBS_TEXT
MORE_UNQUOTED = set(":/=[]")
LONGEST = 4096


class NotInGrammar(Exception):
    """The header is none of this grammar, or does not say what it must."""


class Reader:
    """A text, and how far it has been read."""

    def __init__(self, text: str) -> None:
        self.rest = list(text)

    def peek(self) -> str:
        """The next character; empty at the end."""
        return self.rest[0] if self.rest else ""

    def skip(self, allowed: Set[str]) -> str:
        """As many of such characters as there are."""
        read = ""
        while self.peek() and self.peek() in allowed:
            read += self.rest.pop(0)
        return read

    def need(self, wanted: str) -> None:
        """This one character."""
        if self.peek() != wanted:
            raise NotInGrammar
        self.rest.pop(0)

    def some(self, allowed: Set[str]) -> str:
        """One such character at least."""
        read = self.skip(allowed)
        if not read:
            raise NotInGrammar
        return read

    def quoted_string(self) -> str:
        """The value of a quoted string."""
        self.need('"')
        read = ""
        while self.peek() != '"':
            if self.peek() == "\\":
                self.need("\\")
                if self.peek() not in BLANK | VCHAR | OBS_TEXT:
                    raise NotInGrammar
            elif self.peek() not in QDTEXT:
                raise NotInGrammar
            read += self.rest.pop(0)
        self.need('"')
        return read

    def auth_param(self) -> tuple[str, str]:
        """A name, in lower case, and its value."""
        name = self.some(TCHAR)
        self.skip(BLANK)
        self.need("=")
        self.skip(BLANK)
        return name.lower(), self.quoted_string() if self.peek() == '"' else self.some(TCHAR | MORE_UNQUOTED)

    def auth_params(self) -> dict[str, str]:
        """A list of them, to the end."""
        found: dict[str, str] = {}
        while True:
            if self.peek() in TCHAR:
                name, value = self.auth_param()
                if name in found:
                    raise NotInGrammar
                found[name] = value
            self.skip(BLANK)
            if not self.peek():
                return found
            self.need(",")
            self.skip(BLANK)


def read(header: str) -> tuple[str, str | None, str, str]:
    """Origin, destination, key and signature of a header. Raises `NotInGrammar`."""
    reader = Reader(header)
    if reader.some(TCHAR).lower() != "x-matrix" or not header[len("X-Matrix") :].startswith(" "):
        raise NotInGrammar
    if len(header) - len("X-Matrix") > LONGEST:
        raise NotInGrammar
    reader.some({" "})
    found = reader.auth_params()
    if not all(found.get(name) for name in ("origin", "key", "sig")):
        raise NotInGrammar
    return found["origin"], found.get("destination"), found["key"], found["sig"]
