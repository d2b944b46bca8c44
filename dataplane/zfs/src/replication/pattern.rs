//! Which datasets and snapshots are meant.

use std::str::FromStr;

use super::Invalid;

/// A glob: `*` stands for any part of a name and `?` for one character of it; `**` stands for any number of names between
/// slashes, also none, so that `train/**` is `train` with all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    names: Vec<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    /// `**`
    AnyNames,
    Like(String),
}

/// What is meant: all that one of `include` matches (everything, if there is none), less what one of `exclude` matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// What is in.
    pub include: Vec<Pattern>,
    /// What is out all the same.
    pub exclude: Vec<Pattern>,
}

impl Selection {
    /// Whether it means a dataset's path, or a snapshot's name.
    pub fn has(&self, name: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(name));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

impl Pattern {
    /// Whether a path or a name is like this.
    pub fn matches(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').collect();
        let fits = |pattern: &Name, name: &&str| match pattern {
            Name::AnyNames => true,
            Name::Like(pattern) => {
                is_like(pattern.as_bytes(), name.as_bytes(), |p| *p == b'*', |p, b| *p == b'?' || p == b)
            }
        };
        is_like(&self.names, &names, |name| *name == Name::AnyNames, fits)
    }
}

impl FromStr for Pattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |why: &str| Invalid { what: "pattern", text: text.to_owned(), why: why.to_owned() };
        if text.contains(['@', '#']) {
            return Err(invalid("datasets and snapshots have patterns of their own, without @ or #"));
        }
        if text.starts_with('/') || text.ends_with('/') || text.contains("//") {
            return Err(invalid("it is relative to the tree, with a name on each side of every slash"));
        }
        let name = |name: &str| match name {
            "**" => Name::AnyNames,
            other => Name::Like(other.to_owned()),
        };
        Ok(Self { names: text.split('/').map(name).collect() })
    }
}

/// Whether `text` is like a pattern in which every star stands for any number of items. Where an item does not fit, the last
/// star takes one more; those before it need not: what they took already was the least.
fn is_like<P, T>(
    pattern: &[P],
    text: &[T],
    is_star: impl Fn(&P) -> bool,
    fits: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut at, mut here) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    loop {
        match (pattern.get(at), text.get(here)) {
            (None, None) => return true,
            (Some(star), _) if is_star(star) => {
                at += 1;
                last_star = Some((at, here));
            }
            (Some(one), Some(item)) if fits(one, item) => {
                at += 1;
                here += 1;
            }
            _ => match last_star {
                Some((after, taken)) if taken < text.len() => {
                    last_star = Some((after, taken + 1));
                    (at, here) = (after, taken + 1);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(path)
    }

    #[test]
    fn stars_stay_within_a_name_and_double_stars_do_not() {
        for (pattern, yes, no) in [
            ("train", &["train"][..], &["train/a", "", "trains"][..]),
            ("train/**", &["train", "train/a", "train/a/b"], &["trains", "x/train"]),
            ("**/tmp", &["tmp", "a/tmp", "a/b/tmp"], &["a/tmp/b", "atmp"]),
            ("**/scratch/**", &["scratch", "a/scratch/b"], &["a/b"]),
            ("a/*/c", &["a/b/c"], &["a/c", "a/b/b/c"]),
            ("*-202?", &["x-2024", "-2020"], &["x-2030x", "x/y-2024"]),
            ("auto*_*d", &["auto_d", "auto1_2_d"], &["auto", "auto_dx"]),
            ("**", &["", "a", "a/b"], &[]),
            ("", &[""], &["a"]),
        ] {
            assert!(yes.iter().all(|path| matches(pattern, path)), "{pattern} {yes:?}");
            assert!(!no.iter().any(|path| matches(pattern, path)), "{pattern} {no:?}");
        }
        for wrong in ["/a", "a/", "a//b", "a@b", "#x"] {
            assert!(wrong.parse::<Pattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_excluded_is_out_even_if_it_is_included() {
        let patterns = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let all = Selection::default();
        assert!(all.has("") && all.has("a/b"));
        let some = Selection { include: patterns(&["a/**", "b"]), exclude: patterns(&["**/tmp"]) };
        assert!(some.has("a/x") && some.has("b"));
        assert!(!some.has("a/tmp") && !some.has("c"));
    }

    proptest! {
        #[test]
        fn it_agrees_with_trying_everything(pattern in "[ab*]{0,6}(/[ab*]{1,4}){0,3}", path in "[ab]{0,4}(/[ab]{1,3}){0,3}") {
            fn slow(pattern: &[&str], path: &[&str]) -> bool {
                match pattern.split_first() {
                    None => path.is_empty(),
                    Some((&"**", rest)) => (0..=path.len()).any(|taken| slow(rest, &path[taken..])),
                    Some((first, rest)) => path.split_first().is_some_and(|(name, others)| {
                        slow_name(first.as_bytes(), name.as_bytes()) && slow(rest, others)
                    }),
                }
            }
            fn slow_name(pattern: &[u8], name: &[u8]) -> bool {
                match pattern.split_first() {
                    None => name.is_empty(),
                    Some((b'*', rest)) => (0..=name.len()).any(|taken| slow_name(rest, &name[taken..])),
                    Some((byte, rest)) => name.first() == Some(byte) && slow_name(rest, &name[1..]),
                }
            }
            if let Ok(read) = pattern.parse::<Pattern>() {
                let (pattern, names): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
                prop_assert_eq!(read.matches(&path), slow(&pattern, &names));
            }
        }
    }
}
