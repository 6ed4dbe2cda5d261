//! The numbers of a kernel release.

/// The first two numbers of a release, such as 6 and 12 of `6.12.117-rt` or of the series `6.12`. A
/// missing number is 0, so that a release without numbers is older than every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release {
    /// The first number.
    pub(crate) major: u32,
    /// The second number.
    pub(crate) minor: u32,
}

impl Release {
    /// Parses the output of `uname -r`, or the name of a series.
    pub(crate) fn of(text: &str) -> Self {
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
        Self { major: numbers.next().unwrap_or(0), minor: numbers.next().unwrap_or(0) }
    }
}

impl std::fmt::Display for Release {
    /// The series: `6.12`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_by_their_numbers() {
        let of = |text| {
            let Release { major, minor } = Release::of(text);
            (major, minor)
        };
        assert_eq!(of("6.12.117+deb13-amd64"), (6, 12));
        assert_eq!(of("6.19.0+"), (6, 19));
        assert_eq!(of("7.3"), (7, 3));
        assert_eq!((of("unknown"), of("")), ((0, 0), (0, 0)));
        assert!(Release::of("6.9-rc1") < Release::of("6.12") && Release::of("6.12.3") == Release::of("6.12"));
    }
}
