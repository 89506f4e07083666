//! The header that every frame begins with, in both directions.

/// Length of a header, in bytes.
pub const HEADER_BYTES: usize = 24;

/// First byte of a request, and so of a connection that speaks this dialect.
pub const MAGIC_REQUEST: u8 = 0x80;

/// First byte of a response.
pub const MAGIC_RESPONSE: u8 = 0x81;

/// A header as it is on the wire, numbers in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// [`MAGIC_REQUEST`] or [`MAGIC_RESPONSE`].
    pub magic: u8,
    /// What is asked, and which request is answered; any byte.
    pub opcode: u8,
    /// Bytes of key, behind the extras.
    pub key_len: u16,
    /// Bytes of extras, behind the header.
    pub extras_len: u8,
    /// Always 0 from us; memcached does not look at it.
    pub data_type: u8,
    /// The status of a response. In a request a number that memcached ignores.
    pub status: u16,
    /// Bytes of extras, key and value together.
    pub body_len: u32,
    /// The client's own, given back byte for byte.
    pub opaque: u32,
    /// The version of the item; 0 for none.
    pub cas: u64,
}

impl Header {
    /// Reads the header at the start of `buf`; `None` if there are not enough
    /// bytes yet.
    #[inline]
    pub fn read(buf: &[u8]) -> Option<Self> {
        let &[
            magic,
            opcode,
            k0,
            k1,
            extras_len,
            data_type,
            s0,
            s1,
            b0,
            b1,
            b2,
            b3,
            o0,
            o1,
            o2,
            o3,
            ref cas @ ..,
        ] = buf.first_chunk::<HEADER_BYTES>()?;
        Some(Self {
            magic,
            opcode,
            key_len: u16::from_be_bytes([k0, k1]),
            extras_len,
            data_type,
            status: u16::from_be_bytes([s0, s1]),
            body_len: u32::from_be_bytes([b0, b1, b2, b3]),
            opaque: u32::from_be_bytes([o0, o1, o2, o3]),
            cas: u64::from_be_bytes(*cas),
        })
    }

    /// The bytes of the header.
    #[inline]
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [k0, k1] = self.key_len.to_be_bytes();
        let [s0, s1] = self.status.to_be_bytes();
        let [b0, b1, b2, b3] = self.body_len.to_be_bytes();
        let [o0, o1, o2, o3] = self.opaque.to_be_bytes();
        let [c0, c1, c2, c3, c4, c5, c6, c7] = self.cas.to_be_bytes();
        [
            self.magic,
            self.opcode,
            k0,
            k1,
            self.extras_len,
            self.data_type,
            s0,
            s1,
            b0,
            b1,
            b2,
            b3,
            o0,
            o1,
            o2,
            o3,
            c0,
            c1,
            c2,
            c3,
            c4,
            c5,
            c6,
            c7,
        ]
    }

    /// Bytes of header and body.
    #[inline]
    pub fn frame_len(&self) -> usize {
        HEADER_BYTES.saturating_add(self.body_len())
    }

    /// Bytes of extras, key and value together.
    #[inline]
    pub fn body_len(&self) -> usize {
        usize::try_from(self.body_len).unwrap_or(usize::MAX)
    }

    /// Bytes of extras and key, which may contradict [`Self::body_len`].
    #[inline]
    pub fn before_value(&self) -> usize {
        usize::from(self.extras_len).saturating_add(usize::from(self.key_len))
    }
}
