//! Connection IDs that say which worker chose them, as draft-ietf-quic-load-balancers-21 has it without encryption: an octet with
//! the configuration's ID and the length of what follows, the server ID, and a nonce. Or such as say nothing.

use std::{env, time::Duration};

use anyhow::{Context, Result};
use quinn::{ConnectionId, ConnectionIdGenerator};
use rustix::rand::{GetRandomFlags, getrandom};

const CONFIG_ID: &str = "STEER_QUIC_CONFIG_ID";
const SERVER_ID: &str = "STEER_QUIC_SERVER_ID";
const CID_LENGTH: &str = "STEER_QUIC_CID_LENGTH";

/// 7 stands for IDs that no configuration knows.
const CONFIG_ID_MAX: u8 = 6;
/// Of a whole ID in QUIC version 1, in octets.
const LENGTH_MAX: usize = 20;
/// Of the nonce, in octets.
const NONCE_MIN: usize = 4;

/// As long as quinn's own.
const RANDOM_LENGTH: usize = 8;

/// Makes IDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConnectionIds {
    /// What all begin with; random octets follow.
    prefix: Vec<u8>,
    /// Of a whole ID, in octets.
    length: usize,
}

/// As the daemon has said that this worker's are to be; random where it has said nothing.
pub(crate) fn from_environment() -> Result<ConnectionIds> {
    match [CONFIG_ID, SERVER_ID, CID_LENGTH].map(|name| env::var(name).ok()) {
        [None, None, None] => Ok(ConnectionIds { prefix: Vec::new(), length: RANDOM_LENGTH }),
        [Some(config_id), Some(server_id), Some(length)] => {
            ConnectionIds::parse(&config_id, &server_id, &length)
        }
        some => anyhow::bail!("{CONFIG_ID}, {SERVER_ID} and {CID_LENGTH} belong together, and are {some:?}"),
    }
}

impl ConnectionIds {
    fn parse(config_id: &str, server_id: &str, length: &str) -> Result<Self> {
        let config: u8 = config_id.parse().with_context(|| format!("{CONFIG_ID} is {config_id:?}"))?;
        anyhow::ensure!(config <= CONFIG_ID_MAX, "{CONFIG_ID} is {config}, and {CONFIG_ID_MAX} at most");
        let server = octets(server_id).with_context(|| format!("{SERVER_ID} is {server_id:?}"))?;
        let length: usize = length.parse().with_context(|| format!("{CID_LENGTH} is {length:?}"))?;
        let lengths = 1 + server.len() + NONCE_MIN..=LENGTH_MAX;
        anyhow::ensure!(lengths.contains(&length), "{CID_LENGTH} is {length}, and {lengths:?} can be");
        let first = config << 5 | (length - 1) as u8;
        Ok(Self { prefix: [vec![first], server].concat(), length })
    }

    fn with_nonce(&self, fill: impl FnOnce(&mut [u8])) -> ConnectionId {
        let mut id = [0; LENGTH_MAX];
        let (prefix, nonce) = id[..self.length].split_at_mut(self.prefix.len());
        prefix.copy_from_slice(&self.prefix);
        fill(nonce);
        ConnectionId::new(&id[..self.length])
    }
}

/// Any ID is taken for a valid one, unlike by quinn's own: a packet of another worker's connection is to be answered with a
/// reset, not dropped.
impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.with_nonce(|nonce| {
            // Whole up to 256 octets, and only before the kernel's first entropy not at once.
            getrandom(nonce, GetRandomFlags::empty()).expect("the kernel has random octets");
        })
    }

    fn cid_len(&self) -> usize {
        self.length
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn octets(hex: &str) -> Result<Vec<u8>> {
    anyhow::ensure!(
        !hex.is_empty() && hex.len().is_multiple_of(2) && hex.is_ascii(),
        "not two digits for each octet"
    );
    let octet = |at| u8::from_str_radix(&hex[at..at + 2], 16).context("not hexadecimal");
    (0..hex.len()).step_by(2).map(octet).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_octet_tells_the_configuration_and_the_length_of_the_rest() {
        let ids = ConnectionIds::parse("5", "0a0100030007", "12").unwrap();
        let id = ids.with_nonce(|nonce| nonce.copy_from_slice(&[1, 2, 3, 4, 5]));
        assert_eq!(id[..], [0b101_01011, 0x0a, 1, 0, 3, 0, 7, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn no_two_are_the_same_and_all_are_of_the_length_that_is_told() {
        let mut ids = ConnectionIds::parse("0", "0a01", "8").unwrap();
        let [one, other] = [(), ()].map(|()| ids.generate_cid());
        assert_eq!((one.len(), other.len()), (8, 8));
        assert_eq!(one[..3], other[..3]);
        assert_ne!(one, other);
    }

    #[test]
    fn without_a_server_id_all_octets_are_random() {
        let ids = ConnectionIds { prefix: Vec::new(), length: RANDOM_LENGTH };
        assert_eq!(ids.with_nonce(|nonce| nonce.fill(7))[..], [7; 8]);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_variable_and_value() {
        for (config_id, server_id, length, told) in [
            ("7", "0a01", "8", "STEER_QUIC_CONFIG_ID is 7"),
            ("x", "0a01", "8", "STEER_QUIC_CONFIG_ID is \"x\""),
            ("0", "0a0", "8", "STEER_QUIC_SERVER_ID is \"0a0\""),
            ("0", "0ag1", "8", "STEER_QUIC_SERVER_ID is \"0ag1\""),
            ("0", "", "8", "STEER_QUIC_SERVER_ID is \"\""),
            ("0", "0a01", "6", "STEER_QUIC_CID_LENGTH is 6, and 7..=20 can be"),
            ("0", "0a01", "21", "STEER_QUIC_CID_LENGTH is 21"),
        ] {
            let error = ConnectionIds::parse(config_id, server_id, length).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
    }
}
