"""What anybody may read: the description of the surface, and what each error means."""

from functools import cache

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from services.ingress.http import openapi
from services.ingress.http.problems import TYPES, Problem


@cache
def _openapi() -> bytes:
    return to_json(openapi.document())


async def describe(_: Request) -> Response:
    """GET /v1/openapi.json."""
    return Response(_openapi(), headers={"Cache-Control": "max-age=300"}, media_type="application/json")


async def explain(request: Request) -> Response:
    """GET /problems/{code}: what the `type` of a problem document leads to."""
    kind = TYPES.get(request.path_params["code"])
    if kind is None:
        raise Problem("not-found", "There is no such problem type.")
    return Response(kind.document(), headers={"Cache-Control": "max-age=300"}, media_type="text/markdown; charset=utf-8")
