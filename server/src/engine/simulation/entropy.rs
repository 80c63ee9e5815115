//! Where the simulated world's chances come from: bytes that proptest draws and can shrink.

/// Hands out its bytes again and again. All of them 0 is the most benign world.
#[derive(Debug, Clone)]
pub(super) struct Entropy {
    bytes: Vec<u8>,
    next: usize,
    /// Whether everything goes well from now on.
    pub(super) is_calm: bool,
}

impl Entropy {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, next: 0, is_calm: false }
    }

    fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.next % self.bytes.len().max(1)).copied().unwrap_or(0);
        self.next += 1;
        byte
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) * end / 256
    }

    /// A delay in milliseconds: 0 to 15, now and then up to 250.
    pub(super) fn delay(&mut self) -> u64 {
        let byte = u64::from(self.byte());
        if byte >= 244 && !self.is_calm { byte } else { byte / 16 }
    }

    /// Whether something goes wrong that does so `in_256` times of 256.
    pub(super) fn goes_wrong(&mut self, in_256: u8) -> bool {
        let byte = self.byte();
        !self.is_calm && u16::from(byte) >= 256 - u16::from(in_256)
    }
}
