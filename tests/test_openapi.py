"""The OpenAPI document and the page made of it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import jsonschema_rs
import pytest
import schemathesis
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from knownas import errors, events, history, model
from knownas.http import conditional, openapi, wire
from knownas.http.app import ROUTES
from knownas.metrics import STATUSES
from knownas.settings import PREFIX, Settings

IDENTIFIERS = "/api/v2/server-side-api/integration/profile/set/integration-identifiers/"

# The style sheet belongs to the page /docs; it is no part of the contract.
UNDOCUMENTED = {"/docs.css"}


def _seed() -> dict[str, Any]:
    """Return the specification that Adapty publishes, which this document must keep to."""
    text = Path(__file__).with_name("seed.txt").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text[text.index("openapi: ") : text.rindex("```")])
    return loaded


def _raw_document() -> dict[str, Any]:
    text = Path(openapi.__file__).with_name("openapi.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def _every_object(node: object) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from _every_object(child)
    elif isinstance(node, list):
        for child in node:
            yield from _every_object(child)


def _operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in openapi.document()["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def _pointed_at(reference: str) -> Any:  # noqa: ANN401 - any part of the document
    node: Any = openapi.document()
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return node


def _validator(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """Return a strict validator of a schema that may refer to the document's components."""
    with_components = {**schema, "components": openapi.document()["components"]}
    return jsonschema_rs.Draft202012Validator(with_components, validate_formats=True)


def _component(name: str) -> jsonschema_rs.Draft202012Validator:
    return _validator({"$ref": f"#/components/schemas/{name}"})


def _header_schema(name: str) -> jsonschema_rs.Draft202012Validator:
    return _validator(openapi.document()["components"]["parameters"][name]["schema"])


def _is_accepted(clean: Any, *arguments: object, **options: str) -> bool:  # noqa: ANN401 - any signature
    try:
        clean(*arguments, **options)
    except errors.ValidationError:
        return False
    return True


# --- The document --------------------------------------------------------------------------


def test_document_is_valid_openapi() -> None:
    """The served document follows OpenAPI's own schema for 3.1."""
    assert openapi.document()["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(openapi.document()).validate()


def test_schemas_are_valid() -> None:
    """Every schema of the document is a valid JSON Schema of the dialect of OpenAPI 3.1."""
    for schema in openapi.document()["components"]["schemas"].values():
        jsonschema_rs.meta.validate(
            {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        )


def test_references_resolve() -> None:
    """Every $ref names something, and every component is referred to."""
    references = {it["$ref"] for it in _every_object(openapi.document()) if "$ref" in it}
    for reference in references:
        assert _pointed_at(reference), reference
    components = openapi.document()["components"]
    unused = {
        f"#/components/{group}/{name}"
        for group in components.keys() - {"securitySchemes"}
        for name in components[group]
    } - references
    assert unused == set()


def test_examples_validate() -> None:
    """Every example of a body, parameter or header follows the schema beside it."""
    count = 0
    for holder in _every_object(openapi.document()):
        if "schema" not in holder:
            continue
        named = [
            it.get("value") or _pointed_at(it["$ref"])["value"]
            for it in holder.get("examples", {}).values()
        ]
        for value in [*named, *([holder["example"]] if "example" in holder else [])]:
            _validator(holder["schema"]).validate(value)
            count += 1
    assert count > len(list(_operations()))


def test_error_examples_are_real() -> None:
    """The codes in the examples of errors are codes of this server, at the status shown."""
    codes = {it.code for it in vars(errors).values() if hasattr(it, "code")}
    for status, holder in (
        (status, media)
        for _, _, operation in _operations()
        for status, response in operation["responses"].items()
        for media in _every_object(
            _pointed_at(response["$ref"]) if "$ref" in response else response
        )
        if "schema" in media and not status.startswith("2")
    ):
        values = [it["value"] for it in holder.get("examples", {}).values()]
        for value in [*values, *([holder["example"]] if "example" in holder else [])]:
            if "error_code" in value:
                assert value["error_code"] in codes
                assert str(value["status_code"]) == status


def test_example_of_the_specification() -> None:
    """Adapty's example answer is the document's, key order included, and follows its schema."""
    seed = _seed()["paths"][IDENTIFIERS]["get"]["responses"]["200"]["content"]["application/json"]
    served = openapi.document()["paths"][IDENTIFIERS]["get"]["responses"]["200"]["content"]
    assert json.dumps(served["application/json"]["example"]) == json.dumps(seed["example"])
    assert list(seed["example"]) == [kind.name for kind in model.KINDS]
    _component("IntegrationIdentifiersResponse").validate(seed["example"])


def test_operation_of_the_specification() -> None:
    """Adapty's operation is here with its texts, headers and statuses; more may stand beside."""
    seed = _seed()["paths"][IDENTIFIERS]["get"]
    served = openapi.document()["paths"][IDENTIFIERS]["get"]
    for key in ("summary", "description", "operationId", "tags", "security"):
        assert served[key] == seed[key]
    assert seed["responses"].keys() <= served["responses"].keys()
    assert len(seed["parameters"]) <= len(served["parameters"])  # ours may have more, after theirs
    for theirs, ours in zip(seed["parameters"], served["parameters"], strict=False):
        parameter = _pointed_at(ours["$ref"])
        assert parameter["description"].startswith(theirs["description"])
        assert {key: parameter[key] for key in ("name", "in", "required")} == {
            key: theirs[key] for key in ("name", "in", "required")
        }


def test_schemas_of_the_specification() -> None:
    """Adapty's schemas are here: every property, its description, and whether it may be null."""
    for name, seed in _seed()["components"]["schemas"].items():
        served = openapi.document()["components"]["schemas"][name]
        assert served["properties"].keys() == seed["properties"].keys()
        for key, theirs in seed["properties"].items():
            ours = served["properties"][key]
            may_be_null = theirs.get("nullable", False)
            assert ours["type"] == (["string", "null"] if may_be_null else theirs["type"])
            assert ours.get("description") == theirs.get("description")


def test_paths_are_the_routes() -> None:
    """The document lists every route of the server with its methods, and no other."""
    documented = {(path, method.upper()) for path, method, _ in _operations()}
    routes = {
        (route.path, method)
        for route in ROUTES
        for method in route.methods
        if route.path not in UNDOCUMENTED and method != "HEAD"
    }
    assert documented == routes


def test_operations_are_complete() -> None:
    """Every operation has a unique id, and every response the Request-Id header."""
    identifiers = [operation["operationId"] for _, _, operation in _operations()]
    assert len(set(identifiers)) == len(identifiers)
    for path, method, operation in _operations():
        for status, response in operation["responses"].items():
            whole = _pointed_at(response["$ref"]) if "$ref" in response else response
            assert "Request-Id" in whole["headers"], (path, method, status)
            assert ("Retry-After" in whole["headers"]) == (status in {"429", "503"})


def test_statuses_are_counted() -> None:
    """Every status that an operation may answer has its place in the metrics."""
    statuses = {
        int(status) for _, _, operation in _operations() for status in operation["responses"]
    }
    assert statuses | set(wire.STATUS.values()) <= set(STATUSES)


def test_links_lead_somewhere() -> None:
    """Every link names an operation of the document and a parameter of it."""
    parameters = {
        operation["operationId"]: {
            (_pointed_at(it["$ref"]) if "$ref" in it else it)["name"]
            for it in operation.get("parameters", [])
        }
        for _, _, operation in _operations()
    }
    links = [it["links"] for it in _every_object(openapi.document()) if "links" in it]
    assert links
    for link in (link for named in links for link in named.values()):
        assert {it.removeprefix("header.") for it in link["parameters"]} <= parameters[
            link["operationId"]
        ]


def test_settings_exist() -> None:
    """Every setting that the document names is one."""
    named = set(re.findall(r"KNOWNAS_[A-Z_]+", openapi.document_text()))
    assert named
    assert named <= {PREFIX + it.upper() for it in Settings.__struct_fields__}


# --- The kinds -----------------------------------------------------------------------------


def test_kinds_stand_only_in_the_model() -> None:
    """The hand-kept file names the kinds in examples alone, never in a schema."""
    schemas = json.dumps(_raw_document()["components"]["schemas"])
    assert [kind.name for kind in model.KINDS if kind.name in schemas] == []


def test_every_kind_is_described() -> None:
    """The identifier schemas list every kind of the model, in its order, with its description."""
    schemas = openapi.document()["components"]["schemas"]
    expected = [(kind.name, kind.description) for kind in model.KINDS]
    for name in ("IntegrationIdentifiersResponse", "IntegrationIdentifiersRequest"):
        properties = schemas[name]["properties"]
        assert [(key, it["description"]) for key, it in properties.items()] == expected


def test_new_kind_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that the model gains is in the schemas without a change of the document."""
    kind = model.KINDS[0]._replace(name="new_id", description='Quotes " and colons: fine')
    monkeypatch.setattr(openapi, "KINDS", (*model.KINDS, kind))
    schemas = yaml.safe_load(openapi.document_text.__wrapped__())["components"]["schemas"]
    response = schemas["IntegrationIdentifiersResponse"]
    assert response["properties"]["new_id"]["description"] == kind.description
    assert response["required"][-1] == "new_id"
    request = schemas["IntegrationIdentifiersRequest"]
    assert "new_id" in request["properties"]
    assert len(request["anyOf"]) == len(model.KINDS) + 1


def test_hand_written_text_is_served_as_it_is() -> None:
    """Apart from the filled-in lines the served text is the file, line for line."""
    file = Path(openapi.__file__).with_name("openapi.yaml").read_text(encoding="utf-8")
    kept = [line for line in file.splitlines() if "# each kind: " not in line]
    served = iter(openapi.document_text().splitlines())
    assert all(line in served for line in kept)


# --- The schemas say what the server does ---------------------------------------------------

# Text around the limits and the characters that matter, beside whatever Hypothesis finds.
TEXTS = st.one_of(
    st.text(),
    st.text("ab é\t\n\x1c\x85\u00a0\u2003\ufeff\x00\x7f", max_size=8),
    st.builds(
        lambda before, length, after: before + "x" * length + after,
        st.text(" \t\n\x1f", max_size=2),
        st.integers(253, 258),
        st.text(" \t\n\x85", max_size=2),
    ),
)


@given(TEXTS)
@example("")
@example("\n a \u3000")
@example("\ufeffa")
def test_identifier_values(value: str) -> None:
    """The request schema takes exactly the identifier values that the server takes."""
    body = {"branch_id": value}
    assert _component("IntegrationIdentifiersRequest").is_valid(body) == _is_accepted(
        model.clean_identifiers, body
    )


@given(
    st.dictionaries(
        st.sampled_from(["branch_id", "appsflyer_id", "app_id", "other"]),
        st.sampled_from([None, "a", "", 1, True, [], {}]),
    )
)
def test_identifier_bodies(body: dict[str, object]) -> None:
    """The request schema takes exactly the identifier bodies that the server takes."""
    assert _component("IntegrationIdentifiersRequest").is_valid(body) == _is_accepted(
        model.clean_identifiers, body
    )


@given(TEXTS)
def test_customer_user_ids(value: str) -> None:
    """The header schema takes exactly the customer ids that the server takes, once trimmed."""
    trimmed = value.strip(" \t")
    assert _header_schema("CustomerUserId").is_valid(trimmed) == _is_accepted(
        model.clean_customer_user_id, trimmed.encode(), source="adapty-customer-user-id"
    )


@given(st.one_of(st.text(), st.uuids().map(str), st.uuids().map(lambda it: f"{{{it}}}")))
@example("urn:uuid:9f2d7a3e-1c6b-4e58-8a70-5b1e6c2d9f04")
@example("9F2D7A3E-1C6B-4E58-8A70-5B1E6C2D9F04")
@example("9f2d7a3e1c6b4e588a705b1e6c2d9f04")
@example("\uff19f2d7a3e-1c6b-4e58-8a70-5b1e6c2d9f04")
def test_profile_ids(value: str) -> None:
    """The header schema takes exactly the profile ids that the server takes."""
    assert _header_schema("ProfileId").is_valid(value) == _is_accepted(
        model.clean_profile_id, value, source="adapty-profile-id"
    )


@given(TEXTS)
def test_customer_texts(value: str) -> None:
    """The body schema takes exactly the customer ids that the server takes."""
    assert _component("CustomerText").is_valid(value) == _is_accepted(
        model.clean_customer_text, value, source="customer_user_id"
    )


@given(
    st.dictionaries(
        st.sampled_from(["branch_id", "appsflyer_id", "app_id"]),
        st.sampled_from(["allow", "reject", "move", "", None, 1, True, []]),
    )
)
def test_policies(body: dict[str, object]) -> None:
    """The request schema takes exactly the policies that the server takes."""
    assert _component("PoliciesRequest").is_valid(body) == _is_accepted(model.clean_policies, body)


def test_changes_are_as_they_are_made() -> None:
    """A change has in the document the types that there are, and every way that it may come by."""
    schemas = openapi.document()["components"]["schemas"]
    types = schemas["Change"]["properties"]["type"]["enum"]
    of_erasure = schemas["ErasureEvent"]["properties"]["type"]["const"]
    assert [*types, of_erasure] == list(events.TYPES)
    via = schemas["ChangeSource"]["properties"]["via"]["description"]
    assert set(re.findall(r"`(.+?)`", via)) == set(get_args(history.Via))


@given(
    st.one_of(
        st.text('*W/", \ta\x7f\x80\u00ff', max_size=12),
        st.lists(
            st.sampled_from(['"a"', 'W/"b"', '""', "*", "", " ", "\t", '"a b"', "W/", '"\u00e9"']),
            max_size=5,
        ).map(",".join),
    )
)
@example('"a" "b"')
@example(',, "a" ,\t,W/"b",')
def test_entity_tags(value: str) -> None:
    """The header schema takes exactly the If-Match and If-None-Match that the server takes."""
    trimmed = value.strip(" \t")
    for name in ("IfMatch", "IfNoneMatch"):
        assert _header_schema(name).is_valid(trimmed) == _is_accepted(
            conditional.entity_tags, trimmed.encode(), source="if-match"
        )


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "key": st.one_of(st.text(), st.from_regex("^[A-Za-z0-9_.-]{0,31}$"), st.integers()),
            "value": st.one_of(
                st.none(),
                st.booleans(),
                st.integers(),
                st.floats(allow_nan=False, allow_infinity=False),
                TEXTS,
                st.text("x", min_size=49, max_size=52),
            ),
            "more": st.none(),
        },
    )
)
@example({"key": "k", "value": 2**64})
def test_custom_attributes(item: dict[str, object]) -> None:
    """The request schema takes exactly the custom attributes that the server takes."""
    schema = _component("ProfileRequest")
    assert schema.is_valid({"custom_attributes": [item]}) == _is_accepted(
        model.clean_attributes, [item]
    )


# --- The page ------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Collects what the tests ask of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(openapi.docs_page())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        return [value for name, value in self.attributes if name == attribute]


def test_page_loads_nothing_from_elsewhere() -> None:
    """The page has no script, no inline style, no handler, and one style sheet of this server."""
    page = _Page()
    assert page.tags.isdisjoint({"script", "style", "iframe", "img", "object"})
    assert not [name for name, _ in page.attributes if name in {"style", "src"} or name[:2] == "on"]
    assert {it for it in page.values("href") if it[0] != "#"} == {"/docs.css", "/openapi.yaml"}
    assert "url(" not in openapi.docs_css()
    assert "@import" not in openapi.docs_css()


def test_page_shows_every_operation() -> None:
    """Every operation has its section with path and command, every link within has its target."""
    page = _Page()
    anchors = page.values("id")
    assert len(set(anchors)) == len(anchors)
    assert {it[1:] for it in page.values("href") if it[0] == "#"} <= set(anchors)
    for path, _, operation in _operations():
        assert operation["operationId"] in anchors
        assert f'"$KNOWNAS_URL{path}"' in page.text
    for kind in model.KINDS:
        assert kind.description in page.text


def test_page_escapes_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text of the document is shown as text, whatever stands in it."""
    changed = yaml.safe_load(openapi.document_text())
    changed["info"]["description"] = "`<b>`"
    changed["info"]["summary"] = "<script>"
    monkeypatch.setattr(openapi, "document", lambda: changed)
    page = openapi.docs_page.__wrapped__()
    assert "<code>&lt;b&gt;</code>" in page
    assert "<script>" not in page


def test_documentation_costs_nothing_unread() -> None:
    """Neither PyYAML nor Jinja2 is imported before something is asked for that needs it."""
    code = (
        "import sys; from knownas.http import openapi; openapi.document_text();"
        "print(sorted({'yaml', 'jinja2'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_prose() -> None:
    """Paragraphs, code and bold are rendered; a line break within a paragraph is a space."""
    page = openapi.docs_page()
    assert "<strong>Errors</strong> have one shape everywhere, <code>ErrorResponse</code>" in page
    assert re.search(r"`", _Page().text) is None
