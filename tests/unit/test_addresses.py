"""The guard of users' URLs: a table of odd addresses, all refused."""

import pytest

from domain.addresses import find_url_fault, is_public

REFUSED_ADDRESSES = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.255 169.254.169.254
172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.19.255.255 198.51.100.7
203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1
100::1 2001::1 2001:0:7f00:1::1 2001:2::1 2001:10::1 2001:db8::1 2002:7f00:1::1 2002:808:808::1 3fff::1 5f00::1
fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 2606:4700::1111%eth0 fec0::1 ff02::1
localhost 127.1 0x7f.0.0.1 0177.0.0.1 2130706433 8.8.8.8.
""".split()

REFUSED_URLS = [
    "http://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "//example.com/",
    "example.com",
    "",
    "https://",
    "https:///path",
    "https://user@example.com/",
    "https://user:word@example.com/",
    "https://@example.com/",
    "https://example.com@127.0.0.1/",
    "https://example.com:80/",
    "https://example.com:22/",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://example.com:port/",
    "https://example.com/#part",
    "https://example.com/#",
    "https://localhost/",
    "https://localhost./",
    "https://a.localhost/",
    "https://metadata.google.internal/",
    "https://printer.local/",
    "https://intranet/",
    "https://127.0.0.1/",
    "https://127.0.0.1./",
    "https://127.1/",
    "https://0/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0X7F.1/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://8.8.8.010/",
    "https://8.8.8.8./",
    "https://8.8.2056/",
    "https://1.2.3.4.5/",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[2001:0:7f00:1::]/",
    "https://[fe80::1%25eth0]/",
    "https://[::1",
    "https://169.254.169.254/latest/meta-data/",
    "https://exa mple.com/",
    "https://example.com\\@127.0.0.1/",
    "https://example.com/\r\nHost: x",
    "https://ex\u0430mple.com/",
    "https://\u2460\u2461\u2466.0.0.1/",
    "https://127\u30020\u30020\u30021/",
    "https://example..com/",
    "https://-a.example.com/",
    "https://ex%61mple.com/",
    "https://example.com/" + "a" * 2000,
]


@pytest.mark.parametrize("address", REFUSED_ADDRESSES)
def test_refused_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_refused_urls(url: str) -> None:
    assert find_url_fault(url) is not None


@pytest.mark.parametrize(
    "url",
    ["https://example.com", "https://hooks.example.com:8443/a?b=c", "https://xn--exmple-cua.com/", "https://8.8.8.8/",
     "https://[2606:4700:4700::1111]/", "https://EXAMPLE.com./"],
)  # fmt: skip
def test_urls_that_may_be_called(url: str) -> None:
    assert find_url_fault(url) is None


def test_private_addresses_for_tests() -> None:
    """The setting lets http and loopback pass, but no name or password and no other scheme."""
    assert find_url_fault("http://127.0.0.1:1234/", private_allowed=True) is None
    assert find_url_fault("http://user@127.0.0.1:1234/", private_allowed=True) is not None
    assert find_url_fault("ftp://127.0.0.1/", private_allowed=True) is not None
