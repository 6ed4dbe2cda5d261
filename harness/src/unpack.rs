//! Reads files that may be packed with gzip, xz or zstd. The first bytes of a file decide, not its
//! name.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// RFC 1952, 2.3.1.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// The .xz file format, 2.1.1.1.
const XZ: &[u8] = b"\xfd7zXZ\0";
/// The memory that a file may ask for, in KiB. xz -9 needs 65 MiB (xz(1)).
const XZ_MEMORY: u32 = 256 * 1024;
/// Bytes of the first read of a file.
const START: usize = 64 * 1024;
/// RFC 8878, 3.1.1.
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// A reader of what `input` contains, unpacked if it is packed.
pub fn unpacked<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut input = input;
    // Whole pages of a file, because the kernel copies the rest of it slower from within a page. A pipe
    // delivers what it has, which may be less than the longest of the magic numbers.
    let mut start = vec![0; START];
    let mut length = 0;
    while length < XZ.len() {
        match input.read(&mut start[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    start.truncate(length);
    let has = |magic: &[u8]| start.starts_with(magic);
    let (gzip, xz, zstd) = (has(GZIP), has(XZ), has(ZSTD));
    let whole = BufReader::new(io::Cursor::new(start).chain(input));
    Ok(if gzip {
        Box::new(MultiGzDecoder::new(whole))
    } else if xz {
        Box::new(XzReader::new_mem_limit(whole, true, XZ_MEMORY))
    } else if zstd {
        Box::new(Zstd { state: State::Between(whole) })
    } else {
        Box::new(whole)
    })
}

/// The bytes of `packed`, unpacked if they are packed.
pub fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    unpacked(packed)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file of zstd, which consists of one frame or several.
struct Zstd<R: Read> {
    state: State<R>,
}

enum State<R: Read> {
    Between(BufReader<R>),
    InFrame(Box<StreamingDecoder<BufReader<R>, FrameDecoder>>),
    Failed,
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.state, State::Failed) {
                State::Between(mut input) => {
                    if input.fill_buf()?.is_empty() {
                        self.state = State::Between(input);
                        return Ok(0);
                    }
                    let frame = StreamingDecoder::new(input).map_err(io::Error::other)?;
                    self.state = State::InFrame(Box::new(frame));
                }
                State::InFrame(mut frame) => {
                    let length = frame.read(into)?;
                    if length > 0 || into.is_empty() {
                        self.state = State::InFrame(frame);
                        return Ok(length);
                    }
                    self.state = State::Between(frame.into_inner());
                }
                State::Failed => return Err(io::Error::other("the file is damaged")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    /// What gzip(1) or xz(1), which every machine that builds kernels has, makes of a text.
    fn packed_by(program: &str, text: &[u8]) -> Vec<u8> {
        let mut child =
            Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let text = text.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(&text).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    #[test]
    fn each_form_is_unpacked_also_when_files_were_joined() {
        let text = b"[    1.000000] hello\n".repeat(4000);
        let zstd = compress_to_vec(&text[..], CompressionLevel::Fastest);
        for (program, packed) in
            [("gzip", packed_by("gzip", &text)), ("xz", packed_by("xz", &text)), ("zstd", zstd)]
        {
            assert!(packed.len() < text.len() / 10, "{program}");
            assert_eq!(unpack(&packed).unwrap(), text, "{program}");
            let twice = [&packed[..], &packed[..]].concat();
            assert_eq!(unpack(&twice).unwrap(), text.repeat(2), "{program}");
            assert!(unpack(&packed[..packed.len() / 2]).is_err(), "{program}");
        }
    }

    #[test]
    fn anything_else_stays_as_it_is() {
        for bytes in [&b""[..], b"\x1f", b"plain", b"\x28\xb5 no frame"] {
            assert_eq!(unpack(bytes).unwrap(), bytes);
        }
        assert!(unpack(b"\x28\xb5\x2f\xfd no frame").is_err());
    }
}
