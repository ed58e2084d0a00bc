//! `meshward policy eval`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::console::{Console, Exit};
use crate::diagnostic::{Diagnostic, Failure};
use crate::policy::eval::{self, Evaluator, Options, Paths, Side};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A request has an `id` and any of: time, source {principal, ip, remote_ip}, destination {ip, port}, sni,\n\
    protocol (http or tcp), method, path, host, headers {name: [values]}, jwt {iss, sub, claims}, metadata.\n\
    Answers: {\"id\", \"decision\": allow|deny, \"status\", \"policy\", \"rule\", \"reason\", \"shadow\"}. Where ALLOW policies\n\
    exist and none matches, the reason says which rule came nearest and what failed in it.\n\n\
    With a `time` (\"1.250s\" after some beginning) rate limits are asked as well, each line after those before it:\n\
    a refusal has `reason` rate_limited, `policy`, `limit`, `retry_after` and the `headers`. Limits of requests in\n\
    flight are not asked: a line does not say how long its request takes.\n\n\
    With a `time` and an `outcome` {status, grpc, latency, retry_after} (no status: no answer at all) the circuit breaker\n\
    is asked, and hears of it after its latency. What it changes is a line of its own: {\"id\", \"breaker\",\n\
    \"destination\", \"state\", \"reason\", \"time\", \"open_for\"}. With `--side outbound` the requests are those that the\n\
    workload sends, to `destination` {service}. Lines come in the order of their times; there is no jitter.\n\n\
    With a Mesh among the documents the answers are those of the workload's sidecar, `calls` included. Without one\n\
    they are Istio's: trust domain cluster.local, root namespace istio-system, default action ALLOW. A policy with a\n\
    selector is for the workload only when its labels are there: those of --labels, else `app: NAME` of --workload.\n\n\
    Exit code 1 when a line could not be read; its answer has `error`, and the run goes on.\n\n\
    Examples:\n  \
    meshward policy eval --mesh deploy/mesh.yaml --workload books/bookapi --requests requests.jsonl\n  \
    echo '{\"id\":\"1\",\"method\":\"GET\",\"path\":\"/\"}' | meshward policy eval --mesh policies/ -n books --requests -\n  \
    meshward policy eval --mesh p.yaml -n books --labels app=bookapi,version=v1 --requests requests.jsonl\n  \
    meshward policy eval -f deploy/mesh.yaml --workload default/bookapi-mcp-server --side outbound --requests incident.jsonl"
)]
pub struct Args {
    /// Files or folders with a Mesh, or with AuthorizationPolicies alone; `-` is standard input; may be repeated
    #[arg(
        long,
        short = 'f',
        visible_alias = "filename",
        value_name = "FILE|DIR",
        required = true,
        env = "MESHWARD_FILE"
    )]
    mesh: Vec<PathBuf>,
    /// The workload that is called; with `--side outbound`, that calls
    #[arg(long, value_name = "NS/NAME", value_parser = workload, conflicts_with = "namespace")]
    workload: Option<(String, String)>,
    /// The namespace of the workload that is called, and of policies that name none [default: default]
    #[arg(long, short, value_name = "NS")]
    namespace: Option<String>,
    /// The labels of the workload that is called
    #[arg(long, short = 'l', value_name = "K=V,..", value_parser = labels, default_value = "", hide_default_value = true)]
    labels: Labels,
    /// Requests, one JSON object per line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    requests: PathBuf,
    /// How to answer
    #[arg(short, long, value_enum, default_value_t = Format::Jsonl)]
    output: Format,
    /// Without a Mesh: the trust domain [default: cluster.local]
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// Without a Mesh: another name of the trust domain; may be repeated
    #[arg(long, value_name = "NAME")]
    trust_domain_alias: Vec<String>,
    /// Whether paths are given as a client sends them, or as the filter sees them
    #[arg(long, value_enum)]
    paths: Option<Paths>,
    /// What the workload gets, or what it sends
    #[arg(long, value_enum, default_value_t = Side::Inbound)]
    side: Side,
    /// Leave out of the reasons which rule came nearest: faster with thousands of rules and many denials
    #[arg(long)]
    terse: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// One JSON object per line
    Jsonl,
}

/// clap reads a bare map as many values.
#[derive(Clone, Debug)]
struct Labels(BTreeMap<String, String>);

fn workload(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("write it as namespace/name".to_owned()),
    }
}

fn labels(text: &str) -> Result<Labels, String> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("`{pair}` is not key=value")),
    };
    pairs.map(pair).collect::<Result<_, _>>().map(Labels)
}

pub fn run(args: Args, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let Format::Jsonl = args.output;
    let stdin = Path::new("-");
    if args.requests == stdin && args.mesh.iter().any(|path| path == stdin) {
        return Err(Diagnostic::error(
            "two-inputs",
            "standard input cannot be both the policies and the requests",
        )
        .help("give one of them as a file")
        .into());
    }
    let options = Options {
        mesh: args.mesh,
        workload: args.workload,
        namespace: args.namespace,
        labels: args.labels.0,
        trust_domain: args.trust_domain,
        trust_domain_aliases: args.trust_domain_alias,
        paths: args.paths,
        side: args.side,
        terse: args.terse,
    };
    let mut warnings = Vec::new();
    let evaluator = Evaluator::new(&options, &mut warnings)?;
    for warning in &warnings {
        console.report(warning);
    }
    let name = args.requests.display();
    let summary = if args.requests == stdin {
        eval::run(&evaluator, std::io::stdin().lock(), console.out())
    } else {
        let file = std::fs::File::open(&args.requests).map_err(|error| {
            Diagnostic::error("unreadable", format!("`{name}` cannot be read: {error}"))
                .help("check the path given with `--requests`; `-` is standard input")
        })?;
        eval::run(&evaluator, file, console.out())
    }
    .map_err(|error| {
        Diagnostic::error("requests", format!("reading `{name}` or writing answers failed: {error}"))
    })?;
    if summary.unreadable == 0 {
        return Ok(Exit::Success);
    }
    console.note(&format!("{} of {} lines could not be read", summary.unreadable, summary.answered));
    Ok(Exit::Failure)
}
