//! What a request gets. Pure, apart from asking the source.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};

use super::Source;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Metrics,
    Health,
    Readiness,
    /// Something that is not there.
    Nothing,
    /// Something else than to read.
    Change,
}

fn wanted(method: &Method, path: &str) -> Wanted {
    let wanted = match path {
        "/metrics" => Wanted::Metrics,
        "/healthz" => Wanted::Health,
        "/readyz" => Wanted::Readiness,
        _ => return Wanted::Nothing,
    };
    if method == Method::GET || method == Method::HEAD { wanted } else { Wanted::Change }
}

/// The response to a request; hyper leaves the body of one to HEAD out.
pub(super) async fn answer<S: Source>(method: &Method, path: &str, source: &S) -> Response<Full<Bytes>> {
    match wanted(method, path) {
        Wanted::Metrics => match source.exposition().await {
            Ok(exposition) => {
                response(StatusCode::OK, super::CONTENT_TYPE, Bytes::from_owner(SharedText(exposition)))
            }
            Err(message) => plain(StatusCode::INTERNAL_SERVER_ERROR, message + "\n"),
        },
        Wanted::Health => of_reasons(source.ailing().await),
        Wanted::Readiness => of_reasons(source.unready().await),
        Wanted::Nothing => {
            let there_is = "there are /metrics, /healthz and /readyz\n";
            plain(StatusCode::NOT_FOUND, there_is.to_owned())
        }
        Wanted::Change => {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "there is GET and HEAD\n".to_owned());
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refused
        }
    }
}

/// One exposition, for as many scrapers as want it.
struct SharedText(std::sync::Arc<str>);

impl AsRef<[u8]> for SharedText {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// 200 where there is no reason against it, else 503 with the reasons, one a line.
fn of_reasons(reasons: Vec<String>) -> Response<Full<Bytes>> {
    match reasons.is_empty() {
        true => plain(StatusCode::OK, "ok\n".to_owned()),
        false => plain(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n"),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text.into())
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
