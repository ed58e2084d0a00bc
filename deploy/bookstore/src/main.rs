//! The applications of the example mesh, one subcommand each. They know nothing of the mesh but an address: whom they
//! call, they call in plain text on their own loopback, where the sidecar listens.
//!
//! Example code: no pagination, no users, no migrations.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bookapi;
mod books;
mod database;
mod mcp;
mod pgadmin;
mod serve;
mod timescaledb;

#[derive(Debug, Parser)]
#[command(
    about = "The example applications of the bookstore mesh",
    after_help = "Examples:\n  bookstore timescaledb --listen 127.0.0.1:5432 --data /tmp/books\n  \
                  DATABASE_URL=postgres://bookapi@127.0.0.1:5432/books bookstore bookapi --listen 127.0.0.1:5288"
)]
struct Cli {
    #[command(subcommand)]
    application: Application,
}

#[derive(Debug, Subcommand)]
enum Application {
    /// The books as JSON over HTTP, kept in PostgreSQL
    Bookapi {
        #[arg(long, env = "BOOKSTORE_LISTEN", default_value = "0.0.0.0:5288")]
        listen: SocketAddr,
        /// Where the database is reached: the sidecar's outbound port for it
        #[arg(long, env = "DATABASE_URL", default_value = "postgres://bookapi@127.0.0.1:5432/books")]
        database: String,
    },
    /// The books as tools of the Model Context Protocol (streamable HTTP)
    Mcp {
        #[arg(long, env = "BOOKSTORE_LISTEN", default_value = "0.0.0.0:5289")]
        listen: SocketAddr,
        /// Where bookapi is reached: the sidecar's outbound port
        #[arg(long, env = "BookApi__BaseUrl", default_value = "http://127.0.0.1:15006")]
        book_api: String,
    },
    /// A page about the database
    Pgadmin {
        #[arg(long, env = "BOOKSTORE_LISTEN", default_value = "0.0.0.0:5050")]
        listen: SocketAddr,
        /// Where the database is reached: the sidecar's outbound port for it
        #[arg(long, env = "DATABASE_URL", default_value = "postgres://pgadmin@127.0.0.1:5432/books")]
        database: String,
    },
    /// The database: a real PostgreSQL when there is one on this machine, else a stand-in that says so
    Timescaledb {
        #[arg(long, env = "BOOKSTORE_LISTEN", default_value = "0.0.0.0:5432")]
        listen: SocketAddr,
        /// The folder of the database's files, made when it is not there
        #[arg(long, env = "BOOKSTORE_DATA", default_value = "bookstore-data")]
        data: PathBuf,
        /// Take the stand-in even where there is a PostgreSQL
        #[arg(long)]
        stand_in: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().application {
        Application::Bookapi { listen, database } => bookapi::run(listen, &database).await,
        Application::Mcp { listen, book_api } => mcp::run(listen, &book_api).await,
        Application::Pgadmin { listen, database } => pgadmin::run(listen, &database).await,
        Application::Timescaledb { listen, data, stand_in } => {
            timescaledb::run(listen, &data, stand_in).await
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            serve::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
