"""Guests: visitors without an account, who own what they start."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from rowcast import NotFound, Unauthorized
from rowcast.http import guest_cookie, needs_secure_cookie
from rowcast.service.api.context import Services
from rowcast.service.api.models import GuestToken, KeySet

__all__ = ["COOKIE", "router"]

COOKIE = "rowcast_token"

router = APIRouter(tags=["auth"])


@router.post(
    "/api/auth/guest", status_code=201, response_model=GuestToken,
    responses={200: {"model": GuestToken, "description": "The guest's cookie is still good"}},
)  # fmt: skip
async def become_guest(request: Request, service: Services) -> Response:
    """Get a guest token, also as a cookie; a guest who still has a good cookie stays who they are."""
    if not service.settings.guest_enabled:
        raise NotFound
    secure = needs_secure_cookie(request)
    if COOKIE in request.cookies:
        try:
            known = await service.authenticator.verify_any_token(request)
        except Unauthorized:
            pass  # it ran out, or was another server's
        else:
            return JSONResponse({"token": None, "expires_at": round(known.expires_at or 0, 3)}, 200, _NO_STORE)
    request.app.state.guest_rate.check(request.client.host if request.client else "")
    token, guest = service.guests.issue()
    response = JSONResponse({"token": token, "expires_at": round(guest.expires_at or 0, 3)}, 201, _NO_STORE)
    cookie = guest_cookie(COOKIE, token, service.settings.guest_ttl_seconds, secure=secure)
    response.headers.append("Set-Cookie", cookie)
    return response


@router.head("/.well-known/jwks.json", include_in_schema=False)
@router.get("/.well-known/jwks.json", response_model=KeySet)
async def get_public_keys(service: Services) -> Response:
    """The public keys of the tokens issued here."""
    return JSONResponse(service.signing_key.jwks(), headers={"Cache-Control": "public, max-age=300"})


_NO_STORE = {"Cache-Control": "no-store"}
