//! What an engine's command line says of a container: its name, and its id. Only that knows names.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Those that are tried, in this order. Each takes `inspect --format`.
const ENGINES: [&str; 3] = ["podman", "docker", "nerdctl"];

/// How long one may take: it may wait for a daemon, or for a lock.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(5);

/// The name of the container with this id; nothing where no engine that is there has it.
pub(super) fn name_of(id: &str) -> Option<String> {
    // Docker's begin with a slash.
    inspect("{{.Name}}", id).map(|name| name.trim_start_matches('/').to_owned())
}

/// The id of the container of this name; nothing where no engine that is there has it.
pub(super) fn id_of(name: &str) -> Option<String> {
    inspect("{{.Id}}", name)
}

fn inspect(format: &str, container: &str) -> Option<String> {
    ENGINES.iter().find_map(|engine| {
        let mut command = Command::new(engine);
        command.args(["container", "inspect", "--format", format, "--", container]);
        first_line(&mut command)
    })
}

/// The first line that a program prints, where it ends well and in time.
fn first_line(command: &mut Command) -> Option<String> {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = spawned.ok()?;
    let until = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            // What it prints fits in the pipe.
            Ok(None) if Instant::now() < until => thread::sleep(LOOK),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    let mut text = String::new();
    child.stdout.take()?.read_to_string(&mut text).ok()?;
    let line = text.lines().next().unwrap_or_default().trim();
    (status.success() && !line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_prints_counts_where_it_ends_well() {
        let said = |text: &str| first_line(Command::new("sh").args(["-c", text]));
        assert_eq!(said("echo /web; echo more").as_deref(), Some("/web"));
        assert_eq!(said("echo web; exit 1"), None);
        assert_eq!(said("exit 0"), None);
        assert_eq!(first_line(&mut Command::new("/no/such/program")), None);
    }
}
