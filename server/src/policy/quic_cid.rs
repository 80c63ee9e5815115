//! What the policy `quic-cid` says of connection IDs, as users write it: `quic-cid:config=1,host=0a01,nonce=8,also=0/0a01`.

use std::fmt;

use server_common::quic::{CONFIGS, Format, HOST_MAX, ID_AND_NONCE_MAX, NONCE_MIN, Owner, WORKER_OCTETS};

use super::PolicyError;

/// Octets of a nonce, where nothing else is said: 64 bits, so that IDs of one generation practically never repeat.
const NONCE_DEFAULT: u8 = 8;

const POLICY: &str = "quic-cid";

/// The connection IDs that workers are to make, and those that are known beside them: plaintext QUIC-LB,
/// draft-ietf-quic-load-balancers-21.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuicCid {
    /// The number of the configuration that IDs are made by, 0 to 6.
    config: u8,
    /// Octets of the nonce, 4 and more.
    nonce: u8,
    /// By configuration, the host that its IDs name; none where it is not known.
    pub(super) hosts: [Option<Host>; CONFIGS],
}

/// The first octets of a server ID, the same in all IDs of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Host {
    octets: [u8; HOST_MAX],
    length: u8,
}

impl Host {
    pub(super) fn octets(&self) -> &[u8] {
        &self.octets[..usize::from(self.length)]
    }

    /// Reads hexadecimal digits, two for each octet.
    fn read(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if !digits.len().is_multiple_of(2) || digits.len() > 2 * HOST_MAX {
            return None;
        }
        let mut host = Self { length: (digits.len() / 2) as u8, ..Self::default() };
        for (octet, digits) in host.octets.iter_mut().zip(digits.chunks(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *octet = (digit(digits[0])? * 16 + digit(digits[1])?) as u8;
        }
        Some(host)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.octets().iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl Default for QuicCid {
    fn default() -> Self {
        let mut hosts = [None; CONFIGS];
        hosts[0] = Some(Host::default());
        Self { config: 0, nonce: NONCE_DEFAULT, hosts }
    }
}

impl QuicCid {
    /// Reads its options, in any order.
    pub(super) fn read(options: &str) -> Result<Self, PolicyError> {
        let (mut config, mut host, mut nonce) = (0, Host::default(), NONCE_DEFAULT);
        let mut hosts = [None; CONFIGS];
        for option in options.split(',') {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            match key {
                "config" => config = number("config", value, 0, CONFIGS - 1)?,
                "host" => host = read_host("host", value, value)?,
                "nonce" => nonce = number("nonce", value, NONCE_MIN, ID_AND_NONCE_MAX - WORKER_OCTETS)?,
                "also" => {
                    let (other, host) = value.split_once('/').unwrap_or((value, ""));
                    let other = number("also", other, 0, CONFIGS - 1)?;
                    let host = read_host("also", value, host)?;
                    if hosts[usize::from(other)].replace(host).is_some() {
                        return Err(PolicyError::Twice { policy: POLICY, config: other });
                    }
                }
                _ => return Err(PolicyError::Option { policy: POLICY, option: option.to_owned() }),
            }
        }
        if hosts[usize::from(config)].replace(host).is_some() {
            return Err(PolicyError::Twice { policy: POLICY, config });
        }
        let octets = usize::from(host.length) + WORKER_OCTETS + usize::from(nonce);
        if octets > ID_AND_NONCE_MAX {
            return Err(PolicyError::TooLong {
                policy: POLICY,
                octets: octets + 1,
                most: ID_AND_NONCE_MAX + 1,
            });
        }
        Ok(Self { config, nonce, hosts })
    }

    /// How IDs are read, by configuration.
    pub fn formats(&self) -> [Format; CONFIGS] {
        std::array::from_fn(|config| {
            self.hosts[config].map_or_else(Format::default, |host| Format::new(config as u8, host.octets()))
        })
    }

    /// The variables from which a generation's worker learns what IDs to make: `STEER_QUIC_CONFIG_ID`, `STEER_QUIC_SERVER_ID` in
    /// hexadecimal, and `STEER_QUIC_CID_LENGTH` in octets.
    pub fn environment(&self, owner: Owner) -> [(String, String); 3] {
        let host = self.host();
        let server_id =
            owner.octets().iter().fold(host.to_string(), |text, octet| format!("{text}{octet:02x}"));
        let length = 1 + usize::from(host.length) + WORKER_OCTETS + usize::from(self.nonce);
        [
            ("STEER_QUIC_CONFIG_ID".to_owned(), self.config.to_string()),
            ("STEER_QUIC_SERVER_ID".to_owned(), server_id),
            ("STEER_QUIC_CID_LENGTH".to_owned(), length.to_string()),
        ]
    }

    /// What IDs workers make, as its options: what they learn as they start.
    pub fn made(&self) -> String {
        format!("config={},host={},nonce={}", self.config, self.host(), self.nonce)
    }

    fn host(&self) -> Host {
        self.hosts[usize::from(self.config)].unwrap_or_default()
    }
}

/// What is as by default is left out.
impl fmt::Display for QuicCid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut options = Vec::new();
        if self.config != 0 {
            options.push(format!("config={}", self.config));
        }
        if self.host().length > 0 {
            options.push(format!("host={}", self.host()));
        }
        if self.nonce != NONCE_DEFAULT {
            options.push(format!("nonce={}", self.nonce));
        }
        let others = self.hosts.iter().enumerate().filter(|(config, _)| *config != usize::from(self.config));
        options.extend(others.filter_map(|(config, host)| match (*host)? {
            host if host.length == 0 => Some(format!("also={config}")),
            host => Some(format!("also={config}/{host}")),
        }));
        f.write_str(POLICY)?;
        if options.is_empty() { Ok(()) } else { write!(f, ":{}", options.join(",")) }
    }
}

fn read_host(option: &'static str, value: &str, host: &str) -> Result<Host, PolicyError> {
    Host::read(host).ok_or_else(|| PolicyError::Host { policy: POLICY, option, value: value.to_owned() })
}

fn number(option: &'static str, value: &str, least: usize, most: usize) -> Result<u8, PolicyError> {
    let number = value.parse::<u8>().ok().filter(|number| (least..=most).contains(&usize::from(*number)));
    number.ok_or_else(|| PolicyError::Value {
        policy: POLICY,
        option,
        value: value.to_owned(),
        least: least as u32,
        most: most as u32,
    })
}

#[cfg(test)]
mod tests {
    use server_common::quic::{Head, Packet};

    use super::{super::Policy, *};

    fn read(text: &str) -> QuicCid {
        match text.parse() {
            Ok(Policy::QuicCid(ids)) => ids,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn it_is_read_as_it_is_written() {
        for text in [
            "quic-cid",
            "quic-cid:config=6",
            "quic-cid:config=1,host=0a0b,nonce=4,also=0/0a0b,also=6",
            "quic-cid:host=0102030405060708090a0b,nonce=4",
        ] {
            assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
        }
        assert_eq!(read("quic-cid:also=3/AB,host=,config=0"), read("quic-cid:also=3/ab"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_both_values() {
        let refused = |text: &str| {
            let error = format!("quic-cid:{text}").parse::<Policy>().unwrap_err();
            assert!(!error.hint().is_empty());
            error.to_string()
        };
        assert_eq!(refused("config=7"), "config=\"7\" of the policy quic-cid is not from 0 to 6");
        assert_eq!(refused("nonce=3"), "nonce=\"3\" of the policy quic-cid is not from 4 to 15");
        assert_eq!(
            refused("host=abc"),
            "host=\"abc\" of the policy quic-cid is no host: 0 to 22 hexadecimal digits, an even number"
        );
        assert_eq!(
            refused("also=1/xy"),
            "also=\"1/xy\" of the policy quic-cid is no host: 0 to 22 hexadecimal digits, an even number"
        );
        assert_eq!(refused("also=0"), "the policy quic-cid has configuration 0 twice");
        assert_eq!(
            refused("host=00000000,nonce=15"),
            "connection IDs of the policy quic-cid would have 24 octets, and can have 20"
        );
        assert_eq!(refused("id=5"), "the policy quic-cid has no option \"id=5\"");
        assert_eq!(refused(""), "the policy quic-cid has no option \"\"");
    }

    #[test]
    fn what_a_worker_is_told_names_it() {
        let ids = read("quic-cid:config=2,host=0a01,also=5");
        let owner = Owner::new(258, 65_536 + 7);
        let [config, id, length] = ids.environment(owner).map(|(_, value)| value);
        assert_eq!((config.as_str(), id.as_str(), length.as_str()), ("2", "0a0101020007", "15"));
        let mut packet = vec![0x40, 2 << 5 | 14];
        packet.extend((0..id.len() / 2).map(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).unwrap()));
        packet.extend([9; 8]);
        let read = |packet: &[u8]| Head::of(packet).packet(packet.len(), &ids.formats(), &[1, 2]);
        assert_eq!(read(&packet), Packet::Of(owner));
        packet[2] ^= 1;
        assert_eq!(read(&packet), Packet::Unknown, "another host's");
        packet[1..6].copy_from_slice(&[5 << 5, 1, 2, 0, 7]);
        assert_eq!(read(&packet), Packet::Of(owner), "of a configuration before");
        packet[1] = 4 << 5;
        assert_eq!(read(&packet), Packet::Unknown, "of no configuration");
    }
}
