//! What is scraped is what `steer status` says and what clients did; health and readiness turn with the state; logs.

use std::{
    fs,
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    thread,
    time::Duration,
};

use steer::control::api::Status;
use steer_tests::{
    netns::{self, Namespace},
    output::Output,
    scrape::{Samples, Scraper},
    scripts::shell,
    sockets::{TcpState, tcp_count},
    steer::{Steer, binary},
    traffic::{Traffic, counters_add_up},
    wait,
    workers::Workers,
};

const SOON: Duration = Duration::from_secs(30);
const ADDRESS: &str = "127.0.0.1:8080";
const METRICS: &str = "127.0.0.1:9464";

fn target() -> SocketAddr {
    ADDRESS.parse().expect("an address")
}

fn scraper() -> Scraper {
    Scraper::Tcp(METRICS.parse().expect("an address"))
}

/// `TCPSynRetrans` of the namespace.
fn syns_sent_again(namespace: &Namespace) -> f64 {
    let text = namespace.execute("cat", &["/proc/self/net/netstat"]);
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let mut words = || lines.next().expect("the kernel counts").split_ascii_whitespace();
    let (names, values) = (words(), words());
    let (_, value) = names.zip(values).find(|(name, _)| *name == "TCPSynRetrans").expect("it is counted");
    value.parse().expect("a number")
}

/// Every number of a status beside the same of a scrape; the first pair that differs.
fn differs(samples: &Samples, status: &Status) -> Result<(), String> {
    let mut pairs = Vec::new();
    for group in &status.groups {
        let name = &group.name;
        let (asked, outcome) = (group.counters.asked, group.counters.outcome);
        let program = |stage: &str, value: &str, count: u64| {
            let label = if stage == "asked" { "asked" } else { "outcome" };
            (
                format!("steer_group_program_{stage}_total{{group=\"{name}\",{label}=\"{value}\"}}"),
                count as f64,
            )
        };
        pairs.extend([
            program("asked", "connection", asked.connection),
            program("asked", "segment", asked.segment),
            program("asked", "datagram", asked.datagram),
            program("asked", "migration", asked.migration),
            program("outcomes", "first_choice", outcome.first_choice),
            program("outcomes", "further_choice", outcome.further_choice),
            program("outcomes", "less_loaded", outcome.less_loaded),
            program("outcomes", "own_cpu", outcome.own_cpu),
            program("outcomes", "kept", outcome.kept),
            program("outcomes", "held", outcome.held),
            program("outcomes", "dropped", outcome.dropped),
            (format!("steer_group_table_epoch{{group=\"{name}\"}}"), group.epoch as f64),
            (format!("steer_group_strangers{{group=\"{name}\"}}"), group.strangers as f64),
            (format!("steer_group_held_connections{{group=\"{name}\"}}"), group.held as f64),
            (
                format!("steer_group_drains_total{{group=\"{name}\",outcome=\"drained\"}}"),
                group.drains.drained as f64,
            ),
            (
                format!("steer_group_drains_total{{group=\"{name}\",outcome=\"deadline\"}}"),
                group.drains.deadline as f64,
            ),
        ]);
        for worker in &group.workers {
            let labels = format!("group=\"{name}\",worker=\"{}\"", worker.name);
            let of = |metric: &str, value: f64| (format!("steer_worker_{metric}{{{labels}}}"), value);
            pairs.extend([
                of("selected_connections_total", worker.selected as f64),
                of("migrated_in_connections_total", worker.migrated_in as f64),
                of("migrated_out_connections_total", worker.migrated_out as f64),
                of("restarts_total", worker.restarts as f64),
                of("unaccepted_connections", worker.queue as f64),
                of("open_connections", worker.connections as f64),
                of("table_share_ratio", worker.share),
                of("weight", f64::from(worker.weight)),
                of("generation", worker.generation as f64),
            ]);
            let state = format!("steer_worker_state{{{labels},state=\"{}\"}}", worker.state);
            let drains = format!("steer_worker_drains_total{{{labels},outcome=\"drained\"}}");
            pairs.extend([(state, 1.0), (drains, worker.drains.drained as f64)]);
        }
    }
    let other = pairs.iter().find(|(sample, value)| samples.value(sample) != *value);
    other.map_or(Ok(()), |(sample, value)| Err(format!("{sample} is {}, not {value}", samples.value(sample))))
}

/// Waits until a scrape says what the status says: its numbers may be some milliseconds old.
#[track_caller]
fn agree(scraper: &Scraper, steer: &Steer<'_>) -> (Samples, Status) {
    wait::until("a scrape says what the status says", SOON, || {
        let (samples, status) = (scraper.samples(), steer.status());
        differs(&samples, &status).map(|()| (samples, status))
    })
}

#[test]
fn a_scrape_says_what_the_status_says_and_adds_up_to_the_connections_made() {
    netns::run("metrics", |namespace| {
        let mut steer = Steer::run(namespace, &["--listen", ADDRESS, "--workers", "3", "--metrics", METRICS]);
        let scraper = scraper();
        let traffic = Traffic::start(&[target()]);
        // Scrapers beside each other, while every worker is replaced.
        let scrapes = thread::scope(|scope| {
            let scrape = || {
                namespace.inside(|| {
                    let all = (0..20).map(|_| scraper.samples());
                    let all = all.map(|samples| samples.sum("steer_worker_selected_connections_total"));
                    all.collect::<Vec<f64>>()
                })
            };
            let threads: Vec<_> = (0..12).map(|_| scope.spawn(scrape)).collect();
            steer.command(["restart", "web"]).succeeded();
            let scrapes = threads.into_iter().map(|thread| thread.join().expect("every scrape is answered"));
            scrapes.collect::<Vec<_>>()
        });
        for scrape in &scrapes {
            assert!(scrape.is_sorted(), "a counter has gone back: {scrape:?}");
        }
        steer.command(["scale", "web", "2"]).succeeded();
        let tally = traffic.end();

        let (samples, status) = agree(&scraper, &steer);
        let counters = counters_add_up(&status.groups[0]);
        let made = samples.value("steer_group_program_asked_total{group=\"web\",asked=\"connection\"}");
        // A SYN that a client sends again, on a machine that is too busy, can run the program again.
        let again = made - tally.connections as f64;
        assert!((0.0..=syns_sent_again(namespace)).contains(&again), "{made} of {}", tally.connections);
        assert_eq!(samples.sum("steer_group_program_outcomes_total"), counters.runs as f64);
        // The worker that is gone has taken its numbers along; the group has them still.
        let selected = samples.sum("steer_worker_selected_connections_total");
        assert!(selected > 0.0 && selected < made, "{selected} of {made}");
        assert_eq!(samples.sum("steer_worker_drains_total"), 2.0);
        assert_eq!(samples.sum("steer_group_drains_total"), 4.0);
        assert_eq!(samples.value("steer_group_workers{group=\"web\"}"), 2.0);
        assert!(samples.value("process_resident_memory_bytes") > 1e6);
        assert_eq!(samples.value("steer_kernel_listen_overflows_total"), 0.0);

        let printed = steer.command(["metrics"]).succeeded();
        let metrics = Samples::read(&printed.stdout);
        differs(&metrics, &status).expect("`steer metrics` prints the same");
        let json = steer.command(["metrics", "--json"]).succeeded().json();
        assert_eq!(json["schema"], 1);
        Samples::read(json["exposition"].as_str().expect("a text"));
        steer.stop(SOON);
        println!(
            "metrics: connections: {}, scrapes: {}, failed: {}",
            tally.connections,
            scrapes.len() * 20,
            tally.failed
        );
    });
}

#[test]
fn rude_scrapers_hold_up_nobody_but_scrapers_and_those_not_for_long() {
    netns::run("metrics-rude", |namespace| {
        let steer = Steer::run(namespace, &["--listen", ADDRESS, "--workers", "2", "--metrics", METRICS]);
        let traffic = Traffic::start(&[target()]);
        let connect = |_| TcpStream::connect(METRICS).expect("they are accepted or wait");
        let mut silent: Vec<TcpStream> = (0..40).map(connect).collect();
        // All 16 places are taken by those who say nothing; what changes groups does not wait for one.
        steer.command(["restart", "web"]).succeeded();
        let taken = silent.iter().filter(|stream| {
            stream.set_nonblocking(true).expect("a socket can be");
            matches!((&mut &**stream).read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        });
        assert_eq!(taken.count(), 40, "the restart is over before the first is left");
        // Three times 5 s, for 16 at a time.
        assert_eq!(scraper().get("/healthz").code, 200);
        for stream in &mut silent[..16] {
            stream.set_nonblocking(false).expect("a socket can be");
            stream.set_read_timeout(Some(SOON)).expect("it has one");
            let mut said = String::new();
            let _ended_or_reset = stream.read_to_string(&mut said);
            assert!(!said.contains(" 200 "), "{said}");
        }
        let tally = traffic.end();
        println!("rude scrapers: 40, connections: {}, failed: {}", tally.connections, tally.failed);
    });
}

#[test]
fn readiness_turns_with_the_state_and_health_does_not() {
    netns::run("readiness", |namespace| {
        let workers = Workers::new(&binary());
        workers.close_gate(0);
        let place = tempfile::tempdir().expect("a temporary directory can be made");
        let socket = place.path().join("metrics.sock");
        let metrics = format!("unix:{}", socket.display());
        let arguments = ["--listen", ADDRESS, "--workers", "1", "--metrics", &metrics].map(str::to_owned);
        let arguments = [arguments.to_vec(), workers.arguments()].concat();
        let mut steer = Steer::start(namespace, &binary(), &arguments);
        let scraper = Scraper::Unix(socket.clone());
        let turns = |code: u16, body: &str| {
            wait::until(&format!("readiness is {code}: {body}"), SOON, || match scraper.try_get("/readyz") {
                Ok(page) if page.code == code && page.body == body => Ok(()),
                other => Err(format!("{other:?}")),
            });
            assert_eq!(scraper.get("/healthz").code, 200);
        };
        turns(503, "the group web has no working worker: web/0 starting\n");
        let mode = fs::metadata(&socket).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        workers.open_gate(0);
        turns(200, "ok\n");
        agree(&scraper, &steer);
        steer.command(["drain", "web/0"]).succeeded();
        turns(503, "the group web has no working worker: web/0 drained\n");
        let (samples, _) = agree(&scraper, &steer);
        assert_eq!(samples.value("steer_group_holding{group=\"web\"}"), 1.0);
        steer.command(["undrain", "web/0"]).succeeded();
        turns(200, "ok\n");
        steer.stop(SOON);
        assert!(!socket.exists(), "the socket goes with the daemon");
        println!("readiness: turns: 4");
    });
}

/// What `steer run` says of these options, where it refuses them.
#[track_caller]
fn refused(namespace: &Namespace, metrics: &str) -> Output {
    let mut steer =
        Steer::start(namespace, &binary(), &["--listen", ADDRESS, "--workers", "1", "--metrics", metrics]);
    let code = steer.wait(SOON).code();
    assert_eq!(tcp_count(target(), TcpState::Listen), 0, "nothing is left");
    Output { code, stdout: steer.printed(), stderr: steer.messages() }
}

#[test]
fn an_address_that_is_not_for_metrics_is_refused_before_anything_starts() {
    netns::run("metrics-refused", |namespace| {
        let says = |metrics: &str, code: i32, parts: &[&str], hint: &str| {
            let Output { stderr, .. } = refused(namespace, metrics).exited(code);
            assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
            let last = stderr.lines().last().unwrap_or_default();
            assert!(last.starts_with("hint: ") && last.contains(hint), "{stderr}");
        };
        says("0.0.0.0:9464", 2, &["\"0.0.0.0:9464\" is no loopback address"], "127.0.0.1:9464");
        says("localhost:9464", 2, &["neither IP:PORT nor unix:PATH"], "names are not resolved");
        says("unix:relative", 2, &["does not begin with /"], "unix:/run/steer/metrics.sock");
        let _taken = TcpListener::bind(METRICS).expect("it is free");
        let parts = ["cannot serve metrics at 127.0.0.1:9464", "in use"];
        says(METRICS, 5, &parts, "another port with --metrics");
        let place = tempfile::NamedTempFile::new().expect("a file can be made");
        let path = format!("unix:{}", place.path().display());
        says(&path, 5, &["cannot serve metrics", "is a file, not a socket"], "with --metrics");
        assert!(place.path().exists());
    });
}

/// Runs a group that has no worker left and refuses, connects to it once, and returns what the daemon has printed.
fn messages_of_a_drop(namespace: &Namespace, environment: &str, format: &str) -> String {
    let place = tempfile::tempdir().expect("a temporary directory can be made");
    let steer = binary();
    let program = format!("{environment} exec {} \"$@\"", steer.display());
    let program = shell(place.path(), "steer", &program);
    let worker = format!("echo 'says \"hello\"'; exec {} worker", steer.display());
    let worker = shell(place.path(), "worker", &worker).display().to_string();
    let arguments = [
        &["--listen", ADDRESS, "--workers", "1", "--when-empty", "refuse", "--metrics", METRICS][..],
        &["--log-format", format, "--ready", "notify", "--", &worker],
    ]
    .concat();
    let mut steer = Steer::start(namespace, &program, &arguments);
    steer.until_working();
    steer.command(["drain", "web/0"]).succeeded();
    let refused = TcpStream::connect(ADDRESS).expect_err("nobody can be selected");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    wait::until("the drop is counted", SOON, || {
        let dropped = "steer_group_program_outcomes_total{group=\"web\",outcome=\"dropped\"}";
        let dropped = scraper().samples().value(dropped);
        if dropped == 1.0 { Ok(()) } else { Err(format!("{dropped}")) }
    });
    if environment == "STEER_EBPF_LOG=1" {
        wait::until("the program's record is printed", SOON, || match steer.messages() {
            messages if messages.contains("dropped: no slot could be selected") => Ok(()),
            messages => Err(messages),
        });
    }
    steer.stop(SOON);
    steer.messages()
}

#[test]
fn the_program_tells_of_what_it_drops_where_that_is_asked_for_and_nothing_else() {
    netns::run("program-log", |namespace| {
        let quiet = messages_of_a_drop(namespace, "", "text");
        assert!(!quiet.contains("steer_ebpf"), "{quiet}");
        assert!(quiet.contains("web/0: says \"hello\"\n"), "{quiet}");
        let told = messages_of_a_drop(namespace, "STEER_EBPF_LOG=1", "text");
        let lines = |text: &str| text.lines().filter(|line| line.contains("steer_ebpf")).count();
        assert_eq!(lines(&told), 1, "one record for one drop: {told}");
        let silenced = messages_of_a_drop(namespace, "RUST_LOG=error", "text");
        assert!(!silenced.contains("INFO") && !silenced.contains("steer_ebpf"), "{silenced}");
    });
}

#[test]
fn a_log_in_json_is_an_object_on_each_line_whoever_says_it() {
    netns::run("json-log", |namespace| {
        let messages = messages_of_a_drop(namespace, "STEER_EBPF_LOG=1", "json");
        let lines: Vec<serde_json::Value> = messages
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect();
        for line in &lines {
            assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
            assert!(line["fields"]["message"].is_string() && line["target"].is_string(), "{line}");
        }
        let of = |target: &str| lines.iter().filter(|line| line["target"] == target).collect::<Vec<_>>();
        let [said] = of("worker")[..] else { panic!("{messages}") };
        let expected = serde_json::json!({
            "message": "says \"hello\"", "worker": "web/0", "group": "web", "stream": "stdout"
        });
        assert_eq!(said["fields"], expected);
        assert_eq!(of("steer_ebpf").len(), 1, "{messages}");
        println!("json log: lines: {}", lines.len());
    });
}
