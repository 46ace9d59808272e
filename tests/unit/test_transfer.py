"""Requests that end: time limits over redirects, and no step from an encrypted connection to an open one."""

import time

import pytest

from harness import transfer
from harness.transfer import Answer, UnavailableError, ask, host_of, is_offline

URL = "https://host.invalid/net.pth"


def answering(monkeypatch, answers, *, wait_s=0.0):
    """Let hosts answer by (method, address); the list it gives holds who was asked."""
    asked = []

    def answer(url, timeout_s, *, method="HEAD"):
        asked.append((method, url))
        time.sleep(wait_s)
        status, headers = answers[method, url]
        return Answer(url=url, status=status, headers=headers)

    monkeypatch.setattr(transfer, "_answer", answer)
    return asked


@pytest.mark.parametrize("target", ["http://host.invalid/net.pth", "ftp://host.invalid/net.pth", "file:///net.pth"])
def test_an_encrypted_connection_is_not_left(monkeypatch, target):
    asked = answering(monkeypatch, {("HEAD", URL): (302, {"location": target}), ("HEAD", target): (200, {})})
    with pytest.raises(UnavailableError, match=r"redirects from https to http|does not begin with http"):
        ask(URL, called="the server", follow=True)
    assert asked == [("HEAD", URL)]


def test_an_open_connection_may_become_encrypted(monkeypatch):
    start = URL.replace("https", "http")
    answering(monkeypatch, {("HEAD", start): (301, {"location": URL}), ("HEAD", URL): (200, {"content-length": "7"})})
    answer = ask(start, called="the server", follow=True)
    assert (answer.url, answer.size) == (URL, 7)


def test_a_relative_redirect_is_one_within_the_host(monkeypatch):
    other = "https://host.invalid/elsewhere.pth"
    answering(monkeypatch, {("HEAD", URL): (307, {"location": "/elsewhere.pth"}), ("HEAD", other): (200, {})})
    assert ask(URL, called="the server", follow=True).url == other


def test_without_following_the_redirect_is_the_answer(monkeypatch):
    asked = answering(monkeypatch, {("HEAD", URL): (302, {"location": "/elsewhere.pth"})})
    assert ask(URL, called="the hub").status == 302
    assert asked == [("HEAD", URL)]


def test_the_limit_is_for_all_redirects_together(monkeypatch):
    answering(monkeypatch, {("HEAD", URL): (302, {"location": URL})}, wait_s=0.2)
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"does not answer within 0\.5 seconds"):
        ask(URL, called="the server", timeout_s=0.5, follow=True)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("status", "headers", "size"),
    [
        (200, {"content-length": "12"}, 12),
        (206, {"content-length": "1", "content-range": "bytes 0-0/345"}, 345),
        (206, {"content-length": "1", "content-range": "bytes 0-0/*"}, None),
        (302, {"content-length": "0"}, None),
        (200, {}, None),
    ],
)
def test_the_size_is_that_of_the_whole_file(status, headers, size):
    assert Answer(url=URL, status=status, headers=headers).size == size


def test_hosts_are_named_without_passwords():
    assert host_of("http://me:secret@host.invalid:8080/x?y") == "host.invalid:8080"
    assert host_of("http://[::1/x") == "http://[::1/x"


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("YES", True), ("on", True), ("0", False), ("", False)])
@pytest.mark.parametrize("name", ["HARNESS_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_is_what_the_environment_says(monkeypatch, name, value, offline):
    for variable in ("HARNESS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    assert is_offline() is offline
