//! `pgadmin`: a page that shows the database is reached, from another identity than bookapi's. Only reads.

use std::fmt::Write as _;
use std::net::SocketAddr;

use axum::extract::State;
use axum::response::Html;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::bookapi::Unavailable;
use crate::books;
use crate::database::Database;
use crate::serve;

pub async fn run(listen: SocketAddr, database: &str) -> anyhow::Result<()> {
    let routes = Router::new()
        .route("/", get(page))
        .route("/api/database", get(facts))
        .with_state(Database::new(database)?);
    serve::http("pgadmin", listen, routes).await
}

async fn facts(State(database): State<Database>) -> Result<Json<Value>, Unavailable> {
    let (version, count) = read(&database).await?;
    Ok(Json(json!({ "version": version, "books": count })))
}

async fn page(State(database): State<Database>) -> Result<Html<String>, Unavailable> {
    let (version, count) = read(&database).await?;
    let mut titles = String::new();
    for row in database.query(books::LIST, &[]).await? {
        let title: String = row.try_get("title")?;
        // Writing into a String cannot fail.
        let _ = writeln!(titles, "<li>{}</li>", escape(&title));
    }
    Ok(Html(format!(
        "<!doctype html>\n<title>pgadmin</title>\n<h1>books</h1>\n<p>{}</p>\n<p>{count} books</p>\n<ul>\n{titles}</ul>\n",
        escape(&version)
    )))
}

async fn read(database: &Database) -> anyhow::Result<(String, i64)> {
    let version = database.query(books::VERSION, &[]).await?;
    let count = database.query(books::COUNT, &[]).await?;
    Ok((
        version.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default(),
        count.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default(),
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
