use std::sync::Arc;

use super::queue::{KEPT_BYTES_MAX, Piece};
use super::*;
use crate::net::buffers;
use crate::net::lend::{Lent, Pages};
use crate::net::stream::Stream;
use memmap2::MmapMut;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

fn pair() -> (Rc<Turn>, Rc<Outbox>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (_, write) = Stream::Unix(ours).into_split();
    let turn = Rc::new(Turn::default());
    let outbox = Outbox::new(Rc::clone(&turn), write);
    (turn, outbox, theirs)
}

async fn local<F: Future>(future: F) -> F::Output {
    tokio::task::LocalSet::new().run_until(future).await
}

#[tokio::test]
async fn what_is_queued_arrives_in_order() {
    local(async {
        let (turn, outbox, mut peer) = pair();
        tokio::task::spawn_local(turn.run());
        outbox.push(b"one ");
        outbox.push_shared(Bytes::from_static(b"two "));
        outbox.push_all(&[b"three ", b"", b"four"]);
        assert_eq!(outbox.len(), 18);
        outbox.mark();
        outbox.mark();
        let mut got = [0; 18];
        peer.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"one two three four");
        assert!(outbox.is_empty());
        assert_eq!(outbox.sent(), 18);
    })
    .await;
}

#[tokio::test]
async fn a_writer_appends_copies_and_shares() {
    local(async {
        let (turn, outbox, mut peer) = pair();
        tokio::task::spawn_local(turn.run());
        outbox.push(b"zero ");
        let mut writer = outbox.writer();
        writer.bytes().extend_from_slice(b"one ");
        writer.share(Arc::new(Words(vec!["tw".into(), "o ".into()])), 4);
        writer.bytes().extend_from_slice(b"three");
        assert_eq!(writer.len(), 18);
        drop(writer);
        assert_eq!(outbox.len(), 18);
        outbox.mark();
        let mut got = [0; 18];
        peer.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"zero one two three");
        assert!(outbox.is_empty());
    })
    .await;
}

#[derive(Debug)]
struct Words(Vec<String>);

impl Parts for Words {
    fn part(&self, at: usize) -> Option<&[u8]> {
        self.0.get(at).map(String::as_bytes)
    }
}

#[tokio::test]
async fn many_parts_arrive_whole_however_little_the_socket_takes() {
    local(async {
        let (turn, outbox, mut peer) = pair();
        tokio::task::spawn_local(turn.run());
        let words: Vec<String> = (0..3000).map(|at| format!("{at:5000}")).collect();
        let said = words.concat();
        let mut writer = outbox.writer();
        writer.bytes().push(b'<');
        writer.share(Arc::new(Words(words)), said.len());
        writer.bytes().push(b'>');
        drop(writer);
        outbox.mark();
        let mut got = vec![0; said.len() + 2];
        peer.read_exact(&mut got).await.unwrap();
        assert!(got == format!("<{said}>").as_bytes());
        assert!(outbox.is_empty());
    })
    .await;
}

/// Memory with these bytes, and all of it lent.
fn lent(said: &[u8]) -> (Pages, Lent) {
    let mut pages = Pages::new(MmapMut::map_anon(said.len()).unwrap().into());
    pages.bytes_mut(0, said.len()).copy_from_slice(said);
    let lent = pages.lend(0, said.len()).unwrap();
    (pages, lent)
}

#[tokio::test]
async fn what_is_lent_is_given_back_when_it_has_been_written() {
    local(async {
        let (_turn, outbox, mut peer) = pair();
        let (mut pages, value) = lent(b"two ");
        let mut writer = outbox.writer();
        writer.bytes().extend_from_slice(b"one ");
        assert!(writer.borrows());
        writer.lend(value);
        writer.bytes().extend_from_slice(b"three");
        drop(writer);
        assert!(pages.has_borrowers());
        outbox.flush();
        assert!(!pages.has_borrowers() && outbox.is_empty());
        let mut got = [0; 13];
        peer.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"one two three");
    })
    .await;
}

#[tokio::test]
async fn what_is_lent_is_given_back_though_the_peer_does_not_take_it() {
    local(async {
        let (_turn, outbox, mut peer) = pair();
        let said: Vec<u8> = (0..=u8::MAX).cycle().take(2_000_000).collect();
        let (mut first, value) = lent(&said);
        outbox.writer().lend(value);
        outbox.flush();
        assert!(!outbox.is_empty() && !first.has_borrowers());
        // Nor is it kept when the peer is known to take nothing.
        let (mut second, value) = lent(b"and more");
        outbox.writer().lend(value);
        outbox.flush();
        assert!(!second.has_borrowers());
        first.bytes_mut(0, said.len()).fill(0);
        let mut got = vec![0; said.len() + 8];
        peer.read_exact(&mut got).await.unwrap();
        assert!(got == [&said[..], b"and more"].concat());
    })
    .await;
}

#[tokio::test]
async fn a_queue_borrows_a_few_values_at_a_time() {
    local(async {
        let (_turn, outbox, _peer) = pair();
        for _ in 0..2 {
            let mut writer = outbox.writer();
            for _ in 0..LENT_MAX {
                assert!(writer.borrows());
                writer.lend(lent(b"value").1);
            }
            assert!(!writer.borrows());
            drop(writer);
            outbox.flush();
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_put_first_cuts_no_part_in_two() {
    local(async {
        let (turn, outbox, mut peer) = pair();
        tokio::task::spawn_local(turn.run());
        let words = ["ab", "cd", "ef"].map(String::from).to_vec();
        outbox.writer().share(Arc::new(Words(words)), 6);
        outbox.skip(3);
        outbox.push_front(b"first ".to_vec());
        assert_eq!(outbox.len(), 9);
        outbox.mark();
        let mut got = [0; 9];
        peer.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"first def");
    })
    .await;
}

#[tokio::test]
async fn a_writer_does_not_move_what_it_has_written() {
    local(async {
        let (turn, outbox, mut peer) = pair();
        tokio::task::spawn_local(turn.run());
        let said: Vec<u8> = (0..=u8::MAX).cycle().take(200_000).collect();
        let mut writer = outbox.writer();
        for part in said.chunks(10_000) {
            writer.room(part.len()).extend_from_slice(part);
        }
        assert_eq!(writer.len(), said.len());
        drop(writer);
        let large = buffers::take_large().capacity();
        let longest = |piece: &Piece| piece.first_len();
        assert!(outbox.queue.borrow().pieces.iter().map(longest).max() <= Some(large));
        outbox.mark();
        let mut got = vec![0; said.len()];
        peer.read_exact(&mut got).await.unwrap();
        assert!(got == said);
    })
    .await;
}

#[tokio::test]
async fn a_long_queue_is_kept_in_pieces() {
    local(async {
        let (turn, outbox, mut peer) = pair();
        tokio::task::spawn_local(turn.run());
        let said: Vec<u8> = (0..=u8::MAX).cycle().take(600_000).collect();
        for part in said.chunks(10_000) {
            outbox.push(part);
        }
        {
            let queue = outbox.queue.borrow();
            assert!(queue.pieces.len() >= 9);
            // None has grown.
            let large = buffers::take_large().capacity();
            let pieces = queue.pieces.iter().map(Piece::first_len);
            assert!(pieces.chain([queue.tail.len()]).all(|len| len <= large));
        }
        assert_eq!(outbox.len(), said.len());
        outbox.mark();
        let mut got = vec![0; said.len()];
        peer.read_exact(&mut got).await.unwrap();
        assert!(got == said);
        assert!(outbox.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_full_socket_is_waited_for() {
    local(async {
        let (turn, outbox, mut peer) = pair();
        tokio::task::spawn_local(turn.run());
        let large = Bytes::from(vec![7u8; 4 << 20]);
        outbox.push(b"x");
        outbox.push_shared(large.clone());
        outbox.push(b"y");
        outbox.mark();
        let mut got = vec![0; large.len() + 2];
        peer.read_exact(&mut got).await.unwrap();
        assert_eq!((got[0], got[got.len() - 1]), (b'x', b'y'));
        assert!(got[1..got.len() - 1] == large[..]);
    })
    .await;
}

#[tokio::test]
async fn what_lies_beyond_the_limit_is_kept_until_that_is_lifted() {
    local(async {
        let (turn, outbox, mut peer) = pair();
        tokio::task::spawn_local(turn.run());
        outbox.set_limit(6);
        outbox.push(b"one ");
        outbox.push_shared(Bytes::from_static(b"two "));
        outbox.push(b"three");
        outbox.mark();
        let mut got = [0; 6];
        peer.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"one tw");
        assert_eq!((outbox.sent(), outbox.len()), (6, 7));
        outbox.set_limit(7);
        peer.read_exact(&mut got[..1]).await.unwrap();
        outbox.set_limit(u64::MAX);
        peer.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b" three");
        assert!(outbox.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_detached_outbox_keeps_its_bytes_for_the_next_socket() {
    local(async {
        let turn = Rc::new(Turn::default());
        tokio::task::spawn_local(Rc::clone(&turn).run());
        let outbox = Outbox::detached(turn);
        outbox.push(b"gone kept");
        outbox.mark();
        tokio::task::yield_now().await;
        outbox.skip(5);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        outbox.attach(Stream::Unix(ours).into_split().1);
        let mut got = [0; 4];
        theirs.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"kept");
        assert_eq!(outbox.sent(), 9);
    })
    .await;
}

#[tokio::test]
async fn what_was_written_is_kept_until_it_is_forgotten() {
    local(async {
        let (turn, outbox, mut peer) = pair();
        tokio::task::spawn_local(turn.run());
        let mut got = [0; 3];
        outbox.keep();
        for piece in [b"one", b"two"] {
            outbox.push(piece);
            outbox.mark();
            peer.read_exact(&mut got).await.unwrap();
        }
        outbox.push(b"unsent");
        assert_eq!(outbox.take_kept().as_deref(), Some(&b"onetwo"[..]));
        assert_eq!(outbox.take_kept(), None);
        outbox.push_front(b"again ".to_vec());
        outbox.mark();
        let mut got = [0; 12];
        peer.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"again unsent");
        // Much is not kept, nor is what is large.
        outbox.keep();
        for _ in 0..5 {
            outbox.push(&[0; KEPT_BYTES_MAX / 4]);
            outbox.mark();
            peer.read_exact(&mut [0; KEPT_BYTES_MAX / 4]).await.unwrap();
        }
        assert_eq!(outbox.take_kept(), None);
        outbox.keep();
        outbox.push_shared(Bytes::from_static(b"abc"));
        outbox.mark();
        peer.read_exact(&mut [0; 3]).await.unwrap();
        assert_eq!(outbox.take_kept(), None);
    })
    .await;
}

#[tokio::test]
async fn the_owner_learns_that_the_socket_has_broken() {
    local(async {
        let (turn, outbox, peer) = pair();
        tokio::task::spawn_local(turn.run());
        drop(peer);
        outbox.push(&[0; 1000]);
        outbox.mark();
        std::future::poll_fn(|cx| {
            outbox.set_owner(cx.waker());
            if outbox.is_broken() {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
        // What the next socket may still carry is there.
        assert_eq!(outbox.len(), 1000);
    })
    .await;
}

#[tokio::test]
async fn the_owner_is_woken_when_the_queue_is_short() {
    local(async {
        let (turn, outbox, mut peer) = pair();
        tokio::task::spawn_local(turn.run());
        outbox.push(&vec![0; 1 << 20]);
        outbox.mark();
        outbox.wake_at(1000);
        let waiter = std::future::poll_fn(|cx| {
            outbox.set_owner(cx.waker());
            if outbox.len() <= 1000 {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        });
        let mut got = vec![0; 1 << 20];
        let (_, read) = tokio::join!(waiter, peer.read_exact(&mut got));
        read.unwrap();
    })
    .await;
}

/// What a queue says to a peer that takes little at a time, whatever of it is copied,
/// shared or lent, and wherever the socket cuts it.
#[tokio::test]
async fn what_is_written_between_shared_values_arrives_in_order() {
    local(async {
        let (turn, outbox, mut peer) = pair();
        tokio::task::spawn_local(turn.run());
        let (said, mut expected, mut got) = ("0123456789".repeat(4000), Vec::new(), Vec::new());
        for round in 0..400 {
            let mut writer = outbox.writer();
            for at in 0..round % 7 {
                let few = &said.as_bytes()[at..at * round % 300 + at];
                let many = &said.as_bytes()[..at * 5003 + round];
                writer.room(few.len()).extend_from_slice(few);
                expected.extend_from_slice(few);
                match (round + at) % 4 {
                    0 => writer.room(many.len()).extend_from_slice(many),
                    1 if !many.is_empty() && writer.borrows() => writer.lend(lent(many).1),
                    _ => {
                        let (first, second) = (&said[..many.len() / 2], many.len() / 2);
                        let second = &said[second..many.len()];
                        let words = [first, second].map(String::from);
                        let words = words.into_iter().filter(|word| !word.is_empty());
                        writer.share(Arc::new(Words(words.collect())), many.len());
                    }
                }
                expected.extend_from_slice(many);
            }
            writer.bytes().extend_from_slice(b"\r\n");
            expected.extend_from_slice(b"\r\n");
            drop(writer);
            let sent = usize::try_from(outbox.sent()).unwrap();
            assert_eq!(outbox.len(), expected.len() - sent);
            if round % 3 == 0 {
                outbox.flush();
            }
            if round % 5 == 0 {
                let mut some = vec![0; round * 97];
                if let Ok(count) = peer.try_read(&mut some) {
                    got.extend_from_slice(&some[..count]);
                }
                tokio::task::yield_now().await;
            }
        }
        outbox.mark();
        let mut rest = vec![0; expected.len() - got.len()];
        peer.read_exact(&mut rest).await.unwrap();
        got.extend_from_slice(&rest);
        assert!(got == expected);
        assert!(outbox.is_empty());
    })
    .await;
}
