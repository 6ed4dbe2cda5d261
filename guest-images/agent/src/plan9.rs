//! A minimal 9P2000.L server that rejects every client: it agrees on the version and refuses the
//! attach (6.1 include/net/9p/9p.h, net/9p/protocol.c).

use std::io::{self, Read, Write};

/// `size[4] type[1] tag[2]`.
const HEADER_BYTES: usize = 7;

/// The limit of a message. Both messages that a client sends before it is refused are far shorter.
const LONGEST_BYTES: usize = 8 << 10;

const RLERROR: u8 = 7;
const TVERSION: u8 = 100;
const RVERSION: u8 = 101;
const TATTACH: u8 = 104;

/// The point at which a client hung up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Before it had asked to attach.
    Early,
    /// After its attach was refused.
    Refused,
}

/// Serves one client until it hangs up. Every request after the version is refused with `errno`.
pub(crate) fn serve(client: &mut (impl Read + Write), errno: u32) -> io::Result<End> {
    let mut end = End::Early;
    while let Some((kind, reply)) = receive(client)?.and_then(|message| reply(&message, errno)) {
        if kind == TATTACH {
            end = End::Refused;
        }
        if client.write_all(&reply).is_err() {
            break;
        }
    }
    Ok(end)
}

/// The next message; `None` if the client has hung up.
fn receive(client: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut message = vec![0; 4];
    match client.read_exact(&mut message) {
        Ok(()) => {}
        // The kernel drops a connection with an unread reply if the mount is interrupted.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    let size = message.first_chunk().map_or(0, |size| u32::from_le_bytes(*size));
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if !(HEADER_BYTES..=LONGEST_BYTES).contains(&size) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("9p message of invalid size {size}")));
    }
    message.resize(size, 0);
    client.read_exact(message.get_mut(4..).unwrap_or_default())?;
    Ok(Some(message))
}

/// The kind of a message, and the reply to it.
fn reply(message: &[u8], errno: u32) -> Option<(u8, Vec<u8>)> {
    let (kind, tag) = (*message.get(4)?, message.get(5..HEADER_BYTES)?);
    let (answer, body) = match kind {
        // The reply repeats msize[4] and version[s].
        TVERSION => (RVERSION, message.get(HEADER_BYTES..)?.to_vec()),
        _ => (RLERROR, errno.to_le_bytes().to_vec()),
    };
    let size = u32::try_from(HEADER_BYTES + body.len()).ok()?;
    Some((kind, [&size.to_le_bytes()[..], &[answer], tag, &body].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    // As net/9p/client.c packs them: version with NOTAG, msize 8192; attach of fid 0, uname
    // "nobody".
    const VERSION: &[u8] = b"\x15\0\0\0\x64\xff\xff\0\x20\0\0\x08\09P2000.L";
    const ATTACH: &[u8] = b"\x1d\0\0\0\x68\0\0\0\0\0\0\xff\xff\xff\xff\x06\0nobody\0\0\xff\xff\xff\xff";

    /// A client that sends all its messages at once, and stores the replies.
    struct Client(Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Client {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Client {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn served(said: &[&[u8]]) -> (io::Result<End>, Vec<u8>) {
        let mut client = Client(Cursor::new(said.concat()), Vec::new());
        let end = serve(&mut client, 111);
        (end, client.1)
    }

    #[test]
    fn a_client_gets_its_version_and_no_attach() {
        let (end, heard) = served(&[VERSION, ATTACH]);
        assert_eq!(end.unwrap(), End::Refused);
        assert_eq!(heard, b"\x15\0\0\0\x65\xff\xff\0\x20\0\0\x08\09P2000.L\x0b\0\0\0\x07\0\0\x6f\0\0\0");
    }

    #[test]
    fn a_client_may_hang_up_at_any_time() {
        assert_eq!(served(&[]).0.unwrap(), End::Early);
        assert_eq!(served(&[VERSION]).0.unwrap(), End::Early);
        served(&[VERSION, ATTACH.get(..9).unwrap()]).0.unwrap_err();
    }

    #[test]
    fn a_message_of_a_silly_size_is_none() {
        for size in [0_u32, 6, 1 << 20, u32::MAX] {
            served(&[&size.to_le_bytes(), VERSION]).0.unwrap_err();
        }
    }
}
