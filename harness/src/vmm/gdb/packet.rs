//! Packets of gdb's remote protocol: `$TEXT#SUM`, each acknowledged by `+` (gdb's manual, "Remote
//! Protocol", "Overview").

use data_encoding::HEXLOWER_PERMISSIVE;

/// The longest packet accepted. QEMU's own packets have at most 8 KiB (its gdbstub/internals.h,
/// `MAX_PACKET_LENGTH`).
const LONGEST: usize = 64 << 10;

/// Encodes a packet with this text.
pub(super) fn encode(text: &str) -> Vec<u8> {
    format!("${text}#{:02x}", sum(text.as_bytes())).into_bytes()
}

fn sum(text: &[u8]) -> u8 {
    text.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The beginning of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// No complete packet yet.
    Incomplete,
    /// A packet, and its length in bytes together with what came before it.
    Packet(String, usize),
}

/// Decodes the beginning of the stream. An error describes input that no QEMU sends.
pub(super) fn decode(stream: &[u8]) -> Result<Begin, String> {
    let begin = stream.iter().position(|byte| *byte != b'+').unwrap_or(stream.len());
    let packet = &stream[begin..];
    let Some(first) = packet.first() else { return Ok(Begin::Incomplete) };
    if *first != b'$' {
        return Err(format!("byte {first:#04x} at the start of a packet"));
    }
    let Some(end) = packet.iter().position(|byte| *byte == b'#') else {
        let too_long = packet.len() > LONGEST;
        return if too_long { Err("a packet without an end".into()) } else { Ok(Begin::Incomplete) };
    };
    let Some(digits) = packet.get(end + 1..end + 3) else { return Ok(Begin::Incomplete) };
    let text = &packet[1..end];
    let told = std::str::from_utf8(digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
    if told != Some(sum(text)) {
        return Err("a packet with a wrong checksum".into());
    }
    // All requests of this client have answers in ASCII.
    let text = std::str::from_utf8(text).map_err(|_| "a packet that is not text".to_owned())?;
    Ok(Begin::Packet(text.to_owned(), begin + end + 3))
}

/// Decodes a little-endian number.
pub(crate) fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Decodes bytes from hexadecimal digits.
pub(super) fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let decoded = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().filter(|bytes| !bytes.is_empty());
    decoded.ok_or_else(|| format!("`{}` instead of bytes", text.chars().take(20).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut stream = b"++".to_vec();
        stream.extend(encode("T05thread:02;"));
        stream.extend(encode("OK"));
        assert_eq!(decode(&stream), Ok(Begin::Packet("T05thread:02;".into(), 19)));
        assert_eq!(decode(&stream[19..]), Ok(Begin::Packet("OK".into(), 6)));
        for cut in 0..19 {
            assert_eq!(decode(&stream[..cut]), Ok(Begin::Incomplete), "{cut}");
        }
    }

    #[test]
    fn what_is_no_packet_is_said() {
        assert!(decode(b"$OK#00").unwrap_err().contains("checksum"));
        assert!(decode(b"HTTP/1.1").unwrap_err().contains("0x48"));
        assert!(
            decode(&[b"$", &vec![b'a'; LONGEST + 1][..]].concat()).unwrap_err().contains("without an end")
        );
        assert!(decode(b"$\xff#ff").unwrap_err().contains("not text"));
    }

    #[test]
    fn bytes_are_pairs_of_digits() {
        assert_eq!(bytes("00ff10"), Ok(vec![0, 255, 16]));
        for wrong in ["", "0", "E14", "0g", "é"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
