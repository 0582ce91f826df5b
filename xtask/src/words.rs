//! Words that this project does not use, and what it says in their place. The one file that may have
//! them.

/// A word or a phrase, and the better word.
struct Banned {
    phrase: &'static str,
    better: &'static str,
    /// Only as the beginning of a comment: as a definition.
    begins: bool,
}

const fn anywhere(phrase: &'static str, better: &'static str) -> Banned {
    Banned { phrase, better, begins: false }
}

const BANNED: [Banned; 16] = [
    anywhere("room", "workspace, scratch, buffer, budget, capacity or memory"),
    anywhere("asked for", "requested, prefetched or chosen"),
    anywhere("asks for", "requests, prefetches or chooses"),
    anywhere("ask for", "request, prefetch or choose"),
    anywhere("whoever", "the caller, the reader or the program that"),
    anywhere("nobody", "no caller, or say what happens by default"),
    anywhere("of its own", "own, separate or its"),
    anywhere("of their own", "own, separate or their"),
    anywhere("of one's own", "own or separate"),
    anywhere("so many", "this many, or the number's name"),
    anywhere("that is none", "that is not a number, missing or invalid"),
    anywhere("that are none", "that are not numbers, missing or invalid"),
    anywhere("that_is_none", "the value's name: nan, missing, invalid"),
    anywhere("that_are_none", "the values' name: nan, missing, invalid"),
    anywhere("who is told", "the receiver's name"),
    Banned { phrase: "what it is", better: "the definition itself", begins: true },
];

/// What comments begin with.
const MARKS: [&str; 6] = ["///", "//!", "//", "##", "#", "*"];

/// The banned words of a text: the number of the line, the word, and the better word.
pub(crate) fn banned(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    // One line, so that a phrase may go over the end of a line.
    let mut flat = String::new();
    let mut starts = Vec::new();
    for line in text.lines() {
        starts.push(flat.len());
        let line = line.trim_start();
        let mark = MARKS.iter().find_map(|mark| line.strip_prefix(mark));
        for word in mark.unwrap_or(line).split_whitespace() {
            flat += &word.to_lowercase();
            flat.push(' ');
        }
    }
    let mut found = Vec::new();
    for Banned { phrase, better, begins } in &BANNED {
        for (place, _) in flat.match_indices(phrase) {
            let is_word = |c: char| c.is_alphanumeric();
            // A part of a name in code is no word, but for the names of tests.
            let is_part = |c: char| is_word(c) || c == '_' && !phrase.contains('_');
            let before = flat[..place].chars().next_back().is_some_and(is_part);
            let after = flat[place + phrase.len()..].chars().next().is_some_and(is_part);
            let line = starts.partition_point(|&start| start <= place);
            if !before && !after && (!begins || starts[line - 1] == place) {
                found.push((line, *phrase, *better));
            }
        }
    }
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(usize, &'static str)> {
        banned(text).into_iter().map(|(line, phrase, _)| (line, phrase)).collect()
    }

    #[test]
    fn words_are_found_in_any_case_and_over_the_end_of_a_line() {
        assert_eq!(found("fn a() {}\nlet room = 1; // Whoever"), [(2, "room"), (2, "whoever")]);
        assert_eq!(found("/// Memory of its\n/// own.\n/// More"), [(1, "of its own")]);
        assert_eq!(found("/// What it is.\n/// Says what it is."), [(1, "what it is")]);
        assert_eq!(found("fn a_number_that_is_none_stays() {"), [(1, "that_is_none")]);
    }

    #[test]
    fn parts_of_words_and_names_are_no_words() {
        assert_eq!(found("value.is_none() && mushroom, rooms, has_room_left, task format"), []);
        assert_eq!(found("/// Its own. Not so much, not many."), []);
    }
}
