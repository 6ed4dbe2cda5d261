//! Source lines and inlined callers for frames, from a vmlinux with debug information.

use std::collections::HashMap;
use std::path::Path;

use object::{Object, ObjectSymbol, SymbolKind};

use super::{Frame, Report};
use crate::{Error, Result};

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
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |error: &dyn std::fmt::Display| {
            Error::user(format!("cannot read symbols from {}", path.display()))
                .detail(error)
                .mend("give the vmlinux of the build (ELF, with CONFIG_DEBUG_INFO), not its bzImage")
        };
        let bytes = fs_err::read(path).map_err(|error| wrong(&error))?;
        let file = object::File::parse(&*bytes).map_err(|error| wrong(&error))?;
        let mut functions: HashMap<String, Vec<(u64, u64)>> = HashMap::new();
        for symbol in
            file.symbols().filter(|symbol| matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown))
        {
            if let Ok(name) = symbol.name() {
                functions.entry(name.to_owned()).or_default().push((symbol.address(), symbol.size()));
            }
        }
        let lines = addr2line::Loader::new(path).map_err(|error| wrong(&error))?;
        Ok(Self { lines, functions })
    }

    /// Gives all frames of a report their places and adds the functions inlined into them.
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

    /// `exact`: the first frame is where the CPU was, not a return address.
    fn expand(&self, frames: Vec<Frame>, exact: bool) -> Vec<Frame> {
        let mut out = Vec::with_capacity(frames.len());
        for (index, frame) in frames.into_iter().enumerate() {
            self.one(frame, exact && index == 0, &mut out);
        }
        out
    }

    fn one(&self, mut frame: Frame, exact: bool, out: &mut Vec<Frame>) {
        let Some(address) = self.address(&frame) else { return out.push(frame) };
        // A return address may lie behind the call's last instruction, in another line or block.
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

    /// The image's address of a frame. Of several functions of one name, the one of the printed size.
    fn address(&self, frame: &Frame) -> Option<u64> {
        let (offset, size) = (frame.offset?, frame.size?);
        if frame.module.is_some() {
            return None;
        }
        let places = self.functions.get(&frame.function)?;
        // The printed size reaches to the next symbol (kallsyms), padding included: at least the ELF size.
        let (address, _) = places.iter().min_by_key(|(_, length)| size.abs_diff(*length))?;
        let fits =
            places.len() == 1 || places.iter().filter(|(_, length)| size.abs_diff(*length) < 16).count() == 1;
        fits.then_some(address + offset)
    }
}

/// Build folders make paths long: what matters begins at the source's own top folder.
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
