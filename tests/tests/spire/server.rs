//! A SPIRE server and agent of a test's own, built once from the Go module and kept in the cache folder.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use meshward_tests::until;

const VERSION: &str = "1.13.3";
const PROGRAMS: [&str; 2] = ["spire-server", "spire-agent"];

/// The folder with both programs; built when they are not there.
///
/// # Errors
/// There is no Go, or it does not build.
pub fn programs() -> anyhow::Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("MESHWARD_CACHE")
        .or_else(|| set("HOME").map(|home| home.join(".cache/meshward")))
        .context("neither MESHWARD_CACHE nor HOME is set")?;
    let home = cache.join(format!("spire-{VERSION}"));
    if PROGRAMS.iter().all(|name| home.join(name).is_file()) {
        return Ok(home);
    }
    // The module has no listed versions for `go install`: so by a module of our own that names it as a tool.
    let module = tempfile::tempdir()?;
    let built = module.path().join("bin");
    let packages: Vec<_> =
        PROGRAMS.iter().map(|name| format!("github.com/spiffe/spire/cmd/{name}")).collect();
    let wanted: Vec<_> = packages.iter().map(|package| format!("{package}@v{VERSION}")).collect();
    let steps: [(&[&str], &[String]); 3] = [
        (&["mod", "init", "meshward.dev/spire"], &[]),
        (&["get", "-tool"], &wanted),
        (&["install"], &packages),
    ];
    for (words, more) in steps {
        let status = Command::new("go")
            .args(words)
            .args(more)
            .current_dir(module.path())
            .env("GOBIN", &built)
            .env("GOFLAGS", "-buildvcs=false")
            .stdin(Stdio::null())
            .status()
            .context("`go` cannot be run")?;
        if !status.success() {
            bail!("`go {}` ended with {status}", words.join(" "));
        }
    }
    std::fs::create_dir_all(&home)?;
    for name in PROGRAMS {
        // Whole or not at all, should another test look at the same time.
        let beside = home.join(format!(".{name}"));
        std::fs::copy(built.join(name), &beside)?;
        std::fs::rename(&beside, home.join(name))?;
    }
    Ok(home)
}

/// Both, running; stopped when dropped.
pub struct Spire {
    children: Vec<Child>,
    programs: PathBuf,
    folder: PathBuf,
    trust_domain: String,
}

impl Spire {
    /// Starts the server, then an agent that it knows.
    ///
    /// # Errors
    /// One of them does not come up; its log is in the message.
    pub fn start(programs: &Path, folder: &Path, trust_domain: &str) -> anyhow::Result<Self> {
        let mut spire = Self {
            children: Vec::new(),
            programs: programs.to_path_buf(),
            folder: folder.to_path_buf(),
            trust_domain: trust_domain.to_owned(),
        };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let at = |name: &str| folder.join(name).display().to_string();
        let server = format!(
            r#"server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{socket}"
  trust_domain = "{trust_domain}"
  data_dir = "{data}"
  log_level = "INFO"
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{data}/datastore.sqlite3" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
}}
"#,
            socket = at("server.sock"),
            data = at("server")
        );
        std::fs::create_dir_all(folder.join("server"))?;
        std::fs::create_dir_all(folder.join("agent"))?;
        std::fs::write(folder.join("server.conf"), server)?;
        spire.run("spire-server", &["run", "-config", &at("server.conf")])?;
        spire.until_said("the SPIRE server", |spire| spire.server(&["healthcheck"]).is_ok())?;
        let host = format!("spiffe://{trust_domain}/host");
        let said = spire.server(&["token", "generate", "-spiffeID", &host])?;
        let token = said
            .split_once("Token: ")
            .context("no token")?
            .1
            .split_whitespace()
            .next()
            .context("no token")?;
        let agent = format!(
            r#"agent {{
  data_dir = "{data}"
  log_level = "INFO"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{socket}"
  trust_domain = "{trust_domain}"
  insecure_bootstrap = true
  join_token = "{token}"
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true }} }}
}}
"#,
            data = at("agent"),
            socket = spire.socket().display()
        );
        std::fs::write(folder.join("agent.conf"), agent)?;
        spire.run("spire-agent", &["run", "-config", &at("agent.conf")])?;
        spire.until_said("the SPIRE agent", |spire| spire.socket().exists())?;
        Ok(spire)
    }

    /// Where the agent speaks SDS.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    /// Registers the program at `path` as a workload, with certificates that live for `ttl` seconds.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn register(&self, id: &str, path: &Path, ttl: u32) -> anyhow::Result<()> {
        let host = format!("spiffe://{}/host", self.trust_domain);
        let selector = format!("unix:path:{}", path.display());
        let ttl = ttl.to_string();
        let words = [
            "entry",
            "create",
            "-parentID",
            &host,
            "-spiffeID",
            id,
            "-selector",
            &selector,
            "-x509SVIDTTL",
            &ttl,
        ];
        self.server(&words).map(drop)
    }

    /// Makes the server's next CA and lets it sign.
    ///
    /// # Errors
    /// The server refuses.
    pub fn rotate_ca(&self) -> anyhow::Result<()> {
        let said = self.server(&["localauthority", "x509", "prepare"])?;
        let id = said.split_once("Authority ID: ").context("no authority")?.1;
        let id = id.split_whitespace().next().context("no authority")?.to_owned();
        self.server(&["localauthority", "x509", "activate", "-authorityID", &id]).map(drop)
    }

    fn server(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(self.programs.join("spire-server"))
            .args(words)
            .args(["-socketPath", &self.folder.join("server.sock").display().to_string()])
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("`spire-server {}`: {said}{}", words.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(said)
    }

    fn run(&mut self, program: &str, words: &[&str]) -> anyhow::Result<()> {
        let log = std::fs::File::create(self.folder.join(format!("{program}.log")))?;
        let child = Command::new(self.programs.join(program))
            .args(words)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.children.push(child);
        Ok(())
    }

    fn until_said(&self, what: &str, condition: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        until(what, || condition(self)).with_context(|| {
            let mut logs = String::new();
            for program in PROGRAMS {
                let text = std::fs::read_to_string(self.folder.join(format!("{program}.log")));
                // Writing into a String cannot fail.
                let _ = writeln!(logs, "{program}: {}", text.unwrap_or_default());
            }
            logs
        })
    }
}

impl Drop for Spire {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // Gone already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
