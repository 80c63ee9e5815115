//! Real processes, as any user.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::IntoRawFd,
    time::Duration,
};

use tokio::io::AsyncReadExt;

use super::*;
use crate::{
    sockets::{listener::make_listener, options, procfs},
    workers::{process::Exit, user::ResolvedUser},
};

fn spec(command: &[&str]) -> SpawnSpec {
    SpawnSpec {
        name: "web/0".parse().unwrap(),
        generation: 3,
        command: Some(command.iter().map(|&word| word.to_owned()).collect()),
        user: None,
        directory: None,
        environment: Vec::new(),
        limits: Vec::new(),
        listeners: Vec::new(),
        load: None,
        notify: None,
        output: crate::workers::command::Output::Piped,
        cgroup: None,
    }
}

fn shell(script: &str) -> SpawnSpec {
    spec(&["sh", "-c", script])
}

/// Runs it to its end and returns how it ended and what it wrote.
async fn run(spec: SpawnSpec) -> (Exit, String) {
    let spawned = spawn_and_wait(spec).await.unwrap();
    let mut text = String::new();
    let stdout = tokio::net::unix::pipe::Receiver::from_owned_fd(spawned.output.unwrap().stdout);
    stdout.unwrap().read_to_string(&mut text).await.unwrap();
    (spawned.process.wait().await.unwrap(), text)
}

#[tokio::test]
async fn a_worker_leads_a_session_and_knows_its_name() {
    let script = "echo $STEER_WORKER $STEER_GROUP $STEER_GENERATION $$; cut -d' ' -f6 /proc/$$/stat; readlink /proc/$$/fd/0";
    let spawned = spawn_and_wait(shell(script)).await.unwrap();
    let mut text = String::new();
    fs::File::from(spawned.output.unwrap().stdout).read_to_string(&mut text).unwrap();
    let pid = spawned.process.pid();
    assert_eq!(text, format!("web/0 web 3 {pid}\n{pid}\n/dev/null\n"));
    assert_eq!(spawned.process.wait().await.unwrap(), Exit::Code(0));
}

#[tokio::test]
async fn limits_are_set_and_one_that_cannot_be_is_named() {
    let named = |name| Resource::named(name).unwrap();
    let limits = vec![
        (named("core"), Limit { soft: 0, hard: 4096 }),
        (Resource::NOFILE, Limit { soft: 16, hard: 32 }),
    ];
    let limited =
        |limits| SpawnSpec { limits, ..shell("ulimit -S -n; ulimit -H -n; ulimit -S -c; ulimit -H -c") };
    // Blocks of 512 bytes.
    assert_eq!(run(limited(limits.clone())).await, (Exit::Code(0), "16\n32\n0\n8\n".to_owned()));
    // No process may have more than the sysctl fs.nr_open, whoever asks.
    let limit = Limit { soft: 1 << 40, hard: 1 << 40 };
    let limits = limits.into_iter().chain([(Resource::NOFILE, limit)]).collect();
    let error = spawn_and_wait(limited(limits)).await.unwrap_err();
    assert!(
        matches!(&error, SpawnError::Limit { resource: Resource::NOFILE, limit: named, .. } if *named == limit)
    );
    let said = error.to_string();
    assert!(said.starts_with("cannot start web/0: cannot set its limit nofile to 1099511627776"), "{said}");
    assert!(error.hint().unwrap().contains("fs.nr_open"));
}

#[tokio::test]
async fn listeners_come_from_3_on_in_order_under_the_childs_own_pid() {
    let address = "127.0.0.1:0".parse().unwrap();
    let listeners = [make_listener(address, None, 8).unwrap(), make_listener(address, None, 8).unwrap()];
    let script = "import os,socket\n\
                  assert os.environ['LISTEN_PID'] == str(os.getpid()), os.environ['LISTEN_PID']\n\
                  print(os.environ['LISTEN_FDNAMES'])\n\
                  for fd in range(3, 3 + int(os.environ['LISTEN_FDS'])):\n\
                  \x20   s = socket.socket(fileno=fd); print(s.getsockname()[1], os.get_inheritable(fd))\n";
    let mut spec = spec(&["python3", "-c", script]);
    let ports = listeners.each_ref().map(|fd| options::local_address(fd).unwrap().port());
    spec.listeners = listeners.into_iter().map(|fd| (fd, "http".to_owned())).collect();
    let (exit, text) = run(spec).await;
    assert_eq!(text, format!("http:http\n{} True\n{} True\n", ports[0], ports[1]));
    assert_eq!(exit, Exit::Code(0));
}

#[tokio::test]
async fn nothing_else_is_passed_not_even_what_is_not_closed_on_exec() {
    // As a descriptor that the daemon got from a careless parent.
    let careless = rustix::io::dup(fs::File::open("/dev/null").unwrap()).unwrap();
    assert!(!rustix::io::fcntl_getfd(&careless).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    let listener = make_listener("127.0.0.1:0".parse().unwrap(), None, 8).unwrap();
    let script = "import os; print(sorted(f for f in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/'+f) or int(f) < 4))";
    let mut spec = spec(&["python3", "-c", script]);
    spec.listeners = vec![(listener, "http".to_owned())];
    assert_eq!(run(spec).await.1, "['0', '1', '2', '3']\n");
    drop(careless);
}

#[tokio::test]
async fn signals_are_as_a_program_expects_them() {
    // This process ignores SIGPIPE, as every Rust program does.
    let (_, text) = run(shell("grep -E '^Sig(Blk|Ign)' /proc/self/status")).await;
    for line in text.lines() {
        assert!(line.ends_with("0000000000000000"), "{text}");
    }
    assert_eq!(text.lines().count(), 2);
}

#[tokio::test]
async fn each_way_not_to_start_has_its_error() {
    let missing = spawn_and_wait(spec(&["/no/such/program"])).await.unwrap_err();
    assert!(matches!(missing, SpawnError::NoSuchProgram { interpreter: false, .. }), "{missing:?}");
    assert_eq!(missing.to_string(), "cannot start web/0: there is no program \"/no/such/program\"");
    let missing = spawn_and_wait(spec(&["no-such-program-in-path"])).await.unwrap_err();
    assert!(matches!(missing, SpawnError::NoSuchProgram { .. }) && missing.hint().is_some(), "{missing:?}");

    let directory = std::env::temp_dir().join(format!("steer-spawn-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let script = directory.join("script");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    let path = script.to_str().unwrap();
    let refused = spawn_and_wait(spec(&[path])).await.unwrap_err();
    assert!(matches!(refused, SpawnError::NotExecutable { .. }) && refused.hint().is_some(), "{refused:?}");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let missing = spawn_and_wait(spec(&[path])).await.unwrap_err();
    assert!(matches!(missing, SpawnError::NoSuchProgram { interpreter: true, .. }), "{missing:?}");
    fs::write(&script, "no header\n").unwrap();
    let refused = spawn_and_wait(spec(&[path])).await.unwrap_err();
    assert!(refused.hint().unwrap().contains("#!"), "{refused:?}");

    let mut elsewhere = shell("exit 0");
    elsewhere.directory = Some(directory.join("missing"));
    let missing = spawn_and_wait(elsewhere).await.unwrap_err();
    assert!(
        matches!(&missing, SpawnError::Directory { source, .. } if source.kind() == io::ErrorKind::NotFound)
    );
    fs::remove_dir_all(&directory).unwrap();

    assert!(matches!(spawn_and_wait(spec(&[])).await, Err(SpawnError::Unusable { .. })));
    assert!(matches!(spawn_and_wait(spec(&["sh", "a\0b"])).await, Err(SpawnError::Unusable { .. })));
}

#[tokio::test]
async fn directory_user_and_environment_are_as_specified() {
    let mut spec = shell("pwd; echo $COLOUR; id -u; echo $HOME");
    spec.directory = Some("/".into());
    spec.environment = vec![("COLOUR".to_owned(), "blue".to_owned())];
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let home = Some("/nowhere".to_owned());
    spec.user = Some(ResolvedUser { uid, gid, groups: vec![gid], name: "me".to_owned(), home });
    assert_eq!(run(spec).await.1, format!("/\nblue\n{uid}\n/nowhere\n"));
}

/// The daemon is gone: its ends of the pipes are closed, and the worker goes on writing.
#[tokio::test]
async fn a_worker_outlives_the_reader_of_its_output() {
    let script =
        "trap 'echo after && echo after >&2 && exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let Spawned { process, output } = spawn_and_wait(shell(script)).await.unwrap();
    let output = output.unwrap();
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(output.stdout).unwrap();
    pipe.read_exact(&mut [0; 6]).await.unwrap();
    drop((pipe, output.stderr));
    process.signal(libc::SIGTERM).unwrap();
    assert_eq!(process.wait().await.unwrap(), Exit::Code(7));
}

#[tokio::test]
async fn the_whole_tree_gets_the_signal_also_when_its_leader_has_ended() {
    // One stays in the session; the other leaves it, and is found as a descendant only.
    let script = "sleep 60 & setsid sleep 60 & sleep 60 & echo started; exec sleep 60";
    let Spawned { process, output } = spawn_and_wait(shell(script)).await.unwrap();
    let output = output.unwrap();
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(output.stdout).unwrap();
    let mut text = [0; 8];
    pipe.read_exact(&mut text).await.unwrap();
    let outside = || {
        let other = |pid: &u32| procfs::stat(*pid).is_some_and(|stat| stat.session != process.pid());
        process.tree().into_iter().filter(other).collect::<Vec<u32>>()
    };
    let begun = std::time::Instant::now();
    while outside().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "no session of its own: {:?}", process.tree());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let detached = outside();
    assert_eq!((process.tree().len(), detached.len()), (4, 1), "found as a descendant");

    process.signal(libc::SIGKILL).unwrap();
    assert_eq!(process.wait().await.unwrap(), Exit::Signal(libc::SIGKILL));
    let left = process.tree();
    assert_eq!(left.len(), 2, "those of its session");
    assert_eq!(process.signal_tree(libc::SIGKILL).unwrap(), 2);
    for pid in detached {
        // Out of the session and without a parent that is ours: beyond what can be known.
        assert!(Process::open(pid, None).unwrap().signal(libc::SIGKILL).unwrap());
    }
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), pipe.read_to_end(&mut rest)).await.unwrap().unwrap();
    // A process that ends closes its files first, and is there for a moment longer.
    let begun = std::time::Instant::now();
    while !process.tree().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "they were killed: {:?}", process.tree());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_listener_that_was_passed_serves() {
    let listener = make_listener("127.0.0.1:0".parse().unwrap(), None, 8).unwrap();
    let address = options::local_address(&listener).unwrap();
    let script = "import socket\n\
                  c = socket.socket(fileno=3).accept()[0]\n\
                  c.sendall(c.recv(5)[::-1])\n";
    let mut spec = spec(&["python3", "-c", script]);
    spec.listeners = vec![(listener.try_clone().unwrap(), "http".to_owned())];
    let process = spawn_and_wait(spec).await.unwrap().process;
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"hello").unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "olleh");
    assert_eq!(process.wait().await.unwrap(), Exit::Code(0));
    assert!(TcpListener::from(listener).into_raw_fd() >= 0);
}
