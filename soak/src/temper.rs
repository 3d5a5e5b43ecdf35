//! What a server does with a request, and what that request may come to.

use crc32fast::hash;
use fastrand::Rng;

/// How the server treats one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Temper {
    Plain,
    Chunked,
    Interim,
    Slow,
    /// `Keep-Alive: timeout=2, max=N`; after N more requests no other one may come.
    Hint,
    Close,
    UntilClosed,
    Upgrade,
    /// A second answer right behind the first.
    Glued,
    /// An answer while the connection is idle.
    Stray200,
    /// A 408 and a FIN while the connection is idle.
    Stray408,
    IdleFin,
    IdleRst,
    /// Answers before the upload is there.
    Early,
    Fin,
    Rst,
    Truncated,
    RstInBody,
    Stall,
    /// Waits for as many as there have to be at once.
    Hold,
}

impl Temper {
    /// Those that callers ask for; `Hold` is for counting slots.
    pub(crate) const ALL: [Self; 19] = [
        Self::Plain,
        Self::Chunked,
        Self::Interim,
        Self::Slow,
        Self::Hint,
        Self::Close,
        Self::UntilClosed,
        Self::Upgrade,
        Self::Glued,
        Self::Stray200,
        Self::Stray408,
        Self::IdleFin,
        Self::IdleRst,
        Self::Early,
        Self::Fin,
        Self::Rst,
        Self::Truncated,
        Self::RstInBody,
        Self::Stall,
    ];

    /// One of them: half are plain, and few stall.
    pub(crate) fn any(rng: &mut Rng) -> Self {
        match rng.u8(..100) {
            0..35 => Self::Plain,
            35 => Self::Stall,
            _ => Self::ALL[rng.usize(1..Self::ALL.len() - 1)],
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Chunked => "chunked",
            Self::Interim => "interim",
            Self::Slow => "slow",
            Self::Hint => "hint",
            Self::Close => "close",
            Self::UntilClosed => "until-closed",
            Self::Upgrade => "upgrade",
            Self::Glued => "glued",
            Self::Stray200 => "stray-200",
            Self::Stray408 => "stray-408",
            Self::IdleFin => "idle-fin",
            Self::IdleRst => "idle-rst",
            Self::Early => "early",
            Self::Fin => "fin",
            Self::Rst => "rst",
            Self::Truncated => "truncated",
            Self::RstInBody => "rst-in-body",
            Self::Stall => "stall",
            Self::Hold => "hold",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        let all = Self::ALL.into_iter().chain([Self::Hold]);
        all.into_iter().find(|it| it.name() == name)
    }

    /// Whether the request may fail by what is done with it itself. What happens on an idle connection may not fail the
    /// next one.
    pub(crate) fn may_fail(self) -> bool {
        matches!(
            self,
            // A reset takes away what the client has not read yet.
            Self::IdleRst
                | Self::Early
                | Self::Fin
                | Self::Rst
                | Self::Truncated
                | Self::RstInBody
                | Self::Stall
        )
    }

    /// Whether it counts as a fault in the table.
    pub(crate) fn is_fault(self) -> bool {
        self.may_fail()
            || matches!(
                self,
                Self::Glued | Self::Stray200 | Self::Stray408 | Self::IdleFin
            )
    }
}

/// The body that only this request has.
pub(crate) fn content(id: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Rng::with_seed(id).fill(&mut bytes);
    bytes
}

/// Its checksum.
pub(crate) fn checksum(id: u64, length: usize) -> u32 {
    hash(&content(id, length))
}
