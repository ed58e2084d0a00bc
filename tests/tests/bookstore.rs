//! The bookstore as `meshward up` runs it: every request of deploy/checks.yaml, and the database through two sidecars.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a failure is a failed test"
)]

use std::net::IpAddr;
use std::process::Command;

use meshward_builder::console::Console;
use meshward_builder::local::{self, Options, Running, Stop, check};
use meshward_builder::mesh::{self, Resolved};
use meshward_builder::wasm::Origin;
use meshward_tests::tools;

fn bookstore() -> Resolved {
    mesh::load(&[tools::workspace().join("deploy/mesh.yaml")])
        .map_err(|error| tools::failure(&error))
        .unwrap()
}

fn start(mesh: Resolved, folder: &tempfile::TempDir) -> Running {
    let options = Options {
        state: folder.path().join("state"),
        base: tools::workspace().join("deploy"),
        envoy: Some(tools::envoy().unwrap()),
        filter: Origin::Module(tools::filter().unwrap()),
        concurrency: 1,
        edge_on_localhost: false,
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut console = Console::new(&mut out, &mut err, false);
    local::start(mesh, &options, &Stop::default(), &mut console)
        .map_err(|error| tools::failure(&error))
        .unwrap()
}

#[test]
fn all_of_it_holds_and_psql_reads_the_books() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(bookstore(), &folder);
    every_check_is_as_expected(&running);
    psql(&running);
}

fn every_check_is_as_expected(running: &Running) {
    let checks =
        check::load(&tools::workspace().join("deploy/checks.yaml"), &running.mesh, check::For::Sidecars)
            .map_err(|error| tools::failure(&error))
            .unwrap();
    assert!(checks.checks.len() >= 25, "only {} checks", checks.checks.len());
    let outcomes =
        check::run(&checks, &running.mesh, &running.places(), &running.state, &running.ca, || false).unwrap();
    let mut out = Vec::new();
    check::print(&outcomes, &mut Console::new(&mut out, &mut Vec::new(), false));
    assert!(outcomes.iter().all(check::Outcome::as_expected), "{}", String::from_utf8(out).unwrap());
}

/// psql through two sidecars.
fn psql(running: &Running) {
    if Command::new("psql").arg("--version").output().is_err() {
        tools::skipped(
            "psql through two sidecars",
            "psql is not installed (the same is checked with another client)",
        );
        return;
    }
    let ask = |address: IpAddr| {
        Command::new("psql")
            .args([
                "-h",
                &address.to_string(),
                "-p",
                "5432",
                "-U",
                "bookapi",
                "-Atc",
                "SELECT count(*) FROM books",
                "books",
            ])
            .env("PGCONNECT_TIMEOUT", "10")
            .output()
            .unwrap()
    };
    let answer = ask(running.plan.address("bookapi"));
    assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "5", "{answer:?}");
}

#[test]
fn all_of_it_holds_with_the_stand_in_and_a_way_to_the_database_is_no_permission() {
    let folder = tempfile::tempdir().unwrap();
    // The same mesh, without a PostgreSQL, and in which the MCP server's sidecar has a way to the database.
    let text = std::fs::read_to_string(tools::workspace().join("deploy/mesh.yaml")).unwrap();
    let mut changed = text.clone();
    for (from, to) in [
        ("calls: [bookapi]", "calls: [bookapi, timescaledb]"),
        ("command: [bookstore, timescaledb,", "command: [bookstore, timescaledb, --stand-in,"),
    ] {
        assert!(changed.contains(from), "deploy/mesh.yaml no longer says `{from}`");
        changed = changed.replace(from, to);
    }
    let source = meshward_builder::diagnostic::Source::new("mesh.yaml", changed);
    let running =
        start(mesh::load_sources(&[source]).map_err(|error| tools::failure(&error)).unwrap(), &folder);
    every_check_is_as_expected(&running);
    let query = |service: &str| {
        let mut config = postgres::Config::new();
        config.host(&running.plan.address(service).to_string()).port(5432).user("bookapi").dbname("books");
        config.connect_timeout(std::time::Duration::from_secs(10));
        config
            .connect(postgres::NoTls)
            .and_then(|mut client| client.simple_query("SELECT count(*) FROM books"))
    };
    query("bookapi").unwrap();
    let refused = query("bookapi-mcp-server").unwrap_err();
    assert!(refused.as_db_error().is_none(), "the database answered: {refused}");
}
