//! Servers that somebody else starts, taken under management.

use serde::{Deserialize, Serialize};

use crate::{
    names::GroupName,
    sockets::address::{Families, Listen, ListenAddress},
};

/// Which server is to be adopted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdoptTarget {
    /// A unit of systemd: `nginx` or `nginx.service`.
    Unit(String),
    /// Whoever listens at an address, and only there.
    Address(AdoptedListen),
    /// The server that a process belongs to.
    Pid(u32),
    /// The processes of a cgroup, a path as `/proc/PID/cgroup` has it.
    Cgroup(String),
    /// A container in the daemon's network namespace, by its name or its id.
    Container(String),
}

/// An address as it is written, which may stand for two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AdoptedListen(pub String, pub Vec<ListenAddress>);

impl TryFrom<String> for AdoptedListen {
    type Error = crate::sockets::address::AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // Where one socket takes both families, a server may still have two.
        let listen = Listen::parse(&text, Families { has_ipv6: true, v6_only: true })?;
        Ok(Self(text, listen.addresses))
    }
}

impl From<AdoptedListen> for String {
    fn from(listen: AdoptedListen) -> Self {
        listen.0
    }
}

/// A server that was adopted, or would be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adopted {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The group that it is.
    pub group: GroupName,
    /// What tells its processes from others: a unit, a cgroup, a user.
    pub server: String,
    /// Its addresses.
    pub listen: Vec<AdoptedAddress>,
    /// Whether it is adopted now; otherwise this is what would be.
    pub adopted: bool,
    /// The file that says so from now on, where one was written.
    pub kept: Option<String>,
    /// What else there is to know, a sentence each.
    pub notes: Vec<String>,
    /// From the request to its end, in milliseconds.
    pub milliseconds: u64,
}

/// An address of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedAddress {
    /// The address.
    pub address: ListenAddress,
    /// How many listeners the server has there; each is a worker.
    pub listeners: u32,
    /// How many processes hold them.
    pub processes: u32,
}
