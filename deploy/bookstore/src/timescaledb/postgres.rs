//! A real PostgreSQL: found, set up once with the example's books, run until a signal.
//!
//! Listens on TCP alone, trusts who connects: in the mesh that is the sidecar, which knows who is behind it.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User, chown, geteuid};

use crate::books::{SCHEMA, SEED};
use crate::serve::{ended, say};

/// The folder with `initdb` and `postgres`.
pub struct Programs(PathBuf);

/// Where distributions put the programs when they keep them off PATH: one folder per version below these.
const VERSION_FOLDERS: [&str; 4] =
    ["/usr/lib/postgresql", "/usr/local/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"];

/// The first folder of PATH that has both programs, else the newest version of the usual folders.
pub fn find() -> Option<Programs> {
    let complete = |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut versions: Vec<PathBuf> = VERSION_FOLDERS
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    versions.push("/usr/pgsql/bin".into());
    versions.sort_by_key(|folder| version_of(folder));
    std::env::split_paths(&path).chain(versions.into_iter().rev()).find(complete).map(Programs)
}

/// 16 of `…/16/bin` and of `…/postgresql@16/bin`.
fn version_of(folder: &Path) -> u32 {
    let name = folder.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let digits: String =
        name.rsplit('@').next().unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

pub async fn run(programs: &Programs, listen: SocketAddr, data: &Path) -> anyhow::Result<()> {
    let ended = ended()?;
    let account = account()?;
    let folder = prepare_folder(programs, data, account.as_ref())?;
    if !folder.join("PG_VERSION").exists() {
        initialise(programs, &folder, account.as_ref())?;
    }
    let mut server = programs.command("postgres", account.as_ref());
    server
        .arg("-D")
        .arg(&folder)
        .args(["-h", &listen.ip().to_string(), "-p", &listen.port().to_string()])
        // No socket file: nobody is to come by it, and its path could be too long.
        .args(["-c", "unix_socket_directories=", "-c", "max_connections=40"])
        .stdin(Stdio::null());
    let mut server = tokio::process::Command::from(server)
        .kill_on_drop(true)
        .spawn()
        .context("`postgres` does not start")?;
    say(&format!("timescaledb (PostgreSQL, {}) listens on {listen}", programs.0.display()));
    tokio::select! {
        status = server.wait() => bail!("`postgres` ended by itself: {}", status?),
        () = ended => {}
    }
    // SIGINT is PostgreSQL's fast shutdown. Its SIGTERM would wait until every client has gone.
    if let Some(id) = server.id().and_then(|id| i32::try_from(id).ok()) {
        kill(Pid::from_raw(id), Signal::SIGINT).context("`postgres` cannot be stopped")?;
    }
    server.wait().await?;
    Ok(())
}

impl Programs {
    fn command(&self, program: &str, account: Option<&User>) -> Command {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(self.0.join(program));
        if let Some(user) = account {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        // Messages are searched for and shown: in one language.
        command.env("LC_ALL", "C").env("TZ", "UTC");
        command
    }
}

/// PostgreSQL refuses to run as root; it then runs as the account made for it, or as nobody.
fn account() -> anyhow::Result<Option<User>> {
    if geteuid() != Uid::from_raw(0) {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    bail!("PostgreSQL does not run as root, and this machine has neither an account `postgres` nor `nobody`")
}

/// Makes the data folder. Where its account cannot get at it (a clone in root's home), one below the temporary folder
/// takes its place, always the same for the same `data`.
fn prepare_folder(programs: &Programs, data: &Path, account: Option<&User>) -> anyhow::Result<PathBuf> {
    let data = std::path::absolute(data)?;
    refuse_others_files(&data)?;
    let make = |folder: &Path| -> anyhow::Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        let Some(user) = account else { return Ok(()) };
        chown(folder, Some(user.uid), Some(user.gid))
            .with_context(|| format!("cannot give `{}` away", folder.display()))?;
        Ok(())
    };
    make(&data)?;
    let Some(user) = account else { return Ok(data) };
    if reachable(programs, &data, user) {
        return Ok(data);
    }
    let other = std::env::temp_dir().join(format!("bookstore-{:016x}", fnv(&data)));
    // Where others may write, a folder of this name could be theirs.
    if let Ok(found) = fs::symlink_metadata(&other) {
        use std::os::unix::fs::MetadataExt as _;
        if !found.is_dir() || (found.uid() != 0 && found.uid() != user.uid.as_raw()) {
            bail!("`{}` is somebody else's: remove it, or name a folder with `--data`", other.display());
        }
    }
    refuse_others_files(&other)?;
    make(&other)?;
    say(&format!(
        "`{}` cannot be reached by the account `{}`: using `{}`",
        data.display(),
        user.name,
        other.display()
    ));
    Ok(other)
}

/// A folder that holds anything but a database is somebody's, and neither given away nor filled.
fn refuse_others_files(folder: &Path) -> anyhow::Result<()> {
    if folder.join("PG_VERSION").exists() {
        return Ok(());
    }
    let other = fs::read_dir(folder).into_iter().flatten().flatten().find(|entry| entry.file_name() != "new");
    match other {
        None => Ok(()),
        Some(entry) => bail!(
            "`{}` is neither empty nor a PostgreSQL database (it has `{}`): remove it, or name another with `--data`",
            folder.display(),
            entry.file_name().display()
        ),
    }
}

/// Whether that account can be in the folder. Asked of the system by starting a program there.
fn reachable(programs: &Programs, folder: &Path, user: &User) -> bool {
    let mut list = programs.command("postgres", Some(user));
    let inside = folder.join(".");
    // `-C` only prints a setting, but reads the folder's files first: a folder it may not enter has another message.
    match list.arg("-D").arg(&inside).args(["-C", "port"]).stdin(Stdio::null()).output() {
        Ok(output) => !String::from_utf8_lossy(&output.stderr).contains("Permission denied"),
        Err(_) => false,
    }
}

/// FNV-1a: a name for a path, nothing secret.
fn fnv(path: &Path) -> u64 {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A database cluster with the example's books. An `initdb` that was stopped half way left no `PG_VERSION` at the place
/// that is looked at, because all is done beside it and renamed.
fn initialise(programs: &Programs, folder: &Path, account: Option<&User>) -> anyhow::Result<()> {
    let new = folder.join("new");
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("cannot remove `{}`", new.display()))?;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    let output = programs
        .command("initdb", account)
        .arg("-D")
        .arg(&new)
        .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
        .stdin(Stdio::null())
        .output()
        .context("`initdb` does not start")?;
    if !output.status.success() {
        bail!("`initdb` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let roles = "CREATE ROLE bookapi LOGIN;\nCREATE ROLE pgadmin LOGIN;\nCREATE DATABASE books;\n";
    single(programs, &new, account, "postgres", roles)?;
    let mut books = format!("{SCHEMA};\n");
    for (title, author, year) in SEED {
        let quote = |text: &str| text.replace('\'', "''");
        books.push_str(&format!(
            "INSERT INTO books (title, author, year) VALUES ('{}', '{}', {year});\n",
            quote(title),
            quote(author)
        ));
    }
    books.push_str("GRANT SELECT, INSERT, DELETE ON books TO bookapi;\nGRANT SELECT ON books TO pgadmin;\n");
    single(programs, &new, account, "books", &books)?;
    // The mark of completeness last.
    let mut entries: Vec<_> = fs::read_dir(&new)?.flatten().collect();
    entries.sort_by_key(|entry| entry.file_name() == "PG_VERSION");
    for entry in entries {
        fs::rename(entry.path(), folder.join(entry.file_name()))?;
    }
    fs::remove_dir(&new)?;
    Ok(())
}

/// Statements, one a line, for a server that runs for them alone and listens nowhere.
fn single(
    programs: &Programs,
    folder: &Path,
    account: Option<&User>,
    database: &str,
    statements: &str,
) -> anyhow::Result<()> {
    let mut server = programs
        .command("postgres", account)
        .args(["--single", "-D"])
        .arg(folder)
        .args(["-c", "exit_on_error=on", database])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("`postgres` does not start")?;
    if let Some(mut input) = server.stdin.take() {
        input.write_all(statements.as_bytes()).context("`postgres` stopped reading")?;
    }
    let output = server.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    // `--single` goes on after an error and ends well all the same.
    if !output.status.success() || said.contains("ERROR:") || said.contains("FATAL:") {
        bail!("the database could not be filled: {}", said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_known_by_its_number_and_not_its_letters() {
        assert_eq!(version_of(Path::new("/usr/lib/postgresql/9/bin")), 9);
        assert_eq!(version_of(Path::new("/usr/lib/postgresql/16/bin")), 16);
        assert_eq!(version_of(Path::new("/usr/local/opt/postgresql@17/bin")), 17);
        assert_eq!(version_of(Path::new("/usr/pgsql/bin")), 0);
    }
}
