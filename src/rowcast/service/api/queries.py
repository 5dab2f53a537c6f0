"""Metadata of the queries that requests ran, and the catalogue of what can be asked."""

from fastapi import APIRouter

from rowcast.service.api.context import Caller, PathId, Services, parse_uuid
from rowcast.service.api.models import QueryMetadata, Question
from rowcast.service.handlers.questions import list_questions

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["queries"])


@router.head("/query/{query_id}", include_in_schema=False)
@router.get("/query/{query_id}")
async def get_query_metadata(service: Services, caller: Caller, query_id: PathId) -> QueryMetadata:
    """Read the metadata of a query, if the caller owns the request that ran it."""
    row = await service.queries.get(caller.owner, parse_uuid(query_id, "query_id"))
    return QueryMetadata(**{**row, "query_id": str(row["query_id"]), "request_id": str(row["request_id"])})


@router.head("/questions", include_in_schema=False)
@router.get("/questions", response_model_exclude_unset=True)
async def get_questions() -> list[Question]:
    """List what the built-in handler can answer."""
    return [Question(**question) for question in list_questions()]
