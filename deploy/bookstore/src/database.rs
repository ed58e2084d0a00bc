//! The way to the database: one connection, made when it is needed and again when it was lost.
//!
//! Without TLS and password: the sidecars do both, and the database listens on loopback alone. No pool: an example.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row};

use crate::serve::say;

/// How long a connection and a query may take, each.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Database {
    config: Arc<Config>,
    client: Arc<Mutex<Option<Arc<Client>>>>,
}

impl Database {
    /// Reads the URL; connects only at the first query.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let mut config: Config = url.parse().with_context(|| format!("`{url}` is no PostgreSQL URL"))?;
        config.connect_timeout(PATIENCE);
        Ok(Self { config: Arc::new(config), client: Arc::new(Mutex::new(None)) })
    }

    pub async fn query(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> anyhow::Result<Vec<Row>> {
        let client = self.client().await?;
        let rows = tokio::time::timeout(PATIENCE, client.query(statement, parameters))
            .await
            .context("the database does not answer")?;
        rows.context("the database refused the query, or the connection was closed")
    }

    async fn client(&self) -> anyhow::Result<Arc<Client>> {
        let mut kept = self.client.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let connecting = tokio::time::timeout(PATIENCE, self.config.connect(NoTls));
        let (client, connection) = connecting
            .await
            .context("the database does not answer")?
            .context("the database cannot be reached, or the mesh does not let this service")?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                say(&format!("the connection to the database ended: {error}"));
            }
        });
        let client = Arc::new(client);
        *kept = Some(Arc::clone(&client));
        Ok(client)
    }
}
