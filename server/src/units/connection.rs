//! The way to systemd: the system bus.
//!
//! Not `/run/systemd/private`, which leads there without a bus: systemd signs what it sends there with its well-known name, where D-Bus
//! has a unique one, and zbus (6.2) refuses such messages.

use std::{collections::HashMap, path::Path, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};
use zbus::{
    DynamicType, MessageStream, OwnedMatchRule, OwnedObjectPath, OwnedVariant, Type, connection::Builder,
};

use super::UnitError;

/// Its name on the bus.
pub(super) const SYSTEMD: &str = "org.freedesktop.systemd1";
/// Its manager: the object, and the interface.
pub(super) const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
pub(super) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// What every unit has, and what services have.
pub(super) const UNIT: &str = "org.freedesktop.systemd1.Unit";
pub(super) const SERVICE: &str = "org.freedesktop.systemd1.Service";
/// D-Bus's own.
pub(super) const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// How long systemd may take for an answer that it has at hand: the daemon goes on without it after that.
pub(super) const ANSWER: Duration = Duration::from_secs(3);

/// An object's properties, as D-Bus has them.
pub(super) type Properties = HashMap<String, OwnedVariant>;

/// Where the system bus is.
pub(super) const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// A connection to systemd, which sends signals through it. Clones are one connection.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) bus: zbus::Connection,
}

impl Connection {
    /// Connects by the bus that listens here.
    pub(super) async fn open(socket: &Path) -> Result<Self, UnitError> {
        let unreachable = |source| UnitError::Unreachable { source };
        let opened = async {
            let stream = UnixStream::connect(socket).await.and_then(UnixStream::into_std);
            let stream = stream.map_err(|error| unreachable(error.into()))?;
            Builder::unix_stream(stream).build().await.map_err(unreachable)
        };
        let opened = timeout(ANSWER, opened).await;
        let bus = opened.map_err(|_| UnitError::TimedOut { call: "a connection", limit: ANSWER })??;
        let connection = Self { bus };
        connection.subscribe().await?;
        Ok(connection)
    }

    /// Has systemd send signals, which it does only where somebody has asked for them. It also shows that it is there.
    pub(super) async fn subscribe(&self) -> Result<(), UnitError> {
        match self.call_manager("Subscribe", &()).await {
            Err(error) if error.is("AlreadySubscribed") => Ok(()),
            // The bus is there, and systemd is not.
            Err(UnitError::Call { source, .. }) => Err(UnitError::Unreachable { source }),
            done => done,
        }
    }

    /// Whether the other end has gone.
    pub(super) fn is_closed(&self) -> bool {
        self.bus.is_closed()
    }

    /// The signals that a rule is for. They have to be taken as they come: one that nobody takes holds up the answers behind it.
    pub(super) async fn signals(&self, rule: OwnedMatchRule) -> Result<MessageStream, UnitError> {
        let call = "AddMatch";
        let subscribed = timeout(ANSWER, MessageStream::for_match_rule(rule, &self.bus, None)).await;
        let subscribed = subscribed.map_err(|_| UnitError::TimedOut { call, limit: ANSWER })?;
        subscribed.map_err(|source| UnitError::Call { call, source })
    }

    /// Calls a method of the manager that answers at once.
    pub(super) async fn call_manager<R>(
        &self,
        method: &'static str,
        arguments: &(impl Serialize + DynamicType),
    ) -> Result<R, UnitError>
    where
        R: DeserializeOwned + Type,
    {
        self.call(MANAGER_PATH, MANAGER, method, arguments, ANSWER).await
    }

    /// A unit's object. The unit is loaded if it is not.
    pub(super) async fn unit_object(&self, name: &str) -> Result<OwnedObjectPath, UnitError> {
        self.call_manager("LoadUnit", &(name,)).await
    }

    /// One property of an object.
    pub(super) async fn property<T>(&self, path: &str, interface: &str, name: &str) -> Result<T, UnitError>
    where
        T: TryFrom<OwnedVariant, Error = zbus::Error>,
    {
        let value: OwnedVariant = self.call(path, PROPERTIES, "Get", &(interface, name), ANSWER).await?;
        T::try_from(value).map_err(|source| UnitError::Call { call: "Get", source })
    }

    /// All properties of an object that an interface has.
    pub(super) async fn properties(&self, path: &str, interface: &str) -> Result<Properties, UnitError> {
        self.call(path, PROPERTIES, "GetAll", &(interface,), ANSWER).await
    }

    /// Calls a method of an object.
    pub(super) async fn call<R>(
        &self,
        path: &str,
        interface: &str,
        method: &'static str,
        arguments: &(impl Serialize + DynamicType),
        limit: Duration,
    ) -> Result<R, UnitError>
    where
        R: DeserializeOwned + Type,
    {
        let error = |source| UnitError::Call { call: method, source };
        let reply = self.bus.call_method(Some(SYSTEMD), path, Some(interface), method, arguments);
        let reply = timeout(limit, reply).await.map_err(|_| UnitError::TimedOut { call: method, limit })?;
        reply.map_err(error)?.body().deserialize().map_err(error)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_host_without_systemd_is_told_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let error = Connection::open(&directory.path().join("bus")).await.unwrap_err();
        assert!(matches!(error, UnitError::Unreachable { .. }), "{error:?}");
        assert_eq!(error.to_string(), "cannot reach systemd by D-Bus");
        assert!(error.hint().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_given_up_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bus");
        // It takes connections, as the kernel does for a process that is stopped, and says nothing.
        let _hung = UnixListener::bind(&socket).unwrap();
        let error = Connection::open(&socket).await.unwrap_err();
        assert!(matches!(error, UnitError::TimedOut { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("hangs"));
    }
}
