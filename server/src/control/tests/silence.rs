//! A client of a daemon that does nothing for it: stopped, hung, or only slow.

use std::{os::unix::net::UnixListener as StdListener, sync::atomic::AtomicUsize};

use tokio::net::UnixListener;

use super::*;
use crate::control::{client::ClientError, patience::Patience};

/// Short, for the tests; what they wait for is not within any part of it.
const SHORT: Patience = Patience { answer: Duration::from_millis(100), quiet: Duration::from_millis(10) };
const DONE: &str = "{\"parameters\":{\"answers\":0,\"milliseconds\":1}}\0";

fn requests() -> [Request; 3] {
    let worker: WorkerName = "web/0".parse().unwrap();
    [
        Request::Status { group: None },
        Request::Drain { worker, timeout_ms: None, until_replaced: false },
        Request::Events { group: None, since: 0, follow: true },
    ]
}

async fn ask(path: &std::path::Path, request: Request) -> Result<Response, ClientError> {
    let mut client = Client::connect_with(SHORT, path).await?;
    within(client.call(request, |_| {})).await
}

#[tokio::test]
async fn a_daemon_that_accepts_nothing_is_given_up_whatever_is_asked() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("steer.sock");
    let listener = StdListener::bind(&path).unwrap();
    let said = ["not answered", "given no sign of life", "given no sign of life"];
    for (request, said) in requests().into_iter().zip(said) {
        let (method, changes) = (request.method(), request.changes());
        let error = ask(&path, request).await.unwrap_err();
        let name = method.strip_prefix("io.steer.Control.").unwrap();
        let expected = format!("{name}: the daemon at {} has {said} for 0.1 s", path.display());
        assert_eq!(error.to_string(), expected);
        let hint = error.hint().unwrap();
        assert!(hint.contains(&format!("process {} hangs", std::process::id())), "{hint}");
        assert_eq!(hint.ends_with("is made when the daemon goes on"), changes, "{hint}");
    }
    // With a full backlog there is not even a connection.
    rustix::net::listen(&listener, 0).unwrap();
    let error = ask(&path, Request::Info {}).await.unwrap_err();
    let expected =
        format!("cannot connect: the daemon at {} has accepted no connection for 0.1 s", path.display());
    assert_eq!(error.to_string(), expected);
}

/// Accepts the change, then answers this many signs of life with nothing more than an end.
async fn answered_after(probes: usize, answers: bool) -> (Result<Response, ClientError>, usize) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("steer.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let served = tokio::spawn(async move {
        let (mut change, _) = listener.accept().await.unwrap();
        let mut silent = Vec::new();
        loop {
            let (probe, _) = listener.accept().await.unwrap();
            if count.fetch_add(1, Ordering::SeqCst) < probes {
                drop(probe);
            } else if answers {
                change.write_all(DONE.as_bytes()).await.unwrap();
            } else {
                silent.push(probe);
            }
        }
    });
    let worker: WorkerName = "web/0".parse().unwrap();
    let answer = ask(&path, Request::Drain { worker, timeout_ms: None, until_replaced: false }).await;
    served.abort();
    (answer, seen.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_change_is_waited_for_while_the_daemon_shows_that_it_lives_and_no_longer() {
    let (answer, seen) = answered_after(20, true).await;
    assert!(matches!(answer, Ok(Response::Done(_))), "{answer:?}");
    assert_eq!(seen, 21, "it has lived twice as long as it may be silent");
    let (answer, seen) = answered_after(20, false).await;
    assert!(matches!(answer, Err(ClientError::Silent { is_change: true, .. })), "{answer:?}");
    assert_eq!(seen, 21);
}

#[tokio::test]
async fn a_stream_that_is_followed_may_be_silent_once_it_has_begun() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("steer.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let event = serde_json::to_string(&event(1, "")).unwrap();
        stream
            .write_all(format!("{{\"parameters\":{event},\"continues\":true}}\0").as_bytes())
            .await
            .unwrap();
        // Accepts no sign of life: had one been asked for, the stream would be given up.
        tokio::time::sleep(SHORT.answer * 4).await;
        stream.write_all(DONE.as_bytes()).await.unwrap();
    });
    let answer = ask(&path, Request::Events { group: None, since: 0, follow: true }).await;
    assert!(matches!(answer, Ok(Response::Done(_))), "{answer:?}");
    served.await.unwrap();
}
