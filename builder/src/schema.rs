//! The JSON Schema of every kind that a mesh file may hold, for editors: they complete, explain and check with it.
//!
//! Draft 7, since that is what yaml-language-server documents. It says what the fields are; that names exist and ports
//! do not collide only `meshward` itself can say.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::limits;
use crate::mesh::model::{API_VERSION, Mesh};
use crate::{native, policy};

/// The file's name, as `init` writes it beside mesh.yaml.
pub const FILE: &str = "meshward.schema.json";

/// Kind, its `apiVersion`s, and its type.
type Kind = (&'static str, &'static [&'static str], fn(&mut SchemaGenerator) -> Value);

const KINDS: &[Kind] = &[
    ("Mesh", &[API_VERSION], of::<Mesh>),
    ("AuthorizationPolicy", &policy::API_VERSIONS, of::<policy::model::AuthorizationPolicy>),
    ("PeerAuthentication", &policy::API_VERSIONS, of::<policy::model::PeerAuthentication>),
    ("RateLimitPolicy", &[API_VERSION], of::<limits::rate_limit::model::RateLimitPolicy>),
    ("CircuitBreakerPolicy", &[API_VERSION], of::<limits::circuit_breaker::model::CircuitBreakerPolicy>),
    ("DestinationRule", &native::model::API_VERSIONS, of::<native::model::DestinationRule>),
];

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

/// The names of all kinds.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(kind, ..)| *kind)
}

/// One schema for all kinds, or for the one named (then `None` when there is no such kind). A document is held against
/// the kind that it says it is.
pub fn schema(only: Option<&str>) -> Option<Value> {
    let mut generator = SchemaGenerator::new(SchemaSettings::draft07());
    let chosen: Vec<&Kind> =
        KINDS.iter().filter(|(kind, ..)| only.is_none_or(|only| only == *kind)).collect();
    if chosen.is_empty() {
        return None;
    }
    let names: Vec<&str> = chosen.iter().map(|(kind, ..)| *kind).collect();
    let cases: Vec<Value> = chosen
        .iter()
        .map(|(kind, versions, schema)| {
            let header = json!({ "properties": { "kind": { "const": kind } }, "required": ["kind"] });
            let version = json!({ "properties": { "apiVersion": { "enum": versions } } });
            json!({ "if": header, "then": { "allOf": [schema(&mut generator), version] } })
        })
        .collect();
    let definitions: Map<String, Value> = generator.take_definitions(true).into_iter().collect();
    Some(json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A document of a mesh",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "enum": names, "description": "Which kind of document this is." }
        },
        "allOf": cases,
        "definitions": definitions,
    }))
}

/// The schema's text, as it is shipped.
pub fn text(only: Option<&str>) -> Option<String> {
    schema(only).map(|schema| format!("{schema:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_there_and_strict() {
        let schema = schema(None).unwrap();
        assert_eq!(schema["properties"]["kind"]["enum"].as_array().unwrap().len(), KINDS.len());
        let mesh = &schema["definitions"]["Mesh"];
        assert_eq!(mesh["additionalProperties"], json!(false), "{mesh:#}");
        assert!(schema["definitions"]["ServiceSpec"]["properties"]["calls"]["description"].is_string());
        assert_eq!(schema["definitions"]["ServiceSpec"]["required"], json!(["name"]));
    }

    #[test]
    fn references_lead_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str));
                    fields.values().for_each(|field| references(field, found));
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let schema = schema(None).unwrap();
        let mut found = Vec::new();
        references(&schema, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(schema.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }

    #[test]
    fn an_unknown_kind_has_none() {
        assert!(schema(Some("Pod")).is_none());
        assert!(schema(Some("Mesh")).is_some());
    }

    /// `MESHWARD_REGENERATE=1` writes the shipped file anew.
    #[test]
    fn the_shipped_schema_is_this_one() {
        let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(FILE);
        let text = text(None).unwrap();
        if std::env::var_os("MESHWARD_REGENERATE").is_some() {
            std::fs::write(&shipped, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&shipped).unwrap_or_default();
        assert!(committed == text, "{} is not up to date: set MESHWARD_REGENERATE=1", shipped.display());
    }
}
