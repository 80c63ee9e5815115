//! A runtime drop-in that has a unit drain before it is stopped.
//!
//! systemd runs the `ExecStop=` lines of a service in order, the unit's own first and those of drop-ins after them, and sends SIGTERM
//! once the last one has ended. They share one `TimeoutStopSec=`. They run, too, when the service has ended by itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Manager, UnitError, connection::UNIT, name::is_template};

/// Where systemd looks for what lasts until the next boot.
const RUNTIME: &str = "/run/systemd/system";

/// Late among the drop-ins of a unit; an administrator's of the same name in /etc is taken in its place.
const FILE: &str = "50-steer.conf";

/// The drop-in of one unit. It is a file in `/run`, so that nothing is left of it after a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropIn {
    unit: String,
    path: PathBuf,
}

/// The word of a command that stands for the name of the unit that is stopped: of a template, the instance.
pub const UNIT_STOPPED: &str = "%n";

impl DropIn {
    /// That of the unit with this full name.
    pub fn of(unit: &str) -> Self {
        Self::under(Path::new(RUNTIME), unit)
    }

    /// The same, with another directory in place of `/run/systemd/system`.
    pub fn under(directory: &Path, unit: &str) -> Self {
        Self { unit: unit.to_owned(), path: directory.join(format!("{unit}.d")).join(FILE) }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a command, a program's path and its arguments, to what the unit runs when it is stopped. systemd runs it as root whatever
    /// `User=` is, and does not mind if it fails. Returns whether anything changed; where it is there already, and systemd knows
    /// it, nothing is done.
    ///
    /// The unit has to stop the same way if steer is not there any more: that is what [`DropIn::remove`] is for.
    pub async fn install(&self, manager: &Manager, command: &[&str]) -> Result<bool, UnitError> {
        let is_written = self.write(&text(&self.unit, command))?;
        let reloads = is_written || !self.is_loaded(manager).await?;
        if reloads {
            manager.reload().await?;
        }
        Ok(reloads)
    }

    /// Takes the command away again. Returns whether anything changed; where it is not there, and systemd knows of none, nothing is
    /// done.
    pub async fn remove(&self, manager: &Manager) -> Result<bool, UnitError> {
        let is_deleted = self.delete()?;
        let reloads = is_deleted || self.is_loaded(manager).await?;
        if reloads {
            manager.reload().await?;
        }
        Ok(reloads)
    }

    /// Whether systemd has read the file. One that was written when systemd could not be told is still to be read. A template is read with
    /// each of its instances: any of them tells.
    async fn is_loaded(&self, manager: &Manager) -> Result<bool, UnitError> {
        let connection = &manager.connection().await?;
        let unit = match is_template(&self.unit) {
            true => match manager.instances(&self.unit).await?.into_iter().next() {
                Some(instance) => connection.unit_object(&instance.name).await?,
                None => return Ok(self.path.exists()),
            },
            false => connection.unit_object(&self.unit).await?,
        };
        let (paths, is_outdated) = tokio::try_join!(
            connection.property::<Vec<String>>(unit.as_str(), UNIT, "DropInPaths"),
            connection.property::<bool>(unit.as_str(), UNIT, "NeedDaemonReload"),
        )?;
        Ok(!is_outdated && paths.iter().any(|path| Path::new(path) == self.path))
    }

    /// Writes the file, all of it or nothing. Returns whether it had another content, or none.
    fn write(&self, text: &str) -> Result<bool, UnitError> {
        let failed =
            |operation| move |source| UnitError::DropIn { operation, path: self.path.clone(), source };
        match fs::read(&self.path) {
            Ok(found) if found == text.as_bytes() => return Ok(false),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("read")(error)),
            _ => {}
        }
        // systemd reads what ends in .conf.
        let aside = self.path.with_extension("new");
        fs::create_dir_all(self.directory())
            .and_then(|()| fs::write(&aside, text))
            // Whatever the umask is: a drop-in is no secret, and systemctl cat is for everybody.
            .and_then(|()| fs::set_permissions(&aside, readable()))
            .and_then(|()| fs::rename(&aside, &self.path))
            .map_err(failed("write"))?;
        Ok(true)
    }

    /// Deletes the file, and its directory if it is empty then. Returns whether there was a file.
    fn delete(&self) -> Result<bool, UnitError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| UnitError::DropIn { operation: "remove", path, source }
        };
        let is_deleted = match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            result => result.map(|()| true).map_err(failed(&self.path))?,
        };
        match fs::remove_dir(self.directory()) {
            Err(error)
                if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) =>
            {
                Err(failed(self.directory())(error))
            }
            _ => Ok(is_deleted),
        }
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

fn readable() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o644)
}

/// What the file says.
fn text(unit: &str, command: &[&str]) -> String {
    let command: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    let command = command.join(" ");
    format!(
        "\
# Written by steer, which steers connections to {unit}. Before the unit is stopped it gets no new connections and answers those that
# it has; without this line those are lost. `steer release` removes this file.
[Service]
ExecStop=-+{command}
"
    )
}

/// The word as a unit file has it, so that systemd makes nothing else of it: no specifiers, no variables, no second word.
fn quoted(word: &str) -> String {
    if word == UNIT_STOPPED {
        return word.to_owned();
    }
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '%' | '$' => text.extend([c, c]),
            '"' | '\\' => text.extend(['\\', c]),
            _ if c.is_ascii_control() => text += &format!("\\x{:02x}", u32::from(c)),
            _ => text.push(c),
        }
    }
    text.push('"');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.:=,@+".contains(c);
    if word.chars().all(is_plain) && !word.is_empty() { word.to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_adds_one_line_and_says_who_did() {
        let text = text("nginx.service", &["/usr/bin/steer", "drain", "web/*"]);
        assert!(text.starts_with("# Written by steer, which steers connections to nginx.service."));
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        // An empty ExecStop= would take the unit's own away.
        assert_eq!(lines, ["[Service]", "ExecStop=-+/usr/bin/steer drain \"web/*\""]);
    }

    #[test]
    fn words_stay_what_they_are() {
        for (word, expected) in [
            ("/usr/bin/steer", "/usr/bin/steer"),
            ("--timeout=5s", "--timeout=5s"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("100%n", "\"100%%n\""),
            ("$MAINPID", "\"$$MAINPID\""),
            ("a\"\\b", "\"a\\\"\\\\b\""),
            ("a\nExecStop=x", "\"a\\x0aExecStop=x\""),
            (";", "\";\""),
        ] {
            assert_eq!(quoted(word), expected, "{word:?}");
        }
    }

    #[test]
    fn it_is_written_once_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let drop_in = DropIn::under(directory.path(), "nginx.service");
        assert_eq!(drop_in.path(), directory.path().join("nginx.service.d/50-steer.conf"));
        assert!(drop_in.write("one").unwrap());
        assert!(!drop_in.write("one").unwrap());
        assert!(drop_in.write("other").unwrap());
        assert_eq!(fs::read_to_string(drop_in.path()).unwrap(), "other");
        assert_eq!(fs::metadata(drop_in.path()).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(drop_in.directory()).unwrap().count(), 1);
        assert!(drop_in.delete().unwrap());
        assert!(!drop_in.directory().exists());
        assert!(!drop_in.delete().unwrap());
    }

    #[test]
    fn what_others_have_put_beside_it_stays() {
        let directory = tempfile::tempdir().unwrap();
        let drop_in = DropIn::under(directory.path(), "nginx.service");
        drop_in.write("one").unwrap();
        let other = drop_in.directory().join("90-other.conf");
        fs::write(&other, "").unwrap();
        assert!(drop_in.delete().unwrap());
        assert!(other.exists());
        assert!(!drop_in.delete().unwrap());
    }

    #[test]
    fn a_failure_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("nginx.service.d"), "").unwrap();
        let error = DropIn::under(directory.path(), "nginx.service").write("one").unwrap_err();
        assert!(error.to_string().ends_with("/nginx.service.d/50-steer.conf"), "{error}");
    }
}
