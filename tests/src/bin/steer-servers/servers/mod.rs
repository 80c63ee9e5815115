//! The servers, each as its package brings it: the line that runs it, the files that it needs, what to ask it.

mod dns;
mod languages;
mod packaged;
mod python;

use std::{fs, net::SocketAddr, path::Path, process::Command};

use steer_tests::exchanges::{Exchange, Over};

/// A server that is told an address and knows nothing of steer.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    /// The programs that it takes, looked for on PATH, and files by their paths.
    pub(crate) needs: &'static [&'static str],
    /// The line that runs it, as a person types it: `IP` (in brackets where IPv6 is written so), `BARE` and `PORT` stand for the address,
    /// `DIR` for where its files are.
    line: &'static str,
    /// Its files, by name, with the same words.
    files: &'static [(&'static str, &'static str)],
    /// A line that builds it; empty where nothing is to be built.
    build: &'static str,
    /// A line that fails, and says why, where this machine cannot run it; empty where every machine can.
    trial: &'static str,
    /// What `steer run` is told of it, beside the address and how many.
    pub(crate) options: &'static [&'static str],
    speaks: Speaks,
}

#[derive(Clone, Copy)]
enum Speaks {
    Http,
    Redis,
    FastCgi,
    Dns,
}

/// What most are.
const PLAIN: Server = Server {
    name: "",
    needs: &[],
    line: "",
    files: &[],
    build: "",
    trial: "",
    options: &[],
    speaks: Speaks::Http,
};

const fn plain(
    name: &'static str,
    needs: &'static [&'static str],
    line: &'static str,
    files: &'static [(&'static str, &'static str)],
) -> Server {
    Server { name, needs, line, files, ..PLAIN }
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Server> {
    [languages::SERVERS, packaged::SERVERS, python::SERVERS, dns::SERVERS].into_iter().flatten()
}

impl Server {
    /// Writes its files, and builds what has to be built.
    pub(crate) fn prepare(&self, directory: &Path, address: SocketAddr) -> Result<(), String> {
        for (name, text) in self.files {
            let path = directory.join(name);
            let parent = path.parent().expect("a file is in a directory");
            let written =
                fs::create_dir_all(parent).and_then(|()| fs::write(&path, fill_in(text, directory, address)));
            written.map_err(|error| format!("writing {}: {error}", path.display()))?;
        }
        run(self.build, directory, address)
    }

    /// Why this machine cannot run it, once it is prepared.
    pub(crate) fn unfit(&self, directory: &Path, address: SocketAddr) -> Option<String> {
        run(self.trial, directory, address).err()
    }

    /// How many of it run at once.
    pub(crate) fn workers(&self) -> u32 {
        if self.options.contains(&"replace") { 1 } else { 4 }
    }

    /// The words of its line.
    pub(crate) fn command(&self, directory: &Path, address: SocketAddr) -> Vec<String> {
        words(&fill_in(self.line, directory, address))
    }

    /// What its clients do, each with an equal part of them.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        match self.speaks {
            Speaks::Http => vec![Exchange::http()],
            Speaks::Redis => vec![Exchange::redis()],
            Speaks::FastCgi => {
                vec![Exchange { over: Over::Tcp, request: fastcgi_ping(), answers: &["pong"] }]
            }
            Speaks::Dns => Exchange::dns().into(),
        }
    }
}

/// Runs a line to its end, if there is one.
fn run(line: &str, directory: &Path, address: SocketAddr) -> Result<(), String> {
    let words = words(&fill_in(line, directory, address));
    let Some((program, arguments)) = words.split_first() else { return Ok(()) };
    let ran = Command::new(program).args(arguments).current_dir(directory).output();
    let ran = ran.map_err(|error| format!("running {program}: {error}"))?;
    if ran.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&ran.stderr).trim().to_owned()) }
}

fn fill_in(text: &str, directory: &Path, address: SocketAddr) -> String {
    let bare = address.ip().to_string();
    let ip = if address.is_ipv6() { format!("[{bare}]") } else { bare.clone() };
    text.replace("DIR", &directory.to_string_lossy())
        .replace("BARE", &bare)
        .replace("IP:PORT", &format!("{ip}:{}", address.port()))
        .replace("PORT", &address.port().to_string())
}

/// Splits a line at blanks, but for what stands in single quotes.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    parts
        .flat_map(|(number, part)| match number % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

/// One request of the FastCGI protocol for `/ping`.
fn fastcgi_ping() -> Vec<u8> {
    let record = |kind: u8, body: &[u8]| {
        let length = (body.len() as u16).to_be_bytes();
        [&[1, kind, 0, 1, length[0], length[1], 0, 0][..], body].concat()
    };
    let pairs = [("REQUEST_METHOD", "GET"), ("SCRIPT_NAME", "/ping"), ("SCRIPT_FILENAME", "/ping")];
    let parameters: Vec<u8> = pairs
        .iter()
        .flat_map(|(name, value)| {
            [&[name.len() as u8, value.len() as u8], name.as_bytes(), value.as_bytes()].concat()
        })
        .collect();
    // BEGIN_REQUEST as a responder, PARAMS to their end, an empty STDIN.
    [record(1, &[0, 1, 0, 0, 0, 0, 0, 0]), record(4, &parameters), record(4, &[]), record(5, &[])].concat()
}
