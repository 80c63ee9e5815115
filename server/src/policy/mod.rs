//! Steering policies, as users write them: `hash`, `source:ipv4=24,ipv6=64`, `least-loaded:tie=8`, `cpu`, `quic-cid:host=0a01`.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod quic_cid;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use server_common::{flow_hash::Seed, keying::Keying};
use thiserror::Error;

pub use quic_cid::QuicCid;

/// How much more than half as much again two loads must differ by to count: workers that are evenly loaded differ by a few
/// connections at any instant, by some six deviations of their difference at eight connections each.
pub const TIE_DEFAULT: u32 = 16;

/// The largest tie: more would be no policy by load any more.
pub const TIE_MAX: u32 = 1_000_000;

/// The largest weight of a worker. The smallest is 0: it gets no new flows.
pub const WEIGHT_MAX: u32 = 100;

/// The weight of a worker of which nothing is said.
pub const WEIGHT_DEFAULT: u32 = 1;

/// What decides which worker gets a new flow. Weights count for all of them: they are in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Policy {
    /// The hash of its 4-tuple.
    #[default]
    Hash,
    /// The hash of its client's address, or of that address's first bits, so that a NAT or an IPv6 network stays together.
    Source {
        /// How many bits of an IPv4 address count, 0 to 32.
        ipv4: u8,
        /// How many bits of an IPv6 address count, 0 to 128.
        ipv6: u8,
    },
    /// The less loaded of the two workers that two independent hashes of its 4-tuple find; the first where they are about even. A
    /// worker that takes nothing gets nothing.
    LeastLoaded {
        /// How much more than half as much again the first must have for the second to get the flow, 0 to [`TIE_MAX`].
        tie: u32,
    },
    /// The worker that is pinned to the CPU that took the packet; by the hash of the 4-tuple among several, and where there is
    /// none.
    Cpu,
    /// For a datagram, the worker that made its QUIC connection ID, as that says; the hash of the ID where the client has made it up.
    /// Where there is no such ID, and for connections of TCP, the hash of the 4-tuple.
    QuicCid(QuicCid),
}

/// A text that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// The name is unknown.
    #[error("{0:?} is no policy")]
    Name(String),
    /// The policy has no such option.
    #[error("the policy {policy} has no option {option:?}")]
    Option {
        /// The policy's name.
        policy: &'static str,
        /// What was written.
        option: String,
    },
    /// The option's value is not one.
    #[error("{option}={value:?} of the policy {policy} is not from {least} to {most}")]
    Value {
        /// The policy's name.
        policy: &'static str,
        /// The option's name.
        option: &'static str,
        /// What was written.
        value: String,
        /// The smallest.
        least: u32,
        /// The largest.
        most: u32,
    },
    /// The host that an option names in QUIC connection IDs is none.
    #[error(
        "{option}={value:?} of the policy {policy} is no host: 0 to 22 hexadecimal digits, an even number"
    )]
    Host {
        /// The policy's name.
        policy: &'static str,
        /// The option's name.
        option: &'static str,
        /// What was written.
        value: String,
    },
    /// Two hosts for one configuration of QUIC connection IDs.
    #[error("the policy {policy} has configuration {config} twice")]
    Twice {
        /// The policy's name.
        policy: &'static str,
        /// The configuration's number.
        config: u8,
    },
    /// QUIC connection IDs would be longer than QUIC allows.
    #[error("connection IDs of the policy {policy} would have {octets} octets, and can have {most}")]
    TooLong {
        /// The policy's name.
        policy: &'static str,
        /// What they would have.
        octets: usize,
        /// What they can have.
        most: usize,
    },
}

impl PolicyError {
    /// The way out.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Name(_) => "policies are hash, source, least-loaded, cpu and quic-cid",
            Self::Option { policy: "source", .. } => {
                "source takes prefix lengths: source:ipv4=24,ipv6=64; without them the whole address counts"
            }
            Self::Option { policy: "least-loaded", .. } => "least-loaded takes a tie: least-loaded:tie=16",
            Self::Option { policy: "quic-cid", .. } => {
                "quic-cid takes config, host, nonce and also: quic-cid:config=1,host=0a01,also=0/0a01"
            }
            Self::Option { .. } => "it takes no options",
            Self::Value { policy: "quic-cid", option: "nonce", .. } => "a nonce is so many random octets",
            Self::Value { policy: "quic-cid", .. } => {
                "a configuration is one of the seven numbers that three bits can be, but for 7: also=0/0a01 with its host"
            }
            Self::Host { .. } => {
                "write each octet of the host's part of connection IDs as two digits: host=0a01"
            }
            Self::Twice { .. } => {
                "give each configuration once: also= is for IDs of configurations beside its own"
            }
            Self::TooLong { .. } => "shorten the host or the nonce: there are 1 and 4 octets beside them",
            Self::Value { option: "tie", .. } => {
                "a tie is how many connections more, beyond half as much again, still count as even"
            }
            Self::Value { .. } => "a prefix length is how many of the address's first bits count",
        }
    }
}

impl Policy {
    /// Its name, without options.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Source { .. } => "source",
            Self::LeastLoaded { .. } => "least-loaded",
            Self::Cpu => "cpu",
            Self::QuicCid(_) => "quic-cid",
        }
    }

    /// What it means, in a sentence.
    pub fn meaning(&self) -> String {
        match *self {
            Self::Hash => "the hash of a connection's 4-tuple decides".to_owned(),
            Self::Source { ipv4: 32, ipv6: 128 } => "the hash of the client's address decides".to_owned(),
            Self::Source { ipv4, ipv6 } => format!(
                "the hash of the client's address decides: of the first {ipv4} bits of IPv4, {ipv6} of IPv6"
            ),
            Self::LeastLoaded { tie } => format!(
                "two hashes of the 4-tuple name two workers; the second gets the connection where the first has half as much \
                 again and {tie} more in hand, or takes nothing"
            ),
            Self::Cpu => {
                "the worker that is pinned to the CPU that took the packet, else the hash of the 4-tuple"
                    .to_owned()
            }
            Self::QuicCid(_) => {
                "a datagram goes to the worker that its QUIC connection ID names; what has none goes by the hash of the 4-tuple"
                    .to_owned()
            }
        }
    }

    /// How a flow's key is made, which finds its bucket.
    pub fn keying(&self, seed: Seed) -> Keying {
        match *self {
            Self::Source { ipv4, ipv6 } => Keying::source(seed, ipv4, ipv6),
            Self::Hash | Self::LeastLoaded { .. } | Self::Cpu | Self::QuicCid(_) => Keying::four_tuple(seed),
        }
    }

    /// What QUIC connection IDs workers make under it, which they learn as they start; nothing where it says nothing of that.
    pub fn connection_ids(&self) -> Option<String> {
        if let Self::QuicCid(ids) = self { Some(ids.made()) } else { None }
    }

    /// Whether the table alone says which worker a connection goes to; otherwise loads or CPUs have a part in it.
    pub fn is_by_table(&self) -> bool {
        matches!(self, Self::Hash | Self::Source { .. } | Self::QuicCid(_))
    }

    fn with(mut self, option: &str) -> Result<Self, PolicyError> {
        let policy = self.name();
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let number = |option: &'static str, most: u32| {
            let number = value.parse::<u32>().ok().filter(|number| *number <= most);
            number.ok_or_else(|| PolicyError::Value {
                policy,
                option,
                value: value.to_owned(),
                least: 0,
                most,
            })
        };
        match (&mut self, key) {
            (Self::Source { ipv4, .. }, "ipv4") => *ipv4 = number("ipv4", 32)? as u8,
            (Self::Source { ipv6, .. }, "ipv6") => *ipv6 = number("ipv6", 128)? as u8,
            (Self::LeastLoaded { tie }, "tie") => *tie = number("tie", TIE_MAX)?,
            _ => return Err(PolicyError::Option { policy, option: option.to_owned() }),
        }
        Ok(self)
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let (name, options) =
            text.split_once(':').map_or((text, None), |(name, options)| (name, Some(options)));
        let policy = match name {
            "hash" => Self::Hash,
            "source" => Self::Source { ipv4: 32, ipv6: 128 },
            "least-loaded" => Self::LeastLoaded { tie: TIE_DEFAULT },
            "cpu" => Self::Cpu,
            "quic-cid" => {
                return options.map_or_else(|| Ok(QuicCid::default()), QuicCid::read).map(Self::QuicCid);
            }
            _ => return Err(PolicyError::Name(text.to_owned())),
        };
        options.map_or(Ok(policy), |options| options.split(',').try_fold(policy, Self::with))
    }
}

/// As it is written: [`FromStr`] reads it back. What is as by default is left out.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::QuicCid(ids) = self {
            return ids.fmt(f);
        }
        f.write_str(self.name())?;
        match *self {
            Self::Source { ipv4: 32, ipv6: 128 } => Ok(()),
            Self::Source { ipv4, ipv6 } => write!(f, ":ipv4={ipv4},ipv6={ipv6}"),
            Self::LeastLoaded { tie } if tie != TIE_DEFAULT => write!(f, ":tie={tie}"),
            Self::Hash | Self::LeastLoaded { .. } | Self::Cpu | Self::QuicCid(_) => Ok(()),
        }
    }
}

impl TryFrom<String> for Policy {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<Policy> for String {
    fn from(policy: Policy) -> Self {
        policy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_as_it_is_written() {
        for text in ["hash", "source", "source:ipv4=24,ipv6=64", "least-loaded", "least-loaded:tie=0", "cpu"]
        {
            assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
        }
        assert_eq!("source:ipv6=64".parse(), Ok(Policy::Source { ipv4: 32, ipv6: 64 }));
        assert_eq!("least-loaded:tie=16".parse(), Ok(Policy::LeastLoaded { tie: TIE_DEFAULT }));
    }

    #[test]
    fn what_is_no_policy_is_refused_with_what_would_be_one() {
        let refused = |text: &str| {
            let error = text.parse::<Policy>().unwrap_err();
            (error.to_string(), error.hint().to_owned())
        };
        for text in ["", "Hash", "random", ":", "least_loaded"] {
            assert_eq!(refused(text).0, format!("{text:?} is no policy"));
        }
        assert_eq!(refused("hash:tie=3").0, "the policy hash has no option \"tie=3\"");
        assert_eq!(refused("cpu:").0, "the policy cpu has no option \"\"");
        assert_eq!(refused("source:ipv4=33").0, "ipv4=\"33\" of the policy source is not from 0 to 32");
        for text in ["source:ipv4=", "source:ipv6=129", "least-loaded:tie=-1", "least-loaded:tie=1000001"] {
            assert!(matches!(text.parse::<Policy>(), Err(PolicyError::Value { .. })), "{text}");
        }
        assert!(refused("source:prefix=24").1.contains("ipv4=24"));
    }
}
