//! `meshward schema`: the JSON Schema of the kinds in a mesh file.

use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure, nearest};
use crate::schema;

/// Prints the JSON Schema (draft 7) of what a mesh file may hold, for editors and other tools.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "An editor with yaml-language-server uses it where the first line of mesh.yaml is\n  \
    # yaml-language-server: $schema=meshward.schema.json\n\n\
    Examples:\n  meshward schema > meshward.schema.json\n  meshward schema Mesh | jq .definitions.ServiceSpec"
)]
pub struct Args {
    /// Only this kind [default: all]
    kind: Option<String>,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let Some(text) = schema::text(args.kind.as_deref()) else {
        let kind = args.kind.clone().unwrap_or_default();
        let mistake = Diagnostic::error("unknown-kind", format!("`{kind}` is no kind of Meshward's"));
        let kinds = schema::kinds().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ");
        return Err(match nearest(&kind, schema::kinds()) {
            Some(near) => mistake.help(format!("did you mean `{near}`?")),
            None => mistake.help(format!("the kinds are {kinds}")),
        }
        .into());
    };
    let _ = write!(console.out(), "{text}");
    Ok(Exit::Success)
}
