//! Responses of servers, held against what they were asked.
//!
//! Requests go out with an opaque of the proxy's own making, so that a response
//! proves which request it belongs to.

use super::header::HEADER_BYTES;
use super::opcode::Opcode;
use super::response::header;
use super::status::Status;
use crate::protocol::reply::{Block, Desync, Outcome, Part};

/// What the response to a request with this opcode and opaque must show.
#[inline]
pub fn expected(opcode: Opcode, opaque: u32) -> u64 {
    (u64::from(opcode.byte()) << 32) | u64::from(opaque)
}

/// What the response that ends a batch of `keys` quiet retrievals must show: the
/// opaque of the `noop` behind them. The number of keys is for the counters.
#[inline]
pub fn expected_of_batch(keys: u64, opaque: u32) -> u64 {
    (keys.min(u64::from(u32::MAX)) << 32) | u64::from(opaque)
}

/// The number of keys in what [`expected_of_batch`] has made.
#[inline]
pub fn keys_of_batch(expected: u64) -> u64 {
    expected >> 32
}

fn opaque_of(expected: u64) -> u32 {
    u32::try_from(expected & u64::from(u32::MAX)).unwrap_or(0)
}

/// Cuts the one response to a request.
#[inline]
pub(in crate::protocol) fn one(wanted: u64, buf: &[u8]) -> Result<Part, Desync> {
    let Some(header) = header(buf)? else {
        return Ok(Part::More { need: HEADER_BYTES });
    };
    let opcode = Opcode::from_byte(header.opcode).ok_or(Desync)?;
    if expected(opcode, header.opaque) != wanted {
        return Err(Desync);
    }
    let len = header.frame_len();
    if buf.len() < len {
        return Ok(Part::More { need: len });
    }
    let outcome = outcome(opcode, header.status);
    Ok(Part::Whole {
        len,
        outcome,
        // Where a server does not know the form of a request, it may not know its
        // end either.
        in_step: !matches!(
            Status::from_code(header.status),
            Some(Status::UnknownCommand | Status::InvalidArguments)
        ),
    })
}

/// Cuts the next response to a batch of quiet retrievals: one of them, or the
/// `noop` that ends it.
#[inline]
pub(in crate::protocol) fn batch(wanted: u64, buf: &[u8]) -> Result<Part, Desync> {
    let Some(header) = header(buf)? else {
        return Ok(Part::More { need: HEADER_BYTES });
    };
    let len = header.frame_len();
    if buf.len() < len {
        return Ok(Part::More { need: len });
    }
    if header.opcode != Opcode::Noop.byte() {
        return Ok(Part::Block(Block {
            len,
            key_len: usize::from(header.key_len),
        }));
    }
    if header.opaque != opaque_of(wanted) || header.body_len != 0 {
        return Err(Desync);
    }
    Ok(Part::Whole {
        len,
        outcome: Outcome::Miss,
        in_step: true,
    })
}

/// What a status says to a request with this opcode.
fn outcome(opcode: Opcode, status: u16) -> Outcome {
    match Status::from_code(status) {
        Some(Status::Ok) if opcode.retrieves() => Outcome::Hit,
        Some(Status::Ok) => Outcome::Done,
        Some(Status::NotFound) if opcode.retrieves() => Outcome::Miss,
        // Said to an `add` or a `replace` without a version it is the condition
        // that was not met; the client is told the status itself.
        Some(Status::NotFound) => Outcome::NotFound,
        Some(Status::Exists) => Outcome::Exists,
        Some(Status::NotStored) => Outcome::NotStored,
        Some(Status::UnknownCommand) => Outcome::Unknown,
        Some(Status::TooLarge | Status::InvalidArguments | Status::NotANumber) => {
            Outcome::ClientError
        }
        _ => Outcome::ServerError,
    }
}

#[cfg(test)]
mod tests {
    use super::super::response::Response;
    use super::*;

    fn bytes(opcode: Opcode, opaque: u32, status: Status) -> Vec<u8> {
        let mut out = Vec::new();
        Response::of_status(opcode.byte(), opaque, status).encode(&mut out);
        out
    }

    #[test]
    fn a_response_is_that_to_its_request_or_out_of_step() {
        let wanted = expected(Opcode::Get, 9);
        let miss = bytes(Opcode::Get, 9, Status::NotFound);
        let whole = Part::Whole {
            len: miss.len(),
            outcome: Outcome::Miss,
            in_step: true,
        };
        assert_eq!(one(wanted, &miss), Ok(whole));
        for end in 0..miss.len() {
            let part = one(wanted, miss.get(..end).unwrap_or_default());
            assert!(matches!(part, Ok(Part::More { need }) if need > end));
        }
        assert_eq!(one(wanted, &bytes(Opcode::Get, 8, Status::Ok)), Err(Desync));
        assert_eq!(one(wanted, &bytes(Opcode::Set, 9, Status::Ok)), Err(Desync));
        assert_eq!(one(wanted, b"VALUE "), Err(Desync));
    }

    #[test]
    fn a_batch_ends_with_its_own_noop() {
        let wanted = expected_of_batch(3, 20);
        assert_eq!(keys_of_batch(wanted), 3);
        let hit = bytes(Opcode::GetKQ, 18, Status::Ok);
        assert!(matches!(batch(wanted, &hit), Ok(Part::Block(block)) if block.len == hit.len()));
        let end = bytes(Opcode::Noop, 20, Status::Ok);
        assert!(matches!(
            batch(wanted, &end),
            Ok(Part::Whole { len: 24, .. })
        ));
        let other = bytes(Opcode::Noop, 19, Status::Ok);
        assert_eq!(batch(wanted, &other), Err(Desync));
    }

    #[test]
    fn a_request_that_was_not_understood_leaves_the_connection_in_doubt() {
        for status in [Status::UnknownCommand, Status::InvalidArguments] {
            let part = one(expected(Opcode::Gat, 1), &bytes(Opcode::Gat, 1, status));
            assert!(matches!(part, Ok(Part::Whole { in_step: false, .. })));
        }
    }
}
