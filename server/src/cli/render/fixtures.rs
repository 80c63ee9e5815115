//! Answers for the tests of what is printed.

use crate::control::api::*;

pub(crate) fn answers() -> Vec<Response> {
    vec![
        Response::Info(Info { version: "0.1.0".into(), pid: 7, uptime_ms: 5, program: "select".into() }),
        Response::Status(status()),
        Response::Metrics(Metrics { schema: SCHEMA, exposition: "# EOF\n".into() }),
        Response::Table(table()),
        Response::Flows(flows()),
        Response::Table(Table { placed: vec![placed("web/2", Some(5))], ..table() }),
        Response::Policy(policy()),
        Response::Change(change()),
        Response::Reload(reload()),
        Response::Adopted(adopted()),
        Response::Event(event()),
        Response::Receipt(receipt()),
        Response::Done(Done { answers: 2, milliseconds: 1234 }),
    ]
}

pub(crate) fn adopted() -> Adopted {
    Adopted {
        schema: SCHEMA,
        group: "nginx".parse().unwrap(),
        server: "nginx.service".into(),
        listen: vec![
            AdoptedAddress { address: "tcp://0.0.0.0:80".parse().unwrap(), listeners: 4, processes: 5 },
            AdoptedAddress { address: "tcp://[::]:80".parse().unwrap(), listeners: 1, processes: 5 },
        ],
        adopted: true,
        kept: Some("/etc/steer/conf.d/50-nginx.toml".into()),
        notes: vec!["tcp://[::]:80 is one listener that 5 processes share".into()],
        milliseconds: 87,
    }
}

pub(crate) fn reload() -> Reload {
    let changed = |key: &str, before: Option<&str>, after: Option<&str>, applies| KeyChange {
        key: key.into(),
        before: before.map(str::to_owned),
        after: after.map(str::to_owned),
        applies,
    };
    let group = |name: &str, outcome: &str| GroupReload {
        group: name.parse().unwrap(),
        outcome: outcome.into(),
        changes: vec![],
        restart: None,
        receipts: vec![],
        fault: None,
    };
    let changes = vec![
        changed("policy", Some("hash"), Some("source"), Applies::Now),
        changed("workers.user", None, Some("www-data"), Applies::NextGeneration),
    ];
    Reload {
        schema: SCHEMA,
        files: vec!["/etc/steer/steer.toml".into(), "/etc/steer/conf.d/api.toml".into()],
        daemon: vec![changed("access", Some("alice"), Some("alice, bob"), Applies::Now)],
        reloaded: vec![
            group("api", "added"),
            GroupReload {
                changes,
                restart: Some("steer restart web".into()),
                fault: Some("generation 1 of worker 4 was not ready within 30000 ms".into()),
                ..group("web", "changed")
            },
            GroupReload { receipts: vec![receipt()], ..group("www", "removed") },
        ],
        milliseconds: 1234,
    }
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
        handshakes_estimated: false,
        unaccepted: Count { began: 5, ended: 0 },
        flows: Count::default(),
        by_id: Count::default(),
        datagrams: 0,
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

pub(crate) fn flows() -> Flows {
    let count = |generation, draining, flows, established| GenerationFlows {
        worker: "dns/1".parse().unwrap(),
        generation,
        draining,
        flows,
        established,
    };
    let flow = |client: &str, generation, established| FlowOf {
        client: client.parse().unwrap(),
        local: "192.0.2.53:53".parse().unwrap(),
        worker: "dns/1".parse().unwrap(),
        generation,
        idle_ms: 1_340,
        established,
    };
    Flows {
        schema: SCHEMA,
        group: "dns".parse().unwrap(),
        room: 65_536,
        idle_ms: 30_000,
        found: 7,
        by_generation: vec![count(3, true, 2, 2), count(4, false, 5, 1)],
        flows: vec![flow("203.0.113.7:4711", 3, true), flow("198.51.100.4:53", 4, false)],
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

pub(crate) fn placed(worker: &str, slot: Option<u32>) -> Placed {
    Placed {
        client: "203.0.113.7:4711".parse().unwrap(),
        local: "10.0.0.1:443".parse().unwrap(),
        bucket: 12_345,
        worker: Some(worker.parse().unwrap()),
        slot,
        others: vec!["web/0".parse().unwrap(), "web/3".parse().unwrap()],
        why: "the less loaded of two".into(),
    }
}

pub(crate) fn policy() -> PolicyReport {
    let steady = WorkerPolicy {
        worker: "web/0".parse().unwrap(),
        state: "working".into(),
        weight: 1,
        ramp: None,
        share: 0.25,
        load: Some(40),
        publishes: true,
        stalled: false,
        cpus: vec![0, 1, 3],
        why: "1 of 4 by weight".into(),
    };
    let rising = WorkerPolicy {
        worker: "web/1".parse().unwrap(),
        weight: 5,
        ramp: Some(Ramp { from: 1.0, now: 2.4, to: 5.0, remaining_ms: 36_000 }),
        share: 0.75,
        load: None,
        publishes: false,
        stalled: true,
        cpus: vec![],
        why: "2.4 of 3.4 by weight".into(),
        ..steady.clone()
    };
    PolicyReport {
        schema: SCHEMA,
        group: "web".parse().unwrap(),
        policy: "least-loaded:tie=4".parse().unwrap(),
        meaning: "the less loaded of two workers".into(),
        epoch: 12,
        members: vec![steady, rising],
    }
}

/// The weight of `web/1` from 1 to 3, in a dry run.
pub(crate) fn change() -> Change {
    let share = |worker: &str, weight_after, buckets_after, share_after| ShareChange {
        worker: worker.parse().unwrap(),
        weight_before: 1,
        weight_after,
        buckets_before: 32_768,
        buckets_after,
        share_before: 0.5,
        share_after,
    };
    let alone =
        |worker: &str| Placed { others: vec![], why: "by its bucket".into(), ..placed(worker, Some(5)) };
    let client = alone("web/0").client;
    Change {
        schema: SCHEMA,
        group: "web".parse().unwrap(),
        applied: false,
        policy_before: "hash".parse().unwrap(),
        policy_after: "hash".parse().unwrap(),
        rekeyed: false,
        moved_buckets: 16_384,
        moved_share: 0.25,
        open: FlowsMoved { known: 812, moved: 199 },
        shares: vec![share("web/0", 1, 16_384, 0.25), share("web/1", 3, 49_152, 0.75)],
        clients: vec![
            PlacedAnew { client, before: alone("web/0"), after: alone("web/1") },
            PlacedAnew { client, before: alone("web/1"), after: alone("web/1") },
        ],
        milliseconds: 0,
    }
}

pub(crate) fn canary() -> CanaryStatus {
    CanaryStatus {
        generation: 4,
        pid: Some(4712),
        slot: 9,
        share: 0.025,
        queue: 0,
        connections: 3,
        selected: 120,
        remaining_ms: Some(12_345),
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
        flows: 0,
        selected: 123_456,
        migrated_in: 3,
        migrated_out: 0,
        stalled: false,
        canary: None,
        restarts: 2,
        drains: Drains { drained: 2, deadline: 1, lost: 0 },
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
        unattended: vec![],
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
                    kept: 0,
                    by_id: 0,
                },
                flows: FlowEvents::default(),
                ids: IdEvents::default(),
            },
            strangers: 1,
            strangers_total: 3,
            drains: Drains { drained: 5, deadline: 2, lost: 1 },
        }],
    }
}
