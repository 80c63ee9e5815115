//! Where metrics are served: `127.0.0.1:9464`, `unix:/run/steer/metrics.sock`.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use thiserror::Error;

/// Where metrics are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAddress {
    /// A loopback address and a port; with port 0 the kernel chooses one, which the log tells.
    Tcp(SocketAddr),
    /// A unix socket at this path.
    Unix(PathBuf),
}

/// A text that is none of these.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} {reason}")]
pub struct MetricsAddressError {
    text: String,
    reason: &'static str,
    hint: &'static str,
}

impl MetricsAddressError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        self.hint
    }
}

impl FromStr for MetricsAddress {
    type Err = MetricsAddressError;

    fn from_str(text: &str) -> Result<Self, MetricsAddressError> {
        let error = |reason, hint| MetricsAddressError { text: text.to_owned(), reason, hint };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return match path.is_absolute() && !text.contains('\0') {
                true => Ok(Self::Unix(path)),
                false => Err(error(
                    "names no unix socket: what follows unix: does not begin with /",
                    "write unix:/run/steer/metrics.sock",
                )),
            };
        }
        let address: SocketAddr = text.parse().map_err(|_| {
            let hint =
                "write 127.0.0.1:9464, [::1]:9464 or unix:/run/steer/metrics.sock; names are not resolved";
            error("is no address to serve metrics at: it is neither IP:PORT nor unix:PATH", hint)
        })?;
        if !address.ip().to_canonical().is_loopback() {
            return Err(error(
                "is no loopback address, and metrics are for everybody who can connect",
                "write 127.0.0.1:9464 or unix:/run/steer/metrics.sock, with a proxy before it that asks who comes",
            ));
        }
        Ok(Self::Tcp(address))
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses_and_unix_sockets_are_written_as_they_are_read() {
        for text in ["127.0.0.1:9464", "127.1.2.3:0", "[::1]:9464", "[::ffff:127.0.0.1]:1", "unix:/run/m"] {
            assert_eq!(text.parse::<MetricsAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_others_could_reach_and_what_is_none_is_refused_with_a_hint() {
        for (text, reason) in [
            ("0.0.0.0:9464", "no loopback address"),
            ("[::]:9464", "no loopback address"),
            ("192.0.2.1:80", "no loopback address"),
            ("[::ffff:192.0.2.1]:80", "no loopback address"),
            ("localhost:9464", "neither IP:PORT nor unix:PATH"),
            ("127.0.0.1", "neither IP:PORT nor unix:PATH"),
            ("127.0.0.1:65536", "neither IP:PORT nor unix:PATH"),
            ("/run/steer/metrics.sock", "neither IP:PORT nor unix:PATH"),
            ("", "neither IP:PORT nor unix:PATH"),
            ("unix:", "does not begin with /"),
            ("unix:metrics.sock", "does not begin with /"),
            ("unix:/run/\0", "does not begin with /"),
        ] {
            let error = text.parse::<MetricsAddress>().unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            assert!(error.to_string().starts_with(&format!("{text:?} ")), "{error}");
            assert!(error.hint().contains("unix:/run/steer/metrics.sock"), "{}", error.hint());
        }
    }
}
