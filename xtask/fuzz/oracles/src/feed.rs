//! An input taken apart: numbers and chunks off its front.

/// Takes values off the front of an input; where it is used up, everything is 0 or empty. So every input means
/// something, and a changed byte changes one thing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Feed<'a>(pub(crate) &'a [u8]);

impl<'a> Feed<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    /// Two bytes, the low one first.
    pub(crate) fn short(&mut self) -> usize {
        usize::from(self.byte()) | usize::from(self.byte()) << 8
    }

    pub(crate) fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A length of two bytes, and so many bytes.
    pub(crate) fn chunk(&mut self) -> &'a [u8] {
        let length = self.short();
        self.bytes(length)
    }
}

/// The other way round: puts an input together that a [`Feed`] takes apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recipe(pub(crate) Vec<u8>);

impl Recipe {
    pub(crate) fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    pub(crate) fn short(mut self, number: u16) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(crate) fn chunk(self, bytes: &[u8]) -> Self {
        let length = u16::try_from(bytes.len()).expect("seeds are small");
        let mut longer = self.short(length);
        longer.0.extend_from_slice(bytes);
        longer
    }
}

/// Damages bytes as another program, a disk or an attacker could.
///
/// Four bytes of the feed: the kind of damage, the place, and a value that is also the length.
pub(crate) fn harm(feed: &mut Feed<'_>, bytes: &mut Vec<u8>) {
    let (what, at, value) = (feed.byte(), feed.short(), feed.byte());
    if bytes.is_empty() {
        return;
    }
    let at = at % bytes.len();
    let end = (at + usize::from(value) + 1).min(bytes.len());
    match what % 6 {
        0 => bytes[at] ^= value.max(1),
        1 => bytes[at..end].fill(0),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let copy = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, copy));
        }
        _ => {
            let junk = feed.bytes(usize::from(value % 16)).to_vec();
            drop(bytes.splice(at..at, junk));
        }
    }
}
