import asyncio
import json
import threading
import time

import pytest

from rowcast.errors import Unauthorized
from rowcast.http.auth import Authenticator, Issuer
from rowcast.http.jwks import MAX_DOCUMENT_BYTES, MAX_KEYS, JwksCache, fetch_document


@pytest.fixture
def cache(jwks_server, clock):
    return JwksCache(jwks_server.url, clock=clock)


def found(cache, kid="key-1", algorithm="RS256"):
    try:
        return asyncio.run(cache.key(kid, algorithm=algorithm))
    except Unauthorized:
        return None


def test_fetches_once_and_again_when_the_time_is_up(cache, jwks_server, idp, clock):
    jwks_server.serve(idp)
    assert found(cache).kid == "key-1"
    clock.now += 599
    assert found(cache)
    assert jwks_server.hits == 1
    clock.now += 1
    assert found(cache)
    assert jwks_server.hits == 2


def test_nothing_is_fetched_before_the_first_token(cache, jwks_server):
    assert jwks_server.hits == 0


def test_rotation(cache, jwks_server, make_idp, clock):
    old, new = make_idp(kid="old"), make_idp(kid="new")
    jwks_server.serve(old)
    assert found(cache, "old")
    jwks_server.serve(new)
    clock.now += 31
    assert found(cache, "new")
    assert found(cache, "old") is None
    assert jwks_server.hits == 2


def test_a_flood_of_unknown_kids_is_one_fetch_in_30_seconds(cache, jwks_server, idp, clock):
    jwks_server.serve(idp)
    assert found(cache)

    async def flood(prefix):
        keys = [cache.key(f"{prefix}-{number}", algorithm="RS256") for number in range(100)]
        return await asyncio.gather(*keys, return_exceptions=True)

    clock.now += 29
    assert all(isinstance(refusal, Unauthorized) for refusal in asyncio.run(flood("a")))
    assert jwks_server.hits == 1
    clock.now += 1
    for second in range(30):
        assert all(isinstance(refusal, Unauthorized) for refusal in asyncio.run(flood(second)))
        assert jwks_server.hits == 2
        clock.now += 1
    asyncio.run(flood("b"))
    assert jwks_server.hits == 3
    assert found(cache)


def test_two_first_callers_are_one_fetch(cache, jwks_server, idp):
    jwks_server.serve(idp)
    jwks_server.before_answer = lambda: time.sleep(0.1)

    async def run():
        return await asyncio.gather(*(cache.key("key-1", algorithm="RS256") for _ in range(20)))

    assert len(asyncio.run(run())) == 20
    assert jwks_server.hits == 1


def test_a_waiter_that_gives_up_takes_nobody_with_it(cache, jwks_server, idp):
    jwks_server.serve(idp)
    gate = threading.Event()
    jwks_server.before_answer = gate.wait

    async def run():
        first = asyncio.create_task(cache.key("key-1", algorithm="RS256"))
        await asyncio.sleep(0)
        second = asyncio.create_task(cache.key("key-1", algorithm="RS256"))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.set()
        return await second

    assert asyncio.run(run()).kid == "key-1"
    assert jwks_server.hits == 1


def test_a_loop_that_ends_takes_nobody_with_it(cache, jwks_server, idp, caplog):
    jwks_server.serve(idp)
    gate, asked = threading.Event(), threading.Event()

    def hold():
        asked.set()
        gate.wait()

    jwks_server.before_answer = hold

    async def give_up():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cache.key("key-1", algorithm="RS256"), 0.05)

    asyncio.run(give_up())
    asked.wait(5)
    threading.Timer(0.05, gate.set).start()
    assert found(cache)
    assert jwks_server.hits == 1
    assert caplog.text == ""


def test_loops_in_two_threads_share_a_fetch(cache, jwks_server, idp):
    jwks_server.serve(idp)
    jwks_server.before_answer = lambda: time.sleep(0.1)
    keys = []
    threads = [threading.Thread(target=lambda: keys.append(found(cache))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [key.kid for key in keys] == ["key-1"] * 4
    assert jwks_server.hits == 1


def test_a_slow_server_holds_up_only_those_who_need_it(jwks_server, idp, other_idp, clock):
    gate = threading.Event()
    jwks_server.before_answer = gate.wait
    issuers = [
        Issuer("slow", issuer=idp.issuer, audience="api", jwks_url=jwks_server.url, allow_loopback_http=True),
        Issuer("other", issuer=other_idp.issuer, audience="api", public_key=other_idp.pem),
    ]
    authenticator = Authenticator(issuers=issuers, clock=clock)
    jwks_server.serve(idp)

    async def run():
        slow = asyncio.create_task(authenticator.verify(idp.token()))
        for _ in range(50):
            await asyncio.sleep(0.002)
            assert (await authenticator.verify(other_idp.token())).owner == "other|auth0|123"
        assert not slow.done()
        gate.set()
        return await slow

    assert asyncio.run(run()).owner == "slow|auth0|123"


def test_callers_do_not_wait_for_ever(clock):
    gate, landed = threading.Event(), threading.Event()

    def fetch(url):
        gate.wait()
        landed.set()
        return b""

    cache = JwksCache("https://idp.example/", clock=clock, fetch=fetch, timeout_seconds=0.05)
    assert found(cache) is None
    assert not landed.is_set()
    gate.set()


def test_a_dripping_server_is_hung_up_on(jwks_server):
    jwks_server.document = b" " * 2000
    jwks_server.drip_seconds = 0.02
    assert 0 < len(fetch_document(jwks_server.url, timeout_seconds=0.3)) < 2000


@pytest.mark.parametrize("status", [201, 204, 301, 302, 303, 307, 308, 401, 404, 500, 503])
def test_only_200_counts_and_redirects_are_not_followed(cache, jwks_server, idp, status):
    jwks_server.serve(idp)
    jwks_server.status = status
    jwks_server.headers["Location"] = jwks_server.url.replace("/jwks.json", "/elsewhere")
    assert found(cache) is None
    assert jwks_server.paths == ["/jwks.json"]


def test_oversize(jwks_server, cache, idp, clock):
    jwks_server.serve(idp)
    padding = MAX_DOCUMENT_BYTES - len(jwks_server.document)
    jwks_server.document += b" " * (padding + 1)
    assert found(cache) is None
    jwks_server.document = jwks_server.document[:-1]
    clock.now += 5
    assert found(cache)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff",
        b"not json",
        b"[]",
        b"{}",
        b"null",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [null, 7]}',
        b"[" * 100_000,
        b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "key-1"}]}',
    ],
    ids=lambda document: document[:20].decode("latin-1"),
)
def test_documents_that_hold_no_keys(cache, jwks_server, idp, clock, document):
    jwks_server.document = document
    assert found(cache) is None
    jwks_server.serve(idp)
    clock.now += 5
    assert found(cache)


def test_one_strange_key_does_not_lock_out_the_others(cache, jwks_server, idp):
    strange = [None, {"kty": "new"}, idp.jwk(kid="enc", use="enc"), {"kty": "EC", "crv": "P-256", "x": 1}]
    jwks_server.document = json.dumps({"keys": [*strange, idp.jwk()]}).encode()
    assert found(cache)
    assert found(cache, "enc") is None


def test_keys_are_bounded(cache, jwks_server, make_idp):
    entry = make_idp(algorithm="ES256").jwk()
    jwks_server.document = json.dumps({"keys": [{**entry, "kid": str(n)} for n in range(MAX_KEYS + 1)]}).encode()
    assert found(cache, str(MAX_KEYS - 1), "ES256")
    assert found(cache, str(MAX_KEYS), "ES256") is None


def test_a_key_is_only_for_its_algorithm(cache, jwks_server, make_idp, clock):
    jwks_server.serve(make_idp(kid="same"), make_idp(kid="same", algorithm="EdDSA"))
    assert found(cache, "same", "RS256").algorithms >= {"RS256"}
    assert found(cache, "same", "EdDSA").algorithms == {"EdDSA"}
    assert found(cache, "same", "ES256") is None
    assert found(cache, "same", "HS256") is None


def test_a_token_without_kid_needs_an_issuer_with_one_key(cache, jwks_server, make_idp, clock):
    first, second = make_idp(kid="first"), make_idp(kid="second")
    jwks_server.serve(first, make_idp(kid="ec", algorithm="ES256"))
    assert found(cache, None).kid == "first"
    jwks_server.serve(first, second)
    clock.now += 600
    assert found(cache, None) is None


def test_old_keys_serve_while_the_issuer_is_away(cache, jwks_server, idp, clock):
    jwks_server.serve(idp)
    assert found(cache)
    jwks_server.status = 503
    clock.now += 600
    assert found(cache)
    assert found(cache)
    assert jwks_server.hits == 2  # cooling down
    clock.now = clock.now - 600 + 86_399
    assert found(cache)
    clock.now += 1
    assert found(cache) is None
    jwks_server.status = 200
    clock.now += 30
    assert found(cache)


def test_an_issuer_that_was_never_reached_is_asked_again_soon(cache, jwks_server, idp, clock):
    jwks_server.status = 503
    assert found(cache) is None
    assert found(cache) is None
    assert jwks_server.hits == 1
    jwks_server.status = 200
    jwks_server.serve(idp)
    clock.now += 5
    assert found(cache)


def test_a_clock_set_back_does_not_stop_rotation(cache, jwks_server, make_idp, clock):
    jwks_server.serve(make_idp(kid="old"))
    assert found(cache, "old")
    jwks_server.serve(make_idp(kid="new"))
    clock.now -= 1_000_000
    assert found(cache, "new")


def test_a_server_that_is_not_there(clock):
    with pytest.raises(ConnectionRefusedError):
        fetch_document("http://127.0.0.1:1/jwks.json", timeout_seconds=1)
    assert found(JwksCache("http://127.0.0.1:1/jwks.json", clock=clock)) is None


def test_a_fetch_of_ones_own_may_fail_as_it_likes(clock):
    def fetch(url):
        raise RuntimeError(url)

    cache = JwksCache("https://idp.example/", clock=clock, fetch=fetch)
    assert found(cache) is None


def test_the_query_of_the_url_is_kept(jwks_server, idp, clock):
    jwks_server.serve(idp)
    assert found(JwksCache(f"{jwks_server.url}?tenant=7", clock=clock))
    assert jwks_server.paths == ["/jwks.json?tenant=7"]


def test_no_threads_are_left(cache, jwks_server, idp):
    jwks_server.serve(idp)
    before = {thread.name for thread in threading.enumerate()}
    assert found(cache)
    deadline = time.monotonic() + 5
    while {thread.name for thread in threading.enumerate()} & {"rowcast-jwks"} and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "rowcast-jwks" not in {thread.name for thread in threading.enumerate()} - before


def test_https(tls_jwks_server, idp, clock, monkeypatch):
    tls_jwks_server.serve(idp)
    assert found(JwksCache(tls_jwks_server.url, clock=clock)) is None
    assert tls_jwks_server.hits == 0
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_jwks_server.certificate))
    assert found(JwksCache(tls_jwks_server.url, clock=clock))
    wrong_name = tls_jwks_server.url.replace("localhost", "127.0.0.1")
    assert found(JwksCache(wrong_name, clock=clock)) is None


def test_a_server_that_drips_over_https_is_hung_up_on(tls_jwks_server, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_jwks_server.certificate))
    tls_jwks_server.document = b" " * 2000
    tls_jwks_server.drip_seconds = 0.02
    assert 0 < len(fetch_document(tls_jwks_server.url, timeout_seconds=0.5)) < 2000
