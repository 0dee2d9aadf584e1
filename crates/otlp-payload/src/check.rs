//! Requests that come from elsewhere, by the types of their fields.

use crate::json::schema::{Message, request as names_of};
use crate::signal::Signal;
use crate::walk::{count_items, for_each_below};
use crate::wire::{DecodeError, Fields};

/// As [`count_items`], for bytes that come from elsewhere: the types of the fields of each item are those of the
/// signal, and a metric has one kind of data. A request of another signal is not always noticed: a log record with
/// nothing but a body looks like a span with nothing but a name.
///
/// # Errors
///
/// As [`count_items`]; [`DecodeError::WireType`] for a field of another signal's item, [`DecodeError::TwoValues`] for a
/// metric that gives its data twice, which receivers would merge or drop.
pub fn check_items(signal: Signal, request: &[u8]) -> Result<usize, DecodeError> {
    let schema = names_of(signal).entry;
    let mut result = Ok(());
    // The entries of scopes: the items of metrics lie below them.
    for_each_below(request, 0, &signal.levels()[..3], &mut |entry, base| {
        if result.is_ok() {
            result = check_fields(schema, entry, base);
        }
    })?;
    result?;
    count_items(signal, request)
}

fn check_fields(schema: &Message, entry: &[u8], base: usize) -> Result<(), DecodeError> {
    let mut has_chosen = false;
    for field in Fields::new(entry, base) {
        let field = field?;
        let Some(known) = schema.fields.iter().find(|known| known.number == field.number) else { continue };
        if known.tag & 7 != field.wire_type() {
            return Err(DecodeError::WireType { offset: field.offset });
        }
        if known.is_choice && std::mem::replace(&mut has_chosen, true) {
            return Err(DecodeError::TwoValues { offset: field.offset });
        }
    }
    Ok(())
}
