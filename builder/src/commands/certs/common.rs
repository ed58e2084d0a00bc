//! What the verbs of `certs` share: where certificates are, the passphrase, durations, the clock.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use time::{Duration, OffsetDateTime};

use crate::console::Console;
use crate::diagnostic::{Diagnostic, Failure};
use crate::pki::Error;
use crate::pki::authority::KeyPlace;
use crate::pki::key::Passphrase;
use crate::pki::secrets::{Kubectl, SecretStore};
use crate::pki::store::{FolderStore, Store};

/// Where certificates are.
#[derive(Debug, clap::Args)]
pub struct Dir {
    /// The folder of certificates
    #[arg(short = 'd', long, value_name = "DIR", env = "MESHWARD_CERTS", default_value = "certs")]
    pub dir: PathBuf,
    /// Work on the Secrets of this namespace, by kubectl, instead of a folder
    #[arg(long, value_name = "NAMESPACE")]
    pub secrets_in: Option<String>,
    /// With --secrets-in: the kubeconfig context
    #[arg(long, value_name = "NAME", requires = "secrets_in")]
    pub context: Option<String>,
    /// With --secrets-in: the kubectl to use
    #[arg(long, value_name = "FILE", default_value = "kubectl", env = "MESHWARD_KUBECTL")]
    pub kubectl: PathBuf,
}

impl Dir {
    /// For writing. When it has to wait for another one, it says so.
    pub fn open(&self, console: &mut Console<'_>) -> Result<Box<dyn Store>, Failure> {
        Ok(match self.secrets()? {
            Some(store) => Box::new(store),
            None => Box::new(FolderStore::open(&self.dir, &mut |words| console.note(words))?),
        })
    }

    /// For reading only, beside a writer.
    pub fn peek(&self) -> Result<Box<dyn Store>, Failure> {
        Ok(match self.secrets()? {
            Some(store) => Box::new(store),
            None => Box::new(FolderStore::peek(&self.dir)),
        })
    }

    fn secrets(&self) -> Result<Option<SecretStore>, Failure> {
        let Some(namespace) = &self.secrets_in else { return Ok(None) };
        let kubectl = Kubectl { program: self.kubectl.clone(), context: self.context.clone() };
        Ok(Some(SecretStore::open(kubectl, namespace)?))
    }

    /// The whole, for a message.
    pub fn name(&self) -> String {
        match &self.secrets_in {
            Some(namespace) => format!("the namespace `{namespace}`"),
            None => format!("`{}`", self.dir.display()),
        }
    }
}

/// The passphrase of the CA key.
#[derive(Debug, clap::Args)]
pub struct PassphraseFile {
    /// A file with the passphrase of the CA key, or `-` for standard input
    #[arg(long, value_name = "FILE", env = "MESHWARD_CA_PASSPHRASE_FILE")]
    pub passphrase_file: Option<PathBuf>,
}

impl PassphraseFile {
    pub fn read(&self) -> Result<Option<Passphrase>, Failure> {
        let Some(path) = &self.passphrase_file else { return Ok(None) };
        let bytes = read(path)?;
        let passphrase = Passphrase::new(bytes);
        if passphrase.is_empty() {
            let message = format!("the passphrase file `{}` is empty", path.display());
            return Err(Diagnostic::error("passphrase", message)
                .help("write the passphrase into its first line")
                .into());
        }
        Ok(Some(passphrase))
    }

    pub fn place(&self) -> Result<KeyPlace, Failure> {
        Ok(KeyPlace { passphrase: self.read()?, ..KeyPlace::default() })
    }
}

/// A file, or standard input for `-`.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let result = if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut bytes).map(|_| ())
    } else {
        std::fs::read(path).map(|content| bytes = content)
    };
    result.map_err(|cause| Error::Io { doing: "read", path: path.to_owned(), cause })?;
    Ok(bytes)
}

/// The one place where `certs` reads the clock.
pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// `90s`, `24h`, `7d`, `10y`, `1h 30m`. A day has 24 hours, a year 365 days, a month 30.
pub fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::Span = text
        .parse()
        .map_err(|_| "not a duration; write for example `90s`, `24h`, `7d` or `10y`".to_owned())?;
    let days = i64::from(span.get_years()) * 365
        + i64::from(span.get_months()) * 30
        + i64::from(span.get_weeks()) * 7
        + i64::from(span.get_days());
    let seconds = i64::from(span.get_hours()) * 3600 + span.get_minutes() * 60 + span.get_seconds();
    if span.is_negative() {
        return Err("a duration cannot be negative".into());
    }
    Ok(Duration::days(days) + Duration::seconds(seconds))
}

/// A point in time, RFC 3339.
pub fn time(text: &str) -> Result<OffsetDateTime, String> {
    crate::pki::ledger::parse_time(text)
        .ok_or_else(|| "not a time; write for example `2027-01-31T12:00:00Z`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("24h"), Ok(Duration::hours(24)));
        assert_eq!(duration("10y"), Ok(Duration::days(3650)));
        assert_eq!(duration("1h 30m"), Ok(Duration::minutes(90)));
        assert_eq!(duration("5m"), Ok(Duration::minutes(5)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for wrong in ["", "24", "-1h", "1 fortnight"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
