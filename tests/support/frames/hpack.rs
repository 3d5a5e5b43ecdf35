//! HPACK (RFC 7541): reads whatever a client writes, and writes literals without an index.

use std::collections::VecDeque;
use std::sync::LazyLock;

/// A field of a head, names of pseudo-fields included.
pub type Field = (String, String);

/// Decodes the blocks of one connection, in their order.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The latest first.
    table: VecDeque<Field>,
    size: usize,
}

/// What a table may hold unless SETTINGS say otherwise, which this server's never do.
const TABLE_SIZE: usize = 4096;

/// Why a block cannot be read.
#[derive(Debug)]
pub(super) struct Malformed(&'static str);

impl Decoder {
    pub(super) fn decode(&mut self, mut block: &[u8]) -> Result<Vec<Field>, Malformed> {
        let mut fields = Vec::new();
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                fields.push(self.field(index)?);
            } else if first & 0xe0 == 0x20 {
                let size = integer(&mut block, 5)?;
                if size > TABLE_SIZE {
                    return Err(Malformed("a table larger than allowed"));
                }
                self.shrink(size);
            } else {
                let is_kept = first & 0x40 != 0;
                let index = integer(&mut block, if is_kept { 6 } else { 4 })?;
                let name = match index {
                    0 => string(&mut block)?,
                    _ => self.field(index)?.0,
                };
                let field = (name, string(&mut block)?);
                if is_kept {
                    self.keep(field.clone());
                }
                fields.push(field);
            }
        }
        Ok(fields)
    }

    fn field(&self, index: usize) -> Result<Field, Malformed> {
        let nothing = Malformed("an index with nothing behind it");
        let Some(index) = index.checked_sub(1) else {
            return Err(nothing);
        };
        match index.checked_sub(STATIC.len()) {
            None => Ok((STATIC[index].0.to_owned(), STATIC[index].1.to_owned())),
            Some(index) => self.table.get(index).cloned().ok_or(nothing),
        }
    }

    fn keep(&mut self, field: Field) {
        let size = cost(&field);
        self.shrink(TABLE_SIZE.saturating_sub(size));
        if size <= TABLE_SIZE {
            self.size += size;
            self.table.push_front(field);
        }
    }

    fn shrink(&mut self, size: usize) {
        while self.size > size {
            let last = self
                .table
                .pop_back()
                .expect("its size is that of its fields");
            self.size -= cost(&last);
        }
    }
}

/// RFC 7541 §4.1.
fn cost((name, value): &Field) -> usize {
    name.len() + value.len() + 32
}

/// A block that any decoder reads, whatever came before.
pub fn encode<N: AsRef<str>, V: AsRef<str>>(fields: impl IntoIterator<Item = (N, V)>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            push_length(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// The length of a string that is not compressed.
fn push_length(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(0x7f) else {
        return block.push(length as u8);
    };
    block.push(0x7f);
    while rest >= 0x80 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Malformed> {
    let mask = (1 << prefix) - 1;
    let mut value = usize::from(take(block)?) & mask;
    if value < mask {
        return Ok(value);
    }
    for shift in (0..28).step_by(7) {
        let byte = usize::from(take(block)?);
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed("an integer that is too large"))
}

fn take(block: &mut &[u8]) -> Result<u8, Malformed> {
    let (&first, rest) = block.split_first().ok_or(Malformed("cut off"))?;
    *block = rest;
    Ok(first)
}

fn string(block: &mut &[u8]) -> Result<String, Malformed> {
    let is_compressed = block.first().is_some_and(|it| it & 0x80 != 0);
    let length = integer(block, 7)?;
    if length > block.len() {
        return Err(Malformed("cut off"));
    }
    let (bytes, rest) = block.split_at(length);
    *block = rest;
    let bytes = match is_compressed {
        true => HUFFMAN.decode(bytes)?,
        false => bytes.to_vec(),
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The code of RFC 7541 Appendix B. It is canonical, so the lengths of its words say all.
static HUFFMAN: LazyLock<Huffman> = LazyLock::new(Huffman::new);

struct Huffman {
    /// By length, the first word of that length, and how many there are.
    words: [(u32, u32); 31],
    /// In the order of their words.
    symbols: Vec<u8>,
}

impl Huffman {
    fn new() -> Self {
        let mut symbols: Vec<_> = (0..=255).collect();
        symbols.sort_by_key(|&symbol| LENGTHS[usize::from(symbol)]);
        let mut words = [(0, 0); 31];
        let mut next = 0;
        for (length, word) in words.iter_mut().enumerate() {
            let count = LENGTHS.iter().filter(|it| usize::from(**it) == length);
            *word = (next, count.count() as u32);
            next = (next + word.1) << 1;
        }
        Self { words, symbols }
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut text = Vec::with_capacity(bytes.len() * 2);
        let (mut word, mut length, mut before) = (0, 0, 0);
        for at in 0..bytes.len() * 8 {
            word = word << 1 | u32::from(bytes[at / 8] >> (7 - at % 8) & 1);
            length += 1;
            let Some(&(first, count)) = self.words.get(length) else {
                return Err(Malformed("a word that is in no code"));
            };
            if word - first < count {
                text.push(self.symbols[(before + word - first) as usize]);
                (word, length, before) = (0, 0, 0);
            } else {
                before += count;
            }
        }
        // Less than a byte of ones.
        match length < 8 && word == (1 << length) - 1 {
            true => Ok(text),
            false => Err(Malformed("padding that is none")),
        }
    }
}

#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,  5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,  6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// RFC 7541 Appendix A.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];
