//! Policies, weights and canaries.

use serde_json::{Value, json};

use crate::{Served, steer, transcript};

/// Runs the command; what it printed, and the one request that it made.
fn run(served: &Served, line: &str) -> (String, Value) {
    let text = transcript(served.steer(line));
    let [request] = &served.asked()[..] else { panic!("{line}: {text}") };
    let request = serde_json::to_value(request).unwrap();
    (text, json!([request["method"].as_str().unwrap().rsplit('.').next(), request["parameters"]]))
}

#[test]
fn a_policy_is_shown() {
    let served = Served::start();
    let (text, request) = run(&served, "policy web");
    assert_eq!(request, json!(["Policy", { "group": "web" }]));
    insta::assert_snapshot!(text, @r"
    [0]
    web: hash: the hash of a flow's 4-tuple
    WORKER  STATE                           WEIGHT   SHARE  WHY
    web/0   working                              1  29.4 %  weight 1 of 3.4
    web/1   working  1 -> 5 (2.4 now, 36.0 s left)  70.6 %  weight 2.4 of 3.4
    ");
    let (text, _) = run(&served, "policy web --json");
    assert!(
        text.starts_with("[0]\n{\n  \"schema\": 1,\n  \"group\": \"web\",\n  \"policy\": \"hash\","),
        "{text}"
    );
    insta::assert_snapshot!(run(&served, "policy api").0, @r"
    [4]
    error: there is no group api
    hint: there is: web
    ");
}

#[test]
fn a_policy_is_changed_or_only_looked_at() {
    let served = Served::start();
    let (text, request) = run(
        &served,
        "policy web least-loaded tie=4 --dry-run --where 203.0.113.7:4711 --where [2001:db8::7]:80",
    );
    let clients = ["203.0.113.7:4711", "[2001:db8::7]:80"];
    assert_eq!(
        request,
        json!(["SetPolicy", { "group": "web", "policy": "least-loaded:tie=4", "dry_run": true, "clients": clients }])
    );
    insta::assert_snapshot!(text, @r"
    [0]
    web: hash -> least-loaded:tie=4
    dry run: nothing was changed
    WORKER  WEIGHT   SHARE  BUCKETS
    web/0        1  50.0 %    32768
    web/1        1  50.0 %    32768
    0.0 % of all flows move (0 of 65536 buckets)
    that counts first choices; loads decide between two
    of 812 open connections' 4-tuples 99 would go to another worker
    203.0.113.7:4711 -> 10.0.0.1:443: web/0 -> web/1 (the hash of its 4-tuple finds this bucket)
    [2001:db8::7]:80 -> 10.0.0.1:443: web/0 -> web/1 (the hash of its 4-tuple finds this bucket)
    ");
    let (text, request) = run(&served, "policy web source ipv4=24 ipv6=64 --json");
    let expected =
        json!({ "group": "web", "policy": "source:ipv4=24,ipv6=64", "dry_run": false, "clients": [] });
    assert_eq!(request, json!(["SetPolicy", expected]));
    let answer: Value = serde_json::from_str(text.strip_prefix("[0]").unwrap()).unwrap();
    assert_eq!((&answer["schema"], &answer["applied"]), (&json!(1), &json!(true)));
    assert_eq!(answer["policy_after"], "source:ipv4=24,ipv6=64");
}

#[test]
fn a_weight_is_given() {
    let served = Served::start();
    let (text, request) = run(&served, "weight web/1 3 --over 60s");
    let expected =
        json!({ "worker": "web/1", "weight": 3, "over_ms": 60_000, "dry_run": false, "clients": [] });
    assert_eq!(request, json!(["SetWeight", expected]));
    insta::assert_snapshot!(text, @r"
    [0]
    web/1: weight 1 -> 3
    WORKER  WEIGHT             SHARE                  BUCKETS
    web/0        1  50.0 % -> 25.0 %  32768 -> 16384 (-16384)
    web/1   1 -> 3  50.0 % -> 75.0 %  32768 -> 49152 (+16384)
    25.0 % of all flows move (16384 of 65536 buckets)
    of 812 open connections' 4-tuples 99 would go to another worker
    applied in 14 ms
    ");
    let (text, request) = run(&served, "weight web/1 0 --dry-run");
    let expected = json!({ "worker": "web/1", "weight": 0, "over_ms": null, "dry_run": true, "clients": [] });
    assert_eq!(request, json!(["SetWeight", expected]));
    assert!(text.starts_with("[0]\nweb/1: weight 1 -> 0\ndry run: nothing was changed\n"), "{text}");
    insta::assert_snapshot!(run(&served, "weight web/1 100").0, @r"
    [5]
    error: cannot give web/1 the weight 100: web/0 would have 4 of 65536 buckets, and 8 is the least
    hint: the largest weight that fits here is 99
    ");
    assert!(run(&served, "weight api/1 1").0.starts_with("[4]\n"));
}

#[test]
fn a_client_is_placed() {
    let served = Served::start();
    let (text, request) = run(&served, "table web --where 203.0.113.7:4711 --to 10.0.0.2:443");
    let expected = json!({ "group": "web", "clients": ["203.0.113.7:4711"], "to": "10.0.0.2:443" });
    assert_eq!(request, json!(["Table", expected]));
    insta::assert_snapshot!(text, @r"
    [0]
    web  epoch 9  1024 buckets  last resort hold
    WORKER  SLOT  WEIGHT  BUCKETS    SHARE
    web/0      2       1     1024  100.0 %
    203.0.113.7:4711 -> 10.0.0.2:443: web/0 (slot 5, bucket 12345): the hash of its 4-tuple finds this bucket
    ");
}

#[test]
fn flows_are_counted_and_some_are_listed() {
    let served = Served::start();
    let (text, request) = run(&served, "flows web/1 --client 203.0.113.0/24 --limit 2");
    let expected = json!({ "group": "web", "worker": 1, "client": "203.0.113.0/24", "limit": 2 });
    assert_eq!(request, json!(["Flows", expected]));
    insta::assert_snapshot!(text, @r"
    [0]
    web  300 flows  room for 65536  forgotten when idle for 30.0 s
    WORKER  GENERATION  STATE    FLOWS  ESTABLISHED
    web/1            4  working    300          300

    CLIENT            TO             WORKER  GENERATION  IDLE
    203.0.113.7:4000  192.0.2.53:53  web/1            4  134 ms
    203.0.113.7:4001  192.0.2.53:53  web/1            4  134 ms
    and 298 more: --limit shows more of them, --client only some
    ");
    let (text, request) = run(&served, "flows web --count");
    assert_eq!(request, json!(["Flows", { "group": "web", "worker": null, "client": null, "limit": 0 }]));
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(run(&served, "flows api").0.starts_with("[4]\n"));
}

#[test]
fn a_canary_is_tried_and_decided_on() {
    let served = Served::start();
    let restart =
        |canary| json!(["Restart", { "group": "web", "worker": null, "timeout_ms": null, "canary": canary }]);
    let (text, request) = run(&served, "restart web --canary 0.5% --hold 2m");
    assert_eq!(request, restart(json!({ "permille": 5, "hold_ms": 120_000 })));
    assert!(text.ends_with("done in 1.2 s, 2 receipts\n"), "{text}");
    let (_, request) = run(&served, "restart web --canary 5%");
    assert_eq!(request, restart(json!({ "permille": 50, "hold_ms": 30_000 })));
    assert_eq!(run(&served, "restart web").1, restart(json!(null)));

    let (text, request) = run(&served, "restart web --abort");
    assert_eq!(request, json!(["Decide", { "group": "web", "decision": "abort" }]));
    insta::assert_snapshot!(text, @r"
    [0]
    done in 1.2 s
    ");
    insta::assert_snapshot!(run(&served, "restart web --abort --json").0, @r#"
    [0]
    {"schema":1,"answers":0,"milliseconds":1234}
    "#);
    let (text, request) = run(&served, "restart web --proceed");
    assert_eq!(request, json!(["Decide", { "group": "web", "decision": "proceed" }]));
    insta::assert_snapshot!(text, @r"
    [5]
    error: cannot proceed: no canary is being tried in web
    hint: start one with steer restart web --canary 5%
    ");
}

#[test]
fn bad_input_is_not_asked_for() {
    let served = Served::start();
    let bad = [
        ("policy web random", "policies are hash, source, least-loaded, cpu and quic-cid"),
        ("policy web source ipv4=33", "a prefix length is how many"),
        ("policy web hash tie=3", "it takes no options"),
        ("policy web --dry-run", "`steer policy --help`"),
        ("policy web --where 203.0.113.7:4711", "`steer policy --help`"),
        ("weight web/1 101", "with 0 a worker gets nothing new"),
        ("weight web/1 -1", "with 0 a worker gets nothing new"),
        ("weight web 1", "`steer status` lists the groups and workers"),
        ("weight web/1", "`steer weight --help`"),
        ("weight web/1 1 --over 60", "write a whole number and its unit"),
        ("restart web --canary 0%", "5% or 0.5%"),
        ("restart web --canary 100%", "5% or 0.5%"),
        ("restart web --canary 0.05%", "5% or 0.5%"),
        ("restart web --hold 30s", "`steer restart --help`"),
        ("restart web --abort --canary 5%", "`steer restart --help`"),
        ("restart web --abort --proceed", "`steer restart --help`"),
        ("restart web --proceed --timeout 5s", "`steer restart --help`"),
        ("restart web/1 --abort", "write steer restart web --abort"),
        ("table web --where nonsense", "203.0.113.7:4711"),
        ("table web --to 10.0.0.1:443", "`steer table --help`"),
        ("policy web cpu --where nonsense", "203.0.113.7:4711"),
        ("flows web --client 1.2.3.4/33", "192.0.2.0/24"),
        ("flows web --limit 0", "`steer flows --help`"),
        ("flows web --count --limit 5", "`steer flows --help`"),
        ("flows web/x", "`steer status` lists the groups and workers"),
    ];
    for (line, hint) in bad {
        let text = transcript(served.steer(line));
        assert!(text.starts_with("[2]\nerror: "), "{line}: {text}");
        let last = text.lines().last().unwrap();
        assert!(last.starts_with("hint: ") && last.contains(hint), "{line}: {text}");
    }
    assert_eq!(served.asked(), []);
    insta::assert_snapshot!(transcript(served.steer("weight web/1 101")), @r#"
    [2]
    error: invalid value '101' for '<W>': "101" is no weight: it is a whole number from 0 to 100

    hint: weights are relative to each other; with 0 a worker gets nothing new and keeps what it has
    "#);
}

#[test]
fn the_manual_has_a_page_for_each() {
    let place = tempfile::tempdir().unwrap();
    let mut command = steer("/x".into(), "man --dir");
    assert!(command.arg(place.path()).status().unwrap().success());
    for (page, words) in
        [("policy", "OPTION=VALUE"), ("weight", "over"), ("restart", "canary"), ("table", "where")]
    {
        let text = std::fs::read_to_string(place.path().join(format!("steer-{page}.1"))).unwrap();
        assert!(text.contains(words), "{page}: {text}");
    }
}
