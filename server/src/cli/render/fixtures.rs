//! Answers for the tests of what is printed.

use crate::control::api::*;

pub(crate) fn answers() -> Vec<Response> {
    vec![
        Response::Info(Info { version: "0.1.0".into(), pid: 7, uptime_ms: 5, program: "select".into() }),
        Response::Status(status()),
        Response::Table(table()),
        Response::Event(event()),
        Response::Receipt(receipt()),
        Response::Done(Done { answers: 2, milliseconds: 1234 }),
    ]
}

pub(crate) fn receipt() -> Receipt {
    let step = |name: &str, milliseconds| Step { name: name.into(), milliseconds };
    Receipt {
        schema: SCHEMA,
        worker: "web/0".parse().unwrap(),
        generation: 3,
        successor: Some(4),
        outcome: "drained".into(),
        handshakes: Count { began: 2, ended: 0 },
        unaccepted: Count { began: 5, ended: 0 },
        flows: Count::default(),
        connections: Count { began: 7, ended: 0 },
        migrated: 3,
        migrated_to: [("web/1".to_owned(), 2), ("hold".to_owned(), 1)].into(),
        exit: Some("exit 0".into()),
        steps: vec![step("publish", 9), step("queue", 12), step("settle", 1000), step("stop", 31)],
        message: None,
    }
}

pub(crate) fn event() -> Event {
    Event {
        sequence: 17,
        unix_ms: 1_785_585_600_123,
        kind: "working".into(),
        group: Some("web".parse().unwrap()),
        worker: Some("web/0".parse().unwrap()),
        generation: Some(3),
        detail: "listener 127.0.0.1:8080 in slot 5".into(),
    }
}

pub(crate) fn table() -> Table {
    let share = |worker: &str, slot, buckets, share| TableShare {
        worker: worker.parse().unwrap(),
        slot,
        weight: 1,
        buckets,
        share,
    };
    Table {
        schema: SCHEMA,
        group: "web".parse().unwrap(),
        epoch: 12,
        buckets: 1024,
        last_resort: "hold".into(),
        shares: vec![share("web/0", Some(5), 512, 0.5), share("web/1", None, 0, 0.0)],
        held_buckets: 512,
        placed: vec![],
    }
}

pub(crate) fn status() -> Status {
    let working = WorkerStatus {
        name: "web/0".parse().unwrap(),
        state: "working".into(),
        pid: Some(4711),
        generation: 3,
        slot: Some(5),
        weight: 1,
        share: 1.0,
        queue: 2,
        connections: 40,
        selected: 123_456,
        migrated_in: 3,
        migrated_out: 0,
        stalled: false,
        canary: None,
        restarts: 2,
        message: None,
    };
    let lost = WorkerStatus {
        name: "web/1".parse().unwrap(),
        state: "lost".into(),
        pid: None,
        slot: None,
        share: 0.0,
        message: Some("exit 1 three times; starts again in 4 s".into()),
        ..working.clone()
    };
    Status {
        schema: SCHEMA,
        groups: vec![GroupStatus {
            name: "web".parse().unwrap(),
            listen: vec!["tcp://127.0.0.1:8080".into(), "tcp://[::1]:8080".into()],
            policy: "hash".into(),
            mode: "inherit".into(),
            restart: "surge".into(),
            when_empty: "hold".into(),
            holding: true,
            held: 4,
            epoch: 12,
            workers: vec![working, lost],
            counters: Counters {
                runs: 123_466,
                asked: Asked { connection: 123_456, segment: 6, datagram: 0, migration: 4 },
                outcome: Outcomes {
                    first_choice: 123_460,
                    further_choice: 1,
                    held: 4,
                    dropped: 1,
                    less_loaded: 0,
                    own_cpu: 0,
                },
            },
            strangers: 1,
        }],
    }
}
