//! File-based dynamic parts put in their places: listeners, clusters, endpoints, routes, extension configurations, secrets.
//!
//! What comes over the network stays as it is: Envoy takes it, and nobody here can say what it will be.

use super::located::{Content, Located, Place};

/// Finds the file that a path of the pod means.
pub trait Files {
    /// Its content; None when it is not to be found here, which is noted.
    fn open(&mut self, path: &str, asked: &Place) -> Option<Located>;
}

/// Puts in what is to be found.
pub fn flatten(config: &mut Located, files: &mut dyn Files) {
    for (source, list) in [("lds_config", "listeners"), ("cds_config", "clusters")] {
        let Some(path) =
            config.field("dynamic_resources").and_then(|dynamic| dynamic.field(source)).and_then(file)
        else {
            continue;
        };
        let Some(resources) = resources(&path, files) else { continue };
        if let Some(dynamic) = config.field_mut("dynamic_resources") {
            dynamic.remove(source);
        }
        if config.field("static_resources").is_none() {
            let empty = Located { content: Content::Map(Vec::new()), place: path.1.clone() };
            config.insert("static_resources", path.1.clone(), empty);
        }
        if let Some(resources_of) = config.field_mut("static_resources") {
            resources_of.append(list, &path.1, resources);
        }
    }
    if config.field("dynamic_resources").is_some_and(|dynamic| dynamic.entries().is_empty()) {
        config.remove("dynamic_resources");
    }
    config.each_map(&mut |map, _| {
        routes(map, files);
        endpoints(map, files);
        extension(map, files);
        secrets(map, files);
    });
}

/// The path of a file that a `ConfigSource` names, and where.
fn file(source: &Located) -> Option<(String, Place)> {
    let path = source
        .field("path_config_source")
        .and_then(|file| file.field("path"))
        .or_else(|| source.field("path"))?;
    Some((path.text()?.to_owned(), path.place.clone()))
}

/// The resources in it, as they would be written in a static configuration.
fn resources(path: &(String, Place), files: &mut dyn Files) -> Option<Vec<Located>> {
    let root = files.open(&path.0, &path.1)?;
    let resources = root.field("resources").map(|list| list.items().into_iter().cloned().collect::<Vec<_>>());
    let mut resources = resources.unwrap_or_default();
    for resource in &mut resources {
        resource.remove("@type");
    }
    Some(resources)
}

/// `rds` → `route_config`.
fn routes(map: &mut Located, files: &mut dyn Files) {
    let Some(rds) = map.field("rds") else { return };
    let Some(path) = rds.field("config_source").and_then(file) else { return };
    let name = rds.field("route_config_name").and_then(Located::text).map(str::to_owned);
    let Some(found) = named(resources(&path, files), "name", name.as_deref()) else { return };
    if let Some(entry) = map.remove("rds") {
        map.insert("route_config", entry.at, found);
    }
}

/// `eds_cluster_config` → `load_assignment`.
fn endpoints(map: &mut Located, files: &mut dyn Files) {
    let Some(eds) = map.field("eds_cluster_config") else { return };
    let Some(path) = eds.field("eds_config").and_then(file) else { return };
    let name = eds.field("service_name").or_else(|| map.field("name")).and_then(Located::text);
    let name = name.map(str::to_owned);
    let Some(found) = named(resources(&path, files), "cluster_name", name.as_deref()) else { return };
    let Some(entry) = map.remove("eds_cluster_config") else { return };
    if let Some(kind) = map.field_mut("type") {
        kind.content = Content::Scalar("STRICT_DNS".into());
    }
    map.insert("load_assignment", entry.at, found);
}

/// `config_discovery` → `typed_config`.
fn extension(map: &mut Located, files: &mut dyn Files) {
    let Some(path) =
        map.field("config_discovery").and_then(|found| found.field("config_source")).and_then(file)
    else {
        return;
    };
    let name = map.field("name").and_then(Located::text).map(str::to_owned);
    let Some(mut found) = named(resources(&path, files), "name", name.as_deref()) else { return };
    let (Some(typed), Some(entry)) = (found.remove("typed_config"), map.remove("config_discovery")) else {
        return;
    };
    map.insert("typed_config", entry.at, typed.value);
}

/// SDS references → certificates and validation contexts.
fn secrets(map: &mut Located, files: &mut dyn Files) {
    let secret = |reference: &Located, kind: &str, files: &mut dyn Files| -> Option<Located> {
        let path = reference.field("sds_config").and_then(file)?;
        let name = reference.field("name").and_then(Located::text).map(str::to_owned);
        let mut found = named(resources(&path, files), "name", name.as_deref())?;
        found.remove(kind).map(|entry| entry.value)
    };
    if let Some(references) = map.field("tls_certificate_sds_secret_configs") {
        let place = references.place.clone();
        let found: Option<Vec<Located>> =
            references.items().into_iter().map(|one| secret(one, "tls_certificate", files)).collect();
        if let Some(found) = found {
            map.remove("tls_certificate_sds_secret_configs");
            map.append("tls_certificates", &place, found);
        }
    }
    if let Some(reference) = map.field("validation_context_sds_secret_config")
        && map.field("default_validation_context").is_none()
        && let Some(found) = secret(reference, "validation_context", files)
        && let Some(entry) = map.remove("validation_context_sds_secret_config")
    {
        map.insert("validation_context", entry.at, found);
    }
    let Some(combined) = map.field("combined_validation_context") else { return };
    let Some(reference) = combined.field("validation_context_sds_secret_config") else { return };
    let defaults = combined.field("default_validation_context").map(|found| found.entries().to_vec());
    let Some(mut found) = secret(reference, "validation_context", files) else { return };
    for entry in defaults.unwrap_or_default() {
        if found.field(&entry.key).is_none() {
            found.insert(&entry.key, entry.at, entry.value);
        }
    }
    if let Some(entry) = map.remove("combined_validation_context") {
        map.insert("validation_context", entry.at, found);
    }
}

/// The resource of a name; a file often has only one, under any.
fn named(resources: Option<Vec<Located>>, key: &str, name: Option<&str>) -> Option<Located> {
    let mut resources = resources?;
    let at = resources.iter().position(|one| one.field(key).and_then(Located::text) == name);
    match at {
        Some(at) => Some(resources.swap_remove(at)),
        None if resources.len() == 1 => resources.pop(),
        None => None,
    }
}
