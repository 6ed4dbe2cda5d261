//! The part of gdb's remote protocol that is needed to stop a guest at an address and to write into
//! its memory. QEMU's monitor is reached through the same socket (`qRcmd`).

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// The longest wait for an answer or for a breakpoint.
const LIMIT: Duration = Duration::from_secs(100);

/// QEMU's gdbstub.
pub(crate) struct Gdb(BufReader<UnixStream>);

impl Gdb {
    /// Connects as soon as QEMU listens. The guest is stopped from then on.
    pub(crate) fn connect(socket: &Path) -> Self {
        let end = Instant::now() + LIMIT;
        loop {
            if let Ok(stream) = UnixStream::connect(socket) {
                stream.set_read_timeout(Some(LIMIT)).unwrap();
                return Self(BufReader::new(stream));
            }
            assert!(Instant::now() < end, "QEMU does not listen on {}", socket.display());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs the guest until it reaches this address.
    pub(crate) fn run_to(&mut self, address: u64) {
        assert_eq!(self.ask(&format!("Z1,{address:x},1")), "OK");
        let stop = self.ask("c");
        assert!(stop.starts_with("T05") || stop.starts_with("S05"), "the guest did not stop there: {stop}");
        assert_eq!(self.ask(&format!("z1,{address:x},1")), "OK");
    }

    /// Writes into the guest's memory.
    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) {
        assert_eq!(self.ask(&format!("M{address:x},{:x}:{}", bytes.len(), hex(bytes))), "OK");
    }

    /// Resumes the guest.
    pub(crate) fn detach(&mut self) {
        assert_eq!(self.ask("D"), "OK");
    }

    /// The monitor's answer to a command.
    pub(crate) fn monitor(&mut self, command: &str) -> String {
        self.send(&format!("qRcmd,{}", hex(command.as_bytes())));
        let mut text = String::new();
        loop {
            let answer = self.receive();
            match answer.strip_prefix('O') {
                Some("K") => return text,
                Some(output) => text.push_str(&unhex(output)),
                None => panic!("{command}: {answer}"),
            }
        }
    }

    /// Repeats a command until the monitor's answer is `done`. Returns that answer.
    pub(crate) fn until(&mut self, command: &str, done: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let answer = self.monitor(command);
            if done(&answer) {
                return answer;
            }
            assert!(Instant::now() < end, "{command}: {answer}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive()
    }

    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        self.0.get_mut().write_all(format!("${packet}#{sum:02x}").as_bytes()).unwrap();
    }

    /// Receives the next packet. The bytes between packets acknowledge packets that were sent.
    fn receive(&mut self) -> String {
        self.0.skip_until(b'$').unwrap();
        let mut packet = Vec::new();
        self.0.read_until(b'#', &mut packet).unwrap();
        assert_eq!(packet.pop(), Some(b'#'), "QEMU is gone");
        self.0.read_exact(&mut [0; 2]).unwrap();
        self.0.get_mut().write_all(b"+").unwrap();
        String::from_utf8(packet).unwrap()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> String {
    let digits: Vec<char> = text.chars().collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
    String::from_utf8_lossy(&digits.chunks(2).map(byte).collect::<Vec<u8>>()).into_owned()
}
