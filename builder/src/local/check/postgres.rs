//! One statement for PostgreSQL, in plain text to the caller's sidecar.

use std::net::SocketAddr;

use postgres::{Config, NoTls, SimpleQueryMessage};

use super::send::Seen;
use crate::local::client::PATIENCE;

/// The first value of the first row.
pub fn query(address: SocketAddr, user: &str, statement: &str) -> Seen {
    let mut config = Config::new();
    config
        .host(&address.ip().to_string())
        .port(address.port())
        .user(user)
        .dbname("books")
        .connect_timeout(PATIENCE);
    let answer = config.connect(NoTls).and_then(|mut client| client.simple_query(statement));
    match answer {
        Ok(messages) => {
            let value = messages.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            });
            Seen::Answer(value.unwrap_or_default())
        }
        // The server's own word is an answer: it was reached.
        Err(error) => match error.as_db_error() {
            Some(error) => Seen::Answer(format!("ERROR: {}", error.message())),
            None => Seen::Refused(error.to_string()),
        },
    }
}
