import asyncio
import json
import logging
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.errors import ConfigurationError, CrossSite, Unauthorized
from rowcast.http.auth import Authenticator, GuestTokens, Issuer, Principal
from rowcast.http.keys import SigningKey
from rowcast.http.tickets import Tickets

SIGNING_KEY = SigningKey.generate()


@pytest.fixture
def authenticator(idp, other_idp, clock):
    return Authenticator(
        issuers=[
            Issuer("idp", issuer=idp.issuer, audience="api", public_key=idp.pem),
            Issuer("other", issuer=other_idp.issuer, audience=("api", "admin"), public_key=other_idp.pem),
        ],
        signing_key=SIGNING_KEY,
        allowed_origins=["https://pages.example"],
        clock=clock,
    )


@pytest.fixture
def sign_in(authenticator, connect):
    """The principal behind a request with this header, cookie or query; `ticket_for` makes it a ticket's route."""

    def sign_in(*, bearer=None, cookie=None, query="", ticket_for=None, method="GET", headers=()):
        pairs = list(headers)
        if bearer is not None:
            pairs.append(("authorization", f"Bearer {bearer}"))
        if cookie is not None:
            pairs.append(("cookie", f"theme=dark; rowcast_token={cookie}"))
        connection = connect(method, pairs, query=query)
        if ticket_for is None:
            return asyncio.run(authenticator.verify_any_token(connection))
        return asyncio.run(authenticator.verify_any_token_or_ticket(connection, session=ticket_for))

    return sign_in


@pytest.fixture
def refused(sign_in):
    """Every refusal must look like every other."""

    def refused(**request):
        with pytest.raises(Unauthorized) as refusal:
            sign_in(**request)
        assert str(refusal.value) == Unauthorized.__doc__
        assert refusal.value.reason == "unauthorized"
        assert refusal.value.__cause__ is None
        return True

    return refused


# Forged and misused tokens


def test_alg_none(idp, forge, refused):
    for algorithm in ("none", "None", "NONE", ""):
        header = {"alg": algorithm, "typ": "JWT"}
        assert refused(bearer=forge(header, idp.claims()))
        assert refused(bearer=forge(header, idp.claims()) + "AAAA")
        assert refused(bearer=forge({"alg": algorithm}, idp.claims(), key=idp.private_key))


@pytest.mark.parametrize("algorithm", ["HS256", "RS256"])
def test_public_key_as_hmac_secret(idp, forge, refused, algorithm):
    for secret in (idp.pem.encode(), idp.pem.strip().encode()):
        assert refused(bearer=forge({"alg": algorithm, "typ": "JWT"}, idp.claims(), hmac_secret=secret))


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another-api"},
        {"aud": ["x", "y"]},
        {"aud": ...},
        {"aud": None},
        {"aud": {"api": 1}},
        {"aud": [["api"]]},
        {"aud": []},
        {"exp": 1_800_000_000 - 6},
        {"exp": ...},
        {"exp": None},
        {"exp": "1900000000"},
        {"exp": True},
        {"exp": -1},
        {"exp": math.nan},
        {"exp": math.inf},
        {"exp": 10**400},
        {"nbf": 1_800_000_000 + 60},
        {"nbf": "soon"},
        {"nbf": True},
        {"nbf": math.nan},
        {"sub": ...},
        {"sub": ""},
        {"sub": None},
        {"sub": 7},
        {"sub": ["auth0|123"]},
        {"sub": "x" * 256},
        {"sub": "a\nb"},
        {"sub": "a\0b"},
        {"sub": "a\x7fb"},
        {"sub": "a\u2028b"},
        {"sub": "\ud800"},
        {"iss": "https://unknown.example/"},
        {"iss": ...},
        {"iss": ["https://idp.example/"]},
        {"iss": "https://idp.example"},
        {"iss": "https://other.example/"},  # its own keys, another's name
        {"iss": "rowcast"},
    ],
    ids=str,
)
def test_claims_that_do_not_do(idp, refused, changes):
    assert refused(bearer=idp.token(**changes))
    assert refused(cookie=idp.token(**changes))


@pytest.mark.parametrize(
    "headers",
    [
        {"jku": "https://evil.example/jwks.json"},
        {"x5u": "https://evil.example/cert"},
        {"jwk": {"kty": "oct", "k": "AA"}},
        {"crit": ["exp"]},
        {"b64": False, "crit": ["b64"]},
        {"b64": True},
        {"kid": 7},
        {"kid": ["key-1"]},
        {"typ": 7},
        {"typ": "rowcast-guest+jwt"},
        {"typ": "rowcast-ticket+jwt"},
        {"typ": "logout+jwt"},
        {"alg": "ES256"},
        {"alg": "RS512"},  # the key could, its issuer does not
        {"alg": ...},
        {"alg": ["RS256"]},
    ],
    ids=str,
)
def test_headers_that_do_not_do(idp, refused, headers):
    assert refused(bearer=idp.token(headers=headers))


def test_own_key_in_the_header(idp, make_idp, refused):
    attacker = make_idp()
    assert refused(bearer=attacker.token(headers={"jwk": attacker.jwk()}))


def test_tampered_claims(idp, refused):
    header, _, signature = idp.token().split(".")
    _, claims, _ = idp.token(sub="admin").split(".")
    assert refused(bearer=f"{header}.{claims}.{signature}")


def test_tampered_signature(idp, refused):
    token = idp.token()
    for position in (len(token) - 2, token.rindex(".") + 1):
        swapped = "A" if token[position] != "A" else "B"
        assert refused(bearer=token[:position] + swapped + token[position + 1 :])


def test_malformed(idp, forge, refused):
    token = idp.token()
    deep = forge({"alg": "RS256"}, {}).split(".")[0]
    nested = "W1tbW1tb" * 900  # base64url of [[[[[[...
    for malformed in (
        "x",
        "..",
        f"{token}.x",
        token.replace(".", "", 1),
        f"{token}=",
        token.replace(".", " .", 1),
        f"{deep}.{nested}.AAAA",
        f"{nested}.{deep}.AAAA",
        f"A.{deep}.AAAA",
        f"{deep}.{deep}.A",
        forge([], {}) + "AAAA",
        forge({"alg": "RS256"}, []) + "AAAA",
        forge({"alg": "RS256"}, "text") + "AAAA",
    ):
        assert refused(bearer=malformed)


def test_oversize(idp, sign_in, refused):
    at_most = 8192 - len(idp.token(pad=""))
    assert sign_in(bearer=idp.token(pad="x" * (at_most // 4 * 3 - 3)))
    assert refused(bearer=idp.token(pad="x" * at_most))


@pytest.mark.parametrize("name", ["token", "access_token", "Token", "id_token", "jwt"])
def test_token_in_query(idp, sign_in, name):
    for request in ({"bearer": idp.token()}, {}):
        with pytest.raises(Unauthorized, match="ends up in logs") as refusal:
            sign_in(query=f"{name}={idp.token()}", **request)
        assert refusal.value.reason == "token_in_query"
        with pytest.raises(Unauthorized, match="ends up in logs"):
            sign_in(query=f"{name}=", ticket_for="s1", **request)


def test_user_token_as_ticket(idp, clock, refused):
    assert refused(query=f"ticket={idp.token()}", ticket_for="s1")


def test_guest_token_as_ticket(clock, refused):
    token, _ = GuestTokens(SIGNING_KEY, clock=clock).issue()
    assert refused(query=f"ticket={token}", ticket_for="s1")


@pytest.fixture
def ticket(clock):
    parent = Principal(owner="idp|auth0|123", expires_at=clock() + 3600, via="bearer")
    return Tickets(SIGNING_KEY, clock=clock).issue(parent, "s1").token


def test_ticket_elsewhere_than_in_its_query(ticket, refused):
    assert refused(bearer=ticket)
    assert refused(cookie=ticket)
    assert refused(bearer=ticket, ticket_for="s1")
    assert refused(query=f"ticket={ticket}")  # not a ticket's route
    assert refused(query=f"TICKET={ticket}", ticket_for="s1")


def test_ticket_for_another_session(ticket, refused):
    assert refused(query=f"ticket={ticket}", ticket_for="s2")


def test_several_credentials_of_one_kind(idp, ticket, refused):
    assert refused(bearer=idp.token(), headers=[("authorization", f"Bearer {idp.token()}")])
    assert refused(query=f"ticket={ticket}&ticket={ticket}", ticket_for="s1")


def test_a_bad_credential_is_not_outdone_by_a_good_one(idp, ticket, refused):
    assert refused(bearer="bad", cookie=idp.token())
    assert refused(bearer="bad", query=f"ticket={ticket}", ticket_for="s1")
    assert refused(query="ticket=", cookie=idp.token(), ticket_for="s1")


def test_no_credentials(refused):
    assert refused()
    assert refused(ticket_for="s1")
    assert refused(bearer="")
    assert refused(cookie="")
    assert refused(headers=[("authorization", "Basic Zm9vOmJhcg==")])


def test_guests_switched_off(clock, connect):
    token, _ = GuestTokens(SIGNING_KEY, clock=clock).issue()
    tickets_only = Authenticator(signing_key=SIGNING_KEY, accept_guests=False, clock=clock)
    neither = Authenticator(clock=clock)
    for authenticator in (tickets_only, neither):
        with pytest.raises(Unauthorized):
            asyncio.run(authenticator.verify(token))
    with pytest.raises(Unauthorized):
        asyncio.run(neither.verify_any_token_or_ticket(connect(query="ticket=x"), session="s1"))


def test_guest_tokens_of_another_key_and_of_yesterday(clock, refused):
    token, _ = GuestTokens(SigningKey.generate(), clock=clock).issue()
    assert refused(bearer=token)
    token, _ = GuestTokens(SIGNING_KEY, clock=clock).issue()
    clock.now += 86_400
    assert refused(bearer=token)


def test_random_text_is_only_ever_refused(authenticator, connect):
    def refuses(connection):
        with pytest.raises(Unauthorized):
            asyncio.run(authenticator.verify_any_token_or_ticket(connection, session="s1"))

    header_text = st.text(st.characters(max_codepoint=255), max_size=200)

    @settings(max_examples=200, deadline=None)
    @given(header_text)
    def as_header(text):
        refuses(connect(headers={"authorization": f"Bearer {text}"}))
        refuses(connect(headers={"authorization": text}))

    @settings(max_examples=100, deadline=None)
    @given(header_text)
    def as_cookie(text):
        refuses(connect(headers={"cookie": f"rowcast_token={text}"}))

    @settings(max_examples=100, deadline=None)
    @given(st.text(max_size=200))
    def as_query(text):
        refuses(connect(query=f"ticket={text}"))

    as_header()
    as_cookie()
    as_query()


def test_random_json_in_the_right_shape_is_only_ever_refused(authenticator, idp, forge):
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
    issuers = st.sampled_from([idp.issuer, "rowcast"])
    headers = st.fixed_dictionaries(
        {"alg": st.sampled_from(["RS256", "ES256", "EdDSA", "none", "HS256"]) | values},
        optional={"kid": values, "typ": st.just("JWT") | values},
    )
    claims = st.fixed_dictionaries(
        {"iss": issuers}, optional=dict.fromkeys(("aud", "exp", "nbf", "sub", "session"), values)
    )

    @settings(max_examples=300, deadline=None)
    @given(headers, claims, st.binary(max_size=300))
    def run(header, body, signature):
        token = forge(header, body)
        with pytest.raises(Unauthorized):
            asyncio.run(authenticator.verify(token + signature.hex()))

    run()


# Good tokens


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_user_token(make_idp, clock, algorithm):
    provider = make_idp(algorithm=algorithm)
    issuer = Issuer("acme", issuer=provider.issuer, audience="api", public_key=provider.pem)
    principal = asyncio.run(Authenticator(issuers=[issuer], clock=clock).verify(provider.token()))
    assert principal == Principal(owner="acme|auth0|123", expires_at=clock() + 3600, via="bearer")
    assert principal.session is None


def test_same_subject_of_two_issuers_is_two_owners(idp, other_idp, sign_in):
    assert sign_in(bearer=idp.token(sub="7")).owner == "idp|7"
    assert sign_in(bearer=other_idp.token(sub="7")).owner == "other|7"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["x", "api"]},
        {"nbf": 1_800_000_000 + 4},
        {"exp": 1_800_000_000 - 4},
        {"sub": "用户 1"},
        {"sub": "x" * 255},
    ],
    ids=str,
)
def test_claims_that_do(idp, sign_in, changes):
    assert sign_in(bearer=idp.token(**changes))


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", ...], ids=str)
def test_types_that_do(idp, sign_in, typ):
    assert sign_in(bearer=idp.token(headers={"typ": typ}))


def test_scheme_is_case_insensitive_and_other_schemes_are_not_ours(idp, sign_in):
    assert sign_in(headers=[("authorization", f"bearer   {idp.token()} ")]).via == "bearer"
    assert sign_in(cookie=idp.token(), headers=[("authorization", "Basic Zm9vOmJhcg==")]).via == "cookie"


def test_bearer_beats_ticket_beats_cookie(idp, other_idp, ticket, sign_in):
    request = {"query": f"ticket={ticket}", "cookie": other_idp.token(), "ticket_for": "s1"}
    assert sign_in(bearer=idp.token(sub="bearer"), **request).owner == "idp|bearer"
    assert sign_in(**request).via == "ticket"
    assert sign_in(**{**request, "query": ""}).owner == "other|auth0|123"


def test_ticket_opens_its_session_again_and_again(ticket, clock, sign_in):
    parent_expires_at = clock() + 3600
    for _ in range(3):
        clock.now += 19
        principal = sign_in(query=f"ticket={ticket}", ticket_for="s1")
        assert principal == Principal(owner="idp|auth0|123", expires_at=parent_expires_at, via="ticket", session="s1")


def test_guest_by_header_and_by_cookie(clock, sign_in):
    token, guest = GuestTokens(SIGNING_KEY, clock=clock).issue()
    assert sign_in(bearer=token) == guest
    assert sign_in(cookie=token).owner == guest.owner
    assert guest.owner.startswith("guest|")
    assert guest.expires_at == clock() + 86_400


# Cookies and other sites (the whole matrix is in test_origin.py)


def test_a_foreign_page_is_refused_whether_or_not_its_visitor_is_signed_in(idp, sign_in):
    for cookie in (idp.token(), "bad"):
        with pytest.raises(CrossSite):
            sign_in(cookie=cookie, headers=[("sec-fetch-site", "cross-site")])
        with pytest.raises(CrossSite):
            sign_in(cookie=cookie, method="POST")


def test_a_listed_page_may_use_the_cookie(idp, sign_in):
    headers = [("sec-fetch-site", "cross-site"), ("origin", "https://pages.example")]
    assert sign_in(cookie=idp.token(), headers=headers).via == "cookie"


def test_a_foreign_page_may_use_header_and_ticket(idp, ticket, sign_in):
    headers = [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")]
    assert sign_in(bearer=idp.token(), cookie="bad", method="POST", headers=headers).via == "bearer"
    assert sign_in(query=f"ticket={ticket}", cookie="bad", ticket_for="s1", headers=headers).via == "ticket"


# Wiring


def test_fastapi_dependency_takes_nothing_from_the_query(authenticator, ticket):
    from fastapi import Depends, FastAPI
    from fastapi.testclient import TestClient

    app = FastAPI()

    @app.get("/")
    async def whoami(principal: Principal = Depends(authenticator.verify_any_token)) -> str:  # noqa: B008
        return principal.owner

    assert app.openapi()["paths"]["/"]["get"].get("parameters", []) == []
    with pytest.raises(Unauthorized):
        TestClient(app).get("/", params={"ticket": ticket, "ticket_for": "s1", "session": "s1"})


def test_reasons_are_logged_and_tokens_are_not(idp, refused, caplog):
    caplog.set_level(logging.DEBUG)
    token = idp.token(exp=1)
    assert refused(bearer=token)
    assert "token refused: expired" in caplog.text
    assert token not in caplog.text
    assert token.split(".")[2] not in caplog.text


def test_keys_are_fetched_for_the_issuer_that_the_token_names(make_idp, jwks_server, clock):
    provider, stranger = make_idp(kid="shared"), make_idp(kid="shared", issuer="https://b.example/")
    jwks_server.serve(provider)
    fetched = []

    def fetch(url):
        fetched.append(url)
        document = {"a": provider, "b": stranger}[url.rsplit("/", 1)[1]].jwk()
        return json.dumps({"keys": [document]}).encode()

    issuers = [
        Issuer("a", issuer=provider.issuer, audience="api", jwks_url="https://keys.example/a"),
        Issuer("b", issuer=stranger.issuer, audience="api", jwks_url="https://keys.example/b"),
    ]
    authenticator = Authenticator(issuers=issuers, fetch=fetch, clock=clock)
    assert asyncio.run(authenticator.verify(provider.token())).owner == "a|auth0|123"
    assert asyncio.run(authenticator.verify(stranger.token())).owner == "b|auth0|123"
    with pytest.raises(Unauthorized):  # the same kid, the other's key
        asyncio.run(authenticator.verify(provider.token(iss=stranger.issuer)))
    assert fetched == ["https://keys.example/a", "https://keys.example/b"]


def test_hopeless_tokens_fetch_no_keys(idp, clock):
    fetched = []
    issuer = Issuer("a", issuer=idp.issuer, audience="api", jwks_url="https://keys.example/a")
    authenticator = Authenticator(issuers=[issuer], fetch=fetched.append, clock=clock)
    for token in (idp.token(exp=1), idp.token(aud="x"), idp.token(sub=""), idp.token(headers={"alg": "HS256"})):
        with pytest.raises(Unauthorized):
            asyncio.run(authenticator.verify(token))
    assert fetched == []


def test_issuers_that_cannot_be_told_apart(idp, other_idp):
    one = Issuer("one", issuer=idp.issuer, audience="api", public_key=idp.pem)
    for two in (
        Issuer("one", issuer=other_idp.issuer, audience="api", public_key=other_idp.pem),
        Issuer("two", issuer=idp.issuer, audience="api", public_key=idp.pem),
    ):
        with pytest.raises(ConfigurationError, match="share"):
            Authenticator(issuers=[one, two])
