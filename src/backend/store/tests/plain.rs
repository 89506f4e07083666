//! What is stored in tests, with nothing that they are not about.

use crate::backend::store::{Mode, Put, State, StoreChange, Value};

/// An item with nothing but a key and a value.
pub(in crate::backend::store) fn item<'a>(key: &'a [u8], value: Value<'a>) -> Put<'a> {
    Put {
        key,
        flags: 0,
        exptime: 0,
        cas: None,
        state: State::default(),
        value,
    }
}

/// A value of any length that is stored, or added to what there is.
pub(in crate::backend::store) fn change<'a>(
    mode: Mode,
    key: &'a [u8],
    value: Value<'a>,
) -> StoreChange<'a> {
    StoreChange {
        mode,
        key,
        binary_key: false,
        flags: 0,
        exptime: 0,
        compare: 0,
        stale_allowed: false,
        vivify: false,
        cas: None,
        value,
        value_bytes_max: [usize::MAX; 2],
    }
}
