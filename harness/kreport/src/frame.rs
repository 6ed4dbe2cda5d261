//! Parses the lines of call stacks, of all architectures, and the symbols in them.

use super::Frame;

/// Parses one line of a call stack; `None` if it is another kind of line.
///
/// `%pS` and `%pB` print `name+0xoff/0xsize [module]`. The text before it depends on the
/// architecture (arch/*/kernel/{stacktrace,dumpstack,traps,process}.c).
pub(super) fn parse(text: &str) -> Option<Frame> {
    let mut rest = text.trim();
    rest = rest.strip_prefix('(').unwrap_or(rest);
    let mut addresses = 0;
    while let Some(tail) = address(rest) {
        rest = tail.trim_start();
        addresses += 1;
    }
    // Kernel logs that syzbot symbolised, before 2018.
    if let Some(tail) = rest.strip_prefix("[<     inline     >] ") {
        let (name, place) = tail.split_once(' ')?;
        let place = place.split(' ').next().filter(|place| is_source(place))?;
        let mut frame = bare(name, true);
        frame.source = Some(place.to_owned());
        frame.inlined = true;
        return (symbol_len(name) == name.len()).then_some(frame);
    }
    let mut reliable = true;
    if let Some(tail) = rest.strip_prefix("? ").or_else(|| rest.strip_prefix("(? ")) {
        reliable = false;
        rest = tail.trim_start();
    }
    // arm: `[<c010e5d0>] (unwind_backtrace) from [<c010a8b0>] (show_stack+0x10/0x14)`, in later
    // kernels without addresses.
    let arm = rest.strip_prefix('(').filter(|_| addresses > 0).unwrap_or(rest);
    let name_len = symbol_len(arm);
    let (name, after) = arm.split_at(name_len);
    if name.is_empty() {
        return None;
    }
    // `(flexcan_open [flexcan]) from [<bf0a2d3c>] (...)`
    let behind = match after.strip_prefix(" [").and_then(|tail| tail.split_once("])")) {
        Some((module, tail)) if addresses > 0 && !module.contains(' ') => tail,
        _ => after,
    };
    if let Some(from) = behind.trim_start_matches(')').strip_prefix(" from ") {
        let caller = from.trim_start();
        let caller = address(caller).map_or(caller, str::trim_start).trim_start_matches('(');
        let known = &caller[symbol_len(caller)..];
        return (known.starts_with("+0x") || caller.starts_with("0x")).then(|| bare(name, reliable));
    }
    if let Some(after) = after.strip_prefix("+0x") {
        return offsets(name, after, reliable);
    }
    decoded(name, after, reliable)
}

/// Parses the offset, the size, the module and the source after `name+0x`.
fn offsets(name: &str, after: &str, mut reliable: bool) -> Option<Frame> {
    let (offset, after) = hex(after)?;
    let (size, mut after) = hex(after.strip_prefix("/0x")?)?;
    let mut module = None;
    if let Some(tail) = after.strip_prefix(" [") {
        let end = tail.find(']')?;
        let inside = tail[..end].split(' ').next()?;
        // `[inline]` is a mark of symbolised logs, not a module.
        module = (inside != "inline").then(|| inside.to_owned());
        after = &tail[end + 1..];
    }
    if after.contains("(unreliable)") {
        reliable = false;
    }
    let source = after.split_whitespace().next().filter(|word| is_source(word)).map(str::to_owned);
    Some(Frame {
        function: name.to_owned(),
        offset: Some(offset),
        size: Some(size),
        module,
        reliable,
        source,
        inlined: false,
    })
}

/// Parses the lines of logs that scripts have symbolised: `func file.c:12 [inline]`,
/// `func (file.c:12 (discriminator 3)) module`.
fn decoded(name: &str, after: &str, reliable: bool) -> Option<Frame> {
    let after = after.strip_prefix(' ')?;
    let word = after.trim_start_matches('(').split_whitespace().next()?.trim_end_matches(')');
    if !is_source(word) {
        return None;
    }
    let mut frame = bare(name, reliable);
    frame.source = Some(word.to_owned());
    frame.inlined = after.contains("[inline]") || after.contains("inlined");
    Some(frame)
}

fn bare(name: &str, reliable: bool) -> Frame {
    Frame {
        function: name.to_owned(),
        offset: None,
        size: None,
        module: None,
        reliable,
        source: None,
        inlined: false,
    }
}

/// Finds `name+0x..` anywhere in a line, such as a RIP line or a headline.
pub(super) fn find(text: &str) -> Option<Frame> {
    let Some(plus) = text.find("+0x") else { return find_decoded(text) };
    let bytes = text.as_bytes();
    let mut start = plus;
    while start > 0 && is_symbol(bytes[start - 1]) {
        start -= 1;
    }
    if start == plus {
        return None;
    }
    offsets(&text[start..plus], &text[plus + 3..], true)
}

/// Finds the function that a headline names, as `in func+0x1/0x2` or `in func`.
pub(super) fn named_in(text: &str) -> Option<Frame> {
    if let Some(frame) = find(text) {
        return Some(frame);
    }
    let name = text.rsplit(" in ").next()?.trim();
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
    plain.then(|| Frame {
        function: name.to_owned(),
        offset: None,
        size: None,
        module: None,
        reliable: true,
        source: None,
        inlined: false,
    })
}

/// The same for a location that `scripts/decode_stacktrace.sh` inserted:
/// `at mm/x.c:1 func (mm/x.c:1 (discriminator 1))`.
fn find_decoded(text: &str) -> Option<Frame> {
    let open = text.find(" (")?;
    let place = text[open + 2..].split([' ', ')']).next().filter(|word| is_source(word))?;
    let name = text[..open].rsplit([' ', ':']).next()?;
    let mut frame = bare(name, true);
    frame.source = Some(place.to_owned());
    (!name.is_empty() && symbol_len(name) == name.len()).then_some(frame)
}

/// Skips an address (`[<ffffffff81000000>]`, `[c000000001234567]`, `<c0001234>`) and returns the
/// rest.
fn address(text: &str) -> Option<&str> {
    let inner =
        text.strip_prefix("[<").or_else(|| text.strip_prefix('[')).or_else(|| text.strip_prefix('<'))?;
    let digits = inner.bytes().take_while(u8::is_ascii_hexdigit).count();
    // s390 prints `[<00000000004f1234>]`. Hashed pointers keep their width. Old logs have
    // `(____ptrval____)`.
    let hidden = ["(____ptrval____)", "(ptrval)"].into_iter().find(|word| inner.starts_with(word));
    let digits = hidden.filter(|_| digits == 0).map_or(digits, str::len);
    if digits < 6 {
        return None;
    }
    let tail = &inner[digits..];
    tail.strip_prefix(">]").or_else(|| tail.strip_prefix(']')).or_else(|| tail.strip_prefix('>'))
}

fn hex(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_hexdigit).count();
    let value = u64::from_str_radix(&text[..digits], 16).ok()?;
    Some((value, &text[digits..]))
}

fn is_symbol(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.' || byte == b'$'
}

fn symbol_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(first) if first.is_ascii_alphabetic() || *first == b'_' || *first == b'.' => {
            bytes.iter().take_while(|b| is_symbol(**b)).count()
        }
        _ => 0,
    }
}

/// Whether a word is a source location such as `mm/slub.c:2715`. The file must have a known
/// extension, because other words have colons, too.
pub(super) fn is_source(word: &str) -> bool {
    let Some((path, line)) = word.rsplit_once(':') else { return false };
    let line_ok = !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit());
    let ending = path.rsplit_once('.').map(|(_, ending)| ending);
    line_ok && matches!(ending, Some("c" | "h" | "S" | "rs" | "cc" | "inc"))
}

/// The name of a function as in the source: without the suffixes that the compiler adds
/// (`.constprop.0`, `.isra.3`, `.cold`, `.part.1`, `.llvm.123`), and with one name for the many
/// wrappers of a system call.
pub fn plain_name(symbol: &str) -> &str {
    let symbol = symbol.strip_prefix('.').unwrap_or(symbol);
    let symbol = symbol.find('.').map_or(symbol, |dot| &symbol[..dot]);
    for prefix in ["__x64_", "__ia32_", "__arm64_", "__s390x_", "__s390_", "__riscv_", "__se_", "__do_"] {
        if let Some(rest) = symbol.strip_prefix(prefix)
            && (rest.starts_with("sys_") || rest.starts_with("compat_sys_"))
        {
            return rest;
        }
    }
    symbol
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Option<String> {
        parse(text).map(|frame| frame.function)
    }

    #[test]
    fn frames_of_every_architecture() {
        for text in [
            " func+0x1b/0x30",
            " ? func+0x1b/0x30",
            " [<ffffffff81012345>] func+0x1b/0x30",
            " [<ffffffff81012345>] ? func+0x1b/0x30 [mod]",
            " [<(____ptrval____)>] func+0x1b/0x30",
            "[<(ptrval)>] func+0x1b/0x30",
            " func+0x1b/0x30 [mod 0123456789abcdef]",
            " func+0x1b/0x30 (P)",
            "[c0000000f7a3b8d0] [c0000000001e5c5c] func+0x4c/0x60 (unreliable)",
            "([<00000000004f1234>] func+0x12/0x34)",
            " [<00000000004f1234>] func+0x12/0x34 ",
            "[<ffffffff80003aa6>] func+0x10/0x20",
            "[<c010e5d0>] (func) from [<c010a8b0>] (show_stack+0x10/0x14)",
            " func from show_stack+0x10/0x14",
            " func mm/slub.c:12 [inline]",
            " func+0x1b/0x30 mm/slub.c:12",
            " [<     inline     >] func mm/slub.c:12",
            "func (mm/slub.c:12 (discriminator 3)) mod",
            "       func+0xd2/0x310",
        ] {
            assert_eq!(name(text).as_deref(), Some("func"), "{text:?}");
        }
        for text in
            ["func", "hello world", "RIP: 0010:func+0x1/0x2", "Modules linked in: a+b", " <TASK>", "[  1.2]"]
        {
            assert_eq!(name(text), None, "{text:?}");
        }
    }

    #[test]
    fn names_lose_what_the_compiler_added() {
        assert_eq!(plain_name("foo.constprop.0"), "foo");
        assert_eq!(plain_name("foo.isra.0.cold"), "foo");
        assert_eq!(plain_name(".foo"), "foo");
        assert_eq!(plain_name("__x64_sys_mount"), "sys_mount");
        assert_eq!(plain_name("__do_sys_mount"), "sys_mount");
        assert_eq!(plain_name("__do_softirq"), "__do_softirq");
    }
}
