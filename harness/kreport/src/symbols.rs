//! Source lines and inlined callers for frames, from a vmlinux with debug information.

use std::collections::HashMap;
use std::path::Path;

use object::{Object, ObjectSymbol, SymbolKind};

use super::{Frame, InputError, Report};

/// The symbols and line tables of one kernel image.
pub struct Symbols {
    lines: addr2line::Loader,
    /// Address and size of each function; static functions of equal names share an entry.
    functions: HashMap<String, Vec<(u64, u64)>>,
}

impl std::fmt::Debug for Symbols {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Symbols").field("functions", &self.functions.len()).finish_non_exhaustive()
    }
}

impl Symbols {
    /// Opens a vmlinux: an ELF file, not a bzImage.
    pub fn open(path: &Path) -> Result<Self, InputError> {
        Self::read(path).map_err(|source| InputError::Symbols { path: path.to_owned(), source })
    }

    fn read(path: &Path) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let bytes = fs_err::read(path)?;
        let file = object::File::parse(&*bytes)?;
        let mut functions: HashMap<String, Vec<(u64, u64)>> = HashMap::new();
        for symbol in
            file.symbols().filter(|symbol| matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown))
        {
            if let Ok(name) = symbol.name() {
                functions.entry(name.to_owned()).or_default().push((symbol.address(), symbol.size()));
            }
        }
        let lines = addr2line::Loader::new(path).map_err(|error| error.to_string())?;
        Ok(Self { lines, functions })
    }

    /// Sets the source location of all frames of a report, and adds frames for inlined functions.
    pub fn resolve(&self, report: &mut Report) {
        let exact =
            report.frames.first().is_some_and(|frame| report.blame.as_deref() == Some(&frame.function));
        report.frames = self.expand(std::mem::take(&mut report.frames), exact);
        for stack in &mut report.stacks {
            stack.frames = self.expand(std::mem::take(&mut stack.frames), false);
        }
        for lock in report.locks.iter_mut().flat_map(|locks| &mut locks.cycle) {
            lock.frames = self.expand(std::mem::take(&mut lock.frames), false);
        }
    }

    /// `exact` is true if the first frame is the location of the CPU, not a return address.
    fn expand(&self, frames: Vec<Frame>, exact: bool) -> Vec<Frame> {
        let mut out = Vec::with_capacity(frames.len());
        for (index, frame) in frames.into_iter().enumerate() {
            self.one(frame, exact && index == 0, &mut out);
        }
        out
    }

    fn one(&self, mut frame: Frame, exact: bool, out: &mut Vec<Frame>) {
        let Some(address) = self.address(&frame) else { return out.push(frame) };
        // A return address may be after the last instruction of the call, in another line or block.
        let probe = if exact { address } else { address.saturating_sub(1) };
        let Ok(mut found) = self.lines.find_frames(probe) else { return out.push(frame) };
        let mut chain = Vec::new();
        while let Ok(Some(step)) = found.next() {
            let name = step
                .function
                .as_ref()
                .and_then(|name| name.raw_name().ok())
                .map(std::borrow::Cow::into_owned);
            let source = step
                .location
                .as_ref()
                .and_then(|place| Some(format!("{}:{}", tidy(place.file?), place.line?)));
            chain.push((name, source));
        }
        let Some((_, outer)) = chain.pop() else { return out.push(frame) };
        for (name, source) in chain {
            out.push(Frame {
                function: name.unwrap_or_else(|| "?".to_owned()),
                offset: None,
                size: None,
                module: None,
                reliable: frame.reliable,
                source,
                inlined: true,
            });
        }
        frame.source = outer.or(frame.source);
        out.push(frame);
    }

    /// The functions that the code at an address belongs to, inlined ones first. Empty if the
    /// address has no code.
    pub fn functions_at(&self, address: u64) -> Vec<String> {
        let mut names = Vec::new();
        if let Ok(mut found) = self.lines.find_frames(address) {
            while let Ok(Some(step)) = found.next() {
                let name = step.function.as_ref().and_then(|name| name.raw_name().ok());
                names.extend(name.map(std::borrow::Cow::into_owned));
            }
        }
        names
    }

    /// The address of a frame in the image. Among functions of one name, it is the one of the
    /// printed size. `None` for a frame of a module, and if the functions cannot be told apart.
    pub fn address(&self, frame: &Frame) -> Option<u64> {
        let (offset, size) = (frame.offset?, frame.size?);
        if frame.module.is_some() {
            return None;
        }
        let places = self.functions.get(&frame.function)?;
        // The printed size extends to the next symbol (kallsyms), padding included: at least the
        // ELF size.
        let (address, _) = places.iter().min_by_key(|(_, length)| size.abs_diff(*length))?;
        let fits =
            places.len() == 1 || places.iter().filter(|(_, length)| size.abs_diff(*length) < 16).count() == 1;
        fits.then_some(address + offset)
    }
}

/// Shortens a path: the part before the top folder of the source is the build folder.
fn tidy(path: &str) -> &str {
    const TOPS: [&str; 16] = [
        "/arch/",
        "/block/",
        "/crypto/",
        "/drivers/",
        "/fs/",
        "/include/",
        "/init/",
        "/io_uring/",
        "/ipc/",
        "/kernel/",
        "/lib/",
        "/mm/",
        "/net/",
        "/security/",
        "/sound/",
        "/virt/",
    ];
    if !path.starts_with('/') {
        return path.strip_prefix("./").unwrap_or(path);
    }
    TOPS.iter().filter_map(|top| path.find(top)).min().map_or(path, |at| &path[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan;

    const CODE: &str = "\
__attribute__((noinline)) int deepest(int *x) { return *x; }
static inline __attribute__((always_inline)) int middle(int *x) { return deepest(x) + 1; }
__attribute__((noinline)) int outermost(int *x) { return middle(x) + 2; }
void _start(void) { int x = 0; outermost(&x); for (;;) ; }
";

    #[test]
    fn frames_get_lines_and_inlined_callers() {
        let folder = tempfile::tempdir().unwrap();
        let (code, image) = (folder.path().join("t.c"), folder.path().join("t"));
        std::fs::write(&code, CODE).unwrap();
        let built = std::process::Command::new("cc")
            .args(["-g", "-O2", "-nostdlib", "-static", "-no-pie", "-fno-stack-protector", "-o"])
            .args([&image, &code])
            .status();
        assert!(built.unwrap().success(), "cc did not compile a file of four lines");
        let symbols = Symbols::open(&image).unwrap();
        let size = symbols.functions["outermost"][0].1;
        // The address after the call instruction is somewhere in the function, depending on the
        // machine.
        let found = (1..size).any(|offset| {
            let log = format!(
                "WARNING: CPU: 0 PID: 1 at t.c:1 deepest+0x0/0x9\nCall Trace:\n outermost+{offset:#x}/{size:#x}\n"
            );
            let mut report = scan(log.as_bytes()).remove(0);
            symbols.resolve(&mut report);
            let names: Vec<_> = report.frames.iter().map(|frame| (frame.function.as_str(), frame.inlined)).collect();
            names.ends_with(&[("middle", true), ("outermost", false)])
                && report.frames.iter().all(|frame| frame.source.as_deref().is_some_and(|source| source.contains("t.c:")))
        });
        assert!(found);
    }

    #[test]
    fn what_is_no_vmlinux_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("bzImage");
        std::fs::write(&image, b"MZ").unwrap();
        let error = Symbols::open(&image).unwrap_err();
        assert!(error.to_string().contains("bzImage"), "{error}");
        assert!(error.help().is_some_and(|help| help.contains("CONFIG_DEBUG_INFO")));
    }
}
