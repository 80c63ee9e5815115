//! A DNS server and a DNS client that know nothing of steer: Debian's `unbound` and `dnsperf`.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What is asked for, and answered without asking anybody else.
const NAME: &str = "www.example";

/// The two programs.
#[derive(Debug)]
pub struct Programs {
    server: PathBuf,
    client: PathBuf,
}

impl Programs {
    /// Both, where they are installed, as `cargo xtask test` does; else says which are not, to be printed as the reason to skip a test.
    pub fn find() -> Result<Self, String> {
        let find = |name: &str| {
            let path = env::var_os("PATH").unwrap_or_default();
            let mut all =
                env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).map(|place| place.join(name));
            let hint = "hint: apt-get install --no-install-recommends";
            all.find(|program| program.exists()).ok_or(format!("{name} is not on PATH\n{hint} {name}"))
        };
        Ok(Self { server: find("unbound")?, client: find("dnsperf")? })
    }

    /// The command of a server that binds the addresses itself, with SO_REUSEPORT: each of its threads has sockets of its own, and says
    /// at its end how many questions it has had. Its configuration is written to the directory.
    #[track_caller]
    pub fn server(&self, directory: &Path, addresses: &[SocketAddr], threads: u32) -> Vec<String> {
        let interfaces: String = addresses
            .iter()
            .map(|address| format!("  interface: {}@{}\n", address.ip(), address.port()))
            .collect();
        let configuration = format!(
            "server:\n{interfaces}  so-reuseport: yes\n  num-threads: {threads}\n  do-tcp: no\n  do-daemonize: no\n  username: \"\"\n  \
             chroot: \"\"\n  directory: {directory:?}\n  pidfile: \"\"\n  use-syslog: no\n  module-config: \"iterator\"\n  \
             access-control: 0.0.0.0/0 allow\n  access-control: ::/0 allow\n  local-zone: \"example.\" static\n  \
             local-data: \"{NAME}. 300 IN A 192.0.2.1\"\nremote-control:\n  control-enable: no\n"
        );
        let path = directory.join("unbound.conf");
        fs::write(&path, configuration).expect("a file can be made in the temporary directory");
        [self.server.to_string_lossy(), "-d".into(), "-c".into(), path.to_string_lossy()]
            .map(|word| word.into_owned())
            .to_vec()
    }

    /// Asks as fast as answers come, from 50 ports, for so many seconds, and says what has come of it. The calling thread's
    /// namespace is the client's.
    #[track_caller]
    pub fn ask(&self, directory: &Path, server: SocketAddr, seconds: u32) -> Asked {
        let questions = directory.join("questions");
        fs::write(&questions, format!("{NAME} A\n")).expect("a file can be made in the temporary directory");
        let output = Command::new(&self.client)
            .args(["-s", &server.ip().to_string(), "-p", &server.port().to_string()])
            .args(["-l", &seconds.to_string(), "-c", "50", "-T", "1", "-W", "-d"])
            .arg(&questions)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("running {}: {error}", self.client.display()));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {said}", self.client.display());
        Asked::read(&said).unwrap_or_else(|| panic!("no statistics in: {said}"))
    }
}

/// What the client counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// Questions.
    pub sent: u64,
    /// Those that were not answered within 5 s.
    pub lost: u64,
    /// Answers with what was asked for.
    pub answered: u64,
}

impl Asked {
    fn read(said: &str) -> Option<Self> {
        let value = |name: &str| said.lines().find_map(|line| line.trim().strip_prefix(name));
        let number = |text: &str| text.split_whitespace().next()?.parse().ok();
        let codes = value("Response codes:")?;
        // `NOERROR 3990 (99.75%), SERVFAIL 10 (0.25%)`
        let of_code = |code: &str| codes.split(", ").find_map(|part| part.trim().strip_prefix(code));
        Some(Self {
            sent: number(value("Queries sent:")?)?,
            lost: number(value("Queries lost:")?)?,
            answered: of_code("NOERROR").map_or(Some(0), number)?,
        })
    }

    /// The sum of both.
    pub fn plus(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            lost: self.lost + other.lost,
            answered: self.answered + other.answered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read() {
        let said = "  Queries sent:         4000\n  Queries completed:    3990 (99.75%)\n  Queries lost:         10 (0.25%)\n\n  \
                    Response codes:       SERVFAIL 40 (1.00%), NOERROR 3950 (99.00%)\n";
        assert_eq!(Asked::read(said), Some(Asked { sent: 4000, lost: 10, answered: 3950 }));
        assert_eq!(Asked::read("Queries sent: 1"), None);
    }
}
