//! Reads the heads of the frames that a server sends, below `h2`.
//!
//! `h2` does not report that a SETTINGS or a GOAWAY frame was received, nor the contents of a GOAWAY beside its code,
//! nor which streams received data. All of that decides whether a connection may have further uses, and whether a
//! stream is silent.

/// The reader of a server's frames: it reads the head of each, in whatever pieces it arrives, and the relevant parts of
/// SETTINGS and of a GOAWAY.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD],
    /// How many bytes of a head were read.
    has: usize,
    /// How many bytes of the frame follow its head.
    left: usize,
    /// The stream of the frame.
    stream: u32,
    /// The length of the latest block of fields up to here: its HEADERS frame and the CONTINUATION frames behind it.
    block: usize,
    /// Its stream ends with it: it is a head without a body, or trailers.
    is_last: bool,
    payload: Payload,
}

/// What is read of the frame behind its head.
#[derive(Debug, Default)]
enum Payload {
    #[default]
    Skipped,
    Settings(Entries),
    GoAway(Vec<u8>),
}

/// The entries of a SETTINGS frame.
#[derive(Debug, Default)]
struct Entries {
    /// An entry that has arrived in part.
    part: [u8; ENTRY],
    has: usize,
    max_streams: Option<u32>,
}

const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;

/// The bits of a stream id.
const STREAM: u32 = (1 << 31) - 1;

/// The length of an entry of SETTINGS: a name of two bytes, and a value.
const ENTRY: usize = 6;

/// SETTINGS_MAX_CONCURRENT_STREAMS.
const MAX_CONCURRENT_STREAMS: [u8; 2] = [0, 3];

/// The last stream and the code, which precede the debug data of a GOAWAY.
const GOAWAY_FIXED: usize = 8;

/// How much of the debug data of a GOAWAY is kept.
const MAX_DEBUG_DATA: usize = 1_024;

/// What a frame reports.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FrameEvent {
    /// The head of a HEADERS or DATA frame arrived, of which responses consist.
    Response {
        stream: u32,
        is_head: bool,
    },
    /// The head of a CONTINUATION frame.
    Continuation(u32),
    /// Another frame of this stream (0: of the connection) that needs no answer.
    Stream(u32),
    /// A frame of this stream (0: of the connection) that belongs to no response, and has to be answered or ignored.
    Other(u32),
    /// SETTINGS, and how many streams they allow if they say so.
    Settings(Option<u32>),
    /// The head of a PUSH_PROMISE frame.
    PushPromise,
    GoAway(GoAway),
}

/// The server accepts no new requests on this connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GoAway {
    pub(super) code: u32,
    pub(super) debug_data: Vec<u8>,
}

impl Frames {
    /// The stream of a frame whose head arrived before, and which the next bytes continue.
    #[inline]
    pub(super) fn continued(&self) -> Option<u32> {
        (self.left > 0 && self.stream != 0).then_some(self.stream)
    }

    /// The length of the latest block of fields in bytes, as they are compressed.
    #[inline]
    pub(super) fn block(&self) -> usize {
        self.block
    }

    /// Whether the stream ends with that block: it is a head without a body, or trailers.
    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// Reads up to the next event, and leaves the rest in `bytes`.
    #[inline]
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<FrameEvent> {
        loop {
            if self.left > 0 {
                let here = bytes.len().min(self.left);
                let (payload, rest) = bytes.split_at(here);
                self.left -= here;
                *bytes = rest;
                if !matches!(self.payload, Payload::Skipped)
                    && let Some(event) = self.read_payload(payload)
                {
                    return Some(event);
                }
            }
            // Almost always all of a head is here.
            let head = match bytes.split_first_chunk() {
                Some((head, rest)) if self.has == 0 => {
                    *bytes = rest;
                    *head
                }
                _ if bytes.is_empty() => return None,
                _ => self.read_part(bytes)?,
            };
            if let Some(event) = self.read_head(head) {
                return Some(event);
            }
        }
    }

    /// Reads a part of a head that arrives in pieces; returns the head when it is complete.
    #[cold]
    fn read_part(&mut self, bytes: &mut &[u8]) -> Option<[u8; HEAD]> {
        let here = bytes.len().min(HEAD - self.has);
        let (part, rest) = bytes.split_at(here);
        self.head[self.has..self.has + here].copy_from_slice(part);
        self.has += here;
        *bytes = rest;
        if self.has < HEAD {
            return None;
        }
        self.has = 0;
        Some(self.head)
    }

    #[inline]
    fn read_head(&mut self, head: [u8; HEAD]) -> Option<FrameEvent> {
        let [a, b, c, kind, flags, stream @ ..] = head;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let stream = u32::from_be_bytes(stream) & STREAM;
        self.stream = stream;
        Some(match kind {
            DATA => FrameEvent::Response {
                stream,
                is_head: false,
            },
            HEADERS => {
                self.block = self.left;
                self.is_last = flags & END_STREAM != 0;
                FrameEvent::Response {
                    stream,
                    is_head: true,
                }
            }
            CONTINUATION => {
                self.block += self.left;
                FrameEvent::Continuation(stream)
            }
            SETTINGS if flags & ACK == 0 => {
                if self.left == 0 {
                    return Some(FrameEvent::Settings(None));
                }
                self.payload = Payload::Settings(Entries::default());
                return None;
            }
            PUSH_PROMISE => FrameEvent::PushPromise,
            GOAWAY => {
                // Without a payload it is broken, which `h2` reports.
                if self.left > 0 {
                    self.payload = Payload::GoAway(Vec::new());
                }
                return None;
            }
            RST_STREAM | WINDOW_UPDATE => FrameEvent::Stream(stream),
            _ => FrameEvent::Other(stream),
        })
    }

    /// Reads a part of a payload; returns what it reports at its end.
    #[cold]
    fn read_payload(&mut self, bytes: &[u8]) -> Option<FrameEvent> {
        match &mut self.payload {
            Payload::Skipped => {}
            Payload::Settings(entries) => entries.read(bytes),
            Payload::GoAway(read) => {
                let room = GOAWAY_FIXED + MAX_DEBUG_DATA - read.len();
                read.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        }
        if self.left > 0 {
            return None;
        }
        match std::mem::take(&mut self.payload) {
            Payload::Skipped => None,
            Payload::Settings(entries) => Some(FrameEvent::Settings(entries.max_streams)),
            Payload::GoAway(read) => {
                let (&[_, _, _, _, code @ ..], debug_data) =
                    read.split_first_chunk::<GOAWAY_FIXED>()?;
                Some(FrameEvent::GoAway(GoAway {
                    code: u32::from_be_bytes(code),
                    debug_data: debug_data.to_vec(),
                }))
            }
        }
    }
}

impl Entries {
    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let here = bytes.len().min(ENTRY - self.has);
            let (part, rest) = bytes.split_at(here);
            self.part[self.has..self.has + here].copy_from_slice(part);
            self.has = (self.has + here) % ENTRY;
            bytes = rest;
            let [a, b, value @ ..] = self.part;
            if self.has == 0 && [a, b] == MAX_CONCURRENT_STREAMS {
                self.max_streams = Some(u32::from_be_bytes(value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        let stream = if matches!(kind, DATA | HEADERS) { 7 } else { 0 };
        let head = [
            length[1], length[2], length[3], kind, flags, 128, 0, 0, stream,
        ];
        [&head[..], payload].concat()
    }

    #[test]
    fn what_matters_is_told_in_whatever_pieces_it_comes() {
        let long = [&[0, 0, 0, 3, 0, 0, 0, 11][..], &[b'x'; 2_000]].concat();
        let sent = [
            frame(SETTINGS, 0, &[0, 3, 0, 0, 0, 9]),
            frame(SETTINGS, ACK, &[]),
            // The last of several counts, and other names and halves do not.
            frame(
                SETTINGS,
                0,
                b"\x00\x03\0\0\0\x01\x00\x03\0\0\x01\x02\x03\x03\0\0\0\x07\x00\x03\0",
            ),
            frame(SETTINGS, 0, &[0, 4, 0, 0, 0, 9]),
            frame(DATA, 0, &[7; 300]),
            frame(SETTINGS, 0, &[]),
            frame(GOAWAY, 0, b"\x00\x00\x00\x03\x00\x00\x00\x02why"),
            frame(HEADERS, 4, &[GOAWAY; 20]),
            frame(GOAWAY, 0, &long),
            // Broken, which is for others to say.
            frame(GOAWAY, 0, &[1]),
        ]
        .concat();
        let go_away = |code, debug_data: &[u8]| {
            FrameEvent::GoAway(GoAway {
                code,
                debug_data: debug_data.to_vec(),
            })
        };
        let response = |is_head| FrameEvent::Response { stream: 7, is_head };
        let expected = [
            FrameEvent::Settings(Some(9)),
            FrameEvent::Other(0),
            FrameEvent::Settings(Some(0x102)),
            FrameEvent::Settings(None),
            response(false),
            FrameEvent::Settings(None),
            go_away(2, b"why"),
            response(true),
            go_away(11, &[b'x'; MAX_DEBUG_DATA]),
        ];
        for size in [1, 2, 8, 9, 10, 100, sent.len()] {
            let mut frames = Frames::default();
            let mut said = Vec::new();
            let mut continued = 0;
            for mut piece in sent.chunks(size) {
                if let Some(stream) = frames.continued() {
                    assert_eq!(stream, 7, "by {size}");
                    continued += 1;
                }
                while let Some(it) = frames.next(&mut piece) {
                    said.push(it);
                }
            }
            assert_eq!(continued > 0, size < sent.len());
            assert_eq!(said, expected, "by {size}");
        }
    }

    #[test]
    fn only_an_incomplete_frame_is_continued() {
        let whole = frame(DATA, 0, &[7; 30]);
        let (mut begin, mut rest) = whole.split_at(20);
        let mut frames = Frames::default();
        while frames.next(&mut begin).is_some() {}
        assert_eq!(frames.continued(), Some(7));
        while frames.next(&mut rest).is_some() {}
        assert_eq!(frames.continued(), None);
    }
}
