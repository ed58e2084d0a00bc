//! A configuration with its file-based dynamic parts put in their places: `--mode validate` does not read them itself.

use serde_json::{Map, Value};

/// The files beside the bootstrap, parsed, by name.
pub type Files<'a> = &'a [(&'static str, Value)];

/// The bootstrap with every ECDS and SDS file in it, as static configuration. What names a file that is not there stays.
pub fn flatten(bootstrap: &Value, files: Files<'_>) -> Value {
    let mut flat = bootstrap.clone();
    put_in(&mut flat, files);
    flat
}

fn put_in(value: &mut Value, files: Files<'_>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| put_in(item, files)),
        Value::Object(fields) => {
            extension(fields, files);
            secrets(fields, files);
            fields.values_mut().for_each(|field| put_in(field, files));
        }
        _ => {}
    }
}

/// `config_discovery` → the `typed_config` in its file.
fn extension(fields: &mut Map<String, Value>, files: Files<'_>) {
    let Some(source) = fields.get("config_discovery").and_then(|discovery| discovery.get("config_source"))
    else {
        return;
    };
    let Some(config) = resource(source, files).and_then(|resource| resource.get("typed_config")).cloned()
    else {
        return;
    };
    fields.remove("config_discovery");
    fields.insert("typed_config".to_owned(), config);
}

/// SDS references → the certificate and the validation context in their files.
fn secrets(fields: &mut Map<String, Value>, files: Files<'_>) {
    if let Some(Value::Array(references)) = fields.get("tls_certificate_sds_secret_configs") {
        let found: Option<Vec<Value>> =
            references.iter().map(|one| secret(one, "tls_certificate", files)).collect();
        if let Some(certificates) = found {
            fields.remove("tls_certificate_sds_secret_configs");
            fields.insert("tls_certificates".to_owned(), Value::Array(certificates));
        }
    }
    let Some(combined) = fields.get("combined_validation_context") else { return };
    let trust = combined
        .get("validation_context_sds_secret_config")
        .and_then(|reference| secret(reference, "validation_context", files));
    let Some(Value::Object(mut context)) = trust else { return };
    if let Some(Value::Object(defaults)) = combined.get("default_validation_context") {
        context.extend(defaults.clone());
    }
    fields.remove("combined_validation_context");
    fields.insert("validation_context".to_owned(), Value::Object(context));
}

fn secret(reference: &Value, kind: &str, files: Files<'_>) -> Option<Value> {
    resource(reference.get("sds_config")?, files)?.get(kind).cloned()
}

/// The resource in the file that a `ConfigSource` names.
fn resource<'a>(source: &Value, files: Files<'a>) -> Option<&'a Value> {
    let path = source.get("path_config_source")?.get("path")?.as_str()?;
    let (_, name) = path.rsplit_once('/')?;
    let (_, file) = files.iter().find(|(known, _)| *known == name)?;
    file.get("resources")?.get(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_dynamic_is_left_and_the_identity_stays() {
        let source = |path: &str| json!({"path_config_source": {"path": path}});
        let bootstrap = json!({
            "filter": {"name": "meshward", "config_discovery": {"config_source": source("/etc/envoy/f.yaml")}},
            "tls": {
                "tls_certificate_sds_secret_configs": [{"name": "c", "sds_config": source("/etc/envoy/c.yaml")}],
                "combined_validation_context": {
                    "default_validation_context": {"match_typed_subject_alt_names": ["id"]},
                    "validation_context_sds_secret_config": {"name": "t", "sds_config": source("/etc/envoy/t.yaml")}
                }
            }
        });
        let files = [
            ("f.yaml", json!({"resources": [{"typed_config": {"a": 1}}]})),
            ("c.yaml", json!({"resources": [{"tls_certificate": {"b": 2}}]})),
            ("t.yaml", json!({"resources": [{"validation_context": {"trusted_ca": 3}}]})),
        ];
        let expected = json!({
            "filter": {"name": "meshward", "typed_config": {"a": 1}},
            "tls": {
                "tls_certificates": [{"b": 2}],
                "validation_context": {"trusted_ca": 3, "match_typed_subject_alt_names": ["id"]}
            }
        });
        assert_eq!(flatten(&bootstrap, &files), expected);
    }
}
