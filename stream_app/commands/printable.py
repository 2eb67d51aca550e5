"""Makes foreign text safe for a terminal: characters that are not visible become escapes."""


def printable(text: object) -> str:
    r"""The text with each control character, direction mark and the like as an escape, such as \x1b or \u202e.

    A backslash is doubled, so that nothing else looks like an escape.
    """
    return "".join(c if c.isprintable() and c != "\\" else _escape(c) for c in str(text))


def printable_json(text: str) -> str:
    """JSON on one line and of the same meaning, whose strings hold nothing that a terminal would obey."""
    if text.isprintable():
        return text
    # Between the values of JSON only blanks may be unprintable.
    return "".join(c if c.isprintable() else " " if c in "\t\r\n" else _json_escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if character == "\\":
        return "\\\\"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def duration(ms: int) -> str:
    """Format a duration in the largest unit without a fraction: 30 min, 7 d."""
    for size, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if ms >= size and ms % size == 0:
            return f"{ms // size} {unit}"
    return f"{ms} ms"
