//! A stand-in for PostgreSQL: the real protocol, the books in memory, and of SQL only what the example asks.
//!
//! It exists so that the mesh runs on a machine without PostgreSQL. It says what it is in its version and in the error
//! that any other statement gets. Deliberately no SQL parser.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::stream;
use pgwire::api::auth::StartupHandler;
use pgwire::api::auth::noop::NoopStartupHandler;
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::results::{
    DataRowEncoder, DescribePortalResponse, DescribeStatementResponse, FieldInfo, QueryResponse, Response,
    Tag,
};
use pgwire::api::stmt::{NoopQueryParser, StoredStatement};
use pgwire::api::{ClientInfo, PgWireServerHandlers, Type};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::tokio::process_socket;

use crate::books::{self, Book, NewBook, SEED};
use crate::serve::{bind, ended, say};

/// What `SELECT version()` answers: nobody shall take it for the real one.
const NAME: &str = "bookstore stand-in (not PostgreSQL)";

pub async fn run(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = bind(listen).await?;
    let server = Arc::new(Server { shelf: Arc::new(StandIn::new()) });
    let ended = ended()?;
    say(&format!("timescaledb (a stand-in, no PostgreSQL) listens on {listen}"));
    tokio::pin!(ended);
    loop {
        tokio::select! {
            () = &mut ended => return Ok(()),
            incoming = listener.accept() => {
                let (socket, _) = incoming?;
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    if let Err(error) = process_socket(socket, None, server).await {
                        say(&format!("a connection ended: {error}"));
                    }
                });
            }
        }
    }
}

struct Server {
    shelf: Arc<StandIn>,
}

impl PgWireServerHandlers for Server {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::clone(&self.shelf)
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        Arc::clone(&self.shelf)
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::clone(&self.shelf)
    }
}

/// The statements that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Statement {
    One,
    Version,
    Count,
    List,
    Get,
    Add,
    Remove,
}

impl Statement {
    /// Known by its words: white space, letter case and a closing semicolon do not matter.
    fn read(text: &str) -> PgWireResult<Self> {
        let words = |text: &str| {
            text.trim().trim_end_matches(';').split_whitespace().map(str::to_lowercase).collect::<Vec<_>>()
        };
        let asked = words(text);
        let known = [
            ("SELECT 1", Self::One),
            (books::VERSION, Self::Version),
            (books::COUNT, Self::Count),
            (books::LIST, Self::List),
            (books::GET, Self::Get),
            (books::ADD, Self::Add),
            (books::REMOVE, Self::Remove),
        ];
        known.into_iter().find(|(text, _)| words(text) == asked).map(|(_, statement)| statement).ok_or_else(
            || {
                // 0A000: feature_not_supported.
                problem(
                    "0A000",
                    format!(
                        "this is a stand-in for PostgreSQL and does not know `{text}`; install PostgreSQL"
                    ),
                )
            },
        )
    }

    fn parameters(self) -> Vec<Type> {
        match self {
            Self::One | Self::Version | Self::Count | Self::List => Vec::new(),
            Self::Get | Self::Remove => vec![Type::INT8],
            Self::Add => vec![Type::TEXT, Type::TEXT, Type::INT4],
        }
    }

    fn columns(self, format: &Format) -> Vec<FieldInfo> {
        let columns: &[(&str, Type)] = match self {
            Self::One => &[("?column?", Type::INT4)],
            Self::Version => &[("version", Type::TEXT)],
            Self::Count => &[("count", Type::INT8)],
            Self::List | Self::Get | Self::Add => {
                &[("id", Type::INT8), ("title", Type::TEXT), ("author", Type::TEXT), ("year", Type::INT4)]
            }
            Self::Remove => &[],
        };
        let field = |(index, (name, kind)): (usize, &(&str, Type))| {
            FieldInfo::new((*name).to_owned(), None, None, kind.clone(), format.format_for(index))
        };
        columns.iter().enumerate().map(field).collect()
    }
}

/// The arguments of a statement, as far as it has them.
#[derive(Default)]
struct Arguments {
    id: i64,
    book: Option<NewBook>,
}

struct StandIn {
    shelf: Mutex<Shelf>,
    parser: Arc<NoopQueryParser>,
}

struct Shelf {
    books: Vec<Book>,
    next: i64,
}

impl StandIn {
    fn new() -> Self {
        let mut shelf = Shelf { books: Vec::new(), next: 1 };
        for (title, author, year) in SEED {
            shelf.add(NewBook { title: title.into(), author: author.into(), year });
        }
        Self { shelf: Mutex::new(shelf), parser: Arc::new(NoopQueryParser::new()) }
    }

    fn answer(&self, statement: Statement, arguments: Arguments, format: &Format) -> PgWireResult<Response> {
        let fields = Arc::new(statement.columns(format));
        let mut encoder = DataRowEncoder::new(Arc::clone(&fields));
        let mut rows = Vec::new();
        // A panic while it was held cannot leave the books half changed: each change is one step.
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        match statement {
            Statement::One => {
                encoder.encode_field(&1_i32)?;
                rows.push(Ok(encoder.take_row()));
            }
            Statement::Version => {
                encoder.encode_field(&NAME)?;
                rows.push(Ok(encoder.take_row()));
            }
            Statement::Count => {
                encoder.encode_field(&i64::try_from(shelf.books.len()).unwrap_or(i64::MAX))?;
                rows.push(Ok(encoder.take_row()));
            }
            Statement::Remove => {
                let before = shelf.books.len();
                shelf.books.retain(|book| book.id != arguments.id);
                let gone = before - shelf.books.len();
                return Ok(Response::Execution(Tag::new("DELETE").with_rows(gone)));
            }
            Statement::List | Statement::Get | Statement::Add => {
                let chosen: Vec<Book> = match (statement, arguments.book) {
                    (Statement::Add, Some(book)) => vec![shelf.add(book)],
                    (Statement::Get, _) => {
                        shelf.books.iter().filter(|book| book.id == arguments.id).cloned().collect()
                    }
                    _ => shelf.books.clone(),
                };
                for book in chosen {
                    encoder.encode_field(&book.id)?;
                    encoder.encode_field(&book.facts.title)?;
                    encoder.encode_field(&book.facts.author)?;
                    encoder.encode_field(&book.facts.year)?;
                    rows.push(Ok(encoder.take_row()));
                }
            }
        }
        Ok(Response::Query(QueryResponse::new(fields, stream::iter(rows))))
    }
}

impl Shelf {
    fn add(&mut self, facts: NewBook) -> Book {
        let book = Book { id: self.next, facts };
        self.next += 1;
        self.books.push(book.clone());
        book
    }
}

impl NoopStartupHandler for StandIn {}

#[async_trait]
impl SimpleQueryHandler for StandIn {
    async fn do_query<C>(&self, _client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let statement = Statement::read(query)?;
        if !statement.parameters().is_empty() {
            return Err(problem("42P02", "there is no parameter $1 in a simple query".into()));
        }
        Ok(vec![self.answer(statement, Arguments::default(), &Format::UnifiedText)?])
    }
}

#[async_trait]
impl ExtendedQueryHandler for StandIn {
    type Statement = String;
    type QueryParser = NoopQueryParser;

    fn query_parser(&self) -> Arc<Self::QueryParser> {
        Arc::clone(&self.parser)
    }

    async fn do_query<C>(
        &self,
        _client: &mut C,
        portal: &Portal<Self::Statement>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let statement = Statement::read(&portal.statement.statement)?;
        let missing = || problem("22004", "a parameter is null or missing".into());
        let mut arguments = Arguments::default();
        match statement {
            Statement::Get | Statement::Remove => {
                arguments.id = portal.parameter(0, &Type::INT8)?.ok_or_else(missing)?;
            }
            Statement::Add => {
                arguments.book = Some(NewBook {
                    title: portal.parameter(0, &Type::TEXT)?.ok_or_else(missing)?,
                    author: portal.parameter(1, &Type::TEXT)?.ok_or_else(missing)?,
                    year: portal.parameter(2, &Type::INT4)?.ok_or_else(missing)?,
                });
            }
            Statement::One | Statement::Version | Statement::Count | Statement::List => {}
        }
        self.answer(statement, arguments, &portal.result_column_format)
    }

    async fn do_describe_statement<C>(
        &self,
        _client: &mut C,
        target: &StoredStatement<Self::Statement>,
    ) -> PgWireResult<DescribeStatementResponse>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let statement = Statement::read(&target.statement)?;
        Ok(DescribeStatementResponse::new(statement.parameters(), statement.columns(&Format::UnifiedBinary)))
    }

    async fn do_describe_portal<C>(
        &self,
        _client: &mut C,
        target: &Portal<Self::Statement>,
    ) -> PgWireResult<DescribePortalResponse>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let statement = Statement::read(&target.statement.statement)?;
        Ok(DescribePortalResponse::new(statement.columns(&target.result_column_format)))
    }
}

fn problem(code: &str, message: String) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("ERROR".into(), code.into(), message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::Database;

    async fn started() -> (SocketAddr, Arc<Server>) {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Server { shelf: Arc::new(StandIn::new()) });
        let handlers = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(process_socket(socket, None, Arc::clone(&handlers)));
            }
        });
        (address, server)
    }

    #[tokio::test]
    async fn every_statement_of_the_applications_is_answered() {
        let (address, _server) = started().await;
        let database = Database::new(&format!("postgres://bookapi@{address}/books")).unwrap();
        let count = async || database.query(books::COUNT, &[]).await.unwrap()[0].get::<_, i64>(0);
        assert_eq!(count().await, 5);
        let added = database.query(books::ADD, &[&"T", &"A", &1999_i32]).await.unwrap();
        let id: i64 = added[0].get("id");
        assert_eq!(count().await, 6);
        let found = database.query(books::GET, &[&id]).await.unwrap();
        assert_eq!(found[0].get::<_, String>("title"), "T");
        assert_eq!(found[0].get::<_, i32>("year"), 1999);
        database.query(books::REMOVE, &[&id]).await.unwrap();
        assert!(database.query(books::GET, &[&id]).await.unwrap().is_empty());
        assert_eq!(database.query(books::LIST, &[]).await.unwrap().len(), 5);
        let version: String = database.query(books::VERSION, &[]).await.unwrap()[0].get(0);
        assert!(version.contains("stand-in"), "{version}");
    }

    #[tokio::test]
    async fn another_statement_is_refused_with_the_remedy() {
        let (address, _server) = started().await;
        let database = Database::new(&format!("postgres://bookapi@{address}/books")).unwrap();
        let error = format!("{:#}", database.query("DROP TABLE books", &[]).await.unwrap_err());
        assert!(error.contains("refused"), "{error}");
    }
}
