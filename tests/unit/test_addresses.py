"""Which addresses may be called: every odd way to write one that is not public, and names that lead there."""

from __future__ import annotations

import ipaddress

import pytest

from shared.addresses import MAX_URL, Rules, check_url, checked_addresses
from shared.errors import AddressRefused, ConfigError
from shared.settings import load_settings

NONE = Rules()

NOT_PUBLIC = [
    "0.0.0.0",  # noqa: S104 - the very address
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",  # Alibaba's metadata
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",  # Azure's
    "169.254.169.254",  # AWS's, Google's, Azure's ...
    "169.254.170.2",  # of a container on ECS
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",  # Oracle's
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "224.0.1.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",  # IPv4-compatible
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",  # IPv4-translated
    "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",  # Teredo
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",  # AWS's metadata
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "172.15.0.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]


def url_of(address: str) -> str:
    return f"http://[{address}]/" if ":" in address else f"http://{address}/"


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address: str) -> None:
    with pytest.raises(AddressRefused):
        check_url(url_of(address), NONE)
    target = check_url("https://a.example/", NONE)
    with pytest.raises(AddressRefused, match=r"^a.example is not a public address$"):
        checked_addresses([address], target, NONE)
    with pytest.raises(AddressRefused):
        checked_addresses(["8.8.8.8", address], target, NONE)
    with pytest.raises(AddressRefused):
        checked_addresses([address, "8.8.8.8"], target, NONE)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_that_are(address: str) -> None:
    check_url(url_of(address), NONE)
    assert len(checked_addresses([address], check_url("https://a.example/", NONE), NONE)) == 1


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0x7f.1",
        "0177.0.0.1",
        "127.0.0.01",
        "017700000001",
        "127.0.0.1.",
        "1.2.3.4.5",
        "256.1.1.1",
        "8.8.8.8.0x8",
        "a.0x",
        "%31%32%37.0.0.1",
        "127。0。0。1",
        "①②⑦.⓪.⓪.①",
        "localhost%00.example",
        "a..b",
        ".a",
        "-a.example",
        "a-.example",
        "a" * 64 + ".example",
        "a." * 127 + "aa",
        "",
        "[::1",
        "::1]",
        "[::1%25eth0]",
        "[fe80::1%eth0]",
        "[v1.a]",
        "[127.0.0.1]",
        "[::ffff:7f00:1]",
    ],
)
def test_odd_hosts(host: str) -> None:
    for url in (f"http://{host}/", f"https://{host}:8443/x"):
        with pytest.raises(AddressRefused):
            check_url(url, NONE)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example",
        "//a.example/",
        "ftp://a.example/",
        "file:///etc/passwd",
        "gopher://a.example/",
        "javascript:alert(1)",
        "http:a.example",
        "http:///a",
        "http://",
        "http://user@a.example/",
        "http://user:password@a.example/",
        "http://a.example@127.0.0.1/",
        "http://@a.example/",
        "http://a.example\\@127.0.0.1/",
        "http://a.example/\r\nHost: b",
        "http://a.example/\0",
        "http://a.example/a b",
        " http://a.example/",
        "http://a.exa\tmple/",
        "http://a.example:x/",
        "http://a.example:-1/",
        "http://a.example:65536/",
        "http://a.example:0/",
        "http://a.example:22/",
        "http://a.example:25/",
        "http://a.example/ä",
        "http://a.example/" + "a" * MAX_URL,
    ],
)
def test_odd_urls(url: str) -> None:
    with pytest.raises(AddressRefused):
        check_url(url, NONE)


def test_a_url_in_its_parts() -> None:
    target = check_url("HTTPS://A.Example.:8443/x/../y?z=1#f", NONE)
    assert (target.scheme, target.host, target.port, target.path) == ("https", "a.example", 8443, "/x/../y?z=1")
    assert target.authority == "a.example:8443"
    assert check_url("http://a.example:80", NONE).authority == "a.example"
    assert check_url("http://[2606:4700::1111]:8080/", NONE).authority == "[2606:4700::1111]:8080"
    assert check_url("http://[::ffff:8.8.8.8]/", NONE).host == "8.8.8.8"
    with pytest.raises(AddressRefused):
        check_url("http://a.example/", Rules(https_only=True))


def test_what_is_allowed_is_called() -> None:
    rules = Rules.parse("Hooks.corp, 10.2.0.0/16,fd00:1::/64,192.168.7.7")
    for url in ("http://10.2.3.4/", "http://[fd00:1::5]/", "http://192.168.7.7/", "http://hooks.corp:22/"):
        check_url(url, rules)
    hooks, other = check_url("http://hooks.corp/", rules), check_url("http://other.corp/", rules)
    assert checked_addresses(["127.0.0.1"], hooks, rules) == [ipaddress.ip_address("127.0.0.1")]
    assert checked_addresses(["10.2.0.1", "8.8.8.8"], other, rules)
    for url in ("http://10.3.0.1/", "http://127.0.0.1/", "http://[fd00:2::1]/"):
        with pytest.raises(AddressRefused):
            check_url(url, rules)
    for found in (["127.0.0.1"], ["10.2.0.1", "10.3.0.1"], [], ["no address"]):
        with pytest.raises(AddressRefused):
            checked_addresses(found, other, rules)


@pytest.mark.parametrize("allow", ["10.0.0.0/33", "a b", "http://a.example", "127.1", "10.0.0.1/8", "a/b", "*"])
def test_a_wrong_list_is_refused_at_start(allow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_OUTBOUND_ALLOW", allow)
    with pytest.raises(ConfigError, match="ML_OUTBOUND_ALLOW"):
        load_settings()
