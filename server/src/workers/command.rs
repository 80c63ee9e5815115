//! What a worker is started with, and its translation to what `execve` takes. Pure.

use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr, OsString},
    os::{
        fd::{OwnedFd, RawFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    cgroup::WorkersCgroup,
    limits::{Limit, Resource},
    user::ResolvedUser,
};
use crate::{names::WorkerName, sockets::address::ListenAddress};

/// This binary, also after its file was replaced by another version.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The first descriptor that is passed, as systemd has it.
pub(crate) const LISTEN_FDS_START: RawFd = 3;

/// Variables that would tell the worker about the daemon's own start: what a service manager says to its service.
const NOT_PASSED_ON: [&str; 22] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "FDSTORE",
    "MAINPID",
    "MANAGERPID",
    "SYSTEMD_EXEC_PID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "CREDENTIALS_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "CACHE_DIRECTORY",
    "LOGS_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "STEER_LOAD_FD",
];

/// Room for the largest pid there can be, 2^22, and more.
const PID_DIGITS: usize = 10;

/// One generation of a worker, before it is started.
#[derive(Debug)]
pub struct SpawnSpec {
    /// The worker.
    pub name: WorkerName,
    /// The generation, which the worker finds in STEER_GENERATION.
    pub generation: u64,
    /// Program and arguments; the sample worker that is built in where it is `None`.
    pub command: Option<Vec<String>>,
    /// The user to run as; the daemon's own where it is `None`.
    pub user: Option<ResolvedUser>,
    /// The working directory; the daemon's own where it is `None`.
    pub directory: Option<PathBuf>,
    /// Variables beside the daemon's own, which they replace.
    pub environment: Vec<(String, String)>,
    /// What it may use; the daemon's own where a resource is not here.
    pub limits: Vec<(Resource, Limit)>,
    /// The listeners to pass, from fd 3 on, in this order, each with its name for LISTEN_FDNAMES.
    pub listeners: Vec<(OwnedFd, String)>,
    /// The memory in which the worker can publish its load: passed after the listeners, its number in STEER_LOAD_FD. It is not
    /// one of LISTEN_FDS, so programs that do not know of it never see it.
    pub load: Option<OwnedFd>,
    /// The path of the daemon's notification socket, for NOTIFY_SOCKET.
    pub notify: Option<PathBuf>,
    /// Where its output goes.
    pub output: Output,
    /// The cgroup that it starts in; the daemon's own where it is `None`.
    pub cgroup: Option<Arc<WorkersCgroup>>,
}

/// Where a worker's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// To this process, which passes it on line by line under the worker's name.
    Piped,
    /// Where this process's own goes, through open file descriptions of the worker's own: a worker that outlives this process is
    /// never kept waiting by a pipe that nobody reads, and cannot change how this process writes.
    Shared,
}

/// The command of the sample worker: with addresses it binds them itself, with so many sockets each; without any it takes what it
/// inherits.
pub fn sample_command(own: &[ListenAddress], sockets: u32) -> Vec<String> {
    let mut command = vec![THIS_PROGRAM.to_owned(), "worker".to_owned()];
    for address in own.iter().flat_map(|address| std::iter::repeat_n(address, sockets as usize)) {
        command.extend(["--listen".to_owned(), address.to_string()]);
    }
    command
}

/// What `execve` takes, and everything that has to be made before the fork because it needs memory.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The program, as the user wrote it.
    pub(super) program: String,
    /// The files to try, in order.
    pub(super) candidates: Vec<CString>,
    pub(super) arguments: Vec<CString>,
    /// `NAME=value`, each with its zero byte.
    pub(super) environment: Vec<Vec<u8>>,
    /// Where in the environment LISTEN_PID is: the child writes its own pid there.
    pub(super) listen_pid: Option<ListenPid>,
    pub(super) directory: Option<CString>,
}

/// The place of the pid in the environment.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListenPid {
    pub(super) variable: usize,
    pub(super) offset: usize,
}

/// A part of the specification that cannot be passed to a program.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    NoProgram,
    ZeroByte(&'static str),
}

impl Prepared {
    pub(super) fn new(
        spec: &SpawnSpec,
        inherited: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Unusable> {
        let command = spec.command.clone().unwrap_or_else(|| sample_command(&[], 1));
        let program =
            command.first().filter(|program| !program.is_empty()).ok_or(Unusable::NoProgram)?.clone();
        let variables = variables(spec, inherited);
        let candidates = candidates(&program, variables.get(OsStr::new("PATH")).map(OsString::as_os_str));
        let mut arguments = command;
        if program == THIS_PROGRAM {
            // What `ps` shows.
            arguments[0] = "steer".to_owned();
        }
        let (environment, listen_pid) = environment(variables, !spec.listeners.is_empty())?;
        let text = |bytes: Vec<u8>, what| CString::new(bytes).map_err(|_| Unusable::ZeroByte(what));
        Ok(Self {
            program,
            candidates: candidates
                .into_iter()
                .map(|path| text(path.into_os_string().into_vec(), "the program"))
                .collect::<Result<_, _>>()?,
            arguments: arguments
                .into_iter()
                .map(|argument| text(argument.into_bytes(), "an argument"))
                .collect::<Result<_, _>>()?,
            environment,
            listen_pid,
            directory: spec
                .directory
                .as_ref()
                .map(|path| text(path.as_os_str().as_bytes().to_vec(), "the directory"))
                .transpose()?,
        })
    }
}

/// The worker's variables: the daemon's, then the user's, then the configured, then ours.
fn variables(
    spec: &SpawnSpec,
    inherited: impl Iterator<Item = (OsString, OsString)>,
) -> BTreeMap<OsString, OsString> {
    let mut all: BTreeMap<OsString, OsString> = inherited.collect();
    all.retain(|name, _| !NOT_PASSED_ON.iter().any(|own| name == own));
    let mut set = |name: &str, value: OsString| all.insert(name.into(), value);
    if let Some(user) = &spec.user {
        set("USER", user.name.clone().into());
        set("LOGNAME", user.name.clone().into());
        if let Some(home) = &user.home {
            set("HOME", home.clone().into());
        }
    }
    for (name, value) in &spec.environment {
        set(name, value.into());
    }
    let go = all.get(OsStr::new(GODEBUG)).map(OsString::as_os_str);
    if let Some(value) = without_mptcp(go) {
        all.insert(GODEBUG.into(), value);
    }
    let mut set = |name: &str, value: OsString| all.insert(name.into(), value);
    set("STEER_WORKER", spec.name.to_string().into());
    set("STEER_GROUP", spec.name.group.to_string().into());
    set("STEER_GENERATION", spec.generation.to_string().into());
    if spec.load.is_some() {
        let descriptor = LISTEN_FDS_START + spec.listeners.len() as RawFd;
        set("STEER_LOAD_FD", descriptor.to_string().into());
    }
    if let Some(path) = &spec.notify {
        set("NOTIFY_SOCKET", path.clone().into_os_string());
    }
    if !spec.listeners.is_empty() {
        let names: Vec<String> = spec.listeners.iter().map(|(_, name)| descriptor_name(name)).collect();
        set("LISTEN_FDS", spec.listeners.len().to_string().into());
        set("LISTEN_FDNAMES", names.join(":").into());
    }
    all
}

/// The variable that Go's runtime takes its settings from.
const GODEBUG: &str = "GODEBUG";

/// The settings with which a Go program (1.24 and later) listens with plain TCP: the kernel steers no MPTCP listener. Nothing where they
/// say already how it is to listen.
fn without_mptcp(settings: Option<&OsStr>) -> Option<OsString> {
    const NAME: &[u8] = b"multipathtcp=";
    let given = settings.unwrap_or_default();
    let says_it = given.as_bytes().split(|byte| *byte == b',').any(|setting| setting.starts_with(NAME));
    (!says_it).then(|| {
        let mut value = given.to_owned();
        value.push(if given.is_empty() { "multipathtcp=0" } else { ",multipathtcp=0" });
        value
    })
}

/// A name as LISTEN_FDNAMES can hold it: no colon, which parts the names, and no control characters.
fn descriptor_name(name: &str) -> String {
    let allowed = |c: char| if c == ':' || c.is_control() || !c.is_ascii() { '_' } else { c };
    let name: String = name.chars().map(allowed).take(255).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

type Environment = (Vec<Vec<u8>>, Option<ListenPid>);

fn environment(
    variables: BTreeMap<OsString, OsString>,
    with_listeners: bool,
) -> Result<Environment, Unusable> {
    let mut environment = Vec::with_capacity(variables.len() + 1);
    for (name, value) in variables {
        let mut variable = name.into_vec();
        let malformed = variable.is_empty() || variable.contains(&b'=');
        variable.push(b'=');
        variable.extend(value.into_vec());
        if malformed || variable.contains(&0) {
            return Err(Unusable::ZeroByte("a variable of the environment"));
        }
        variable.push(0);
        environment.push(variable);
    }
    let listen_pid = with_listeners.then(|| {
        let mut variable = b"LISTEN_PID=".to_vec();
        let offset = variable.len();
        variable.extend([0; PID_DIGITS + 1]);
        environment.push(variable);
        ListenPid { variable: environment.len() - 1, offset }
    });
    Ok((environment, listen_pid))
}

/// The files that a program's name can mean: with a slash only itself, else one in each directory of PATH.
pub(super) fn candidates(program: &str, path: Option<&OsStr>) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![PathBuf::from(program)];
    }
    // What `execvp` takes where there is no PATH.
    let path = path.unwrap_or(OsStr::new("/bin:/usr/bin"));
    std::env::split_paths(path).map(|directory| directory.join(Path::new(program))).collect()
}

/// Writes a pid in decimal, without memory of its own so that it can be used between fork and exec. The rest of
/// the place stays zero bytes and so ends the text.
pub(super) fn write_pid(mut pid: u32, place: &mut [u8]) {
    let digits = pid.checked_ilog10().map_or(1, |log| log as usize + 1).min(place.len());
    for digit in place[..digits].iter_mut().rev() {
        *digit = b'0' + (pid % 10) as u8;
        pid /= 10;
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn spec() -> SpawnSpec {
        SpawnSpec {
            name: "web/3".parse().unwrap(),
            generation: 7,
            command: Some(vec!["server".to_owned(), "--port".to_owned()]),
            user: None,
            directory: None,
            environment: vec![
                ("PATH".to_owned(), "/a:/b".to_owned()),
                ("STEER_WORKER".to_owned(), "lie".to_owned()),
            ],
            limits: Vec::new(),
            listeners: Vec::new(),
            load: None,
            notify: None,
            output: crate::workers::command::Output::Piped,
            cgroup: None,
        }
    }

    fn environment_of(prepared: &Prepared) -> Vec<String> {
        let text = |variable: &Vec<u8>| {
            std::ffi::CStr::from_bytes_until_nul(variable).unwrap().to_str().unwrap().to_owned()
        };
        prepared.environment.iter().map(text).collect()
    }

    #[test]
    fn a_go_program_listens_with_plain_tcp_unless_it_is_told_how() {
        let value = |settings: Option<&str>| without_mptcp(settings.map(OsStr::new));
        assert_eq!(value(None), Some("multipathtcp=0".into()));
        assert_eq!(value(Some("")), Some("multipathtcp=0".into()));
        assert_eq!(value(Some("gctrace=1")), Some("gctrace=1,multipathtcp=0".into()));
        assert_eq!(value(Some("multipathtcp=1,gctrace=1")), None);
        assert_eq!(value(Some("gctrace=1,multipathtcp=2")), None);
    }

    #[test]
    fn the_environment_is_the_daemons_and_the_configured_and_ours() {
        let inherited = [("PATH", "/usr/bin"), ("LANG", "C"), ("LISTEN_FDS", "9"), ("NOTIFY_SOCKET", "/x")];
        let inherited = inherited.map(|(name, value)| (name.into(), value.into()));
        let prepared = Prepared::new(&spec(), inherited.into_iter()).unwrap();
        assert_eq!(
            environment_of(&prepared),
            [
                "GODEBUG=multipathtcp=0",
                "LANG=C",
                "PATH=/a:/b",
                "STEER_GENERATION=7",
                "STEER_GROUP=web",
                "STEER_WORKER=web/3"
            ]
        );
        assert_eq!(prepared.candidates, [c"/a/server".to_owned(), c"/b/server".to_owned()]);
        assert_eq!(prepared.arguments, [c"server".to_owned(), c"--port".to_owned()]);
        assert!(prepared.listen_pid.is_none());
    }

    #[test]
    fn listeners_are_announced_with_room_for_the_pid() {
        let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut spec = spec();
        spec.environment.clear();
        spec.listeners = vec![(file(), "tcp://[::1]:80".to_owned()), (file(), String::new())];
        let mut prepared = Prepared::new(&spec, std::iter::empty()).unwrap();
        let place = prepared.listen_pid.unwrap();
        write_pid(4_194_304, &mut prepared.environment[place.variable][place.offset..][..PID_DIGITS]);
        let environment = environment_of(&prepared);
        for variable in ["LISTEN_FDS=2", "LISTEN_FDNAMES=tcp_//[__1]_80:unknown", "LISTEN_PID=4194304"] {
            assert!(environment.contains(&variable.to_owned()), "{environment:?}");
        }
    }

    #[test]
    fn a_pid_is_written_without_leading_zeros() {
        for pid in [0, 1, 9, 10, 4_194_304, u32::MAX] {
            let mut place = [0; PID_DIGITS + 1];
            write_pid(pid, &mut place[..PID_DIGITS]);
            let text = std::ffi::CStr::from_bytes_until_nul(&place).unwrap();
            assert_eq!(text.to_str().unwrap(), pid.to_string());
        }
    }

    #[test]
    fn the_sample_worker_is_this_program() {
        let mut spec = spec();
        spec.command = None;
        let prepared = Prepared::new(&spec, std::iter::empty()).unwrap();
        assert_eq!(prepared.candidates, [c"/proc/self/exe".to_owned()]);
        assert_eq!(prepared.arguments, [c"steer".to_owned(), c"worker".to_owned()]);
        let own = sample_command(&["127.0.0.1:80".parse().unwrap()], 2);
        let listen = ["--listen", "tcp://127.0.0.1:80"];
        assert_eq!(own, [["/proc/self/exe", "worker"], listen, listen].concat());
    }

    #[test]
    fn what_no_program_can_be_given_is_refused() {
        let mut empty = spec();
        empty.command = Some(Vec::new());
        assert_eq!(Prepared::new(&empty, std::iter::empty()).unwrap_err(), Unusable::NoProgram);
        let mut zero = spec();
        zero.command = Some(vec!["server".to_owned(), "a\0b".to_owned()]);
        assert_eq!(Prepared::new(&zero, std::iter::empty()).unwrap_err(), Unusable::ZeroByte("an argument"));
    }
}
