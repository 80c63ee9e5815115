//! What the sample worker answers.

use std::{
    convert::Infallible,
    future,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CONNECTION, HeaderName, HeaderValue},
};

const X_WORKER: HeaderName = HeaderName::from_static("x-worker");
const X_GENERATION: HeaderName = HeaderName::from_static("x-generation");
const X_PID: HeaderName = HeaderName::from_static("x-pid");

/// Who answers; made once, since every answer has it.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    worker: HeaderValue,
    generation: HeaderValue,
    pid: HeaderValue,
    body: Bytes,
}

impl Identity {
    pub(super) fn new(worker: &str, generation: &str) -> Self {
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("?"));
        Self {
            worker: value(worker),
            generation: value(generation),
            pid: HeaderValue::from(std::process::id()),
            body: Bytes::from(format!("{worker} {generation}\n")),
        }
    }

    /// From STEER_WORKER and STEER_GENERATION; `-` where the program was started by hand.
    pub(super) fn of_environment() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_else(|_| "-".to_owned());
        Self::new(&variable("STEER_WORKER"), &variable("STEER_GENERATION"))
    }

    /// What stands before a datagram that is sent back.
    pub(super) fn line(&self, verdict: &str) -> Vec<u8> {
        let parts =
            [self.worker.as_bytes(), self.generation.as_bytes(), self.pid.as_bytes(), verdict.as_bytes()];
        let mut line = parts.join(&b' ');
        line.push(b'\n');
        line
    }

    /// Answers 200 at once; `/slow?ms=N` after N milliseconds; `/busy?ms=N` too, and does nothing else meanwhile, not even
    /// its other connections; `/hang` never. `last` is asked when the answer is
    /// made: whether it shall be the connection's last.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        last: impl Fn() -> bool,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        match request.uri().path() {
            "/slow" => tokio::time::sleep(slowness(request.uri().query().unwrap_or_default())).await,
            "/busy" => busy(slowness(request.uri().query().unwrap_or_default())),
            "/hang" => future::pending().await,
            _ => {}
        }
        let mut response = Response::new(Full::new(self.body.clone()));
        let headers = response.headers_mut();
        headers.insert(X_WORKER, self.worker.clone());
        headers.insert(X_GENERATION, self.generation.clone());
        headers.insert(X_PID, self.pid.clone());
        if last() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// Holds the only thread up.
fn busy(duration: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// The `ms=` of a query; half a second where there is none that reads.
fn slowness(query: &str) -> Duration {
    let milliseconds = query.split('&').find_map(|pair| pair.strip_prefix("ms=")?.parse().ok());
    Duration::from_millis(milliseconds.unwrap_or(500))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slowness_is_in_the_query() {
        assert_eq!(slowness("ms=20"), Duration::from_millis(20));
        assert_eq!(slowness("a=b&ms=7"), Duration::from_millis(7));
        for query in ["", "ms=", "ms=-1", "xms=3"] {
            assert_eq!(slowness(query), Duration::from_millis(500), "{query}");
        }
    }
}
