//! What well-behaved clients see.

use std::{future, time::Duration};

use serde_json::json;

use super::*;
use crate::{
    control::{api, client::ClientError},
    policy::Policy,
};

fn set_policy(group: &crate::names::GroupName, dry_run: bool) -> Request {
    Request::SetPolicy { group: group.clone(), policy: Policy::Cpu, dry_run, clients: vec![] }
}

fn set_weight(over_ms: Option<u64>, dry_run: bool) -> Request {
    Request::SetWeight { worker: web(1), weight: 3, over_ms, dry_run, clients: vec![] }
}

#[tokio::test]
async fn every_request_makes_the_round_trip() {
    let served = Served::start(Limits::default());
    let mut client = served.client().await;
    let group: crate::names::GroupName = "web".parse().unwrap();
    let restart = Request::Restart { group: group.clone(), worker: None, timeout_ms: None, canary: None };
    let requests = [
        (Request::Info {}, 0, "Info"),
        (Request::Status { group: None }, 0, "Status"),
        (Request::Metrics {}, 0, "Metrics"),
        (Request::Table { group: group.clone(), clients: vec![], to: None }, 0, "Table"),
        (Request::Events { group: None, since: 300, follow: false }, 300, "Done"),
        (restart, 2, "Done"),
        (Request::Drain { worker: web(0), timeout_ms: Some(5), until_replaced: false }, 0, "Receipt"),
        (Request::Undrain { worker: web(0) }, 0, "Done"),
        (Request::Release { group: None }, 0, "Done"),
        (Request::Scale { group: group.clone(), workers: 3, timeout_ms: None }, 3, "Done"),
        (Request::Policy { group: group.clone() }, 0, "Policy"),
        (set_policy(&group, true), 0, "Change"),
        (set_policy(&group, false), 0, "Change"),
        (set_weight(None, false), 0, "Change"),
        (Request::Decide { group, decision: api::Decision::Proceed }, 0, "Done"),
    ];
    for (request, count, last) in requests {
        let mut answers = Vec::new();
        served.played.go_on.notify_one();
        let answer = within(client.call(request, |answer| answers.push(answer))).await.unwrap();
        assert_eq!(answers.len(), count);
        assert!(format!("{answer:?}").starts_with(last), "{answer:?}");
    }
    served.end().await;
}

#[tokio::test]
async fn answers_come_as_they_happen_and_in_order() {
    let served = Served::start(Limits::default());
    let mut client = served.client().await;
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let restart =
        Request::Restart { group: "web".parse().unwrap(), worker: None, timeout_ms: None, canary: None };
    let call = tokio::spawn(async move { client.call(restart, |answer| sender.send(answer).unwrap()).await });
    let first = within(receiver.recv()).await.unwrap();
    assert_eq!(first, Response::Receipt(receipt("web/0")), "it is here before the call goes on");
    served.played.go_on.notify_one();
    assert_eq!(within(receiver.recv()).await.unwrap(), Response::Receipt(receipt("web/1")));
    assert_eq!(within(call).await.unwrap().unwrap(), done(2));
    served.end().await;
}

#[tokio::test]
async fn without_more_only_the_last_answer_comes() {
    let served = Served::start(Limits::default());
    let mut stream = served.raw().await;
    write(&mut stream, "{\"method\":\"io.steer.Control.Events\",\"parameters\":{\"since\":3}}\0").await;
    assert_eq!(message(&mut stream).await, json!({ "parameters": { "answers": 3, "milliseconds": 7 } }));
    write(
        &mut stream,
        "{\"method\":\"io.steer.Control.Events\",\"more\":true,\"parameters\":{\"since\":1}}\0",
    )
    .await;
    let first = message(&mut stream).await;
    assert_eq!((&first["continues"], &first["parameters"]["sequence"]), (&json!(true), &json!(1)));
    assert_eq!(message(&mut stream).await.get("continues"), None);
    served.end().await;
}

#[tokio::test]
async fn faults_keep_their_kind_their_message_and_their_hint() {
    let served = Served::start(Limits::default());
    let mut client = served.client().await;
    let request = Request::Status { group: Some("api".parse().unwrap()) };
    let Err(ClientError::Fault(fault)) = client.call(request, |_| {}).await else { panic!() };
    assert_eq!(fault, Fault::new(FaultKind::NoSuch, "there is no group api").with_hint("there is: web"));
    let Err(ClientError::Fault(fault)) = client.call(Request::Stop { timeout_ms: None }, |_| {}).await else {
        panic!()
    };
    assert_eq!(fault, Fault::new(FaultKind::TimedOut, "too late"));
    // The connection is of use after a fault.
    client.call(Request::Info {}, |_| {}).await.unwrap();
    served.end().await;
}

#[tokio::test]
async fn varlinks_own_errors_and_methods_are_answered() {
    let served = Served::start(Limits::default());
    let mut stream = served.raw().await;
    let ask = async |stream: &mut UnixStream, text: &str| {
        write(stream, &format!("{text}\0")).await;
        message(stream).await
    };
    assert_eq!(
        ask(&mut stream, r#"{"method":"io.steer.Control.Reboot"}"#).await,
        json!({ "error": "org.varlink.service.MethodNotFound",
                "parameters": { "method": "io.steer.Control.Reboot" } })
    );
    assert_eq!(
        ask(&mut stream, r#"{"method":"io.steer.Control.Table","parameters":{"group":7}}"#).await,
        json!({ "error": "org.varlink.service.InvalidParameter", "parameters": { "parameter": "group" } })
    );
    let info = ask(&mut stream, r#"{"method":"org.varlink.service.GetInfo"}"#).await;
    assert_eq!(info["parameters"]["interfaces"][1], "io.steer.Control");
    let upgrade = ask(&mut stream, r#"{"method":"io.steer.Control.Info","upgrade":true}"#).await;
    assert_eq!(upgrade["error"], "io.steer.Control.Usage");

    let mut client = served.client().await;
    let answer = client.call_any("org.varlink.service.GetInfo", &json!({}), |_| {}).await.unwrap();
    assert_eq!(answer["product"], "steer");
    let missing = client.call_any("io.steer.Control.Reboot", &json!({}), |_| {}).await;
    assert!(
        matches!(&missing, Err(ClientError::Fault(fault)) if fault.kind == FaultKind::Usage),
        "{missing:?}"
    );
    let invalid = client.call_any("io.steer.Control.Table", &json!({}), |_| {}).await.unwrap_err();
    assert_eq!(
        invalid.to_string(),
        "the parameter \"group\" of io.steer.Control.Table is missing, malformed or unknown"
    );
    served.end().await;
}

#[tokio::test]
async fn a_oneway_call_is_carried_out_and_not_answered() {
    let served = Served::start(Limits::default());
    let mut stream = served.raw().await;
    write(&mut stream, "{\"method\":\"io.steer.Control.Scale\",\"oneway\":true,\"parameters\":{\"group\":\"web\",\"workers\":2}}\0{\"method\":\"io.steer.Control.Info\"}\0").await;
    assert_eq!(message(&mut stream).await["parameters"]["version"], "0", "the answer is to the second call");
    served.reaches(&served.played.changed, 1).await;
    served.end().await;
}

#[tokio::test]
async fn a_client_that_has_shut_down_its_writing_half_is_answered() {
    let served = Served::start(Limits::default());
    let mut stream = served.raw().await;
    write(&mut stream, "{\"method\":\"io.steer.Control.Info\"}\0").await;
    stream.shutdown().await.unwrap();
    assert_eq!(messages(&rest(&mut stream).await).len(), 1);
    served.end().await;
}

#[tokio::test]
async fn a_change_goes_on_when_its_client_has_gone() {
    let served = Served::start(Limits::default());
    let mut client = served.client().await;
    let restart =
        Request::Restart { group: "web".parse().unwrap(), worker: None, timeout_ms: None, canary: None };
    let (sender, mut first) = tokio::sync::mpsc::unbounded_channel();
    let call = tokio::spawn(async move { client.call(restart, |answer| sender.send(answer).unwrap()).await });
    within(first.recv()).await.unwrap();
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    served.played.go_on.notify_one();
    served.reaches(&served.played.changed, 1).await;
    served.end().await;
}

#[tokio::test]
async fn a_weight_on_its_way_goes_on_when_its_client_has_gone() {
    let served = Served::start(Limits::default());
    let mut client = served.client().await;
    let call = tokio::spawn(async move { client.call(set_weight(Some(60_000), false), |_| {}).await });
    served.reaches(&served.played.begun, 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    served.serves_others().await;
    served.played.go_on.notify_one();
    served.reaches(&served.played.changed, 1).await;
    assert_eq!(served.played.dropped.load(Ordering::SeqCst), 0);
    served.end().await;
}

#[tokio::test]
async fn a_dry_run_reads_and_so_ends_when_its_client_has_gone() {
    let served = Served::start(Limits::default());
    let mut client = served.client().await;
    let call = tokio::spawn(async move { client.call(set_weight(Some(60_000), true), |_| {}).await });
    served.reaches(&served.played.begun, 1).await;
    call.abort();
    served.reaches(&served.played.dropped, 1).await;
    assert_eq!(served.played.changed.load(Ordering::SeqCst), 0);
    served.end().await;
}

#[tokio::test]
async fn a_change_says_whether_it_was_carried_out() {
    let served = Served::start(Limits::default());
    let mut client = served.client().await;
    for dry_run in [true, false] {
        let answer = within(client.call(set_policy(&web(0).group, dry_run), |_| {})).await.unwrap();
        let Response::Change(change) = answer else { panic!("{answer:?}") };
        assert_eq!((change.applied, change.policy_after), (!dry_run, Policy::Cpu));
    }
    served.end().await;
}

#[tokio::test]
async fn a_reading_request_ends_when_its_client_has_gone() {
    let served = Served::start(Limits::default());
    let mut stream = served.raw().await;
    write(
        &mut stream,
        "{\"method\":\"io.steer.Control.Events\",\"parameters\":{\"follow\":true},\"more\":true}\0",
    )
    .await;
    message(&mut stream).await;
    drop(stream);
    served.reaches(&served.played.dropped, 1).await;
    served.end().await;
}

#[tokio::test]
async fn at_the_end_readers_get_their_last_answer_and_changes_their_time() {
    let served = Served::start(Limits { farewell: LONG, ..Limits::default() });
    let mut reader = served.client().await;
    let (follows, mut following) = tokio::sync::mpsc::unbounded_channel();
    let events = Request::Events { group: None, since: 0, follow: true };
    let reading = tokio::spawn(async move {
        reader
            .call(events, move |_| {
                let _ = follows.send(());
            })
            .await
    });
    let mut changer = served.client().await;
    let (receipts, mut received) = tokio::sync::mpsc::unbounded_channel();
    let restart =
        Request::Restart { group: "web".parse().unwrap(), worker: None, timeout_ms: None, canary: None };
    let changing = tokio::spawn(async move {
        changer
            .call(restart, move |_| {
                let _ = receipts.send(());
            })
            .await
    });
    let idle = served.client().await;
    within(following.recv()).await.unwrap();
    within(received.recv()).await.unwrap();

    let go_on = served.played.go_on.clone();
    let end = tokio::spawn(served.end());
    assert!(matches!(within(reading).await.unwrap(), Ok(Response::Done(_))));
    assert!(!end.is_finished(), "the change is still being carried out");
    go_on.notify_one();
    assert_eq!(within(changing).await.unwrap().unwrap(), done(2));
    within(end).await.unwrap();
    drop(idle);
}

#[tokio::test]
async fn a_call_that_panics_is_answered_and_the_server_stays() {
    let served = Served::start(Limits::default());
    let mut client = served.client().await;
    let answer = within(client.call(Request::Stop { timeout_ms: Some(0) }, |_| {})).await;
    assert!(
        matches!(&answer, Err(ClientError::Fault(fault)) if fault.kind == FaultKind::Failed),
        "{answer:?}"
    );
    served.serves_others().await;
    served.end().await;
}

#[tokio::test]
async fn where_nobody_listens_the_client_says_so() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("steer.sock");
    let absent = Client::connect(&path).await.unwrap_err();
    assert_eq!(absent.to_string(), format!("cannot reach the daemon at {}", path.display()));
    assert!(absent.hint().unwrap().contains("steer run"));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let dead = Client::connect(&path).await.unwrap_err();
    assert!(dead.hint().unwrap().contains("has ended"));
}

#[tokio::test]
async fn who_may_not_is_refused_and_stays_connected() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("steer.sock");
    let socket = ControlSocket::bind(&path).unwrap();
    // Nobody has this uid, and the caller is let in by its group: it may read, unless it is root.
    let gid = rustix::process::getegid().as_raw();
    let access = Access { daemon_uid: 4_000_000, configured_uids: vec![], readers_gid: Some(gid) };
    let closer = Closer::start().unwrap();
    let server = tokio::spawn(async move {
        serve_within(quick(), socket, Played::default(), access, &closer, future::pending()).await
    });
    let mut client = Client::connect(&path).await.unwrap();
    client.call(Request::Info {}, |_| {}).await.unwrap();
    let changed = client.call(Request::Undrain { worker: web(0) }, |_| {}).await;
    if rustix::process::geteuid().is_root() {
        assert_eq!(changed.unwrap(), done(0));
    } else {
        let Err(ClientError::Fault(fault)) = changed else { panic!("{changed:?}") };
        assert_eq!(fault.kind, FaultKind::Refused);
        client.call(Request::Info {}, |_| {}).await.unwrap();
        let changed = client.call(set_policy(&web(0).group, false), |_| {}).await;
        assert!(
            matches!(&changed, Err(ClientError::Fault(fault)) if fault.kind == FaultKind::Refused),
            "{changed:?}"
        );
    }
    client.call(set_policy(&web(0).group, true), |_| {}).await.unwrap();
    server.abort();
    assert!(!api::streams("Events"));
    let _ = timeout(Duration::from_secs(1), server).await;
}
