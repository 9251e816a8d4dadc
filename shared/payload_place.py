"""Which payload store ML_PAYLOAD_STORE names, and how what lies there is referred to.

A reference is made here, never by a caller: `s3f0...9a.2` is two objects in S3. Its first letter tells the store, so
that a process with another setting knows that it is not its own.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from shared.errors import ConfigError

Kind = Literal["r", "f", "s"]  # this Redis, a folder, S3
NAMES: dict[str, str] = {"r": "Redis", "f": "a folder", "s": "S3"}
MOST_OBJECTS = 9999  # of one reference
_REF = re.compile(r"([rfs])([0-9a-f]{32})\.([1-9][0-9]{0,3})", re.ASCII)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[\w!.*'()-]+(/[\w!.*'()-]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """`where`: the folder's absolute path, or the bucket; `prefix` of all its objects' names."""

    kind: Kind
    where: str = ""
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> Place:
        """Raises ConfigError."""
        if text == "redis":
            return cls("r")
        parts = urlsplit(text)
        if parts.query or parts.fragment:
            raise ConfigError(f"ML_PAYLOAD_STORE: {text!r}: nothing follows the path")
        if parts.scheme == "file" and not parts.netloc and parts.path.strip("/"):
            return cls("f", unquote(parts.path))
        prefix = parts.path.strip("/")
        if parts.scheme == "s3" and _BUCKET.fullmatch(parts.netloc) and (not prefix or _PREFIX.fullmatch(prefix)):
            return cls("s", parts.netloc, prefix)
        raise ConfigError(f"ML_PAYLOAD_STORE: {text!r} is none of redis, file:///FOLDER, s3://BUCKET/PREFIX")


@dataclass(frozen=True, slots=True)
class PayloadRef:
    """`count` objects of one random stem."""

    kind: str
    stem: str
    count: int = 1

    @classmethod
    def new(cls, kind: str, count: int = 1) -> PayloadRef:
        """Of something that is to be stored."""
        return cls(kind, uuid.uuid4().hex, count)

    @classmethod
    def parse(cls, text: str) -> PayloadRef:
        """Raises ValueError."""
        found = _REF.fullmatch(text)
        if found is None:
            raise ValueError("this is no reference of the payload store")
        return cls(found[1], found[2], int(found[3]))

    def __str__(self) -> str:
        return f"{self.kind}{self.stem}.{self.count}"

    def object(self, number: int) -> str:
        """The name of one of its objects: no part of it is anybody's but ours."""
        return f"{self.kind}{self.stem}.{number}"

    @property
    def objects(self) -> list[str]:
        """The names of all of them."""
        return [self.object(number) for number in range(self.count)]
