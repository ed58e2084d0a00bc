//! `timescaledb`: the database of the example, on a machine that may have no PostgreSQL.

use std::net::SocketAddr;
use std::path::Path;

mod postgres;
mod stand_in;

use crate::serve::say;

pub async fn run(listen: SocketAddr, data: &Path, stand_in: bool) -> anyhow::Result<()> {
    if !stand_in {
        match postgres::find() {
            Some(programs) => return postgres::run(&programs, listen, data).await,
            None => say(
                "no `initdb` and `postgres` on PATH or in the usual folders: this is a built-in STAND-IN for \
                         PostgreSQL, which keeps the books in memory and answers only what the example asks",
            ),
        }
    }
    stand_in::run(listen).await
}
