import pytest

from rowcast.errors import ConfigurationError, Unauthorized
from rowcast.http.guest import GuestTokens
from rowcast.http.keys import SigningKey
from rowcast.http.principal import Principal
from rowcast.http.tickets import Tickets

KEY = SigningKey.generate()


@pytest.fixture
def tickets(clock):
    return Tickets(KEY, clock=clock)


@pytest.fixture
def parent(clock):
    return Principal(owner="idp|7", expires_at=clock() + 3600, via="cookie")


def test_opens_one_session_until_it_ends(tickets, parent, clock):
    ticket = tickets.issue(parent, "s1")
    assert ticket.expires_at == clock() + 60
    expected = Principal(owner="idp|7", expires_at=parent.expires_at, via="ticket", session="s1")
    assert tickets.verify(ticket.token, "s1") == expected
    clock.now += 59.9
    assert tickets.verify(ticket.token, "s1") == expected
    clock.now += 0.1
    with pytest.raises(Unauthorized):
        tickets.verify(ticket.token, "s1")


def test_another_session(tickets, parent):
    token = tickets.issue(parent, "s1").token
    for session in ("s2", "", "S1", "s1 "):
        with pytest.raises(Unauthorized):
            tickets.verify(token, session)


def test_ends_no_later_than_its_parent(tickets, clock):
    ending = Principal(owner="idp|7", expires_at=clock() + 10, via="bearer")
    ticket = tickets.issue(ending, "s1")
    assert ticket.expires_at == ending.expires_at
    clock.now += 10
    with pytest.raises(Unauthorized):
        tickets.verify(ticket.token, "s1")
    with pytest.raises(Unauthorized):
        tickets.issue(ending, "s1")


def test_parent_without_expiry(tickets):
    ticket = tickets.issue(Principal(owner="idp|7", expires_at=None, via="bearer"), "s1")
    assert tickets.verify(ticket.token, "s1").expires_at is None


def test_cannot_get_another_ticket(tickets, parent):
    principal = tickets.verify(tickets.issue(parent, "s1").token, "s1")
    with pytest.raises(Unauthorized):
        tickets.issue(principal, "s1")


def test_longest_owner(tickets, clock):
    owner = "a" * 64 + "|" + "é" * 255
    ticket = tickets.issue(Principal(owner=owner, expires_at=clock() + 60, via="bearer"), "s1")
    assert tickets.verify(ticket.token, "s1").owner == owner


def test_other_tokens_are_no_tickets_and_tickets_are_no_guests(tickets, parent, clock):
    guests = GuestTokens(KEY, clock=clock)
    guest_token, guest = guests.issue()
    with pytest.raises(Unauthorized):
        tickets.verify(guest_token, "s1")
    with pytest.raises(Unauthorized):
        guests.verify(tickets.issue(guest, "s1").token)
    with pytest.raises(Unauthorized):
        Tickets(SigningKey.generate(), clock=clock).verify(tickets.issue(parent, "s1").token, "s1")


def test_either_of_type_and_audience_is_enough_to_refuse(tickets, clock):
    claims = {"sub": "idp|7", "session": "s1", "exp": clock() + 60, "parent_exp": clock() + 60}
    right_audience, right_typ = "rowcast:ticket", "rowcast-ticket+jwt"
    assert tickets.verify(KEY.sign({**claims, "aud": right_audience}, typ=right_typ), "s1")
    for audience, typ in ((right_audience, "rowcast-guest+jwt"), ("rowcast:guest", right_typ), (right_audience, "JWT")):
        with pytest.raises(Unauthorized):
            tickets.verify(KEY.sign({**claims, "aud": audience}, typ=typ), "s1")


@pytest.mark.parametrize("changes", [{"parent_exp": "x"}, {"sub": None}, {"sub": "a\nb"}, {"session": None}], ids=str)
def test_a_ticket_that_we_would_not_issue(tickets, clock, changes):
    claims = {"aud": "rowcast:ticket", "sub": "idp|7", "session": "s1", "exp": clock() + 60, **changes}
    with pytest.raises(Unauthorized):
        tickets.verify(KEY.sign(claims, typ="rowcast-ticket+jwt"), "s1")


@pytest.mark.parametrize("ttl_seconds", [0, -1, 601, float("nan")])
def test_impossible_lifetimes(ttl_seconds):
    with pytest.raises(ConfigurationError):
        Tickets(KEY, ttl_seconds=ttl_seconds)
