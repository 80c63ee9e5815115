//! Receipts count the half-open handshakes of the listeners that drain, and no others: under each policy, and those that wait for data
//! (TCP_DEFER_ACCEPT).

use std::{collections::BTreeMap, thread, time::Duration};

use steer_tests::{
    clients::{Answer, Client},
    exact, netns, nft,
    python::{PLAIN_SERVER, script},
    receipts::{connections_reset, group_of, receipt_of, until_event},
    site::{PORT, SPECIFIC, client_address, half_open},
    steer::Steer,
    wait,
};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_receipt_counts_what_is_half_open_at_its_own_listeners_under_each_policy() {
    if exact::looks().is_none() {
        return;
    }
    for policy in ["hash", "source", "least-loaded", "cpu"] {
        netns::run("exact", |namespace| {
            let steer = Steer::run(namespace, &SPECIFIC.arguments(3, ["--policy", policy]));
            let frozen = nft::freeze_final_ack(namespace, PORT);
            // Of many addresses, so that each worker has some under `source` too.
            let mut clients: Vec<Client> = (7..47).flat_map(|number| SPECIFIC.connect(number, 2)).collect();
            SPECIFIC.until_half_open(160);

            let (output, by_answer) = thread::scope(|scope| {
                let restart = scope.spawn(|| steer.command(["restart", "web/0", "--json"]));
                until_event(&steer, "working", "web/0", 2);
                assert!(!restart.is_finished(), "{policy}: the drain has not waited");
                drop(frozen);
                clients.iter_mut().for_each(Client::ask);
                let mut by_answer = BTreeMap::<Answer, u64>::new();
                clients.into_iter().for_each(|client| *by_answer.entry(client.answer()).or_default() += 1);
                (restart.join().expect("the command ends"), by_answer)
            });
            let receipt = receipt_of(&output.succeeded());
            // Those that the old generation has answered are those that were half-open at its listeners.
            let own = by_answer[&Answer { worker: 0, generation: 1 }];
            assert!(own > 0 && own < 160, "{policy}: {by_answer:?}");
            assert_eq!((receipt.outcome.as_str(), receipt.handshakes_estimated), ("drained", false));
            assert_eq!(
                (receipt.handshakes.began, receipt.handshakes.ended),
                (own, 0),
                "{policy}: {by_answer:?}"
            );
            assert_eq!(connections_reset(), 0);
            println!("{policy}: half-open: 160, of the drained: {own}, failed: 0");
        });
    }
}

#[test]
fn sixty_silent_clients_of_a_server_that_defers_accepts_are_sixty_handshakes() {
    if exact::looks().is_none() {
        return;
    }
    const SILENT: usize = 60;
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let defers =
        "listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)\nlistener.listen(1024)";
    let source = PLAIN_SERVER.replace("listener.listen(1024)", defers);
    assert_ne!(source, PLAIN_SERVER);
    let server = script(directory.path(), "server", &source).display().to_string();
    netns::run("deferred", |namespace| {
        let address = SPECIFIC.servers()[0];
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let listen = address.to_string();
        let words = ["--listen", &listen, "--workers", "1", "--mode", "own", "--", &server, &ip, &port];
        let steer = Steer::run(namespace, &words);
        let old = group_of(&steer).workers[0].pid.expect("a working worker has a process");
        let mut clients: Vec<Client> =
            (0..SILENT).map(|_| Client::connect(client_address(address, 7), address)).collect();
        SPECIFIC.until_half_open(SILENT);

        let (output, answered) = thread::scope(|scope| {
            let restart = scope.spawn(|| steer.command(["restart", "web/0", "--json"]));
            until_event(&steer, "working", "web/0", 2);
            assert!(!restart.is_finished(), "the drain has not waited");
            clients.iter_mut().for_each(Client::ask);
            let answered: Vec<String> =
                clients.into_iter().map(|client| client.answered_header("x-pid:")).collect();
            (restart.join().expect("the command ends"), answered)
        });
        let receipt = receipt_of(&output.succeeded());
        assert!(answered.iter().all(|pid| *pid == old.to_string()), "{old}: {answered:?}");
        assert_eq!((receipt.outcome.as_str(), receipt.handshakes_estimated), ("drained", false));
        assert_eq!((receipt.handshakes.began, receipt.handshakes.ended), (SILENT as u64, 0), "{receipt:?}");
        wait::until("nothing is half-open", SOON, || match half_open() {
            0 => Ok(()),
            left => Err(format!("{left} are")),
        });
        println!("silent: {SILENT}, handshakes: {}, failed: 0", receipt.handshakes.began);
    });
}
