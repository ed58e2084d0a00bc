//! One statement for PostgreSQL, in plain text to the caller's sidecar.

use std::net::SocketAddr;

use postgres::{Config, NoTls, SimpleQueryMessage};

use crate::local::client::PATIENCE;

/// The first value of the first row, or the server's own word against it: either way it was reached.
///
/// # Errors
/// Why it was not.
pub fn query(address: SocketAddr, user: &str, statement: &str) -> Result<String, postgres::Error> {
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
            Ok(value.unwrap_or_default())
        }
        Err(error) => match error.as_db_error() {
            Some(word) => Ok(format!("ERROR: {}", word.message())),
            None => Err(error),
        },
    }
}
