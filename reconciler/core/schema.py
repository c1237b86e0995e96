"""The JSON Schema of the spec, for editors and CI. `reconciler schema` prints it; the repository keeps a copy.

It refuses most of what the model refuses. What needs arithmetic or a look at other parts of the
document (paths that leave the project root, a query without a database) only the model can see.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from reconciler.core.spec import API_VERSION, Spec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_ID = f"urn:reconciler:schema:{API_VERSION.replace('/', ':')}"


class _Generator(GenerateJsonSchema):
    """In YAML a field is left out, never null; and titles that repeat the field's name say nothing."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        if made.get("default", 0) in (None, []) or isinstance(made.get("default"), dict):
            made = {key: value for key, value in made.items() if key != "default"}
        return made

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        # pydantic turns a rule for keys into patternProperties, which lets every other key pass.
        made: JsonSchemaValue = {"type": "object"}
        if "keys_schema" in schema:
            made["propertyNames"] = self.generate_inner(schema["keys_schema"])
        if "values_schema" in schema:
            made["additionalProperties"] = self.generate_inner(schema["values_schema"])
        if "max_length" in schema:
            made["maxProperties"] = schema["max_length"]
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  # pydantic's signature
        return False


def schema() -> dict[str, Any]:
    """The schema in dialect 2020-12, with an id that names the format's version."""
    body = Spec.model_json_schema(by_alias=True, schema_generator=_Generator)
    body["title"] = "Environment"
    body["description"] = "What a production environment shall be: a spec of the reconciler."
    return {"$schema": DIALECT, "$id": SCHEMA_ID, **body}


def schema_text() -> str:
    """The schema as it is printed and kept: indented, in a stable order, with a final line break."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
