//! A question of DNS that every server here can answer.

/// A question for the text of `www.example`.
pub fn question() -> Vec<u8> {
    // The header: an ID, "recursion desired", one question. Then the name, type TXT, class IN.
    [&[0x57, 0xee, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x03www\x07example\x00", &[0, 16, 0, 1]].concat()
}

/// The same as TCP carries it.
pub fn with_length(question: &[u8]) -> Vec<u8> {
    let length = (question.len() as u16).to_be_bytes();
    [&length[..], question].concat()
}
