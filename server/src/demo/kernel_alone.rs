//! The kernel alone: workers that share the address with SO_REUSEPORT, restarted as well as one can without
//! help: the new one listens before the old one is told to stop, and the old one accepts what it finds in its
//! queue before it closes.

use std::ffi::OsString;

use super::{
    error::DemoError,
    sandbox::Sandbox,
    service::Service,
    worker_process::{Launch, WorkerProcess},
};

/// Plain SO_REUSEPORT workers.
pub(super) struct KernelAlone {
    launch: Launch,
    workers: Vec<WorkerProcess>,
    /// Processes started so far: the number of the next generation, over all workers.
    started: u64,
}

impl KernelAlone {
    /// Starts the sample worker that is built in, as often as wanted.
    pub(super) async fn start(sandbox: &Sandbox, workers: u32) -> Result<Self, DemoError> {
        // The link leads to this very program even when its file has been replaced meanwhile.
        let command = ["/proc/self/exe", "worker"].map(OsString::from).to_vec();
        let launch = Launch {
            command,
            addresses: sandbox.addresses(),
            group: "demo".to_owned(),
            directory: sandbox.directory().to_owned(),
        };
        Self::launch(launch, workers).await
    }

    /// The same with workers of another program.
    async fn launch(launch: Launch, workers: u32) -> Result<Self, DemoError> {
        let mut service = Self { launch, workers: Vec::new(), started: 0 };
        service.scale(workers).await?;
        Ok(service)
    }

    async fn start_worker(&mut self, index: u32) -> Result<WorkerProcess, DemoError> {
        self.started += 1;
        WorkerProcess::start(&self.launch, index, self.started).await
    }
}

impl Service for KernelAlone {
    async fn restart(&mut self, worker: u32) -> Result<(), DemoError> {
        let new = self.start_worker(worker).await?;
        std::mem::replace(&mut self.workers[worker as usize], new).stop().await
    }

    async fn scale(&mut self, workers: u32) -> Result<(), DemoError> {
        while self.workers.len() > workers as usize
            && let Some(last) = self.workers.pop()
        {
            last.stop().await?;
        }
        while self.workers.len() < workers as usize {
            let next = self.start_worker(self.workers.len() as u32).await?;
            self.workers.push(next);
        }
        Ok(())
    }

    async fn kill(&mut self, worker: u32) -> Result<(), DemoError> {
        self.workers.remove(worker as usize).kill().await?;
        let new = self.start_worker(worker).await?;
        self.workers.insert(worker as usize, new);
        Ok(())
    }

    async fn stop(mut self) -> Result<(), DemoError> {
        self.scale(0).await
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

    use super::*;
    use crate::load::{Plan, Probe, Tally, four_tuples, run};

    /// A worker as anyone would write it, with the interface of the one that is built in.
    const WORKER: &str = r#"
import os, signal, socket, sys, threading
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
host, port = sys.argv[2].removeprefix("tcp://").split(":")
listener.bind((host, int(port)))
listener.listen(128)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"STATUS=up\nREADY=1", os.environ["NOTIFY_SOCKET"])
head = "HTTP/1.1 200 OK\r\nX-Worker: %s\r\nX-Generation: %s\r\nX-Pid: %d\r\nContent-Length: 0\r\n\r\n" % (
    os.environ["STEER_WORKER"], os.environ["STEER_GENERATION"], os.getpid())
while True:
    stream, _ = listener.accept()
    stream.recv(4096)
    stream.sendall(head.encode())
    stream.close()
"#;

    struct Place(PathBuf);

    impl Place {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("steer-test-{test}-{}", std::process::id()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn launch(&self, command: &[&str], address: SocketAddr) -> Launch {
            Launch {
                command: command.iter().map(OsString::from).collect(),
                addresses: vec![address],
                group: "demo".to_owned(),
                directory: self.0.clone(),
            }
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// An address that stays taken for this test: the socket joins the group but does not listen.
    fn reserve() -> (socket2::Socket, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    /// Enough connections that each of a few workers gets some.
    async fn visit(address: SocketAddr) -> Tally {
        let tuples = four_tuples(&["127.0.0.1".parse().unwrap()], 0..1, &[address]).repeat(4);
        let plan = Plan { connections: Some(200), ..Plan::new(tuples) };
        tokio::task::spawn_blocking(move || run(&plan, &Probe::default())).await.unwrap().unwrap()
    }

    fn generations(tally: &Tally) -> BTreeSet<(String, String)> {
        tally.by_responder.keys().map(|who| (who.worker.clone(), who.generation.clone())).collect()
    }

    #[tokio::test]
    async fn workers_are_restarted_scaled_killed_and_stopped() {
        let place = Place::new("kernel-alone");
        let (_reserved, address) = reserve();
        let launch = place.launch(&["python3", "-c", WORKER], address);
        let mut service = KernelAlone::launch(launch, 2).await.unwrap();
        let of = |expected: &[(&str, &str)]| -> BTreeSet<(String, String)> {
            expected.iter().map(|(worker, generation)| ((*worker).into(), (*generation).into())).collect()
        };
        assert_eq!(generations(&visit(address).await), of(&[("demo/0", "1"), ("demo/1", "2")]));
        service.restart(0).await.unwrap();
        assert_eq!(generations(&visit(address).await), of(&[("demo/0", "3"), ("demo/1", "2")]));
        service.kill(1).await.unwrap();
        service.scale(3).await.unwrap();
        let expected = of(&[("demo/0", "3"), ("demo/1", "4"), ("demo/2", "5")]);
        assert_eq!(generations(&visit(address).await), expected);
        service.scale(1).await.unwrap();
        assert_eq!(generations(&visit(address).await), of(&[("demo/0", "3")]));
        service.stop().await.unwrap();
        let tally = visit(address).await;
        assert_eq!((tally.refused, tally.ok), (200, 0));
    }

    #[tokio::test]
    async fn a_worker_that_ends_instead_of_getting_ready_shows_what_it_said() {
        let place = Place::new("ends-at-once");
        let launch = place.launch(&["sh", "-c", "echo no such thing >&2; exit 3"], reserve().1);
        let error = KernelAlone::launch(launch, 1).await.err().unwrap().to_string();
        assert!(error.contains("demo/0 ended by itself: exit status: 3\n  no such thing"), "{error}");
    }
}
