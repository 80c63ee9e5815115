//! What clients that misbehave get, while others are served.

use super::*;
use crate::sockets::passed::tests::{LINGER, lingering, pass, take_again};

#[tokio::test]
async fn a_malformed_message_is_answered_and_the_connection_closed() {
    let served = Served::start(Limits::default());
    for text in
        ["{\0", "\0", "hello\0", "[]\0", "{}\0", "{\"method\":5}\0", "{\"method\":\"x\"}}\0", "\u{0}\u{0}"]
    {
        let mut stream = served.raw().await;
        write(&mut stream, text).await;
        let answers = messages(&rest(&mut stream).await);
        assert_eq!(answers.len(), 1, "{text:?}");
        assert_eq!(answers[0]["error"], "io.steer.Control.Usage", "{text:?}");
    }
    let deep = format!("{{\"method\":\"x\",\"parameters\":{}\0", "[".repeat(10_000));
    let mut stream = served.raw().await;
    write(&mut stream, &deep).await;
    assert_eq!(messages(&rest(&mut stream).await)[0]["error"], "io.steer.Control.Usage");
    served.serves_others().await;
    served.end().await;
}

#[tokio::test]
async fn an_oversized_message_is_cut_off_at_the_limit() {
    let served = Served::start(Limits::default());
    let mut stream = served.raw().await;
    let mut written = 0_usize;
    // The server closes long before all of it is written.
    while stream.write_all(&[b' '; 1024]).await.is_ok() {
        written += 1024;
        assert!(written < 1 << 24, "nobody stops it");
    }
    let answers = messages(&rest(&mut stream).await);
    assert_eq!(answers[0]["parameters"]["message"], "the message is larger than 65536 bytes");
    served.serves_others().await;
    served.end().await;
}

#[tokio::test]
async fn so_many_clients_that_the_message_is_too_large_are_refused_and_others_placed() {
    let served = Served::start(Limits::default());
    let group: crate::names::GroupName = "web".parse().unwrap();
    let table = |count| Request::Table {
        group: group.clone(),
        clients: vec!["[2001:db8::7]:4711".parse().unwrap(); count],
        to: None,
    };
    let refused = served.client().await.call(table(4000), |_| {}).await.unwrap_err();
    assert_eq!(refused.to_string(), "the message is larger than 65536 bytes");
    within(served.client().await.call(table(2000), |_| {})).await.unwrap();
    served.end().await;
}

#[tokio::test]
async fn a_message_below_the_limit_passes() {
    let served = Served::start(Limits::default());
    let mut stream = served.raw().await;
    let padding = " ".repeat(65_000);
    write(&mut stream, &format!("{padding}{{\"method\":\"io.steer.Control.Info\"}}\0")).await;
    assert_eq!(message(&mut stream).await["parameters"]["version"], "0");
    served.end().await;
}

#[tokio::test]
async fn silent_and_half_silent_clients_are_closed_in_time() {
    let served = Served::start(quick());
    let mut silent = served.raw().await;
    let mut half = served.raw().await;
    write(&mut half, "{\"method\":\"io.st").await;
    let mut dripping = served.raw().await;
    served.serves_others().await;
    let drip = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        // Each byte is well within the patience; the message as a whole is not.
        while dripping.write_all(b" ").await.is_ok() {
            ticks.tick().await;
        }
        rest(&mut dripping).await
    });
    for bytes in [rest(&mut silent).await, rest(&mut half).await, within(drip).await.unwrap()] {
        let answers = messages(&bytes);
        assert_eq!(answers[0]["parameters"]["message"], "no whole call came within 2 s");
    }
    served.serves_others().await;
    served.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_left_and_its_reading_request_with_it() {
    let served = Served::start(quick());
    let mut stream = served.raw().await;
    write(
        &mut stream,
        "{\"method\":\"io.steer.Control.Events\",\"parameters\":{\"follow\":true,\"since\":4000},\"more\":true}\0",
    )
    .await;
    served.serves_others().await;
    served.reaches(&served.played.dropped, 1).await;
    // What was sent before is there, and then the end.
    assert!(!rest(&mut stream).await.is_empty());
    served.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_never_holds_a_change_up() {
    let served = Served::start(Limits { patience: LONG, backlog: 64, ..Limits::default() });
    let mut stream = served.raw().await;
    write(
        &mut stream,
        "{\"method\":\"io.steer.Control.Scale\",\"parameters\":{\"group\":\"web\",\"workers\":20000},\"more\":true}\0",
    )
    .await;
    // Twenty thousand receipts fit neither the socket's buffer nor the backlog, and nobody reads them.
    served.reaches(&served.played.changed, 1).await;
    served.serves_others().await;
    drop(stream);
    served.end().await;
}

#[tokio::test]
async fn a_babbling_client_that_does_not_read_is_left() {
    let served = Served::start(quick());
    let mut stream = served.raw().await;
    let calls = "{\"method\":\"io.steer.Control.Info\"}\0".repeat(500);
    let babble = async { while stream.write_all(calls.as_bytes()).await.is_ok() {} };
    let (_, ()) = tokio::join!(served.serves_others(), within(babble));
    served.serves_others().await;
    served.end().await;
}

#[tokio::test]
async fn descriptors_that_come_along_are_closed() {
    let place = tempfile::tempdir().unwrap();
    let socket = ControlSocket::bind(&place.path().join("steer.sock")).unwrap();
    // As on kernels that cannot refuse them.
    take_again(socket.listener().unwrap());
    let served = Served::serve(Limits::default(), place, socket);
    let mut stream = served.raw().await;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let theirs = theirs.into();
    pass(&stream, b"{", &theirs).unwrap();
    drop(theirs);
    // The message is not finished, and the descriptor is closed all the same.
    ours.set_nonblocking(true).unwrap();
    let mut ours = UnixStream::from_std(ours).unwrap();
    assert_eq!(within(ours.read(&mut [0])).await.unwrap(), 0);
    write(&mut stream, "\"method\":\"io.steer.Control.Info\"}\0").await;
    message(&mut stream).await;
    served.end().await;
}

#[tokio::test]
async fn with_all_places_taken_the_next_is_told_and_a_place_that_is_free_again_is_given() {
    let served = Served::start(Limits { connections: 2, ..Limits::default() });
    let mut first = served.client().await;
    let mut second = served.client().await;
    first.call(Request::Info {}, |_| {}).await.unwrap();
    second.call(Request::Info {}, |_| {}).await.unwrap();
    let mut third = served.client().await;
    let error = within(third.call(Request::Info {}, |_| {})).await.unwrap_err();
    assert_eq!(error.to_string(), "the daemon has all of its 2 connections in use");
    drop(second);
    within(async {
        // The server sees the close on its own time; until then the answer is as above.
        while served.client().await.call(Request::Info {}, |_| {}).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    served.end().await;
}

#[tokio::test]
async fn a_change_whose_client_has_gone_keeps_its_place() {
    let served = Served::start(Limits { connections: 1, ..Limits::default() });
    let mut stream = served.raw().await;
    write(
        &mut stream,
        "{\"method\":\"io.steer.Control.Restart\",\"parameters\":{\"group\":\"web\"},\"more\":true}\0",
    )
    .await;
    message(&mut stream).await;
    drop(stream);
    let refused = within(served.client().await.call(Request::Info {}, |_| {})).await;
    assert!(refused.is_err());
    served.played.go_on.notify_one();
    served.reaches(&served.played.changed, 1).await;
    served.end().await;
}

#[tokio::test]
async fn many_clients_at_once_are_all_answered() {
    let served = Served::start(Limits::default());
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let path = served.path.clone();
        clients.spawn(async move {
            let mut client = Client::connect(&path).await.unwrap();
            for _ in 0..20 {
                client.call(Request::Status { group: None }, |_| {}).await.unwrap();
            }
        });
    }
    within(clients.join_all()).await;
    served.end().await;
}

/// Where the kernel refuses nothing; the whole runtime of this test would wait for the close.
#[tokio::test]
async fn a_lingering_socket_that_comes_with_a_message_keeps_nobody() {
    let place = tempfile::tempdir().unwrap();
    let socket = ControlSocket::bind(&place.path().join("steer.sock")).unwrap();
    take_again(socket.listener().unwrap());
    let served = Served::serve(Limits::default(), place, socket);
    let began = std::time::Instant::now();
    let mut peers = Vec::new();
    // With a call, in the midst of one, and with what is never read because its connection ends before.
    for text in ["{\"method\":\"io.steer.Control.Info\"}\0", "{\"method\":", "nonsense\0"] {
        let mut stream = served.raw().await;
        for text in [text, "more\0"] {
            let (lingering, peer) = lingering();
            pass(&stream, text.as_bytes(), &lingering).unwrap();
            peers.push(peer);
        }
        assert!(!message(&mut stream).await.is_null());
        served.serves_others().await;
    }
    assert!(began.elapsed() < LINGER / 3, "{:?}", began.elapsed());
    served.end().await;
}

#[tokio::test]
async fn descriptors_are_refused_where_the_kernel_can() {
    let served = Served::start(Limits::default());
    let stream = served.raw().await;
    let (lingering, _peer) = lingering();
    match pass(&stream, b"x", &lingering) {
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
        Ok(()) => println!("taken: SO_PASSRIGHTS needs Linux 6.16"),
    }
    served.serves_others().await;
    served.end().await;
}
