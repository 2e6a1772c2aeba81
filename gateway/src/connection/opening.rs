//! The first bytes of a connection: HTTP/2 with prior knowledge opens with a fixed preface, everything
//! else is HTTP/1.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

/// RFC 9113, section 3.4.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Reads until the protocol is known; the bytes read belong before the rest of the stream.
///
/// # Errors
/// The stream's own, and [`io::ErrorKind::UnexpectedEof`] if it ends first.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Protocol, BytesMut)> {
    let mut bytes = BytesMut::with_capacity(8 << 10);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let compared = bytes.len().min(H2_PREFACE.len());
        if bytes[..compared] != H2_PREFACE[..compared] {
            return Ok((Protocol::Http1, bytes));
        }
        if compared == H2_PREFACE.len() {
            return Ok((Protocol::Http2, bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_bytes_tell() {
        let rows: [(&[u8], Option<Protocol>); 6] = [
            (b"GET / HTTP/1.1\r\n", Some(Protocol::Http1)),
            (b"POST", Some(Protocol::Http1)),
            (b"PRI * HTTP/1.1\r\n", Some(Protocol::Http1)),
            (H2_PREFACE, Some(Protocol::Http2)),
            (b"PRI * HT", None),
            (b"", None),
        ];
        for (sent, expected) in rows {
            let opened = read(&mut &sent[..]).await.ok();
            assert_eq!(opened.as_ref().map(|(protocol, _)| *protocol), expected, "{sent:?}");
            assert!(opened.is_none_or(|(_, bytes)| bytes == sent), "a byte is lost of {sent:?}");
        }
    }
}
