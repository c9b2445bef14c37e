//! Splits Rust code into tokens, as far as checks of the sources need them.

/// A piece of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// A name, a punctuation character, `::`, or a comment as it is written.
    pub(crate) text: String,
    /// Line of its first character, from 1.
    pub(crate) line: usize,
}

impl Piece {
    pub(crate) fn is_comment(&self) -> bool {
        self.text.starts_with("//") || self.text.starts_with("/*")
    }
}

/// Returns the pieces in the order of the code, without white space and literals.
pub(crate) fn pieces(code: &str) -> Vec<Piece> {
    let code: Vec<char> = code.chars().collect();
    let mut found = Vec::new();
    let (mut start, mut line) = (0, 1);
    while start < code.len() {
        let (end, is_kept) = next(&code, start);
        let end = end.min(code.len());
        let text = &code[start..end];
        if is_kept {
            let text = text.iter().collect();
            found.push(Piece { text, line });
        }
        line += text.iter().filter(|&&c| c == '\n').count();
        start = end;
    }
    found
}

/// Returns the end of the piece that begins at `start`, and whether it belongs to the result.
fn next(code: &[char], start: usize) -> (usize, bool) {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    match code[start..] {
        ['/', '/', ..] => (after(code, start, |c| c != '\n'), true),
        ['/', '*', ..] => (after_block_comment(code, start), true),
        ['"', ..] => (after_string(code, start), false),
        // `'\''` and `'x'` are characters, and `'x` is a lifetime.
        ['\'', '\\', ..] => (after(code, start + 3, |c| c != '\'') + 1, false),
        ['\'', _, '\'', ..] => (start + 3, false),
        [':', ':', ..] => (start + 2, true),
        [first, ..] if is_name(first) => {
            let end = after(code, start, is_name);
            let is_prefix = matches!(code[start..end], ['r'] | ['b', 'r']);
            match after_raw_string(code, end) {
                Some(end) if is_prefix => (end, false),
                _ => (end, true),
            }
        }
        [first, ..] => (start + 1, !first.is_whitespace()),
        [] => (start, false),
    }
}

fn after(code: &[char], start: usize, is_part: impl Fn(char) -> bool) -> usize {
    let rest = code.get(start..).unwrap_or_default();
    start + rest.iter().take_while(|&&c| is_part(c)).count()
}

fn after_block_comment(code: &[char], start: usize) -> usize {
    let (mut index, mut depth) = (start, 0);
    while index < code.len() {
        match code[index..] {
            ['/', '*', ..] => {
                depth += 1;
                index += 2;
            }
            ['*', '/', ..] => {
                depth -= 1;
                index += 2;
            }
            _ => index += 1,
        }
        if depth == 0 {
            break;
        }
    }
    index
}

fn after_string(code: &[char], start: usize) -> usize {
    let mut index = start + 1;
    while index < code.len() && code[index] != '"' {
        index += if code[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

/// Returns the end of a raw string whose hashes or quote begin at `start`. `None` if there is no
/// raw string, as in `r#type`.
fn after_raw_string(code: &[char], start: usize) -> Option<usize> {
    let quote = after(code, start, |c| c == '#');
    if code.get(quote) != Some(&'"') {
        return None;
    }
    let mut end = vec!['"'];
    end.extend(&code[start..quote]);
    let mut index = quote + 1;
    while index < code.len() && !code[index..].starts_with(&end) {
        index += 1;
    }
    Some(index + end.len())
}
