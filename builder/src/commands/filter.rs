//! `meshward filter`: what a built module is, and who built it.

use std::path::{Path, PathBuf};

use super::build::Format;
use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::kube::{Distribution, distribution};
use crate::patch::files;
use crate::wasm::{self, Inspection, MAX_SIZE, signature};

/// Looks at filter modules.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show a module's size, digest, imports and exports, and whether Envoy would take it
    Inspect(InspectArgs),
    /// Make an Ed25519 key pair to sign modules with
    Keygen(KeygenArgs),
    /// Sign a module: writes its signature beside it, as <module>.sig
    Sign(SignArgs),
    /// Check a module's signature
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Keep the private key where modules are built, and give the public one to those who use them:\n\
    MESHWARD_FILTER_PUBLIC_KEY, or --filter-public-key, of render, patch and inject.\n\n\
    Examples:\n  meshward filter keygen filter.key                # and filter.key.pub\n  \
    openssl genpkey -algorithm ed25519 -out filter.key    # does the same"
)]
struct KeygenArgs {
    /// Where the private key goes; the public one goes beside it, with `.pub` at its end
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshward filter sign .meshward/filter/meshward-*.wasm --key filter.key")]
struct SignArgs {
    /// The module
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 when it is not what the owner of the key signed.\n\n\
    Examples:\n  meshward filter verify meshward.wasm --filter-public-key filter.key.pub")]
struct VerifyArgs {
    /// The module
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Its signature [default: <FILE>.sig]
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    #[command(flatten)]
    signer: Signer,
}

/// Who must have signed the module that a command uses: `#[command(flatten)]` it.
#[derive(Clone, Debug, clap::Args)]
pub struct Signer {
    /// Take only a module that was signed with this key's other half; its signature is <module>.sig
    #[arg(long, value_name = "FILE", env = "MESHWARD_FILTER_PUBLIC_KEY")]
    filter_public_key: Option<PathBuf>,
}

impl Signer {
    /// Checks a module, when a key is set. Of a module that is not here nothing can be checked, which is a mistake then.
    ///
    /// # Errors
    /// It is not signed, or not here.
    pub fn check(&self, module: Option<&Path>) -> Result<(), Diagnostic> {
        match (&self.filter_public_key, module) {
            (None, _) => Ok(()),
            (Some(key), Some(module)) => signature::check(module, None, key),
            (Some(_), None) => Err(Diagnostic::error(
                "not-signed",
                "a public key is set, and the module that its signature is to be checked of is not here",
            )
            .help("name the module's file")),
        }
    }
}

/// How pods get the module: `#[command(flatten)]` it.
#[derive(Clone, Debug, clap::Args)]
pub struct FilterFrom {
    /// Where pods get the module [default: as rendered before, else its ConfigMap]
    #[arg(long, value_name = "SOURCE")]
    filter_from: Option<distribution::Source>,
    /// The image that holds it as /meshward-<sha12>.wasm, pinned: name@sha256:…
    #[arg(long, value_name = "IMAGE", requires = "filter_from")]
    filter_image: Option<String>,
}

impl FilterFrom {
    /// None: nothing was asked for.
    ///
    /// # Errors
    /// An image that is missing, or not pinned.
    pub fn distribution(&self) -> Result<Option<Distribution>, Diagnostic> {
        let Some(source) = self.filter_from else { return Ok(None) };
        Distribution::new(source, self.filter_image.as_deref())
            .map(Some)
            .map_err(|why| Diagnostic::error("filter-image", why))
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 1 when Envoy, or a ConfigMap, would not take the module.\n\n\
    Examples:\n  meshward filter inspect .meshward/filter/meshward-*.wasm\n  \
    meshward filter inspect module.wasm -o json")]
struct InspectArgs {
    /// The module
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub fn run(args: &Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    match &args.command {
        Command::Inspect(args) => inspect(args, console),
        Command::Keygen(args) => keygen(args, console),
        Command::Sign(args) => sign(args, console),
        Command::Verify(args) => verify(args, console),
    }
}

fn keygen(args: &KeygenArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let mut name = args.file.as_os_str().to_owned();
    name.push(".pub");
    let public = PathBuf::from(name);
    let keys = signature::generate()?;
    write_new(&args.file, keys.private.as_bytes(), 0o600)?;
    write_new(&public, keys.public.as_bytes(), 0o644)?;
    console.note(&format!("{}: the private key; {}: the public one", args.file.display(), public.display()));
    Ok(Exit::Success)
}

/// A file that is not there yet: a key is never written over.
fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), Diagnostic> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let written = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, content));
    written.map_err(|error| {
        Diagnostic::error("unwritable", format!("`{}` cannot be written: {error}", path.display()))
            .help("give a name that is not taken yet, in a folder that can be written")
    })
}

fn sign(args: &SignArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| {
            Diagnostic::error("unreadable", format!("`{}` cannot be read: {error}", path.display()))
        })
    };
    let module = read(&args.file)?;
    let key = zeroize::Zeroizing::new(read(&args.key)?);
    let text = signature::sign(&module, &key, &args.key.display().to_string())?;
    let path = signature::file_of(&args.file);
    files::replace(&path, &text)?;
    console.note(&format!("{} is signed: {}", args.file.display(), path.display()));
    Ok(Exit::Success)
}

fn verify(args: &VerifyArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let Some(key) = &args.signer.filter_public_key else {
        return Err(Diagnostic::error("no-key", "there is no key to check the signature with")
            .help("name it with --filter-public-key, or in MESHWARD_FILTER_PUBLIC_KEY")
            .into());
    };
    signature::check(&args.file, args.signature.as_deref(), key)?;
    console.note(&format!("{} is what the owner of {} signed", args.file.display(), key.display()));
    Ok(Exit::Success)
}

fn inspect(args: &InspectArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let name = args.file.display().to_string();
    let bytes = std::fs::read(&args.file).map_err(|error| {
        Diagnostic::error("module-unreadable", format!("cannot read `{name}`: {error}"))
            .help("give the path of a `.wasm` file; `meshward build` prints the one it wrote")
    })?;
    let inspection = wasm::inspect(&bytes);
    // A reader that left has what it wanted.
    let _ = match args.output {
        Format::Json => writeln!(console.out(), "{:#}", serde_json::json!(inspection)),
        Format::Text => console.out().write_all(describe(&inspection).as_bytes()),
    };
    if inspection.problems.is_empty() {
        return Ok(Exit::Success);
    }
    Err(inspection.diagnostics(&name).into())
}

fn describe(inspection: &Inspection) -> String {
    let mut text =
        format!("size     {} bytes of at most {MAX_SIZE}\nsha256   {}\n", inspection.size, inspection.sha256);
    let lists = [
        ("imports", &inspection.imports),
        ("exports", &inspection.exports),
        ("custom", &inspection.custom_sections),
    ];
    for (title, names) in lists {
        for (index, name) in names.iter().enumerate() {
            let title = if index == 0 { title } else { "" };
            text.push_str(&format!("{title:<8} {name}\n"));
        }
    }
    text
}
