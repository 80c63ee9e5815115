//! A worker can say how loaded it is, in memory of its own, and has a way to nothing else of the program's.

use std::{collections::BTreeSet, fs};

use steer_tests::{
    clients::{Client, Owners, seed_argument},
    footprint::bpf_numbers,
    netns, python,
    stall::until_published,
    steer::Steer,
};

const LISTEN: &str = "127.0.0.1:8080";
const WORKERS: u32 = 3;
/// The worker that publishes.
const SAYS: usize = 1;

/// A server that maps STEER_LOAD_FD and, where it is web/1, beats there and says that it has 1,000 in hand. A request for `/N` is
/// answered with the errnos of bpf(2) where it opens the map N, looks for the first map, and opens the program N; 0 where it
/// succeeds.
const SOURCE: &str = r#"
import ctypes, mmap, os, socket, struct, time
descriptor = int(os.environ["STEER_LOAD_FD"])
cell = mmap.mmap(descriptor, 64)
# Python's mapping has a duplicate of its own.
os.close(descriptor)
says = os.environ["STEER_WORKER"] == "web/1"
bpf = ctypes.CDLL(None, use_errno=True).syscall
def errno_of(command, number):
    attributes = ctypes.create_string_buffer(struct.pack("=I", number) + bytes(124))
    if bpf(321, command, attributes, 128) < 0:
        return ctypes.get_errno()
    return 0
listener = socket.socket(fileno=3)
listener.settimeout(0.01)
while True:
    if says:
        cell[0:16] = struct.pack("=QQ", time.clock_gettime_ns(time.CLOCK_MONOTONIC), 1000)
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        continue
    try:
        request = connection.recv(4096)
        if request:
            number = int(request.split()[1].strip(b"/") or b"0")
            # BPF_MAP_GET_FD_BY_ID, BPF_MAP_GET_NEXT_ID, BPF_PROG_GET_FD_BY_ID
            said = "%d %d %d" % (errno_of(14, number), errno_of(12, 0), errno_of(13, number))
            head = "HTTP/1.1 200 OK\r\nX-Worker: %s\r\nX-Generation: %s\r\nX-Errnos: %s\r\n" % (
                os.environ["STEER_WORKER"], os.environ["STEER_GENERATION"], said)
            connection.sendall((head + "Content-Length: 0\r\nConnection: close\r\n\r\n").encode())
    except OSError:
        pass
    connection.close()
"#;

fn run<'a>(namespace: &'a netns::Namespace, more: &[&str]) -> Steer<'a> {
    let (workers, seed) = (WORKERS.to_string(), seed_argument());
    let mut arguments =
        vec!["--listen", LISTEN, "--workers", &workers, "--policy", "least-loaded", "--seed", &seed];
    arguments.extend(more);
    arguments.push("--");
    let command = python::command(SOURCE, &[]);
    arguments.extend(command.iter().map(String::as_str));
    Steer::run(namespace, &arguments)
}

/// What the descriptors of a process are, of those that are the bpf subsystem's.
fn bpf_descriptors(pid: u32) -> Vec<String> {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).expect("a worker's descriptors can be listed");
    let target = |entry: fs::DirEntry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned());
    let of_bpf = |target: &String| target.contains("bpf");
    all.filter_map(|entry| target(entry.ok()?)).filter(of_bpf).collect()
}

/// What one worker's load is, and whose else it is not; the descriptors of each.
fn assert_each_has_its_own(steer: &Steer<'_>) {
    let report = until_published(steer, SAYS);
    for (index, member) in report.members.iter().enumerate() {
        let (load, publishes) = if index == SAYS { (1_000, true) } else { (0, false) };
        assert_eq!((member.load, member.publishes), (Some(load), publishes), "{member:?}");
    }
    let status = steer.status();
    let mut cells = BTreeSet::new();
    for worker in &status.groups[0].workers {
        let pid = worker.pid.expect("a working worker has a process");
        assert_eq!(bpf_descriptors(pid), ["anon_inode:bpf-map"], "{worker:?}");
        cells.extend(bpf_numbers(pid, "map_id:"));
    }
    assert_eq!(cells.len(), WORKERS as usize, "each has a map of its own: {cells:?}");
}

#[test]
fn a_worker_publishes_in_its_own_cell_and_its_flows_go_elsewhere() {
    const CONNECTIONS: usize = 60;
    netns::run("own-cell", |namespace| {
        let steer = run(namespace, &[]);
        assert_each_has_its_own(&steer);
        // It beats, so it is not stalled; it has more in hand than any other, so each flow of its goes to the next of its
        // choices that is another worker's, where there is one among four.
        let (owners, says) = (Owners::among(0..WORKERS), SAYS as u32);
        let answered = || {
            let server = LISTEN.parse().expect("an address");
            let mut client = Client::connect("127.7.0.4".parse().expect("an address"), server);
            let choices = owners.choices(client.address, server);
            client.ask_for("/0");
            (choices, client.answer().worker)
        };
        let mut its = 0;
        for _ in 0..CONNECTIONS {
            let (choices, worker) = answered();
            let expected = if choices[0] == says {
                choices.into_iter().find(|&choice| choice != says)
            } else {
                Some(choices[0])
            };
            its += u64::from(choices[0] == says && expected.is_some());
            assert!(
                expected.is_none_or(|expected| expected == worker),
                "{worker} has answered, of {choices:?}"
            );
        }
        let counters = steer.status().groups[0].counters;
        println!(
            "own cell: connections: {CONNECTIONS}, of the loaded one's share: {its}, {:?}",
            counters.outcome
        );
        assert!(its > 0 && counters.outcome.less_loaded >= its, "{its} of {counters:?}");
    });
}

#[test]
fn a_worker_of_another_user_publishes_too_and_can_open_nothing() {
    netns::run("cell-nobody", |namespace| {
        let steer = run(namespace, &["--user", "nobody"]);
        assert_each_has_its_own(&steer);
        let (maps, programs) = (bpf_numbers(steer.pid(), "map_id:"), bpf_numbers(steer.pid(), "prog_id:"));
        assert!(
            !maps.is_empty() && !programs.is_empty(),
            "the daemon has what is to be tried: {maps:?} {programs:?}"
        );
        let mut tried = 0;
        for number in maps.iter().chain(&programs) {
            let server = LISTEN.parse().expect("an address");
            let mut client = Client::connect("127.7.0.5".parse().expect("an address"), server);
            client.ask_for(&format!("/{number}"));
            let eperm = libc::EPERM;
            assert_eq!(
                client.answered_header("x-errnos:"),
                format!("{eperm} {eperm} {eperm}"),
                "map or program {number}"
            );
            tried += 1;
        }
        println!("another user: maps: {}, programs: {}, opened: 0 of {tried}", maps.len(), programs.len());
    });
}

#[test]
fn the_superuser_could_open_them_so_that_the_refusals_are_the_kernels() {
    netns::run("cell-root", |namespace| {
        let steer = run(namespace, &[]);
        let map = *bpf_numbers(steer.pid(), "map_id:").first().expect("the daemon has maps");
        let server = LISTEN.parse().expect("an address");
        let mut client = Client::connect("127.7.0.6".parse().expect("an address"), server);
        client.ask_for(&format!("/{map}"));
        let errnos = client.answered_header("x-errnos:");
        assert!(errnos.starts_with("0 0 "), "a worker that runs as root has every capability: {errnos}");
    });
}
