//! The known name that a misspelt one probably stands for.

/// Maximum length of a name that is compared, in characters. Every key is longer, so a key that is
/// passed by mistake is not compared.
const NAME_MAX_CHARS: usize = 32;

/// Returns the known name that was probably meant: spelt in another case, with other underscores,
/// or with a slip.
///
/// Returns `None` if no name is near, or if `name` has more than 32 characters.
///
/// ```
/// use keys_core::suggestion::nearest;
///
/// assert_eq!(nearest("scpoe", &["limit", "scope"]), Some("scope"));
/// assert_eq!(nearest("clientIp", &["client_ip"]), Some("client_ip"));
/// assert_eq!(nearest("permissions", &["limit", "scope"]), None);
/// ```
#[must_use]
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.chars().count() > NAME_MAX_CHARS {
        return None;
    }
    let plain = |name: &str| -> String {
        let letters = name.chars().filter(|c| !matches!(c, '_' | '-' | ' '));
        letters.flat_map(char::to_lowercase).collect()
    };
    let wanted = plain(name);
    let distance = |known: &str| strsim::damerau_levenshtein(&wanted, &plain(known));
    let (distance, nearest) = known
        .iter()
        .map(|known| (distance(known), *known))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= wanted.chars().count().div_ceil(3).min(3)).then_some(nearest)
}
