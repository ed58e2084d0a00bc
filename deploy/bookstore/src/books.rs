//! What a book is, and every statement that these applications send to the database.
//!
//! The statements are here and not where they are used, because the stand-in for PostgreSQL answers exactly these.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    pub id: i64,
    #[serde(flatten)]
    pub facts: NewBook,
}

/// A book that has no number yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct NewBook {
    pub title: String,
    pub author: String,
    /// Of publication; negative before the common era.
    pub year: i32,
}

pub const VERSION: &str = "SELECT version()";
pub const COUNT: &str = "SELECT count(*) FROM books";
pub const LIST: &str = "SELECT id, title, author, year FROM books ORDER BY id";
pub const GET: &str = "SELECT id, title, author, year FROM books WHERE id = $1";
pub const ADD: &str =
    "INSERT INTO books (title, author, year) VALUES ($1, $2, $3) RETURNING id, title, author, year";
pub const REMOVE: &str = "DELETE FROM books WHERE id = $1";

/// Run once, when the database is made.
pub const SCHEMA: &str = "CREATE TABLE books (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
                          title text NOT NULL, author text NOT NULL, year integer NOT NULL)";

/// The books that a new database starts with.
pub const SEED: [(&str, &str, i32); 5] = [
    ("The Art of Computer Programming", "Donald E. Knuth", 1968),
    ("Structure and Interpretation of Computer Programs", "Harold Abelson and Gerald Jay Sussman", 1985),
    ("The Mythical Man-Month", "Frederick P. Brooks", 1975),
    ("A Pattern Language", "Christopher Alexander", 1977),
    ("Elements", "Euclid", -300),
];
