//! What a series says about the source that it was made for: the lines that
//! `git format-patch --base` writes (git-format-patch(1), BASE TREE INFORMATION).

/// The base of a series.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trailers {
    /// The commit that the series, or its prerequisites, are to be applied to.
    pub(crate) base: Option<String>,
    /// The patch ids of the patches that are to be applied to it before the series.
    pub(crate) prerequisites: Vec<String>,
}

impl Trailers {
    /// Those in the text of a mail.
    pub(super) fn of(text: &str) -> Self {
        let value = |line: &str, name: &str| {
            let value = line.strip_prefix(name)?.trim();
            let is_hash = (7..=64).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_hexdigit());
            is_hash.then(|| value.to_owned())
        };
        Self {
            base: text.lines().find_map(|line| value(line, "base-commit:")),
            prerequisites: text.lines().filter_map(|line| value(line, "prerequisite-patch-id:")).collect(),
        }
    }

    /// Those of another mail of the series, where this one has none.
    pub(super) fn or(self, other: &Self) -> Self {
        Self {
            base: self.base.or_else(|| other.base.clone()),
            prerequisites: if self.prerequisites.is_empty() {
                other.prerequisites.clone()
            } else {
                self.prerequisites
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hashes_at_the_start_of_a_line_count() {
        let one = "0123456789abcdef0123456789abcdef01234567";
        let text = format!(
            "text\n\nbase-commit: {one}\nprerequisite-patch-id: {one}\nprerequisite-patch-id: 89abcde\n-- \n2.30\n"
        );
        let found = Trailers::of(&text);
        assert_eq!(found.base.as_deref(), Some(one));
        assert_eq!(found.prerequisites, [one, "89abcde"]);
        assert_eq!(
            Trailers::of("base-commit: --upload-pack=x\n> base-commit: 0123456\n"),
            Trailers::default()
        );
        assert_eq!(Trailers::default().or(&found), found);
    }
}
