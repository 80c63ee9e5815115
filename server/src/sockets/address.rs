//! A group's listen addresses: `tcp://127.0.0.1:8080`, `udp://[::]:443`; `IP:PORT` alone is TCP. `:8080` and `*:8080` are all
//! addresses of the host, `localhost:8080` its loopback, of both families.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The transport of a listen address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// A listening TCP socket receives connections.
    Tcp,
    /// A bound UDP socket receives datagrams.
    Udp,
}

/// Where a group listens. Each is one SO_REUSEPORT group of the kernel: `[::]` and `0.0.0.0` are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ListenAddress {
    /// The transport.
    pub protocol: Protocol,
    /// Address and port; port 0 lets the kernel choose one.
    pub address: SocketAddr,
}

/// A text that is no listen address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no listen address: {reason}")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl AddressError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        "write tcp://127.0.0.1:8080, udp://[::]:443, or IP:PORT for tcp; :8080 is all addresses, localhost:8080 is loopback, \
         and no other name is resolved"
    }
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (protocol, rest) = scheme(text)?;
        let address = rest.parse().map_err(|_| error(text, "what follows is not IP:PORT"))?;
        Ok(Self { protocol, address })
    }
}

fn error(text: &str, reason: &'static str) -> AddressError {
    AddressError { text: text.to_owned(), reason }
}

fn scheme(text: &str) -> Result<(Protocol, &str), AddressError> {
    match text.split_once("://") {
        Some(("tcp", rest)) => Ok((Protocol::Tcp, rest)),
        Some(("udp", rest)) => Ok((Protocol::Udp, rest)),
        Some(_) => Err(error(text, "the scheme is neither tcp nor udp")),
        None => Ok((Protocol::Tcp, text)),
    }
}

/// What a host has of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    /// Whether it has IPv6 addresses.
    pub has_ipv6: bool,
    /// Whether a socket at `[::]` takes no IPv4 (`net.ipv6.bindv6only`).
    pub v6_only: bool,
}

impl Families {
    /// Of this network namespace.
    pub fn here() -> Self {
        let says = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            has_ipv6: !says("/proc/net/if_inet6").is_empty(),
            v6_only: says("/proc/sys/net/ipv6/bindv6only").trim() == "1",
        }
    }
}

/// What a person writes for a listen address: names one, or one for each family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The addresses.
    pub addresses: Vec<ListenAddress>,
    /// Where else a program may listen that is told the same: at all addresses of IPv4, where one socket takes both families.
    pub alternative: Option<ListenAddress>,
}

impl Listen {
    /// Reads it for a host with these families.
    pub fn parse(text: &str, families: Families) -> Result<Self, AddressError> {
        let (protocol, rest) = scheme(text)?;
        let (v4, v6): (IpAddr, IpAddr) = match rest.rsplit_once(':') {
            Some(("" | "*", _)) => (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()),
            Some(("localhost", _)) => (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
            _ => {
                return text.parse().map(|address| Self { addresses: vec![address], alternative: None });
            }
        };
        let port = rest.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let port: u16 = port.ok_or_else(|| error(text, "the port is not from 0 to 65535"))?;
        // One socket at `[::]` takes both, and is what most programs bind that are told nothing.
        let is_dual = v6.is_unspecified() && !families.v6_only;
        let hosts = match (families.has_ipv6, is_dual) {
            (false, _) => vec![v4],
            (true, true) => vec![v6],
            (true, false) => vec![v4, v6],
        };
        let address = |host| ListenAddress { protocol, address: SocketAddr::new(host, port) };
        let alternative = (families.has_ipv6 && is_dual).then(|| address(v4));
        Ok(Self { addresses: hosts.into_iter().map(address).collect(), alternative })
    }
}

impl FromStr for Listen {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text, Families::here())
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.protocol, self.address)
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_written_and_tcp_is_the_default() {
        for text in ["tcp://127.0.0.1:8080", "udp://[::]:443", "tcp://[2001:db8::1]:0"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        let plain: ListenAddress = "0.0.0.0:80".parse().unwrap();
        assert_eq!(plain.to_string(), "tcp://0.0.0.0:80");
    }

    #[test]
    fn all_addresses_and_loopback_are_of_the_families_that_the_host_has() {
        let both = Families { has_ipv6: true, v6_only: false };
        let parts = Families { has_ipv6: true, v6_only: true };
        let old = Families { has_ipv6: false, v6_only: false };
        let read = |text: &str, families| {
            let Listen { addresses, .. } = Listen::parse(text, families).unwrap();
            addresses.iter().map(ListenAddress::to_string).collect::<Vec<_>>()
        };
        for text in [":80", "*:80", "tcp://:80", "tcp://*:80"] {
            assert_eq!(read(text, both), ["tcp://[::]:80"]);
            assert_eq!(read(text, parts), ["tcp://0.0.0.0:80", "tcp://[::]:80"]);
            assert_eq!(read(text, old), ["tcp://0.0.0.0:80"]);
        }
        let alternative = |text, families| Listen::parse(text, families).unwrap().alternative;
        assert_eq!(alternative(":80", both), Some("0.0.0.0:80".parse().unwrap()));
        for (text, families) in [(":80", parts), (":80", old), ("[::]:80", both), ("localhost:80", both)] {
            assert_eq!(alternative(text, families), None, "{text}");
        }
        assert_eq!(read("udp://:53", both), ["udp://[::]:53"]);
        assert_eq!(read("localhost:80", both), ["tcp://127.0.0.1:80", "tcp://[::1]:80"]);
        assert_eq!(read("localhost:80", old), ["tcp://127.0.0.1:80"]);
        assert_eq!(read("[::1]:80", old), ["tcp://[::1]:80"], "what is said is what is meant");
        for text in [":", ":http", "*:70000", "localhost", "localhost:", "example.org:80", "::80"] {
            assert!(Listen::parse(text, both).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        for text in
            ["", "8080", "localhost:80", "sctp://1.2.3.4:5", "::1:80", "tcp://1.2.3.4", "1.2.3.4:70000"]
        {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }
}
