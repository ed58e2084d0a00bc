//! `bookapi-mcp-server`: the books as tools of the Model Context Protocol, over streamable HTTP at `/mcp`.
//!
//! Stateless, one JSON answer per request: any replica can answer any request, so no session needs to stick.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{Implementation, ServerCapabilities, ServerConfig};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ServerHandler, tool, tool_handler, tool_router};
use serde::Deserialize;

use crate::books::NewBook;
use crate::serve;

pub async fn run(listen: SocketAddr, book_api: &str) -> anyhow::Result<()> {
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(10)))
        .http_status_as_error(false)
        .build()
        .new_agent();
    let server = Server { agent, book_api: book_api.trim_end_matches('/').into() };
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        // Whom it answers is the mesh's decision, by certificate; the host name differs by the way that one comes.
        .disable_allowed_hosts();
    let service = StreamableHttpService::new(
        move || Ok(server.clone()),
        Arc::new(LocalSessionManager::default()),
        config,
    );
    serve::http("bookapi-mcp-server", listen, Router::new().nest_service("/mcp", service)).await
}

#[derive(Clone)]
struct Server {
    agent: ureq::Agent,
    book_api: Arc<str>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
struct BookNumber {
    /// The book's number, as `list_books` shows it
    id: i64,
}

#[tool_router]
impl Server {
    /// Lists all books, with their numbers
    #[tool(name = "list_books")]
    async fn list_books(&self) -> Result<String, String> {
        self.call(ureq::http::Request::get(self.url("/books")).body(String::new())).await
    }

    /// Shows one book
    #[tool(name = "get_book")]
    async fn one_book(
        &self,
        Parameters(BookNumber { id }): Parameters<BookNumber>,
    ) -> Result<String, String> {
        self.call(ureq::http::Request::get(self.url(&format!("/books/{id}"))).body(String::new())).await
    }

    /// Adds a book, and shows it with its number
    #[tool(name = "add_book")]
    async fn add_book(&self, Parameters(book): Parameters<NewBook>) -> Result<String, String> {
        let body = serde_json::to_string(&book).map_err(|error| error.to_string())?;
        let request =
            ureq::http::Request::post(self.url("/books")).header("content-type", "application/json");
        self.call(request.body(body)).await
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.book_api)
    }

    /// bookapi's answer as text; an answer that is no success is the tool's error, with bookapi's words.
    async fn call(&self, request: ureq::http::Result<ureq::http::Request<String>>) -> Result<String, String> {
        let request = request.map_err(|error| error.to_string())?;
        let agent = self.agent.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let mut response = agent.run(request)?;
            let status = response.status();
            response.body_mut().read_to_string().map(|text| (status, text))
        });
        match answer.await {
            Ok(Ok((status, text))) if status.is_success() => Ok(text),
            Ok(Ok((status, text))) => Err(format!("bookapi answered {status}: {text}")),
            Ok(Err(error)) => Err(format!("bookapi cannot be reached: {error}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[tool_handler]
impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let mut info = ServerConfig::new(ServerCapabilities::builder().enable_tools().build());
        info.server_info = Implementation::new("bookapi-mcp-server", env!("CARGO_PKG_VERSION"));
        info
    }
}
