//! Rust sources, as far as the rules need them: code without comments, strings and tests, and its words.

/// `text` with comments and what is inside strings and characters as blanks. Lines stay where they are.
pub(crate) fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => end_of_line(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => end_of_comment(&chars, at),
            '"' => end_of_string(&chars, at + 1),
            'r' if !is_word_before(&chars, at) => end_of_raw_string(&chars, at).unwrap_or(at),
            '\'' => end_of_character(&chars, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// In `for` the `r` begins no raw string, in `br"…"` it does.
fn is_word_before(chars: &[char], at: usize) -> bool {
    let is_byte_string = at >= 1 && chars[at - 1] == 'b' && (at == 1 || !is_word(chars[at - 2]));
    at > 0 && is_word(chars[at - 1]) && !is_byte_string
}

fn end_of_line(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |len| at + len)
}

fn end_of_comment(chars: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => depth += 1,
            ('*', Some('/')) => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            break;
        }
    }
    at
}

fn end_of_string(chars: &[char], from: usize) -> usize {
    let mut at = from;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn end_of_raw_string(chars: &[char], from: usize) -> Option<usize> {
    let hashes = chars[from + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(from + 1 + hashes) != Some(&'"') {
        return None;
    }
    let mut at = from + 2 + hashes;
    while at < chars.len() {
        let rest = &chars[at + 1..];
        if chars[at] == '"' && rest.len() >= hashes && rest[..hashes].iter().all(|c| *c == '#') {
            return Some(at + 1 + hashes);
        }
        at += 1;
    }
    Some(at)
}

/// A lifetime is none.
fn end_of_character(chars: &[char], from: usize) -> Option<usize> {
    match (chars.get(from + 1)?, chars.get(from + 2)?) {
        ('\\', _) => {
            let len = chars[from + 3..].iter().take(12).position(|c| *c == '\'')?;
            Some(from + 3 + len + 1)
        }
        (_, '\'') => Some(from + 3),
        _ => None,
    }
}

/// Identifiers, `::`, and every other sign by itself.
pub(crate) fn words_of(code: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = match first {
            c if is_word(c) => rest.find(|c: char| !is_word(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            c => c.len_utf8(),
        };
        words.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    words
}

/// The words without every item that `#[cfg(test)]` stands before.
pub(crate) fn without_tests<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut kept = Vec::with_capacity(words.len());
    let mut at = 0;
    while at < words.len() {
        if words[at..].starts_with(&["#", "[", "cfg", "(", "test", ")", "]"]) {
            at = end_of_item(words, at);
        } else {
            kept.push(words[at]);
            at += 1;
        }
    }
    kept
}

/// Behind the item that begins at `at` with its attributes: behind its `;`, its block, or (a field, a variant) its comma.
fn end_of_item(words: &[&str], mut at: usize) -> usize {
    while words[at..].starts_with(&["#", "["]) {
        at = end_of_group(words, at + 1);
    }
    let (mut is_use, mut is_item) = (false, false);
    while at < words.len() {
        match words[at] {
            "use" => (is_use, is_item) = (true, true),
            "fn" | "impl" | "struct" | "enum" | "trait" | "mod" | "type" | "const" | "static" => {
                is_item = true
            }
            "(" | "[" => {
                at = end_of_group(words, at);
                continue;
            }
            "{" => {
                at = end_of_group(words, at);
                if !is_use {
                    return at;
                }
                continue;
            }
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            "}" => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

/// Behind the bracket that closes the one at `at`.
pub(crate) fn end_of_group(words: &[&str], mut at: usize) -> usize {
    let mut depth = 0;
    while at < words.len() {
        match words[at] {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    at
}

#[test]
fn comments_and_strings_are_no_code_and_lifetimes_are_no_strings() {
    let text = r##"let a = "crate::b"; // crate::c
/* crate::d /* crate::e */ crate::f */ let x: &'static str = r#"crate::g "" "#; let c = '"'; let d = '\''; crate::h()"##;
    let code = code_of(text);
    assert_eq!(code.lines().count(), text.lines().count());
    let words = words_of(&code);
    let paths: Vec<&str> = words.windows(3).filter(|w| w[..2] == ["crate", "::"]).map(|w| w[2]).collect();
    assert_eq!(paths, ["h"], "{code}");
    assert!(words.contains(&"static"));
}

#[test]
fn items_of_tests_are_left_out_and_their_neighbours_are_not() {
    let text = "use a::b; #[cfg(test)] mod fakes; #[cfg(test)] use c::{d, e}; fn f() { g(); } #[cfg(test)] #[allow(x)] mod \
                tests { fn h() { i() } } struct J { #[cfg(test)] k: K, l: L } #[cfg(test)] fn n<T, U>(t: T) { o() } fn \
                m() {}";
    let code = code_of(text);
    let kept = without_tests(&words_of(&code)).join(" ");
    for gone in ["fakes", "c ::", "h (", "K", "U", "o ("] {
        assert!(!kept.contains(gone), "{gone}: {kept}");
    }
    for there in ["a :: b", "fn f", "l : L", "fn m"] {
        assert!(kept.contains(there), "{there}: {kept}");
    }
}
