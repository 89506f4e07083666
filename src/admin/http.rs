//! Requests of operators and their tools.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ORIGIN};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::config;
use super::metrics;
use super::route;
use super::servers;
use super::state::{Command, State};
use crate::clock;

/// Connections served at a time; further ones wait in the backlog.
const CONNECTIONS_MAX: usize = 64;
/// Connections that the kernel holds for us meanwhile.
const BACKLOG: u32 = 128;
/// How long a client may take to send its request line and headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long accepting rests after an error of the system.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is served.
pub trait Site: Send + Sync + 'static {
    /// Answers a request, whose body does not matter.
    fn answer(&self, request: &Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

impl Site for State {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        answer(request, self).await
    }
}

/// Answers on `listener` until `stop` is cancelled.
pub async fn serve<S: Site>(listener: TcpListener, site: Arc<S>, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Cancelled between connections: nothing is lost.
    let _ = stop
        .run_until_cancelled(accept(&listener, &site, &room))
        .await;
}

async fn accept<S: Site>(listener: &TcpListener, site: &Arc<S>, room: &Arc<Semaphore>) {
    // The semaphore is never closed, so a permit always comes.
    while let Ok(permit) = Arc::clone(room).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an admin client");
                clock::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let site = Arc::clone(site);
        // Ends with its client, which the header time-out bounds between requests.
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let site = Arc::clone(&site);
                async move { Ok::<_, Infallible>(site.answer(&request).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "admin client");
            }
            drop(permit);
        });
    }
}

/// A whole answer.
pub type Answer = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
/// The text format of Prometheus, version 0.0.4.
pub(super) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What there is, for whoever asks for `/`.
const INDEX: &str = "ketch\n\n\
    /metrics       counters and latencies for Prometheus\n\
    /healthz       200 while the process works\n\
    /readyz        200 while new clients are welcome\n\
    /config        the configuration in force, and why a newer file is not\n\
    /servers       state and counters of every server\n\
    /route?key=K   where a key goes (&listener=ADDRESS where there are several)\n\
    POST /reload   read the configuration again\n\
    POST /drain    take no more clients, finish, and end\n";

/// What the pages that do something are for; the others only show.
fn command_of(path: &str) -> Option<Command> {
    match path {
        "/reload" => Some(Command::Reload),
        "/drain" => Some(Command::Drain),
        _ => None,
    }
}

async fn answer<B>(request: &Request<B>, state: &State) -> Answer {
    let command = command_of(request.uri().path());
    match (request.method(), command) {
        (&Method::POST, Some(_)) if request.headers().contains_key(ORIGIN) => {
            plain(StatusCode::FORBIDDEN, "not for web pages\n")
        }
        (&Method::POST, Some(command)) => match state.order(command).await {
            Ok(done) => plain(StatusCode::OK, &format!("{done}\n")),
            Err(problem) => plain(StatusCode::CONFLICT, &format!("{problem}\n")),
        },
        (_, Some(_)) => not_allowed("POST"),
        (&Method::GET | &Method::HEAD, None) => show(request, state),
        (_, None) => not_allowed("GET, HEAD"),
    }
}

pub(super) fn not_allowed(methods: &'static str) -> Answer {
    let text = format!("only {methods}\n");
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, &text);
    let methods = hyper::header::HeaderValue::from_static(methods);
    answer.headers_mut().insert(ALLOW, methods);
    answer
}

/// The pages that only show.
fn show<B>(request: &Request<B>, state: &State) -> Answer {
    match request.uri().path() {
        "/" => plain(StatusCode::OK, INDEX),
        "/metrics" => with_type(StatusCode::OK, PROMETHEUS, metrics::render(state)),
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if state.is_ready() => plain(StatusCode::OK, "ready\n"),
        "/readyz" => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        "/config" => with_type(StatusCode::OK, YAML, config::render(state)),
        "/servers" => with_type(StatusCode::OK, JSON, servers::report(state).to_string()),
        "/route" => route_answer(request.uri().query().unwrap_or_default(), state),
        _ => plain(StatusCode::NOT_FOUND, "no such page; see /\n"),
    }
}

fn route_answer(query: &str, state: &State) -> Answer {
    let Some(key) = parameter(query, "key").filter(|key| !key.is_empty()) else {
        return plain(StatusCode::BAD_REQUEST, "which key? /route?key=KEY\n");
    };
    let listener = parameter(query, "listener");
    let listener = listener.as_deref().map(String::from_utf8_lossy);
    match route::explain(state, &key, listener.as_deref()) {
        Ok(explanation) => with_type(StatusCode::OK, JSON, explanation.to_string()),
        Err(problem) => plain(StatusCode::NOT_FOUND, &format!("{problem}\n")),
    }
}

/// The value of a parameter, decoded: keys may hold any byte.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then(|| percent_decode_str(value).into())
    })
}

pub(super) fn plain(status: StatusCode, text: &str) -> Answer {
    with_type(status, TEXT, text.to_owned())
}

pub(super) fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(content_type),
    );
    headers.insert(
        CACHE_CONTROL,
        hyper::header::HeaderValue::from_static("no-store"),
    );
    answer
}

/// Binds the admin listener; with `reuse_port` other processes of the same user
/// may listen there too.
///
/// # Errors
///
/// Those of the system.
pub async fn bind(host: &str, port: u16, reuse_port: bool) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no such host");
    for address in tokio::net::lookup_host((host, port)).await? {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(reuse_port)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = "listener=a&key=user%3A1%20%ff+b";
        assert_eq!(
            parameter(query, "key").as_deref(),
            Some(&b"user:1 \xff+b"[..])
        );
        assert_eq!(parameter(query, "other"), None);
    }
}
