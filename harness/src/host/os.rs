//! The distribution of this machine, from os-release(5).

use serde::Serialize;

use super::System;

/// The distribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Os {
    /// The full name, such as "Debian GNU/Linux 12 (bookworm)".
    pub name: String,
    /// The identifier in lower case, such as "debian".
    pub id: String,
    /// The distributions from which it is derived, the closest one first.
    pub like: Vec<String>,
    /// The version, such as "12". Debian's testing and unstable have none.
    pub version: Option<String>,
    /// The codename, such as "bookworm".
    pub codename: Option<String>,
}

impl Os {
    /// Reads `/etc/os-release`, or else `/usr/lib/os-release`.
    pub fn find(system: &System) -> Self {
        let text = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| system.read(path));
        Self::parse(&text.unwrap_or_default())
    }

    /// Parses the text of an os-release file. Missing fields get the defaults of the manual page.
    pub fn parse(text: &str) -> Self {
        let field = |name: &str| {
            text.lines()
                .filter_map(|line| line.trim().split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| unquote(value))
                .filter(|value| !value.is_empty())
        };
        Self {
            name: field("PRETTY_NAME").or_else(|| field("NAME")).unwrap_or_else(|| "Linux".into()),
            id: field("ID").unwrap_or_else(|| "linux".into()),
            like: field("ID_LIKE").unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
            version: field("VERSION_ID"),
            codename: field("VERSION_CODENAME"),
        }
    }

    /// Whether the distribution is Debian itself.
    pub fn is_debian(&self) -> bool {
        self.id == "debian"
    }

    /// Whether the distribution is expected to have apt and Debian's package names.
    pub fn has_apt(&self) -> bool {
        self.is_debian() || self.like.iter().any(|id| id == "debian")
    }

    /// The suite with a new enough QEMU, if the release itself has none. Debian 12 has QEMU 7.2,
    /// and its backports have 10.0. Debian 13 has 10.0 itself. The backports of Debian 11 end at
    /// 7.2.
    pub fn backports_for_qemu(&self) -> Option<String> {
        let codename = self.codename.as_deref()?;
        (self.is_debian() && self.version.as_deref() == Some("12")).then(|| format!("{codename}-backports"))
    }
}

/// Removes shell-like quotes, as the manual page allows them.
fn unquote(value: &str) -> String {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            let mut plain = String::with_capacity(inner.len());
            let mut letters = inner.chars();
            while let Some(letter) = letters.next() {
                plain.extend(if letter == '\\' { letters.next() } else { Some(letter) });
            }
            return plain;
        }
    }
    value.to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::host) const DEBIAN_12: &str = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian \
        GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n";
    pub(in crate::host) const DEBIAN_13: &str = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_ID=\"13\"\n\
        VERSION_CODENAME=trixie\nDEBIAN_VERSION_FULL=13.1\nID=debian\n";
    pub(in crate::host) const UBUNTU: &str = "PRETTY_NAME=\"Ubuntu 24.04.3 LTS\"\nVERSION_ID=\"24.04\"\n\
        VERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\n";
    pub(in crate::host) const FEDORA: &str =
        "NAME='Fedora Linux'\nID=fedora\nVERSION_ID=43\nVERSION_CODENAME=\"\"\n";

    #[test]
    fn reads_os_release_files() {
        let cases = [
            (DEBIAN_12, "debian", true, Some("12"), Some("bookworm"), Some("bookworm-backports")),
            (DEBIAN_13, "debian", true, Some("13"), Some("trixie"), None),
            ("ID=debian\nVERSION_CODENAME=forky\n", "debian", true, None, Some("forky"), None),
            (UBUNTU, "ubuntu", true, Some("24.04"), Some("noble"), None),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "linuxmint", true, None, None, None),
            (FEDORA, "fedora", false, Some("43"), None, None),
            ("", "linux", false, None, None, None),
        ];
        for (text, id, apt, version, codename, backports) in cases {
            let os = Os::parse(text);
            assert_eq!((os.id.as_str(), os.has_apt()), (id, apt), "{text}");
            assert_eq!((os.version.as_deref(), os.codename.as_deref()), (version, codename), "{text}");
            assert_eq!(os.backports_for_qemu().as_deref(), backports, "{text}");
        }
        assert_eq!(Os::parse("NAME='Fedora Linux'\n").name, "Fedora Linux");
        assert_eq!(Os::parse("PRETTY_NAME=\"a \\\"b\\\"\"\n").name, "a \"b\"");
    }
}
