//! A record to be written.

/// One record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its content: a line of text, without a line feed in it or at its end; or any bytes, in a store of
    /// [`Format::Framed`](crate::Format::Framed). The store does not parse it.
    pub bytes: Vec<u8>,
    /// How many units it holds, such as spans; the caller chooses the unit.
    pub count: usize,
}
