"""What a script needs of the preludes, and no more: Redis makes each of their functions anew at every call, which for
all of them takes longer than most scripts' own work."""

from __future__ import annotations

import re

_COMMENT = re.compile(r"--.*")
_WORD = re.compile(r"[A-Za-z_]\w*")
_STATEMENT = re.compile(r"^(?=[A-Za-z_])(?!end\b)", re.MULTILINE)  # what follows it is indented, or its own `end`, `}`
_DEFINED = re.compile(r"(?:local\s+)?(?:function\s+)?([A-Za-z_]\w*)")


def linked(prelude: str, body: str) -> str:
    """`body` behind those statements of `prelude` that define a name which it uses, or which one of these uses, in
    their order and without comments. A prelude has definitions alone, each beginning at the margin, of one name."""
    statements = [part for part in _STATEMENT.split(_COMMENT.sub("", prelude)) if part.strip()]
    defines = [_defined(part) for part in statements]
    needed, waiting = set[int](), [_COMMENT.sub("", body)]
    while waiting:
        used = set(_WORD.findall(waiting.pop()))
        more = [at for at, name in enumerate(defines) if name in used and at not in needed]
        needed.update(more)
        waiting += [statements[at] for at in more]
    return "".join(statements[at] for at in sorted(needed)) + body


def _defined(statement: str) -> str:
    found = _DEFINED.match(statement)
    assert found is not None  # noqa: S101  # statements begin with a word
    return found[1]
