"""ML_REDIS_URL: what each form means, and that a wrong one is told without its password."""

from __future__ import annotations

import ssl

import pytest

from shared.errors import ConfigError
from shared.redis_url import Address, parse
from shared.settings import Settings, load_settings

SAFE = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}


@pytest.mark.parametrize(
    ("url", "address", "stock"),
    [
        ("redis://", Address("redis", (("127.0.0.1", 6379),)), "redis://127.0.0.1:6379/0"),
        (
            "redis://:p%2F@[::1]:7000/3",
            Address("redis", (("::1", 7000),), db=3, login={"password": "p/"}),
            "redis://:p%2F@[::1]:7000/3",
        ),
        ("rediss://r:1/0", Address("rediss", (("r", 1),), tls=SAFE), "rediss://r:1/0"),
        (
            "rediss://r?ssl_cert_reqs=CERT_NONE&ssl_check_hostname=false",
            Address("rediss", (("r", 6379),), tls={"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False}),
            "rediss://r:6379/0",
        ),
        (
            "redis+socket://u:p@/run/r.sock?virtual_host=2",
            Address("redis+socket", path="/run/r.sock", db=2, login={"username": "u", "password": "p"}),
            "redis+socket://u:p@/run/r.sock?virtual_host=2",
        ),
        (
            # kombu goes on to the next part with what that part says: each must say all of it.
            "sentinel://u:p@a:1/2;sentinel://b?master_name=m&sentinel_password=s",
            Address(
                "sentinel",
                (("a", 1), ("b", 26379)),
                db=2,
                login={"username": "u", "password": "p"},
                master="m",
                sentinel_login={"password": "s"},
            ),
            "sentinel://u:p@a:1/2;sentinel://u:p@b:26379/2",
        ),
        (
            "sentinel://a/1?master_name=m&ssl_cert_reqs=required",
            Address("sentinel", (("a", 26379),), db=1, tls=SAFE, master="m"),
            "sentinel://a:26379/1",
        ),
    ],
)
def test_what_a_url_means(url: str, address: Address, stock: str) -> None:
    assert parse(url) == address
    assert parse(url).stock_url() == stock


WRONG = [
    ("", "not a URL"),
    ("hunter2@host:6379", "not a URL"),
    ("amqp://u:hunter2@h", "amqp:// is none of its schemes"),
    ("unix:///run/r.sock", "redis+socket:///PATH"),
    ("redis://:hunter/2@h/0", "%2F"),
    ("redis://:hunter?2@h/0", "%2F"),
    ("redis://:hunter#2@h/0", "%2F"),
    ("redis://:hunter;2@h/0", "%2F"),
    ("redis://h/0#hunter2", "%23"),
    ("redis://:hunter2@h:port/0", "host and port"),
    ("redis://:hunter2@h/zero", "the database is not a number"),
    ("redis://:hunter2@h/0?db=1", "it has: none"),
    ("redis://:hunter2@h/0?ssl_ca_certs=x", "ssl_ca_certs needs TLS: rediss://"),
    ("rediss://:hunter2@h/0?ssl_ca_certs=/no/such.pem", "there is no file /no/such.pem"),
    ("rediss://:hunter2@h/0?ssl_cert_reqs=maybe", "required, optional, none"),
    ("rediss://:hunter2@h/0?ssl_check_hostname=maybe", "true or false"),
    ("redis+socket://run/r.sock", "redis+socket:///PATH"),
    ("redis://h/0;redis://i/0", "only sentinel:// takes several servers"),
    ("sentinel://:hunter2@a/0;sentinel://b", "?master_name=NAME"),
    ("sentinel://:hunter2@/0?master_name=m", "has no host"),
    ("sentinel://:hunter2@a/0;sentinel://:hunter3@b/0?master_name=m", "the same user, password and database"),
    ("sentinel://:hunter2@a/0;sentinel://b/1?master_name=m", "the same user, password and database"),
]


@pytest.mark.parametrize(("url", "told"), WRONG)
def test_a_wrong_one_is_told_without_its_password(url: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_REDIS_URL", url)
    for read in (lambda: parse(url), load_settings, lambda: Settings(redis_url=url)):
        with pytest.raises(ConfigError, match=r"^ML_REDIS_URL: ") as caught:
            read()
        assert told in caught.value.message
        assert "hunter" not in caught.value.message


def test_a_place_for_people_has_no_password() -> None:
    assert parse("redis://:hunter2@h/1").place() == "h:6379"
    assert parse("redis+socket://:hunter2@/run/r.sock").place() == "/run/r.sock"
    sentinels = parse("sentinel://:hunter2@a;sentinel://b:1?master_name=m&sentinel_password=hunter3")
    assert sentinels.place() == "the master m of the sentinels a:26379, b:1"
    assert "hunter" not in repr(sentinels)
