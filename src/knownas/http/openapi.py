"""The OpenAPI document of this server, and the page that shows it to people.

`openapi.yaml` is kept by hand; what is filled in stands at its head. PyYAML and Jinja2 are
imported when something is first asked for: a worker that serves no documentation has neither.
"""

import html
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from knownas.http import pages
from knownas.model import KINDS

_HERE: Final = Path(__file__).parent
_EACH_KIND: Final = re.compile(r"^( *)# each kind: (.+)$", re.MULTILINE)
_CREDENTIALS: Final = {
    "apikeyAuth": "Api-Key $KNOWNAS_KEY",
    "senderAuth": "$WEBHOOK_SECRET",
    "metricsAuth": "Bearer $KNOWNAS_METRICS_TOKEN",
}


@cache
def document_text() -> str:
    """Return the document as it is served: YAML, with every kind of identifier filled in."""
    return _EACH_KIND.sub(_every_kind, (_HERE / "openapi.yaml").read_text(encoding="utf-8"))


@cache
def document() -> dict[str, Any]:
    """Return the document as data. It is shared: treat it as read-only."""
    import yaml  # noqa: PLC0415 - see the module's docstring

    # The parser in C takes a tenth of the time, and is in every wheel.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loaded: dict[str, Any] = yaml.load(document_text(), Loader=loader)  # noqa: S506 - one of two safe ones
    return loaded


@cache
def docs_page() -> str:
    """Return the document as an HTML page.

    It has no script and no inline style, and loads nothing but `/docs.css`.
    """
    environment = pages.environment(_HERE / "templates")
    environment.filters["prose"] = _prose
    whole = _resolved(document(), document())
    operations = list(_operations(whole))
    return environment.get_template("docs.html").render(
        info=whole["info"],
        groups=[(tag, [it for it in operations if it.tag == tag["name"]]) for tag in whole["tags"]],
        error=list(_fields(whole["components"]["schemas"]["ErrorResponse"])),
        schemes=whole["components"]["securitySchemes"],
    )


@cache
def docs_css() -> str:
    """Return the style sheet of the page."""
    return (_HERE / "templates" / "docs.css").read_text(encoding="utf-8")


def _every_kind(marker: re.Match[str]) -> str:
    indent, text = marker.groups()
    return "\n".join(
        indent
        # JSON's quoting of a text is YAML's too.
        + text.replace("NAME", kind.name).replace("DESCRIPTION", json.dumps(kind.description))
        for kind in KINDS
    )


# --- The page ------------------------------------------------------------------------------


class _Field(NamedTuple):
    """One row of a table: a header of the request, or a member of a body."""

    name: str
    type: str
    required: bool
    description: str
    example: str | None = None


class _Response(NamedTuple):
    status: str
    description: str
    headers: dict[str, Any]
    media_type: str | None
    fields: list[_Field]
    examples: list[str]


class _Operation(NamedTuple):
    id: str
    tag: str
    method: str
    path: str
    summary: str
    description: str
    parameters: dict[str, list[_Field]]
    """By where they stand: `header` or `query`."""
    body: list[_Field]
    body_description: str
    curl: str
    responses: list[_Response]


def _operations(whole: dict[str, Any]) -> Iterator[_Operation]:
    for path, item in whole["paths"].items():
        for method, operation in item.items():
            yield _operation(path, method, operation)


def _operation(path: str, method: str, operation: dict[str, Any]) -> _Operation:
    body = operation.get("requestBody", {"description": "", "content": {}})
    media = body["content"].get("application/json", {"schema": {}})
    parameters = operation.get("parameters", [])
    return _Operation(
        id=operation["operationId"],
        tag=operation["tags"][0],
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        description=operation["description"],
        parameters={
            place: [
                _Field(
                    parameter["name"],
                    _type(parameter["schema"]),
                    parameter["required"],
                    parameter["description"],
                    parameter.get("example"),
                )
                for parameter in parameters
                if parameter["in"] == place
            ]
            for place in ("query", "header")
        },
        body=list(_fields(media["schema"])),
        body_description=body["description"],
        curl=_curl(path, method, operation["security"], parameters, media),
        responses=[_response(status, it) for status, it in operation["responses"].items()],
    )


def _response(status: str, response: dict[str, Any]) -> _Response:
    media_type, media = next(iter(response.get("content", {}).items()), (None, {"schema": {}}))
    examples = [it["value"] for it in media.get("examples", {}).values()]
    if "example" in media:
        examples.append(media["example"])
    return _Response(
        status,
        response["description"],
        response["headers"],
        media_type,
        # Every error has the same body, so its fields stand once on the page.
        list(_fields(media["schema"])) if status.startswith("2") else [],
        [_json(example) for example in examples],
    )


def _curl(
    path: str,
    method: str,
    security: list[dict[str, Any]],
    parameters: list[dict[str, Any]],
    media: dict[str, Any],
) -> str:
    """Return a command that works when pasted, once its shell variables are set."""
    # curl itself makes a GET, and with --data a POST.
    verb = "" if method in {"get", "post"} else f"-X {method.upper()} "
    queried = [it for it in parameters if it["in"] == "query" and "example" in it]
    parts = [f'curl {"-G " if queried else verb}"$KNOWNAS_URL{path}"']
    parts += [f'-H "Authorization: {_CREDENTIALS[name]}"' for it in security for name in it]
    parts += [f"--data-urlencode {shlex.quote(it['name'] + '=' + it['example'])}" for it in queried]
    # The first header is enough: any other is another way to name the same profile.
    headers = [it for it in parameters if it["in"] == "header"]
    parts += [f"-H '{it['name']}: {it['example']}'" for it in headers[:1]]
    if "example" in media:
        parts.append("-H 'Content-Type: application/json'")
        parts.append(f"--data {shlex.quote(_json(media['example']))}")
    return " \\\n  ".join(parts)


def _fields(schema: dict[str, Any], prefix: str = "") -> Iterator[_Field]:
    """Yield the members of an object, those of its objects and lists after it: `a`, `a.b[].c`."""
    for part in schema.get("allOf", []):
        yield from _fields(part, prefix)
    required = schema.get("required", [])
    for name, member in schema.get("properties", {}).items():
        path = prefix + name
        yield _Field(path, _type(member), name in required, member.get("description", ""))
        yield from _fields(member, f"{path}.")
        yield from _fields(member.get("items", {}), f"{path}[].")


def _type(schema: dict[str, Any]) -> str:
    """Say in a few words what a schema allows."""
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "anyOf" in schema and "type" not in schema:
        return " | ".join(_type(part) for part in schema["anyOf"])
    types = schema.get("type", "object")
    words = [" | ".join(types) if isinstance(types, list) else types]
    if "format" in schema:
        words.append(schema["format"])
    for low, high, unit in (
        ("minLength", "maxLength", " characters"),
        ("", "maxItems", " items"),
        ("minimum", "maximum", ""),
    ):
        least, most = schema.get(low), schema.get(high)
        if least is not None and most is not None:
            words.append(f"{least} to {most}{unit}")
        elif least is not None:
            words.append(f"at least {least}{unit}")
        elif most is not None:
            words.append(f"at most {most}{unit}")
    return ", ".join(words)


def _resolved(node: Any, whole: dict[str, Any]) -> Any:  # noqa: ANN401 - any part of the document
    """Return `node` with every `$ref` replaced by what it names; what stands beside it wins."""
    if isinstance(node, list):
        return [_resolved(item, whole) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target: Any = whole
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return _resolved({**target, **beside}, whole)
    return {key: _resolved(value, whole) for key, value in node.items()}


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _prose(text: str) -> str:
    """Render as HTML the little of Markdown that the document uses: paragraphs, code, bold."""
    paragraphs = (" ".join(it.split()) for it in text.split("\n\n") if it.strip())
    marked = html.escape("\n".join(paragraphs))
    marked = re.sub(r"`(.+?)`", r"<code>\1</code>", marked)
    marked = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", marked)
    return "".join(f"<p>{paragraph}</p>" for paragraph in marked.splitlines())
