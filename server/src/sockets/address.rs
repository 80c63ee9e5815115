//! A group's listen address: `tcp://127.0.0.1:8080`, `udp://[::]:443`; `HOST:PORT` alone is TCP.

use std::{fmt, net::SocketAddr, str::FromStr};

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
        "write tcp://127.0.0.1:8080, udp://[::]:443, or HOST:PORT for tcp; names are not resolved"
    }
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |reason| AddressError { text: text.to_owned(), reason };
        let (protocol, rest) = match text.split_once("://") {
            Some(("tcp", rest)) => (Protocol::Tcp, rest),
            Some(("udp", rest)) => (Protocol::Udp, rest),
            Some(_) => return Err(error("the scheme is neither tcp nor udp")),
            None => (Protocol::Tcp, text),
        };
        let address = rest.parse().map_err(|_| error("what follows is not IP:PORT"))?;
        Ok(Self { protocol, address })
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
    fn what_is_no_address_says_why() {
        for text in
            ["", "8080", "localhost:80", "sctp://1.2.3.4:5", "::1:80", "tcp://1.2.3.4", "1.2.3.4:70000"]
        {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }
}
