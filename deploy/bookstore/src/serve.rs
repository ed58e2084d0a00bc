//! What every application does alike: listen, say so, answer `/health`, end on SIGTERM and Ctrl-C.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Serves until a signal; requests that are under way are finished.
pub async fn http(name: &str, listen: SocketAddr, routes: Router) -> anyhow::Result<()> {
    let listener = bind(listen).await?;
    say(&format!("{name} listens on http://{listen}"));
    let ended = ended()?;
    // A liveness probe asks about this process, not about what it depends on.
    let routes = routes.route("/health", get(|| async { "ok\n" }));
    axum::serve(listener, routes).with_graceful_shutdown(ended).await?;
    Ok(())
}

pub async fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))
}

/// Completes at the first SIGTERM or SIGINT after the call.
pub fn ended() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// A line of log, on standard error.
pub fn say(line: &str) {
    // Nobody is left to tell when standard error is gone.
    let _ = writeln!(std::io::stderr(), "{line}");
}
