//! A block of addresses: those with the same first bits, as `192.0.2.0/24` or `2001:db8::/32` is written.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::values::ValueError;

/// All addresses of one family whose first bits are these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Block {
    address: IpAddr,
    /// How many bits count: 0 to 32, or to 128.
    bits: u8,
}

impl Block {
    /// Whether an address is in it. An IPv4 address is the same in its IPv6-mapped form.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && first_bits(address, self.bits) == first_bits(self.address, self.bits)
    }
}

/// An address's first bits; the others are 0.
fn first_bits(address: IpAddr, bits: u8) -> u128 {
    let (value, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    value.checked_shr(width - u32::from(bits)).unwrap_or(0)
}

impl FromStr for Block {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = || {
            let hint = "write an address, or one with the bits that count: 192.0.2.0/24, 2001:db8::/32";
            ValueError::new(text, "block of addresses", hint)
        };
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address = address.parse::<IpAddr>().map_err(|_| error())?.to_canonical();
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => width,
            // `parse` alone would take a sign as well.
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                bits.parse().map_err(|_| error())?
            }
            Some(_) => return Err(error()),
        };
        if bits > width { Err(error()) } else { Ok(Self { address, bits }) }
    }
}

impl TryFrom<String> for Block {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl From<Block> for String {
    fn from(block: Block) -> Self {
        block.to_string()
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(block: &str, address: &str) -> bool {
        block.parse::<Block>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn the_first_bits_decide() {
        assert!(contains("192.0.2.0/24", "192.0.2.255") && !contains("192.0.2.0/24", "192.0.3.0"));
        assert!(contains("192.0.2.7", "192.0.2.7") && !contains("192.0.2.7", "192.0.2.6"));
        assert!(
            contains("2001:db8::/33", "2001:db8:7fff::1") && !contains("2001:db8::/33", "2001:db8:8000::")
        );
        assert!(contains("0.0.0.0/0", "255.0.0.1") && contains("::/0", "ffff::"));
        assert!(contains("127.0.0.0/8", "::ffff:127.1.2.3"));
        assert!(!contains("::/0", "127.0.0.1") && !contains("0.0.0.0/0", "::1"));
    }

    #[test]
    fn what_is_no_block_is_refused_with_what_is_one() {
        for text in ["", "web", "1.2.3.4/33", "::/129", "1.2.3.4/+8", "1.2.3.4/", "1.2.3/8", "1.2.3.4:80"] {
            let error = text.parse::<Block>().unwrap_err();
            assert_eq!(error.to_string(), format!("{text:?} is no block of addresses"));
            assert!(error.hint().contains("192.0.2.0/24"));
        }
        assert_eq!("::ffff:192.0.2.1/24".parse::<Block>().unwrap().to_string(), "192.0.2.1/24");
    }
}
