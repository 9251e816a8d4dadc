"""What a script carries of the preludes. (That each script runs with it, the tests of the scripts show.)"""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from shared.calls import script
from shared.lua_linker import linked

PRELUDE = """-- First words.
local NAME = 'n'
local OTHER = 'o'

local later -- defined below

-- Of b, which is not the word in this comment: unused.
local function a()
  return NAME
end

local function b()
  local unused = 1
  return a()
end

later = function()
  if b() then
    return OTHER
  end
end
"""
OWN = sorted(file.name.removesuffix(".lua") for file in (files("shared") / "lua").iterdir())
NAMES = [name for name in OWN if name != "stored" and not name.startswith("prelude")]


def defined(text: str) -> list[str]:
    return re.findall(r"^(?:local )?(?:function )?(\w+)", re.sub(r"^(?:end|return)\b.*", "", text, flags=re.M), re.M)


def test_a_name_brings_what_it_needs_and_nothing_else() -> None:
    assert defined(linked(PRELUDE, "return b()\n")) == ["NAME", "a", "b"]
    assert defined(linked(PRELUDE, "return OTHER\n")) == ["OTHER"]
    assert linked(PRELUDE, "return 1\n") == "return 1\n"


def test_what_is_declared_before_it_is_defined_comes_as_both() -> None:
    assert defined(linked(PRELUDE, "return later()\n")) == ["NAME", "OTHER", "later", "a", "b", "later"]


def test_comments_need_nothing() -> None:
    assert linked(PRELUDE, "return 1 -- not b\n") == "return 1 -- not b\n"


@pytest.mark.parametrize("name", NAMES)
def test_no_script_carries_what_it_does_not_use(name: str) -> None:
    body = (files("shared") / "lua" / f"{name}.lua").read_text()
    text = script(name).text
    own = text[: len(text) - len(body.partition("\n")[2])]
    for known in defined(own.partition("\n")[2]):
        assert len(re.findall(rf"\b{known}\b", re.sub(r"--.*", "", text))) > 1, known
