//! Reads the heads of the frames that a server sends, below `h2`.
//!
//! `h2` does not report that a SETTINGS or a GOAWAY frame was received, nor the contents of a GOAWAY beside its code,
//! nor which streams received data. All of that decides whether a connection may have further uses, and whether a
//! stream is silent.

/// The reader of a server's frames: it reads the head of each, in whatever pieces it arrives, and the relevant parts of
/// a GOAWAY.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD],
    /// How many bytes of a head were read.
    has: usize,
    /// How many bytes of the frame follow its head.
    left: usize,
    /// The stream of the frame.
    stream: u32,
    go_away: Option<Vec<u8>>,
}

const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;

/// The bits of a stream id.
const STREAM: u32 = (1 << 31) - 1;

/// The last stream and the code, which precede the debug data of a GOAWAY.
const GOAWAY_FIXED: usize = 8;

/// How much of the debug data of a GOAWAY is kept.
const MAX_DEBUG_DATA: usize = 1_024;

/// What a frame reports.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FrameEvent {
    /// Data of this stream arrived, possibly the rest of a frame.
    Stream(u32),
    /// The head of a HEADERS or DATA frame arrived, of which responses consist.
    Response {
        stream: u32,
        is_head: bool,
    },
    /// A frame that belongs to no response, and has to be answered or ignored.
    Other,
    Settings,
    GoAway(GoAway),
}

/// The server accepts no new requests on this connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GoAway {
    pub(super) code: u32,
    pub(super) debug_data: Vec<u8>,
}

impl Frames {
    /// Reads bytes that have arrived, and emits what they report.
    #[inline]
    pub(super) fn read(&mut self, mut bytes: &[u8], mut emit: impl FnMut(FrameEvent)) {
        if self.left > 0 && self.stream != 0 && !bytes.is_empty() {
            emit(FrameEvent::Stream(self.stream));
        }
        loop {
            if self.left > 0 {
                let here = bytes.len().min(self.left);
                let (payload, rest) = bytes.split_at(here);
                self.left -= here;
                bytes = rest;
                if self.go_away.is_some() {
                    self.read_go_away(payload, &mut emit);
                }
            }
            // Almost always all of a head is here.
            match bytes.split_first_chunk() {
                Some((head, rest)) if self.has == 0 => {
                    bytes = rest;
                    self.read_head(*head, &mut emit);
                }
                _ if bytes.is_empty() => return,
                _ => bytes = self.read_part(bytes, &mut emit),
            }
        }
    }

    /// Of a head that comes in pieces.
    #[cold]
    fn read_part<'a>(&mut self, bytes: &'a [u8], emit: &mut impl FnMut(FrameEvent)) -> &'a [u8] {
        let here = bytes.len().min(HEAD - self.has);
        let (part, rest) = bytes.split_at(here);
        self.head[self.has..self.has + here].copy_from_slice(part);
        self.has += here;
        if self.has == HEAD {
            self.has = 0;
            self.read_head(self.head, emit);
        }
        rest
    }

    #[inline]
    fn read_head(&mut self, head: [u8; HEAD], emit: &mut impl FnMut(FrameEvent)) {
        let [a, b, c, kind, flags, stream @ ..] = head;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.stream = u32::from_be_bytes(stream) & STREAM;
        if let DATA | HEADERS = kind {
            return emit(FrameEvent::Response {
                stream: self.stream,
                is_head: kind == HEADERS,
            });
        }
        if self.stream != 0 {
            emit(FrameEvent::Stream(self.stream));
        }
        match kind {
            SETTINGS if flags & ACK == 0 => {
                emit(FrameEvent::Settings);
                emit(FrameEvent::Other);
            }
            GOAWAY => {
                self.go_away = Some(Vec::new());
                self.read_go_away(&[], emit);
            }
            // What these may do is known, and bounded by what they are about.
            RST_STREAM | WINDOW_UPDATE | CONTINUATION => {}
            _ => emit(FrameEvent::Other),
        }
    }

    #[cold]
    fn read_go_away(&mut self, payload: &[u8], emit: &mut impl FnMut(FrameEvent)) {
        let Some(read) = &mut self.go_away else {
            return;
        };
        let room = GOAWAY_FIXED + MAX_DEBUG_DATA - read.len();
        read.extend_from_slice(&payload[..payload.len().min(room)]);
        if self.left > 0 {
            return;
        }
        if let Some(read) = self.go_away.take()
            && let Some((&[_, _, _, _, code @ ..], debug_data)) =
                read.split_first_chunk::<GOAWAY_FIXED>()
        {
            emit(FrameEvent::GoAway(GoAway {
                code: u32::from_be_bytes(code),
                debug_data: debug_data.to_vec(),
            }));
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
            FrameEvent::Settings,
            FrameEvent::Other,
            FrameEvent::Other,
            response(false),
            FrameEvent::Settings,
            FrameEvent::Other,
            go_away(2, b"why"),
            response(true),
            go_away(11, &[b'x'; MAX_DEBUG_DATA]),
        ];
        for size in [1, 2, 8, 9, 10, 100, sent.len()] {
            let mut frames = Frames::default();
            let mut events = Vec::new();
            for piece in sent.chunks(size) {
                frames.read(piece, |it| events.push(it));
            }
            let is_of_stream = |it: &FrameEvent| matches!(it, FrameEvent::Stream(7));
            assert_eq!(events.iter().any(is_of_stream), size < sent.len());
            events.retain(|it| !is_of_stream(it));
            assert_eq!(events, expected, "by {size}");
        }
    }
}
