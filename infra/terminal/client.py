"""HTTP as commands use it: one request, and what its status means for the exit code."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from infra.terminal.failures import Failure, Misused, NotAllowed, NotFound, Unreachable

# Longer than the 30 s that `Prefer: wait` may ask for.
REQUEST_SECONDS_MAX: Final = 35.0
TEXT_LENGTH_MAX: Final = 300
LOOK: Final = "`tutti status` shows what runs, `tutti logs` whose words there are"


@dataclass(frozen=True, slots=True)
class Client:
    """An HTTP API and the credential that it takes."""

    url: str
    credential: str

    def send(self, method: str, path: str, headers: Mapping[str, str] | None = None, **options: Any) -> httpx2.Response:
        """The answer, also one that is an error. Raises Unreachable without one, NotAllowed when the credential is refused."""
        sent = {"Authorization": f"Bearer {self.credential}", **(headers or {})}
        url = self.url.rstrip("/") + path
        try:
            answer = httpx2.request(method, url, headers=sent, timeout=REQUEST_SECONDS_MAX, trust_env=False, **options)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unreachable(
                f"no answer from {self.url} ({type(error).__name__}); `tutti status` shows what runs, `tutti up` starts it"
            ) from error
        if answer.status_code in (401, 403):
            raise NotAllowed(
                f"{self.url} refuses the credential: {detail(answer)}. Keys and tokens are in addresses.json of the home;"
                " TUTTI_OPERATOR_TOKEN goes before an operator's there"
            )
        return answer

    def answer(self, method: str, path: str, *, missing: str | None = None, **options: Any) -> httpx2.Response:
        """The answer, where it is a success. Otherwise raises what its status means; `missing` replaces the words of a 404."""
        answer = self.send(method, path, **options)
        if not answer.is_success:
            raise meaning(answer, missing)
        return answer

    def ask(self, method: str, path: str, *, missing: str | None = None, **options: Any) -> Any:
        """The answer's document. Raises as `answer` does, and Unreachable for what is no JSON."""
        return document_of(self.answer(method, path, missing=missing, **options))


def document_of(answer: httpx2.Response) -> Any:
    """What the answer says, in JSON. Raises Unreachable where it says it otherwise, as a proxy does."""
    try:
        return answer.json()
    except ValueError as error:
        raise Unreachable(
            f"{answer.url} answers {answer.status_code}, but not in JSON: does something else listen there? {LOOK}"
        ) from error


def meaning(answer: httpx2.Response, missing: str | None = None) -> Failure:
    """What an answer that is no success means for the command, in the answer's own words. 401 and 403 are left to `send`."""
    words = detail(answer)
    match answer.status_code:
        case 404:
            return NotFound(missing or words)
        case 409:
            return NotAllowed(words)
        case 400 | 422:
            return Misused(words)
    if answer.is_client_error:
        return Failure(words)
    return Unreachable(f"{answer.url} answers {answer.status_code}: {words}. {LOOK}")


def detail(answer: httpx2.Response) -> str:
    """What a problem document, or any other error answer, says."""
    try:
        document = answer.json()
    except ValueError:
        return answer.text[:TEXT_LENGTH_MAX]
    if not isinstance(document, dict):
        return str(document)[:TEXT_LENGTH_MAX]
    said = document.get("detail") or document.get("title") or document
    return "; ".join(_problem(one) for one in said) if isinstance(said, list) else str(said)


def _problem(one: Any) -> str:
    """One place of an input that was refused."""
    if not isinstance(one, Mapping):
        return str(one)
    return f"{'/'.join(str(part) for part in one.get('loc', ()))}: {one.get('msg', '')}"
