//! systemd itself: what it has, and what it is told.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Mutex, time::timeout};
use zbus::OwnedObjectPath;

use super::{
    Unit, UnitError, UnitName,
    connection::{ANSWER, Connection, MANAGER, MANAGER_PATH, SERVICE, SYSTEM_BUS, UNIT},
};

/// How long a connection may take, also behind others that wait for it.
const CONNECTING: Duration = Duration::from_secs(8);

/// How long systemd may take to read all unit files again. It answers nobody else meanwhile.
const RELOAD: Duration = Duration::from_secs(30);

/// A unit as `ListUnitsByPatterns` has it: name, description, load state, active state, sub-state, the unit that it follows, its
/// object, and number, type and object of its job.
pub(super) type Listed =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// A handle of the service manager. It connects again where the connection has ended; clones share one.
#[derive(Debug, Clone)]
pub struct Manager {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    current: Mutex<Option<Connection>>,
}

impl Manager {
    /// Connects to the systemd of this host, by the system bus.
    pub async fn connect() -> Result<Self, UnitError> {
        Self::connect_by(Path::new(SYSTEM_BUS)).await
    }

    /// The same, by the bus that listens here.
    pub async fn connect_by(socket: &Path) -> Result<Self, UnitError> {
        let shared = Shared { socket: socket.to_owned(), current: Mutex::default() };
        let manager = Self { shared: Arc::new(shared) };
        manager.connection().await?;
        Ok(manager)
    }

    /// The connection, or a new one where that has ended.
    pub(super) async fn connection(&self) -> Result<Connection, UnitError> {
        let connected = async {
            let mut current = self.shared.current.lock().await;
            if let Some(connection) = current.as_ref().filter(|connection| !connection.is_closed()) {
                return Ok(connection.clone());
            }
            let connection = Connection::open(&self.shared.socket).await?;
            *current = Some(connection.clone());
            Ok(connection)
        };
        let connected = timeout(CONNECTING, connected).await;
        connected.map_err(|_| UnitError::TimedOut { call: "a connection", limit: CONNECTING })?
    }

    /// The service with this name, which may be short, `nginx`, or an alias. Templates are no units, see [`Manager::instances`].
    pub async fn find(&self, name: &str) -> Result<Unit, UnitError> {
        let name = UnitName::complete(name)?;
        if name.is_template() {
            return Err(UnitError::Template(name.to_string()));
        }
        self.load(name.as_str()).await?.usable()
    }

    /// The instances of a template, `app@`, that are loaded: those that run, have failed, or are wanted by others. There may be none.
    pub async fn instances(&self, template: &str) -> Result<Vec<Unit>, UnitError> {
        let template = UnitName::complete(template)?;
        let mut instances = Vec::new();
        for listed in self.listed(&template.instances()).await? {
            instances.extend(self.load(&listed.0).await?.usable().ok());
        }
        if instances.is_empty() && !self.has_file(template.as_str()).await? {
            return Err(UnitError::NotFound(template.to_string()));
        }
        instances.sort_by(|one: &Unit, other| one.name.cmp(&other.name));
        Ok(instances)
    }

    /// The service that a process is of; nothing where it is of none. A process that a user's own manager has started is in that
    /// manager's service, `user@1000.service`, which is not the server's: nothing, too.
    pub async fn unit_of(&self, pid: u32) -> Result<Option<String>, UnitError> {
        let connection = self.connection().await?;
        let path: OwnedObjectPath = match connection.call_manager("GetUnitByPID", &(pid,)).await {
            Err(error) if error.is("NoUnitForPID") => return Ok(None),
            found => found?,
        };
        let name: String = connection.property(path.as_str(), UNIT, "Id").await?;
        Ok(Some(name).filter(|name| is_servers(name)))
    }

    /// Has systemd read all unit files again, as `systemctl daemon-reload` does.
    pub async fn reload(&self) -> Result<(), UnitError> {
        self.connection().await?.call(MANAGER_PATH, MANAGER, "Reload", &(), RELOAD).await
    }

    /// A unit, with what systemd reads from its files if it is not loaded yet.
    async fn load(&self, name: &str) -> Result<Unit, UnitError> {
        let connection = self.connection().await?;
        let path = connection.unit_object(name).await?;
        let all = |interface| connection.properties(path.as_str(), interface);
        let (unit, service) = tokio::try_join!(all(UNIT), all(SERVICE))?;
        Unit::read(unit, service)
    }

    /// The units that are loaded and whose name matches.
    async fn listed(&self, pattern: &str) -> Result<Vec<Listed>, UnitError> {
        list(&self.connection().await?, pattern).await
    }

    /// Whether there is a unit file of this name. systemd looks through its directories for it, which takes some milliseconds.
    async fn has_file(&self, name: &str) -> Result<bool, UnitError> {
        let none: [&str; 0] = [];
        let connection = self.connection().await?;
        let arguments = (&none[..], &[name][..]);
        let files: Vec<(String, String)> =
            connection.call(MANAGER_PATH, MANAGER, "ListUnitFilesByPatterns", &arguments, ANSWER).await?;
        Ok(!files.is_empty())
    }
}

/// The units that are loaded and whose name matches. Unlike every call that names a unit or its object, this one does not load it.
/// systemd drops a unit that nobody needs and sends `UnitRemoved`: a watch that loaded it in answer to that would never rest.
pub(super) async fn list(connection: &Connection, pattern: &str) -> Result<Vec<Listed>, UnitError> {
    let any_state: [&str; 0] = [];
    connection.call_manager("ListUnitsByPatterns", &(&any_state[..], &[pattern][..])).await
}

/// Whether it is a service, and no user's manager.
fn is_servers(name: &str) -> bool {
    name.ends_with(".service") && !name.starts_with("user@")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_manager_and_a_session_are_no_servers() {
        assert!(is_servers("nginx.service"));
        for name in ["user@1000.service", "session-1.scope", "init.scope", "nginx.socket"] {
            assert!(!is_servers(name), "{name}");
        }
    }
}
