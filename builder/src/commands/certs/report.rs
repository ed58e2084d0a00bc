//! How `issue`, `renew` and `rotate-ca` say what they did.

use crate::console::Console;
use crate::diagnostic::Failure;
use crate::pki::error::stamp;
use crate::pki::ledger::Ledger;
use crate::pki::manifest;
use crate::pki::renewal::{Done, Outcome};
use crate::pki::store::Store;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line for each certificate
    Text,
    /// The same for machines
    Json,
    /// The Secrets of what changed, for `kubectl apply -f -`
    Kubernetes,
}

pub fn outcomes(
    outcomes: &[Outcome],
    format: Format,
    store: &dyn Store,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    match format {
        Format::Text => {
            for outcome in outcomes {
                let _ = writeln!(console.out(), "{outcome}");
            }
        }
        Format::Json => {
            let list: Vec<_> = outcomes.iter().map(json).collect();
            let _ = writeln!(console.out(), "{:#}", serde_json::Value::from(list));
        }
        Format::Kubernetes => {
            let ledger = Ledger::load(store)?;
            for outcome in outcomes {
                console.note(&outcome.to_string());
            }
            // Both Secrets and bundles that were kept are printed when they changed, so that applying is always whole.
            for outcome in outcomes.iter().filter(|outcome| outcome.done.changed()) {
                let Some(files) = store.read(&outcome.set)? else { continue };
                let namespace =
                    ledger.managed.get(&outcome.set).and_then(|managed| managed.namespace.as_deref());
                let _ = write!(console.out(), "{}", manifest::leaf_secret(&outcome.set, namespace, &files)?);
            }
        }
    }
    Ok(())
}

fn json(outcome: &Outcome) -> serde_json::Value {
    let (action, reason, not_after) = match &outcome.done {
        Done::Kept { .. } => ("kept", None, None),
        Done::Bundle { .. } => ("bundle", None, None),
        Done::Issued { reason, not_after, .. } => ("issued", Some(*reason), Some(stamp(*not_after))),
    };
    serde_json::json!({
        "set": outcome.set,
        "id": outcome.id,
        "action": action,
        "reason": reason,
        "notAfter": not_after,
        "renewAt": stamp(outcome.done.renew_at()),
    })
}
