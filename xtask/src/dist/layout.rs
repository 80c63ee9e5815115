//! Lays out what goes into the package beside the binary and the unit, as in the root of the file system.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use super::write;

/// From `server/`, and where to; the second ones only where they are there.
const COPIED: [(&str, &str); 5] = [
    ("packaging/sysusers.conf", "usr/lib/sysusers.d/steer.conf"),
    ("src/config/example.toml", "usr/share/doc/steer/examples/steer.toml"),
    ("packaging/examples/hardened.conf", "usr/share/doc/steer/examples/hardened.conf"),
    ("packaging/kubernetes/steer.yaml", "usr/share/doc/steer/examples/kubernetes/steer.yaml"),
    ("packaging/kubernetes/web.yaml", "usr/share/doc/steer/examples/kubernetes/web.yaml"),
];
const COPIED_IF_THERE: [(&str, &str); 2] = [
    ("packaging/grafana-dashboard.json", "usr/share/steer/grafana-dashboard.json"),
    ("packaging/alerts.yaml", "usr/share/steer/alerts.yaml"),
];

/// For `steer completions`, and where that shell looks.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/steer"),
    ("zsh", "usr/share/zsh/vendor-completions/_steer"),
    ("fish", "usr/share/fish/vendor_completions.d/steer.fish"),
];

/// Where manual pages of commands are.
const MANUAL: &str = "usr/share/man/man1";

/// Makes `root` anew from the files of `server` and what `binary` prints.
pub(super) fn lay_out(server: &Path, binary: &Path, root: &Path) -> Result<()> {
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", root.display()));
        }
        _ => {}
    }
    for (from, to) in copied(|from| server.join(from).exists()) {
        let from = server.join(from);
        let contents = fs::read(&from).with_context(|| format!("reading {}", from.display()))?;
        write(&root.join(to), &contents)?;
    }
    for (shell, to) in COMPLETIONS {
        write(&root.join(to), &output(Command::new(binary).args(["completions", shell]))?)?;
    }
    let manual = root.join(MANUAL);
    output(Command::new(binary).args(["man", "--dir"]).arg(&manual))?;
    // As Debian's policy has it; without the time, so that the same pages are the same bytes.
    output(Command::new("gzip").args(["--best", "--no-name", "--recursive"]).arg(&manual))?;
    Ok(())
}

/// What is copied: what has to be there, and of the rest what is.
fn copied(is_there: impl Fn(&str) -> bool) -> Vec<(&'static str, &'static str)> {
    let optional = COPIED_IF_THERE.into_iter().filter(|(from, _)| is_there(from));
    COPIED.into_iter().chain(optional).collect()
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, messages.trim());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_missing_is_left_out_and_nothing_else() {
        assert_eq!(copied(|_| false), COPIED);
        assert_eq!(copied(|from| from.ends_with(".yaml")).len(), COPIED.len() + 1);
        assert_eq!(copied(|_| true).len(), COPIED.len() + COPIED_IF_THERE.len());
    }
}
