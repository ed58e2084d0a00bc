//! One ConfigMap or Secret with the Envoy configurations in it, before and after.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::error::label;
use super::kind::{CONFIG_MAP, Kind};
use super::plan::{Step, at, text_diff};
use super::{MANAGER, fields};

/// On a ConfigMap or Secret: the sha256 of each configuration as it was before the patch.
pub const ORIGINAL: &str = "meshward.dev/original";

/// An object that holds configurations.
pub(super) struct Held {
    pub kind: &'static Kind,
    pub namespace: String,
    pub name: String,
    pub object: Value,
    pub texts: Vec<Text>,
    pub unpatch: bool,
}

pub(super) struct Text {
    pub key: String,
    /// `data` or `binaryData`.
    pub field: &'static str,
    pub before: String,
    pub after: String,
    /// The sha256 of the text without a patch.
    pub original: String,
    /// The filter lists that have the filter, or had it.
    pub done: Vec<String>,
}

impl Held {
    pub fn label(&self) -> String {
        label(self.kind, Some(&self.namespace), &self.name)
    }

    pub fn changed(&self) -> bool {
        self.texts.iter().any(|text| text.before != text.after)
    }

    /// It is changed now, or was by us on this cluster, so that its workloads are ours to look after.
    pub fn touched(&self) -> bool {
        self.changed() || originals(&self.object).is_some()
    }

    pub fn step(&self) -> Option<Step> {
        let mut all = originals(&self.object).unwrap_or_default();
        let owned = fields::owned(&self.object, MANAGER);
        let mut new = json!({});
        let (mut diff, mut what) = (String::new(), Vec::new());
        for text in self.texts.iter().filter(|text| text.before != text.after) {
            let encoded = match text.field {
                "data" if self.kind.name == CONFIG_MAP.name => text.after.clone(),
                _ => BASE64_STANDARD.encode(&text.after),
            };
            new = fields::merged(&new, &at(&[text.field, &text.key], encoded.into()));
            if self.unpatch {
                all.remove(&text.key);
                what.push(format!("`{}` unpatched: {}", text.key, text.done.join(", ")));
            } else {
                all.insert(text.key.clone(), text.original.clone());
                what.push(format!("`{}` patched: {}", text.key, text.done.join(", ")));
            }
            let name = format!("{}/{}/{}: {}", self.namespace, self.kind.name, self.name, text.key);
            diff.push_str(&text_diff(&name, &text.before, &text.after));
        }
        if what.is_empty() {
            return None;
        }
        let note = at(&["metadata", "annotations", ORIGINAL], json!(""));
        let mut fields = fields::merged(&fields::without(&owned, &note), &new);
        if !all.is_empty() {
            let text = serde_json::to_string(&all).unwrap_or_default();
            fields = fields::merged(&fields, &at(&["metadata", "annotations", ORIGINAL], text.into()));
        }
        Some(Step {
            kind: self.kind,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            what,
            diff,
            fields,
            read: Some(self.object.clone()),
        })
    }
}

/// What the annotation says, if it is there.
pub(super) fn originals(object: &Value) -> Option<BTreeMap<String, String>> {
    let text = object.pointer("/metadata/annotations")?.get(ORIGINAL)?.as_str()?;
    Some(serde_json::from_str(text).unwrap_or_default())
}
