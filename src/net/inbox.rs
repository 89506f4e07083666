//! Bytes of a peer that have arrived and not been consumed.
//!
//! Reading goes into the worker's one scratch buffer; what is left over when the
//! consumer has taken every complete message, usually nothing, is carried over
//! to the next read. A message that is large is read into memory of its own, so
//! that it can be shared with whoever writes it on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::buffers::{self, SCRATCH_BYTES};
use super::held::Held;
use super::outbox::SHARE_BYTES_MIN;

/// Most memory reserved for a message before its bytes have come, in bytes: a
/// peer that announces much and sends little does not get to hold more.
const RESERVE_BYTES_MAX: usize = 1024 * 1024;

/// Room kept behind a large message, so that the read which completes it can
/// come back short and say that the socket is empty.
const SLACK_BYTES: usize = 1024;

/// What the consumer is shown.
#[derive(Debug)]
pub struct Batch<'a> {
    /// All unconsumed bytes.
    pub bytes: &'a [u8],
    /// The owner of `bytes`, if they may be shared instead of copied.
    pub owner: Option<&'a Bytes>,
    /// How many of the first bytes an earlier call has searched for a line end
    /// in vain.
    pub scanned: usize,
}

/// What the consumer did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consumed {
    /// Bytes that were consumed.
    pub used: usize,
    /// How long the message at the start of the rest is at least; 0 if unknown.
    pub need: usize,
    /// Bytes of the rest known to hold no line end.
    pub scanned: usize,
}

/// Unconsumed bytes of one peer.
#[derive(Debug, Default)]
pub struct Inbox {
    carry: BytesMut,
    /// How long the first message in `carry` is at least.
    need: usize,
    scanned: usize,
    held: Held,
}

impl Inbox {
    /// Reads once and shows everything unconsumed to `consume`.
    ///
    /// Ready with `false` at the end of the stream. With `true` there may be more
    /// to read at once; the caller calls again.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncRead + Unpin),
        consume: impl FnOnce(Batch<'_>) -> Consumed,
    ) -> Poll<io::Result<bool>> {
        if self.need >= SHARE_BYTES_MIN || self.carry.len() >= SCRATCH_BYTES / 2 {
            return self.poll_read_large(cx, stream, consume);
        }
        buffers::with_scratch(|scratch| {
            let carried = self.carry.len();
            let (old, new) = scratch.split_at_mut(carried);
            let mut buf = ReadBuf::new(new);
            std::task::ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
            let read = buf.filled().len();
            if read == 0 {
                return Poll::Ready(Ok(false));
            }
            old.copy_from_slice(&self.carry);
            let bytes = scratch.get(..carried + read).unwrap_or_default();
            let consumed = consume(Batch {
                bytes,
                owner: None,
                scanned: self.scanned,
            });
            self.keep(bytes, consumed);
            Poll::Ready(Ok(true))
        })
    }

    fn poll_read_large(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncRead + Unpin),
        consume: impl FnOnce(Batch<'_>) -> Consumed,
    ) -> Poll<io::Result<bool>> {
        if self.carry.len() == self.carry.capacity() {
            let missing = self.need.saturating_sub(self.carry.len());
            let room = missing.clamp(
                self.carry.len().min(RESERVE_BYTES_MAX),
                RESERVE_BYTES_MAX.max(self.carry.len()),
            );
            self.carry.reserve(room + SLACK_BYTES);
        }
        debug_assert!(self.carry.has_remaining_mut());
        let read = std::task::ready!(poll_read_buf(Pin::new(stream), cx, &mut self.carry))?;
        if read == 0 {
            return Poll::Ready(Ok(false));
        }
        if self.carry.len() >= self.need {
            self.offer(consume);
        } else {
            self.held.set(self.carry.len());
        }
        Poll::Ready(Ok(true))
    }

    /// Shows what was left over to `consume` without reading: a consumer that
    /// stopped before the end goes on.
    pub fn offer(&mut self, consume: impl FnOnce(Batch<'_>) -> Consumed) {
        let owner = std::mem::take(&mut self.carry).freeze();
        let consumed = consume(Batch {
            bytes: &owner,
            owner: (owner.len() >= SHARE_BYTES_MIN).then_some(&owner),
            scanned: self.scanned,
        });
        if consumed.used > 0 {
            return self.keep(&owner, consumed);
        }
        // Nobody shares what has not been consumed: it stays where it is, and has room to
        // grow by as much as there is.
        match owner.try_into_mut() {
            Ok(whole) => {
                self.need = consumed.need;
                self.scanned = consumed.scanned;
                self.held.set(whole.len());
                self.carry = whole;
            }
            Err(shared) => self.keep(&shared, consumed),
        }
    }

    /// Whether bytes were left over.
    pub fn is_empty(&self) -> bool {
        self.carry.is_empty()
    }

    /// Bytes left over.
    pub fn len(&self) -> usize {
        self.carry.len()
    }

    /// Carries over what was not consumed.
    fn keep(&mut self, bytes: &[u8], consumed: Consumed) {
        let rest = bytes.get(consumed.used..).unwrap_or_default();
        self.need = consumed.need;
        self.scanned = consumed.scanned;
        if rest.is_empty() {
            // Frees the memory: an idle peer holds none.
            self.carry = BytesMut::new();
            self.held.set(0);
            return;
        }
        let room = consumed
            .need
            .clamp(rest.len(), rest.len().max(RESERVE_BYTES_MAX));
        let mut carry = BytesMut::with_capacity(room + SLACK_BYTES.min(room));
        carry.extend_from_slice(rest);
        self.carry = carry;
        self.held.set(rest.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    /// Reads messages of a 4-byte length and as many bytes, whatever the cuts.
    async fn read_messages(stream: Vec<u8>, pieces: Vec<usize>) -> Vec<Vec<u8>> {
        let (mut write, mut read) = tokio::io::duplex(1 << 20);
        let writer = async move {
            let mut rest = &stream[..];
            for piece in pieces {
                let (now, later) = rest.split_at(piece.min(rest.len()));
                write.write_all(now).await.unwrap();
                tokio::task::yield_now().await;
                rest = later;
            }
            write.write_all(rest).await.unwrap();
        };
        let reader = async move {
            let (mut inbox, mut got) = (Inbox::default(), Vec::new());
            while std::future::poll_fn(|cx| {
                inbox.poll_read(cx, &mut read, |batch| take_messages(batch, &mut got))
            })
            .await
            .unwrap()
            {}
            assert!(inbox.is_empty());
            got
        };
        tokio::join!(writer, reader).1
    }

    fn take_messages(batch: Batch<'_>, got: &mut Vec<Vec<u8>>) -> Consumed {
        if let Some(owner) = batch.owner {
            assert_eq!(owner.as_ptr(), batch.bytes.as_ptr());
        }
        let mut used = 0;
        loop {
            let rest = &batch.bytes[used..];
            let need = match rest.split_first_chunk::<4>() {
                Some((len, _)) => 4 + usize::try_from(u32::from_le_bytes(*len)).unwrap(),
                None => 4,
            };
            if rest.len() < need {
                return Consumed {
                    used,
                    need,
                    scanned: 0,
                };
            }
            got.push(rest[4..need].to_vec());
            used += need;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn messages_arrive_whole_whatever_the_cuts(
            sizes in proptest::collection::vec(prop_oneof![0usize..50, 10_000usize..300_000], 0..12),
            pieces in proptest::collection::vec(prop_oneof![1usize..9, 1usize..70_000], 0..40),
        ) {
            let messages: Vec<Vec<u8>> = sizes.iter().enumerate()
                .map(|(at, &size)| vec![u8::try_from(at).unwrap(); size]).collect();
            let mut stream = Vec::new();
            for message in &messages {
                stream.extend(u32::try_from(message.len()).unwrap().to_le_bytes());
                stream.extend(message);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let got = runtime.block_on(read_messages(stream, pieces));
            prop_assert!(got == messages);
        }
    }

    #[test]
    fn a_message_of_unknown_length_is_read_in_few_steps() {
        const LEN: usize = 900_000;
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let steps = runtime.unwrap().block_on(async {
            let (mut write, mut read) = tokio::io::duplex(LEN + 1);
            write.write_all(&[b'x'; LEN]).await.unwrap();
            write.write_all(b"\n").await.unwrap();
            let (mut inbox, mut steps, mut whole) = (Inbox::default(), 0, false);
            while !whole {
                let mut look = |batch: Batch<'_>| {
                    let (len, seen) = (batch.bytes.len(), batch.scanned);
                    whole = batch.bytes[seen..].ends_with(b"\n");
                    let used = if whole { len } else { 0 };
                    let (need, scanned) = (len + 1, len - used);
                    Consumed {
                        used,
                        need,
                        scanned,
                    }
                };
                let more = std::future::poll_fn(|cx| inbox.poll_read(cx, &mut read, &mut look));
                assert!(more.await.unwrap());
                steps += 1;
            }
            assert!(inbox.is_empty());
            steps
        });
        assert!(steps < 12, "{steps}");
    }

    #[test]
    fn little_is_reserved_for_what_is_only_announced() {
        let mut inbox = Inbox::default();
        inbox.keep(
            b"head",
            Consumed {
                used: 0,
                need: 128 << 20,
                scanned: 0,
            },
        );
        assert!(inbox.carry.capacity() <= RESERVE_BYTES_MAX + 2 * SLACK_BYTES);
    }
}
