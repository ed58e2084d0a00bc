//! `bookapi`: the books as JSON. Knows no callers and checks no rights: that is the sidecar's work.

use std::net::SocketAddr;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio_postgres::Row;

use crate::books::{self, Book, NewBook};
use crate::database::Database;
use crate::serve;

pub async fn run(listen: SocketAddr, database: &str) -> anyhow::Result<()> {
    let routes = Router::new()
        .route("/books", get(list).post(add))
        .route("/books/{id}", get(one).delete(remove))
        .route("/admin", get(admin))
        .route("/admin/stats", get(admin))
        .route("/whoami", get(whoami))
        .with_state(Database::new(database)?);
    serve::http("bookapi", listen, routes).await
}

async fn list(State(database): State<Database>) -> Result<Json<Vec<Book>>, Unavailable> {
    let rows = database.query(books::LIST, &[]).await?;
    Ok(Json(rows.iter().map(read).collect::<Result<_, _>>()?))
}

async fn one(State(database): State<Database>, Path(id): Path<i64>) -> Result<Response, Unavailable> {
    let rows = database.query(books::GET, &[&id]).await?;
    match rows.first() {
        Some(row) => Ok(Json(read(row)?).into_response()),
        None => Ok(no_such_book(id)),
    }
}

async fn add(State(database): State<Database>, Json(book): Json<NewBook>) -> Result<Response, Unavailable> {
    let rows = database.query(books::ADD, &[&book.title, &book.author, &book.year]).await?;
    let row = rows.first().ok_or_else(|| anyhow::anyhow!("the database did not return the new book"))?;
    Ok((StatusCode::CREATED, Json(read(row)?)).into_response())
}

async fn remove(State(database): State<Database>, Path(id): Path<i64>) -> Result<Response, Unavailable> {
    if database.query(books::GET, &[&id]).await?.is_empty() {
        return Ok(no_such_book(id));
    }
    database.query(books::REMOVE, &[&id]).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What only operators should see; the mesh's policies say who may.
async fn admin(State(database): State<Database>) -> Result<Json<Value>, Unavailable> {
    let rows = database.query(books::COUNT, &[]).await?;
    let count: i64 = rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
    Ok(Json(json!({ "books": count })))
}

/// The headers that arrived here, so that one sees what the sidecar lets through and what it puts there itself.
async fn whoami(headers: HeaderMap) -> Json<Value> {
    let mut seen = serde_json::Map::new();
    for (name, value) in &headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        // A header that came twice is shown twice.
        seen.entry(name.as_str())
            .and_modify(|earlier| {
                *earlier = json!(format!("{}, {value}", earlier.as_str().unwrap_or_default()))
            })
            .or_insert_with(|| json!(value));
    }
    Json(Value::Object(seen))
}

fn read(row: &Row) -> anyhow::Result<Book> {
    Ok(Book {
        id: row.try_get("id")?,
        facts: NewBook {
            title: row.try_get("title")?,
            author: row.try_get("author")?,
            year: row.try_get("year")?,
        },
    })
}

fn no_such_book(id: i64) -> Response {
    (StatusCode::NOT_FOUND, Json(json!({ "error": format!("there is no book {id}") }))).into_response()
}

/// 503: the request was right, the database is not to be had.
pub struct Unavailable(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Unavailable {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        serve::say(&format!("error: {:#}", self.0));
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": format!("{:#}", self.0) }))).into_response()
    }
}
